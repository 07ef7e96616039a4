"""Rules, libraries and API tables of the porting view: from data files, and a user's, to the look-ups of ``port``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, Final

from taicang.catalog import files
from taicang.catalog.entry import sources
from taicang.errors import InvalidInput, UnknownName
from taicang.port.estimate import CLASSES, Effort, Law
from taicang.port.tables import KINDS, TEXTS, TIERS, Rule, Rules, compile_rules, hints_of

FOLDER: Final = files.DATA / "porting"
DIRECTIONS: Final = ("ascend", "cuda")
CHIPS: Final[Mapping[str, str]] = {"a2": "atlas-800-a2", "a3": "atlas-800-a3", "950": "atlas-950-superpod"}
"""Generation of the NPU -> a machine of it."""
GPUS: Final = "hgx-a100"
_LISTS: Final = frozenset({"names", "imports", "methods", "attributes", "packages"})
_RULE: Final = frozenset(each.name for each in fields(Rule)) - {"name", "kind", "operators"} | {"advice"}
_LIBRARY: Final = frozenset({"imports", "packages", "counterpart", "kind", "operators", "note", "source", "to"})
_PATTERNS: Final = ("strings", "compared", "env")


def torch_versions() -> tuple[str, ...]:
    """Versions of torch whose table of supported APIs the package has."""
    return tuple(files.read(FOLDER / "torch_npu.yaml")["versions"])


def rules(to: str, *, libraries: Path | None = None, torch: str = "", chip: str = "a2") -> Rules:
    """All rules of one direction for a version of torch and a generation of chips, a user's libraries last."""
    made: list[Rule] = list(_unsupported(torch, chip)) if to == "ascend" else []
    path = FOLDER / f"to_{to}.yaml"
    data = files.read(path)
    made.extend(_rule(path, name, entry) for name, entry in data["rules"].items())
    made.extend(_library(path, name, entry) for name, entry in data["libraries"].items())
    if libraries is not None:
        mine = files.read(libraries)
        _known(libraries, (), mine, frozenset({"libraries"}))
        for name, entry in _mapping(libraries, ("libraries",), mine.get("libraries")).items():
            if _mapping(libraries, ("libraries", name), entry).get("to", "ascend") == to:
                made.append(_library(libraries, name, entry))
    return compile_rules(to, made, uses())


@cache
def uses() -> Mapping[str, str]:
    """Operators that carry a model's time: dotted name, or ``.method`` of a tensor -> how it is priced."""
    data = files.read(FOLDER / "operators.yaml")
    return {
        name: kind
        for kind, entry in data.items()
        for name in (*entry["names"], *(f".{method}" for method in entry.get("methods", ())))
    }


def machines(to: str, chip: str, before: str = "", after: str = "") -> tuple[str, str]:
    """The machine that a repository runs on and the one it is to run on, where they are not stated."""
    ends = (GPUS, CHIPS[chip])
    first, second = ends if to == "ascend" else reversed(ends)
    return before or first, after or second


def operators(to: str) -> Mapping[str, str]:
    """Words of a path that tell an operator which the other side's libraries have, and what it is called there."""
    found = files.read(FOLDER / f"to_{to}.yaml")["operators"]
    return {word: there for there, words in found.items() for word in words}


def _unsupported(torch: str, chip: str) -> Iterator[Rule]:
    table = files.read(FOLDER / "torch_npu.yaml")
    versions = table["versions"]
    torch = torch or versions[0]
    if torch not in versions:
        raise UnknownName("version of torch", torch, versions, where="--torch")
    if chip not in CHIPS:
        raise UnknownName("generation of chips", chip, CHIPS, where="--chip")
    parts = {"unsupported": f"torch_npu for torch {torch} documents it as not supported"}
    if chip == "950":
        parts["not_validated_950"] = f"torch_npu for torch {torch} has not validated it on Ascend 950"
    for part, why in parts.items():
        names = [
            f"{module}.{name}"
            for version in ("all", torch)
            for module, listed in table[part].get(version, {}).items()
            for name in listed
        ]
        tier = "edit" if part == "unsupported" else "auto"
        yield Rule(name=part.replace("_", "-"), tier=tier, why=why, names=tuple(names), source=table["source"])


