"""Does the catalogue hold together: schema, sources, names and the laws between figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

from taicang import reading
from taicang.catalog import files, schema
from taicang.catalog.build import chip_of, chip_part, machine_of
from taicang.catalog.entry import entry, find, sources
from taicang.catalog.leaf import Leaf
from taicang.catalog.resolve import Resolved, aliases, names, resolve
from taicang.catalog.stack_entry import stack
from taicang.errors import InvalidInput, MissingFigure


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong."""

    entry: str
    key: str
    problem: str


def check(name: str | None = None) -> list[Finding]:
    """Every finding in the whole catalogue, or in the one entry or file ``name``; an empty list means sound."""
    if name is not None:
        return list(_one(find(name), name))
    found = [finding for path in sorted(files.DATA.rglob("*.yaml")) for finding in _doubled(path)]
    for kind in schema.KINDS:
        for known in names(kind):
            found += _one(kind, known)
        for alias, target in aliases(kind).items():
            clash = alias in names(kind)
            if clash or (target not in names(kind) and kind != "stack"):
                problem = "is an entry as well" if clash else f"stands for {target!r}, which is no entry"
                found.append(Finding(entry="aliases", key=f"{kind}.{alias}", problem=problem))
    return list(dict.fromkeys(found))


def _doubled(path: Path) -> Iterator[Finding]:
    for line, key, problem in files.faults(reading.text(path)):
        yield Finding(entry=f"{files.shown(path)}:{line}", key=key, problem=problem)


def _one(kind: str, name: str) -> Iterator[Finding]:
    try:
        found = resolve(kind, name)
        entry(kind, name)  # reads every value and every conflicting one
        if kind == "stack":
            stack(name)
        else:
            (machine_of if kind == "machine" else chip_of)(found)
    except MissingFigure:
        pass
    except InvalidInput as error:
        yield Finding(entry=name, key="", problem=str(error))
        return
    for leaf in found.leaves.values():
        yield from _provenance(found, leaf)
    if kind != "stack":
        for key, problem in broken(found):
            yield Finding(entry=_place(found, key), key=key, problem=problem)
    profile = found.get("profile") if kind == "chip" else None
    if profile is not None and profile not in schema.ARCHITECTURE:
        known = ", ".join(schema.ARCHITECTURE)
        yield Finding(entry=found.name, key="profile", problem=f"{profile!r} is no kernel profile ({known})")


def _place(found: Resolved, key: str) -> str:
    """The entry, or in a file of the user's the line of the key."""
    leaf = found.leaves.get(key)
    own = leaf is not None and leaf.file is not None and not leaf.file.is_relative_to(files.DATA)
    return leaf.where.rpartition(": ")[0] if leaf is not None and own else found.name


def _provenance(found: Resolved, leaf: Leaf) -> Iterator[Finding]:
    def finding(problem: str) -> Finding:
        return Finding(entry=found.name, key=leaf.path, problem=problem)

    type_ = schema.field_type(found.kind, leaf.path)
    theirs = leaf.file is None or not leaf.file.is_relative_to(files.DATA)
    if leaf.absent or leaf.raw == "all" or type_ in schema.TEXTS:
        return
    if not theirs and not leaf.missing and not leaf.source:
        yield finding("has no source")
    for source in [leaf.source, *(str(other.get("source", "")) for other in leaf.conflicts)]:
        if source and source not in sources():
            yield finding(f"source {source!r} is not in sources.yaml")
    if (leaf.kind or not theirs) and leaf.kind not in schema.PROVENANCE:
        yield finding(f"kind {leaf.kind!r} is none of {', '.join(schema.PROVENANCE)}")
    if leaf.source == "estimate" and leaf.kind not in ("assumed", "unknown"):
        yield finding("an estimate of ours has kind 'assumed'")


