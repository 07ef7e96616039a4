"""The links of a machine: a collective on them, and what each carries."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, TypeAlias

from taicang.page.parts import Chart, Lines, Part, Picture, Section, Table, Unit, Words, bars, cell, table, words

Result: TypeAlias = Mapping[str, Any]
TIMES = words("times")


PLACE = re.compile(r"(?:[\w-]+: )?(?:rank|adapter|unit|\S+es of unit) \d+ ")
CHINESE = words("chinese")


def links(result: Result) -> list[Section]:
    """What ``taicang fabric`` answers ("answer", or the result itself), and every link's load, drawn ("picture")."""
    answer = result.get("answer", result)
    parts: list[Part] = []
    for each in answer if isinstance(answer, list) else [answer]:
        parts += _collective(each) if "hottest" in each else _any(each)
    if result.get("picture"):
        parts.insert(1, Picture(title=("load of the links", "链路负载"), svg=result["picture"]))
    return [Section(key="links", title=("Links", "链路"), parts=tuple(parts))]


def _collective(result: Result) -> list[Part]:
    """Times, the load of each level, and the hottest links by name."""
    ask = result["ask"]
    what = f"{ask['kind']} of {cell(ask['payload_bytes'], 'B')} on {result['ranks']} ranks of {result['machine']}"
    rows = [(words, cell(result.get(key), "s")) for key, words in TIMES if result.get(key) is not None]
    hottest = tuple(
        (
            _named(each["link"] + (f", and {each['alike']} alike" if each["alike"] else "")),
            cell(each["carried_bytes"], "B"), cell(each["busy_s"], "s"), cell(each["used_ratio"], "ratio"),
        )
        for each in result["hottest"]
    )  # fmt: skip
    columns = (("link", "链路"), ("carried", "字节"), ("busy", "忙碌"), ("of the time", "占比"))
    return [
        table((what, what), rows),
        bars(("busy by level", "各级忙碌时间"), {each["level"]: each["busy_s"] for each in result["levels"]}, "s"),
        *_over_time(result.get("course", ())),
        Table(title=("hottest links", "最热链路"), columns=columns, rows=hottest),
        Lines(title=("assumptions", "假设"), lines=tuple(result["assumptions"])),
    ]


def _named(link: str) -> Words:
    """A link's name in both languages, its parts in the same order."""
    words = CHINESE if PLACE.match(link) else ()
    return link, reduce(lambda text, each: re.sub(rf"\b{each[0]}\b", each[1], text), words, link)


def _over_time(course: Sequence[Mapping[str, Any]]) -> list[Part]:
    """How busy each level's links are, where that changes."""
    if len(course) < 2:
        return []
    points: dict[str, list[list[float]]] = {}
    for each in course:
        for level, share in each["used_ratio"].items():
            points.setdefault(level, []).extend([[each["begin_s"], share], [each["end_s"], share]])
    series = tuple({"name": level, "data": data} for level, data in points.items() if any(y for _, y in data))
    return [
        Chart(
            title=("links in use over time", "链路利用率"),
            kind="lines",
            unit="ratio",
            x=("seconds", "秒"),
            series=series,
        )
    ]


def _any(result: Result) -> list[Part]:
    """Figures of any answer as a table, and each list of it as one of its own."""
    flat: dict[str, str] = {}
    lists: list[Part] = []
    for key, value in result.items():
        name = key.replace("_", " ")
        if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
            columns = list(dict.fromkeys(column for each in value for column in each))
            rows = tuple(tuple(_said(column, each.get(column)) for column in columns) for each in value)
            words = tuple((column.replace("_", " "),) * 2 for column in columns)
            lists.append(Table(title=(name, name), columns=words, rows=rows))
        elif isinstance(value, list) and all(isinstance(each, str) for each in value):
            lists.append(Lines(title=(name, name), lines=tuple(value)))
        elif isinstance(value, dict):
            flat |= {f"{name}: {inner}": _said(inner, each) for inner, each in value.items()}
        else:
            flat[name] = _said(key, value)
    title = str(result.get("machine", "figures"))
    return [table((title, title), list(flat.items())), *lists]


def _said(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float | str | None):
        return str(value)
    if name.endswith("_per_s"):
        return f"{cell(value)} /s"
    unit: Unit = "ratio" if name.endswith("ratio") else "s" if name.endswith("_s") else "B" if "bytes" in name else ""
    return cell(value, unit)
