"""Software stacks by engine and version: the nearest known version answers, and its name says so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from types import MappingProxyType
from typing import Any

from taicang.catalog import calibration, files, own, schema
from taicang.catalog.resolve import Resolved, aliases, is_path, resolve, stems, variants
from taicang.errors import InvalidInput, UnknownName
from taicang.hardware import Chip
from taicang.stacks import Headroom, Keeping, Stack, StackUse

_HABITS = ("scheduler", "burst_ratio")
"""Constants of an engine that hold on any chip."""
_VERSION = re.compile(r"v?\d")
_ROLLING = re.compile(r"^(nightly|main|latest|dev)\b|-dev$")
"""Builds between releases: the newest known version answers for them."""


def order(version: str) -> tuple[int, ...]:
    """Numbers of a version, for comparing ("0.19.0" before "1.0.0rc3")."""
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("rc")[0].partition("post")[0]))


def nearest(name: str) -> str:
    """The known "engine@version" that answers for ``name``: the newest at or before it, else the oldest.

    Without a version, the newest of all. ``UnknownName`` suggests an engine.
    """
    if is_path(name):
        return name
    if not is_known(name) and (mine := own.find("stack", name)) is not None:
        return str(mine)
    engine, at, version = name.strip().lower().partition("@")
    engine = aliases("stack").get(engine, engine)
    known = _known(engine)
    version = aliases("stack").get(f"{engine}@{version}", f"{engine}@{version}").partition("@")[2]
    if (not version and not at) or _ROLLING.search(version):
        return f"{engine}@{known[-1]}"
    if version in known:
        return f"{engine}@{version}"
    if not _VERSION.match(version):
        raise InvalidInput(
            f"cannot read {version!r} as a version; known are {', '.join(known)}", where=f"stack {name!r}"
        )
    before = [v for v in known if order(v) <= order(version)]
    return f"{engine}@{before[-1] if before else known[0]}"


def _known(engine: str) -> list[str]:
    """Known versions of an engine, the oldest first; ``UnknownName`` suggests an engine."""
    if engine not in engines():
        raise UnknownName("stack", engine, engines() | set(aliases("stack")) | set(own.names("stack")))
    return sorted(variants("stack", engine) or [""], key=order)


def engines() -> frozenset[str]:
    """Engines of the package's stacks."""
    return stems("stack")


def is_known(name: str) -> bool:
    """Whether ``name`` means a stack of the package, in whatever version."""
    engine = name.strip().lower().partition("@")[0]
    return engine in engines() or engine in aliases("stack")


def released(engine: str, version: str, date: str) -> tuple[str, str]:
    """The "engine@version" that ran on ``date`` (year-month-day), and a note where ``version`` does not tell it.

    A tag that is no version ("nightly-5b8c", "main") and none at all are read as the newest release at that date.
    """
    name = f"{engine}@{version}"
    if _VERSION.match(version) or name in aliases("stack"):
        return name, ""
    known = _known(engine)
    before = [v for v in known if not date or str(resolve("stack", f"{engine}@{v}").get("epoch")) <= date[:7]]
    found = f"{engine}@{before[-1] if before else known[0]}"
    said = f"{version!r} is no version" if version else "no version stated"
    return found, f"{said}: read as {found}, the release at {date or 'no stated date'}"


def stack(
    name: str, sets: tuple[str, ...] = (), *, memory_ratio: float | None = None, ascend: bool | None = None
) -> Stack:
    """The stack of "vllm" (its newest known version), "vllm@0.19.0" (the nearest known) or a YAML file.

    ``ascend`` tells whether it runs there: times and ratios that were fitted to its runs on other vendors' chips alone
    say nothing of its kernels and hosts on these, and are left out. ``memory_ratio`` takes the place of the share of
    memory that the engine takes by itself, of the same base. ``Stack.name`` says when another version answers:
    "vllm@0.18.0 (nearest to 0.18.4)". Raises as ``chip``.
    """
    found_name = nearest(name)
    found = resolve("stack", found_name, sets)
    engine = found.get("engine")
    if engine is None:
        raise InvalidInput("a stack needs 'engine'", where=str(found.file))
    version = found.root.partition("@")[2]
    asked = name.strip().lower().partition("@")[2] if not is_path(name) else ""
    title = found.name if asked in ("", version) else f"{found.name} (nearest to {asked})"
    values, given = _calibrated(engine, version), _given(found)
    if ascend is not None and calibrated(engine, ascend=not ascend) and not calibrated(engine, ascend=ascend):
        values = {key: value for key, value in values.items() if key in _HABITS}
    ratios = MappingProxyType({**values.get("kernel_ratio", {}), **given.pop("kernel_ratio", {})})
    fitted = files.read(found.file).get("fitted") or {}
    made = Stack(
        name=title, version=version, asked="" if asked == version else asked, epoch=found.get("epoch") or "",
        bands=fitted.get("bands", {}), **values | given | {"kernel_ratio": ratios},
    )  # fmt: skip
    return with_memory(made, memory_ratio)