@cache
def digest() -> str:
    """SHA-256 over the names and contents of all data files: results carry it, so that they can be repeated."""
    total = sha256()
    for path in sorted(files.DATA.rglob("*.yaml")):
        total.update(path.relative_to(files.DATA).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """The product of ``factors`` (keys or numbers) is ``whole``, within ``slack_ratio`` for printed rounding."""

    entry: str
    factors: tuple[str | float, ...]
    whole: str | float
    slack_ratio: float = 1e-9


def _law(entry: str, *factors: str | float, whole: str | float, slack: float = 1e-9) -> Law:
    return Law(entry=entry, factors=factors, whole=whole, slack_ratio=slack)


@cache
def laws_of(entry: str) -> tuple[Law, ...]:
    """The laws of ``laws.yaml`` for an entry."""
    return tuple(map(partial(_read, entry), files.read(Path(__file__).parent / "laws.yaml").get(entry, ())))


def _read(entry: str, text: str) -> Law:
    """A law as written: "2 x chips x planes.scale_up.nvlink.bandwidth = facts.nvlink_aggregate_bothways ~ 0.01"."""
    product, _, rest = text.partition(" = ")
    whole, _, slack = rest.partition(" ~ ")
    factors = (each if each[0].isalpha() else float(each) for each in product.split(" x "))
    return _law(entry, *factors, whole=whole, slack=float(slack or 1e-9))


_PEAK_SLACK, _MEMORY_SLACK = 0.02, 0.03


def broken(found: Resolved) -> Iterator[tuple[str, str]]:
    """Key and complaint for every law that the entry breaks."""
    laws = [*laws_of(found.name)]
    laws += _of_chip(found) if found.kind == "chip" else _of_machine(found)
    for law in laws:
        whole = _get(found, law.whole)
        product = 1.0
        for factor in law.factors:
            product *= _get(found, factor) or 0.0
        if whole is not None and _ours(found, law) and not abs(product - whole) <= law.slack_ratio * whole:
            told = " x ".join(factor if isinstance(factor, str) else f"{factor:g}" for factor in law.factors)
            yield str(law.whole), f"{told} gives {product:.6g}, but {whole:.6g} is published"
    yield from _between(found)
    if found.kind == "machine":
        yield from _sizes(found)
        yield from _levels(found)


def _ours(found: Resolved, law: Law) -> bool:
    """Whether the entry itself states the whole: a user's changed machine need not match its base's published total."""
    leaf = found.leaves.get(str(law.whole))
    return leaf is None or leaf.file == found.file or found.file.is_relative_to(files.DATA)


def _get(found: Resolved, key: str | float) -> float | None:
    if not isinstance(key, str):
        return float(key)
    if found.kind == "machine" and key.startswith("chip."):
        try:
            found, key = chip_part(found), key.removeprefix("chip.")
        except MissingFigure:
            return None
    number = found.get(key)
    return None if number is None else float(number)


def _of_chip(found: Resolved) -> list[Law]:
    name = found.name
    laws = [_law(name, "dies", f"peak.{p}", whole=f"package.peak.{p}", slack=0.006) for p in schema.PEAKS]
    laws.append(_law(name, "dies", "memory.capacity", whole="package.memory"))
    laws.append(_law(name, "dies", "memory.bandwidth", whole="package.bandwidth"))
    return [law for law in laws if found.get(str(law.whole)) is not None and found.get(str(law.factors[1])) is not None]


def _of_machine(found: Resolved) -> list[Law]:
    def whole(part: str, key: str, slack: float) -> Law:
        return _law(found.name, "chips", "chip.dies", part, whole=f"aggregate.{key}", slack=slack)

    size = "chip.memory.nominal" if _get(found, "chip.memory.nominal") else "chip.memory.capacity"
    laws = [whole(f"chip.peak.{peak}", f"peak.{peak}", _PEAK_SLACK) for peak in schema.PEAKS]
    laws.append(whole(size, "memory", _MEMORY_SLACK))
    laws.append(whole("chip.memory.bandwidth", "memory_bandwidth", _PEAK_SLACK))
    return [law for law in laws if found.get(str(law.whole)) is not None]


_RANGES: tuple[tuple[str, str, float, float], ...] = (
    ("power.idle", "power.tdp", 0.0, 1.0),
    ("memory.capacity", "memory.nominal", 0.95, 1.08),  # what is printed rounds, and may count in Gi
)
"""Key, key that it is a share of, and between which shares it lies."""


def _between(found: Resolved) -> Iterator[tuple[str, str]]:
    for key, of, low, high in _RANGES:
        mine, whole = (found.get(each) for each in (key, of))
        if mine is not None and whole is not None and not low * whole <= mine <= high * whole:
            yield key, f"{mine:.6g} is no share from {low:g} to {high:g} of the {whole:.6g} of {of}"


SIZES = ("chips", "chips_per_node", "chips_per_rack")


def _sizes(found: Resolved) -> Iterator[tuple[str, str]]:
    """Nodes, racks and the levels of all planes lie in each other and in the machine: whole numbers of the smaller."""
    dies = _get(found, "chip.dies") or 1.0
    paths = [path for path in found.leaves if path.startswith("planes.") and path.endswith(".ranks")]
    sized = {path: _get(found, path) for path in paths if found.get(path) != "all"}
    sized |= {key: chips and dies * chips for key in SIZES for chips in [_get(found, key)]}
    known = {key: round(ranks) for key, ranks in sized.items() if ranks}
    own = sorted(known, key=lambda key: found.leaves[key].file != found.file)  # a user can mend what is their own
    for key, other in combinations(own, 2):
        least, most = sorted((key, other), key=known.__getitem__)
        if known[most] % known[least]:
            yield key, f"{known[key]} ranks beside the {known[other]} of {other}: no whole number of each other"
        elif least == "chips" and known[most] > known[least]:
            yield key, f"{known[key]} ranks beside the {known[other]} of {other}: more than the machine has"


def _levels(found: Resolved) -> Iterator[tuple[str, str]]:
    """From the innermost out, each level holds more than the one inside it, and none has more bandwidth."""
    paths = [path for path in found.leaves if path.startswith("planes.") and path.endswith(".ranks")]
    sized = {path: found.get(path) for path in paths}
    outward = sorted(paths, key=lambda path: float("inf") if sized[path] == "all" else sized[path] or 0)
    inside: dict[str, tuple[Any, float]] = {}
    for path in outward:
        plane, ranks = path.split(".")[1], sized[path]
        bandwidth = found.get(path.removesuffix("ranks") + "bandwidth")
        before, widest = inside.get(plane, (None, float("inf")))
        if before == ranks:
            yield path, f"{ranks} ranks are no more than those of the level inside it"
        if bandwidth is not None and bandwidth > widest:
            yield path, "an outer level has more bandwidth per rank than the one inside it"
        inside[plane] = (ranks, widest if bandwidth is None else bandwidth)
