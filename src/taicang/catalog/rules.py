"""What sources say about set-ups, as tables of rules: data/launch.yaml, evidence/data/rules/*.yaml, their one reader.

A file holds sections; a section is a list of rules, each with ``when`` (facts of a row that must hold; absent: always),
``from`` (who says so) and ``set`` (the values). All rules that hold apply, and the first to set a key wins, so special
rules come before general ones. A fact is compared with a value, a list of values, or the bounds ``least``, ``below``,
``starts``, ``has``, ``lacks`` and ``multiple_of``. A value may be linear in facts: ``{linear: {prompt: 2}, plus: 127,
whole: 64}`` is twice the prompt and 127, rounded down to whole 64s (``whole: 0``: not rounded). Other
sections are plain mappings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from taicang.catalog import files
from taicang.errors import InvalidInput

_TESTS: Mapping[str, Callable[[Any, Any], bool]] = {
    "least": lambda fact, bound: fact >= bound,
    "below": lambda fact, bound: fact < bound,
    "starts": lambda fact, bound: str(fact).startswith(bound),
    "has": lambda fact, part: part in fact,
    "lacks": lambda fact, part: part not in fact,
    "multiple_of": lambda fact, bound: fact % bound == 0,
}


@cache
def section(file: Path, name: str) -> Any:
    """One section of a file of rules."""
    return files.read(file)[name]


def settings(file: Path, name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The values that the rules of a section set for a row with these ``facts``."""
    found: dict[str, Any] = {}
    for number, rule in enumerate(section(file, name), start=1):
        try:
            if all(_holds(test, facts[fact]) for fact, test in rule.get("when", {}).items()):
                found = {key: _value(value, facts) for key, value in rule["set"].items()} | found
        except KeyError as error:
            where = f"{file.name}: {name}, rule {number}"
            raise InvalidInput(f"no fact or key {error}; facts are {', '.join(facts)}", where=where) from None
    return found


def _holds(test: Any, fact: Any) -> bool:
    if isinstance(test, Mapping):
        return all(_TESTS[kind](fact, bound) for kind, bound in test.items())
    return fact in test if isinstance(test, list) else bool(fact == test)


def _value(value: Any, facts: Mapping[str, Any]) -> Any:
    if not isinstance(value, Mapping) or "linear" not in value:
        return value
    whole = value.get("whole", 1)
    total = sum(factor * facts[fact] for fact, factor in value["linear"].items()) + value.get("plus", 0)
    return total // whole * whole if whole else total