@cache
def hosts() -> Mapping[str, frozenset[str]]:
    """Vendors on whose chips each engine of the package's stacks runs."""
    return {each: resolve("stack", nearest(each)).get("runs_on") or frozenset() for each in sorted(engines())}


def runs_on(vendors: frozenset[str], chip: Chip) -> bool:
    """Whether a stack that runs on chips of ``vendors`` runs on ``chip``; a stack of which nobody said may, and so may
    any on chips of a vendor whom no stack of the package names."""
    vendor = chip.vendor.lower()
    return not vendors or vendor in vendors or not any(vendor in each for each in hosts().values())


def fit_for(stack: Stack, use: StackUse, chip: Chip) -> Stack:
    """``stack``, where it runs on ``chip`` and is for ``use`` ("": for whatever it is). Raises ``InvalidInput`` with
    those that do and are, the like of it first."""
    native = runs_on(stack.runs_on, chip)
    if native and (stack.use in ("", use) or not use):
        return stack
    use = use or stack.use
    fit = [each for each, vendors in hosts().items() if runs_on(vendors, chip)]
    others = [each for each in fit if not use or resolve("stack", nearest(each)).get("use") == use]
    known = [each for each in others if calibrated(each, ascend=chip.ascend)] or others
    alike = get_close_matches(stack.engine, known, n=1, cutoff=0.5)
    does, other = ("serves", "trains") if use == "serving" else ("trains", "serves") if use else ("runs", "")
    listed = ", ".join(dict.fromkeys((*alike, *known)))
    why = f"{other} models" if native else f"does not run on {chip.name} of {chip.vendor}"
    there = "them" if native else "models there"
    name = stack.name.partition("@")[0]
    raise InvalidInput(f"{name} {why}; a stack that {does} {there} is one of {listed}", where="--stack")


def with_memory(stack: Stack, ratio: float | None) -> Stack:
    """``stack`` with another share of device memory (None: its own)."""
    return stack if ratio is None else replace(stack, memory=replace(stack.memory, usable_ratio=ratio))


def calibrated(engine: str, *, ascend: bool) -> bool:
    """Whether constants of ``engine`` were fitted to runs on Ascend, or else on GPUs."""
    return engine in calibration.read("stacks_ascend" if ascend else "stacks")["profiles"]


def _given(found: Resolved) -> dict[str, Any]:
    values = _fields(found, schema.STACK)
    ratios = {path.partition(".")[2]: found.get(path) for path in found.leaves if path.startswith("kernel_ratio.")}
    if found.get("partition.matrix") is not None:
        values["partition"] = (found.get("partition.matrix"), found.get("partition.vector"))
    if held := _fields(found, schema.MEMORY, "memory."):
        if "base" not in held:
            raise InvalidInput(f"memory.base is one of {', '.join(schema.CHOICES['base'])}", where=str(found.file))
        values["memory"] = Headroom(**({"usable_ratio": None} | held))
    if kept := _fields(found, schema.KEEPS, "keeps."):
        values["keeps"] = Keeping(**kept)
    return values | ({"kernel_ratio": MappingProxyType(ratios)} if ratios else {})


def _fields(found: Resolved, keys: Mapping[str, schema.Key], stem: str = "") -> dict[str, Any]:
    """What ``keys`` say, by field."""
    said = {field: found.get(f"{stem}{key}") for key, (field, _) in keys.items()}
    return {field: value for field, value in said.items() if value is not None}


def _calibrated(engine: str, version: str) -> dict[str, Any]:
    """Constants of calibration/stacks*.yaml, where they exist: the engine's, and over them the version's (plain SI)."""
    values: dict[str, Any] = {}
    for family in ("stacks", "stacks_ascend", "stacks_published", "stacks_training", "stacks_later"):
        if not (calibration.FOLDER / f"{family}.yaml").is_file():
            continue
        profiles = calibration.read(family)["profiles"]
        for profile in (engine, f"{engine}@{version}"):
            values |= profiles.get(profile, {}).get("constants", {})
    for field, type_ in schema.STACK.values():
        if type_ == "words" and field in values:
            values[field] = frozenset(values[field])
    if "kernel_ratio" in values:
        values["kernel_ratio"] = MappingProxyType(values["kernel_ratio"])
    return values
