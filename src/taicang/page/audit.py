"""Claims with their verdicts, the numbers that decide them, evidence and the runs that repeat them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from taicang.page.parts import Lines, Section, Table, Words, words

Result: TypeAlias = Mapping[str, Any]
VERDICTS = words("verdicts")
SAYS = words("says")
STAR: Words = "* another verdict somewhere inside the error band", "* 误差带内结论可能不同"


def audit(found: Sequence[Result]) -> list[Section]:
    """What ``taicang audit`` prints with --json."""
    claims = tuple(
        (_both(each["claim"]["text"]), _verdict(each), _numbers(each), _both(each["claim"]["true_if"]))
        for each in found
    )
    evidence = tuple(
        (
            _both(each["claim"]["text"]), (one["says"], SAYS.get(one["says"], one["says"])),
            f"{one['source']} {one['date']}", _both(one["text"]),
        )
        for each in found
        for one in each["claim"]["evidence"]
    )  # fmt: skip
    claim = ("claim", "说法")
    columns = (claim, ("verdict", "结论"), ("number", "数值"), ("true if", "成立条件"))
    runs = Lines(title=("the runs", "运行"), lines=tuple(line for each in found for line in each["commands"].values()))
    sources = Table(title=("evidence", "证据"), rows=evidence,
                    columns=(claim, ("says", "立场"), ("source", "来源"), ("what it says", "内容")))  # fmt: skip
    return [
        Section(key="claims", title=("Claims", "说法"), parts=(Table(title=STAR, columns=columns, rows=claims),)),
        Section(key="evidence", title=("Evidence", "证据"), parts=(sources, runs)),
    ]


def _both(text: Mapping[str, str] | None) -> Words:
    """A text in both languages; what is missing in one is said in the other."""
    text = text or {}
    return text.get("en", text.get("zh", "")), text.get("zh", text.get("en", ""))


def _verdict(each: Result) -> Words:
    star = "*" * bool(each["could_be"])
    return each["verdict"] + star, VERDICTS.get(each["verdict"], each["verdict"]) + star


def _numbers(each: Result) -> Words:
    said = [(_both(one["name"]), _number(one)) for one in each["figures"]]
    return "; ".join(f"{name[0]}: {text}" for name, text in said), "；".join(
        f"{name[1]}：{text}" for name, text in said
    )


def _number(one: Result) -> str:
    if one["value"] is None:
        return "–"
    scale = 100.0 if one["unit"] == "%" else 1.0
    low, value, high = (f"{scale * float(one[name]):,.3g}" for name in ("low", "value", "high"))
    return f"{value} {one['unit']}".rstrip() + (f" ({low} – {high})" if low != high else "")
