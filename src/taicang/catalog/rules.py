"""What sources say about set-ups, as tables of rules: data/launch.yaml, evidence/data/rules/*.yaml, their one reader.

A file holds sections; a section is a list of rules, each with ``when`` (facts of a row that must hold; absent: always),
``from`` (who says so, where no comment says it of the section) and ``set`` (the values). All rules that hold apply, and
the first to set a key wins, so special rules come before general ones. A fact is compared with a value, a list of
values, or the bounds ``least``, ``below``, ``starts``, ``has``, ``lacks`` and ``multiple_of``. A value may be linear in
facts: ``{linear: {prompt: 2}, plus: 127, whole: 64}`` is twice the prompt and 127, rounded down to whole 64s
(``whole: 0``: not rounded). Other sections are plain mappings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from taicang.catalog import files
from taicang.catalog.stack_entry import order
from taicang.errors import InvalidInput
from taicang.hardware import Chip, Machine
from taicang.models.types import Latent, Model
from taicang.stacks import BARE, Stack

_TESTS: Mapping[str, Callable[[Any, Any], bool]] = {
    "least": lambda fact, bound: fact >= bound,
    "below": lambda fact, bound: fact < bound,
    "starts": lambda fact, bound: str(fact).startswith(tuple(bound) if isinstance(bound, list) else bound),
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


LAUNCH, IMAGES = files.DATA / "launch.yaml", files.DATA / "images.yaml"
_GIB = 2.0**30


def generation(chip: str) -> str:
    """Of a chip of the catalogue; "" where scripts tell none."""
    return next((name for name, chips in section(LAUNCH, "generations").items() if chip in chips), "")


def release(version: str) -> int:
    """A version as one number, for rules: 510 of 0.5.10."""
    return sum(step * part for step, part in zip((10_000, 100, 1), order(version), strict=False))


def container_image(engine: str, maker: str, chip: str, version: str) -> str:
    """What containers of ``engine`` start from on a chip of ``maker`` (of Huawei's its kind): the release ``version``
    where its tag is known."""
    facts = {"engine": engine, "maker": maker, "chip": chip, "release": release(version)}
    said = str(settings(IMAGES, "images", facts).get("image", f"{engine}:{version or 'latest'}"))
    return said.format(version=version)


def launch(engine: str, chip: str, model: str) -> dict[str, Any]:
    """What scripts set: "memory_ratio", "kv" (the cache's format), "all_reduce" (whose kernels, besides its own), and
    under their own names fields of ``Stack``."""
    facts = {"engine": engine, "chip": chip, "generation": generation(chip), "model": model}
    return settings(LAUNCH, "settings", facts)


def reducing(stack: Stack, said: Mapping[str, Any]) -> str:
    """Whose all-reduce kernels run: those of the engine, and what scripts add."""
    known, added = stack.all_reduce.split("+"), said.get("all_reduce")
    return stack.all_reduce if added is None or added in known or "best" in known else f"{added}+{stack.all_reduce}"


def launched(stack: Stack, chip: Chip, model: Model) -> Stack:
    """``stack`` as scripts launch it for ``model``: memory, all-reduce, cache in 4 or 8 bits, drafts, template."""
    said = launch(stack.engine, chip.name, model.name)
    own = {name: value for name, value in said.items() if name.startswith(("draft", "template"))}
    ratio = said.get("memory_ratio", stack.memory.usable_ratio)
    cache = {"bf16": {"quantised_cache": "", "stated_cache": ""}}
    own |= cache.get(kept := said.get("kv", ""), {"quantised_cache": kept or stack.quantised_cache})
    memory = replace(stack.memory, usable_ratio=ratio)
    return replace(stack, memory=memory, all_reduce=reducing(stack, said), **own)


def divided(stack: Stack, machine: Machine, model: Model) -> Stack:
    """``stack`` with the shares of device memory that it takes on such devices for such a model, and with the sizes of
    steps that it chooses there where its file says none."""
    inner = next((level for level in machine.plane("scale_up").levels if level.ranks > machine.chip.dies), None)
    facts = {
        "engine": stack.engine,
        "release": release(stack.asked) or release(stack.version),
        "chip": machine.chip.name,
        "capacity_gib": machine.chip.memory.capacity_bytes / _GIB,
        "links": "pcie" if inner is None or inner.name == "pcie" else "own",
        "tower": model.tower_ratio,
        "model": model.name,
        "latent": any(isinstance(block.attention, Latent) for block in model.blocks),
        "context": model.max_context,
        "graph": stack.graph,
    }
    said = settings(LAUNCH, "memory", facts)
    shares = {key.removesuffix("_gib") + "_bytes": value * _GIB for key, value in said.items() if key.endswith("_gib")}
    plain = {key: value for key, value in said.items() if not key.endswith("_gib")}
    chosen = settings(LAUNCH, "defaults", facts)
    unsaid = {key: value for key, value in chosen.items() if getattr(stack, key) == getattr(BARE, key)}
    return replace(stack, memory=replace(stack.memory, **shares, **plain), **unsaid)