def _mapping(path: Path, keys: Sequence[str], value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not value:
        raise InvalidInput("expected a mapping of names to entries", where=files.where(path, keys))
    return value


def _known(path: Path, keys: Sequence[str], entry: Mapping[str, Any], known: frozenset[str]) -> None:
    for key in entry:
        if key not in known:
            raise UnknownName("key", str(key), sorted(known), where=files.where(path, (*keys, str(key))))


def _rule(path: Path, name: str, entry: Mapping[str, Any]) -> Rule:
    keys = ("rules", name)
    _known(path, keys, entry, _RULE)
    if entry["tier"] not in TIERS:
        raise UnknownName("tier", entry["tier"], TIERS, where=files.where(path, (*keys, "tier")))
    given = {key: _value(path, (*keys, key), key, value) for key, value in entry.items() if key != "advice"}
    why = given["why"] + (f"; {entry['advice']}" if "advice" in entry else "")
    return Rule(name=name, **given | {"why": why})


def _library(path: Path, name: str, entry: Any) -> Rule:
    keys = ("libraries", name)
    entry = _mapping(path, keys, entry)
    _known(path, keys, entry, _LIBRARY)
    for key in ("kind", "source"):
        if key not in entry:
            raise InvalidInput(f"a library needs {key}", where=files.where(path, keys))
    kind = entry["kind"]
    if kind not in KINDS:
        raise UnknownName("kind of counterpart", str(kind), KINDS, where=files.where(path, (*keys, "kind")))
    if entry.get("to", "ascend") not in DIRECTIONS:
        raise UnknownName("direction", str(entry["to"]), DIRECTIONS, where=files.where(path, (*keys, "to")))
    if path.is_relative_to(files.DATA) and entry["source"] not in sources():
        raise UnknownName("source", entry["source"], sources(), where=files.where(path, (*keys, "source")))
    counterpart = str(entry.get("counterpart", ""))
    if kind != "none" and not counterpart:
        raise InvalidInput("a library needs its counterpart, or kind: none", where=files.where(path, keys))
    imports = tuple(_value(path, (*keys, "imports"), "imports", entry.get("imports", ())))
    says = f"its counterpart is {counterpart}" if counterpart else "no counterpart is known"
    return Rule(
        name=name,
        tier=KINDS[kind],
        kind=kind,
        why=says + (f" ({entry['note']})" if "note" in entry else ""),
        counterpart=counterpart,
        operators=entry.get("operators") is True,
        # what is taken in as it is changes where it is imported; what has another interface, wherever it is used
        names=() if kind == "drop_in" else imports,
        imports=tuple(each.removesuffix(".*") for each in imports) if kind == "drop_in" else (),
        packages=tuple(_value(path, (*keys, "packages"), "packages", entry.get("packages", ()))),
        source=str(entry["source"]),
    )


def _value(path: Path, keys: Sequence[str], key: str, value: Any) -> Any:
    """A list of texts, or a text; patterns compile and begin with letters."""
    where = files.where(path, keys) if not path.is_relative_to(files.DATA) else ""
    if key in _LISTS:
        if not isinstance(value, list | tuple) or not all(isinstance(each, str) and each for each in value):
            raise InvalidInput("expected a list of names", where=where)
        return tuple(value)
    if not isinstance(value, str):
        raise InvalidInput(f"expected a text, got {value!r}", where=where)
    if key in TEXTS:
        try:
            re.compile(value)
        except re.error as error:
            raise InvalidInput(f"no pattern: {error}", where=where) from None
        if key in _PATTERNS and len(hints_of(value)) <= value.count("|") - value.count("(?"):
            raise InvalidInput("each alternative of a pattern begins with two letters or more", where=where)
    return value


@cache
def effort() -> Effort:
    """What the measured pairs say of the size of a port."""
    data = files.read(FOLDER / "effort.yaml")
    laws = data["laws"]

    def law(entry: Mapping[str, Any], *, powers: bool = False) -> Law:
        low, high = entry["quartiles"]
        return Law(weights=entry["weights"], low_ratio=low, high_ratio=high, powers=powers)

    return Effort(
        files=law(laws["files"]),
        must_change=law(laws["must_change"]),
        kernels={language: law(each, powers=True) for language, each in laws["kernels"].items()},
        kept_ratio={language: each["kept"] for language, each in laws["kernels"].items()},
        speed={kind: tuple(data["speed"][kind]) for kind in CLASSES},
        speed_source=sources()[data["speed"]["source"]].title,
        pairs=laws["pairs"],
        evidence=tuple(f"{each['text']} ({sources()[each['source']].title})" for each in data["evidence"]),
    )
