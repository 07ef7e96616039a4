"""Figures to domain types, in plain SI. What is unknown and needed raises ``MissingFigure``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from taicang import units
from taicang.catalog import schema
from taicang.catalog.resolve import Resolved, aliases, derive, find, is_path, locate, names, resolve
from taicang.errors import InvalidInput, MissingFigure, UnknownName
from taicang.hardware import Chip, Level, Links, Machine, Memory, Plane, is_network

MOST_RANKS = 4_000_000
"""Of one machine: several times the largest that is built."""
_CHIPS = re.compile(r"^(?P<count>\d[\d_,]*)\s*[x×*]\s*(?P<name>\D.*)$", re.ASCII)
_SPEC = re.compile(r"^(?P<name>.+?)(?P<space>\s*)[x×]\s*(?P<count>\d[\d_,.]*)\s*$", re.ASCII)


def chip(name: str, sets: Iterable[str] = ()) -> Chip:
    """The chip ``name`` (or a YAML file) with ``sets`` ("memory.bandwidth=4 TB/s") applied.

    Raises ``UnknownName``, ``UnitError``, ``InvalidInput`` (all name file, line and key) and ``MissingFigure``.
    """
    return chip_of(resolve("chip", name, sets))


def machine(spec: str, sets: Iterable[str] = (), *, links: bool = False) -> Machine:
    """The machine of ``spec``: a name or YAML file, or one with a count ("hgx-h100 x 4" is four nodes on one network,
    "4x H100" four chips of the smallest machine that has them).

    Where only its ``links`` are asked about, figures of its chip that nobody publishes are NaN. Raises as ``chip``;
    keys of its chip are written "chip.memory.bandwidth".
    """
    name, count = split(spec)
    _no_chip(name)
    sets = [*(found[2] if (found := _chips(spec)) else []), *sets]
    for text in sets:
        path = text.partition("=")[0].strip()
        if schema.recorded(path.removeprefix("chip.")):
            raise InvalidInput("is kept for the record; it changes no prediction", where=f"--set {path}")
    return machine_of(resolve("machine", name, sets), count, links)


def machines_with(name: str) -> tuple[str, ...]:
    """Machines of the catalogue that have the chip ``name``, or the one that it derives from, the smallest first."""
    wanted = {locate("chip", each) for each in (name, resolve("chip", name).root)}
    found = []
    for machine_name in names("machine"):
        entry = resolve("machine", machine_name)
        if (has := entry.get("chip")) is not None and locate("chip", has) in wanted:
            found.append((entry.get("chips") or 0, machine_name))
    return tuple(each for _, each in sorted(found))


def _chips(spec: str) -> tuple[str, int, list[str]] | None:
    """What so many chips ("8x H100") are: a machine, how many of it, and settings that leave a part of one."""
    match = _CHIPS.match(spec.strip())
    if match is None or is_path(spec) or find("machine", spec):
        return None
    name = match["name"]
    count = units.count(match["count"], 1, MOST_RANKS, what="a number of chips", where=f"machine {spec.strip()[:80]!r}")
    if find("chip", name) is None:
        return name, count, []
    if not (has := machines_with(name)):
        return None
    chips = resolve("machine", has[0]).get("chips")
    if count % chips and count > chips:
        raise InvalidInput(f"{count} chips are no whole number of {has[0]}, which has {chips}", where="machine")
    return has[0], max(count // chips, 1), [] if count >= chips else [f"chips={count}"]


def _no_chip(name: str) -> None:
    """Refuse a chip where a machine is asked for, with the machines that have it."""
    if is_path(name) or find("machine", name):
        return
    if find("chip", name) is None:
        return
    has = machines_with(name)
    says = f"machines that have it: {', '.join(has)}" if has else "no machine of the catalogue has it"
    raise InvalidInput(f"{name!r} is a chip; {says}", where="machine")


def split(spec: str) -> tuple[str, int]:
    """A machine spec as name and count ("16x H100" too); "cloudmatrx384" is misspelt, not 384 times "cloudmatr"."""
    text = spec.strip()
    if (chips := _chips(text)) is not None:
        return chips[:2]
    match = _SPEC.match(text)
    if match is None or is_path(text) or find("machine", text):
        return text, 1
    name = match["name"].strip()
    if not match["space"] and not find("machine", name):
        return text, 1
    return name, units.count(
        match["count"], 1, MOST_RANKS, what="a number of units", where=f"machine {spec.strip()[:80]!r}"
    )


def chip_part(entry: Resolved) -> Resolved:
    """The chip of a machine entry, with the changes that the machine makes to it."""
    reference = _need(entry, "chip")
    leaf = entry.leaves["chip"]
    if find("chip", reference) is None:
        raise UnknownName("chip", reference, [*names("chip"), *aliases("chip")], where=leaf.where)
    found = resolve("chip", reference, beside=leaf.file)
    changes = [
        replace(each, path=path.removeprefix("chip."))
        for path, each in entry.leaves.items()
        if path.startswith("chip.")
    ]
    return replace(found, leaves=derive("chip", found.leaves, changes))


def chip_of(entry: Resolved, prefix: str = "", owner: str = "", *, links: bool = False) -> Chip:
    """The ``Chip`` of an entry; ``prefix`` and ``owner`` name the key as the user would set it."""

    def need(path: str) -> Any:
        if links and path in ("l2", "vector.fp32", "memory.capacity", "memory.bandwidth"):
            return entry.get(path) or math.nan
        return _need(entry, path, prefix, owner)

    peaks = {key: entry.get(f"peak.{key}") for key in schema.PEAKS}
    if peaks["fp16"] is None and not links:  # a chip without bf16 works in fp16
        need("peak.bf16")
    if links:
        peaks["bf16"] = peaks["bf16"] or math.nan
    return Chip(
        name=entry.name,
        vendor=need("vendor"),
        dies=need("dies"),
        peak_flop_per_s=MappingProxyType({key: peak for key, peak in peaks.items() if peak is not None}),
        vector_flop_per_s=need("vector.fp32"),
        cores=need("cores"),
        memory=Memory(
            capacity_bytes=need("memory.capacity"),
            bandwidth_bytes_per_s=need("memory.bandwidth"),
            reach_ratio=entry.get("memory.reach"),
        ),
        l2_bytes=need("l2"),
        l2_bytes_per_s=entry.get("l2_bandwidth") or math.inf,
        profile=need("profile"),
        measured=bool(entry.get("measured")),
        tdp_w=entry.get("power.tdp"),
        idle_w=entry.get("power.idle"),
        sustained_ratio=entry.get("sustained"),
        kernels=_kernels(entry),
    )


def _kernels(entry: Resolved) -> dict[str, dict[str, dict[str, float]]]:
    """Constants below ``kernels``, by family and key; ``InvalidInput`` for what is no positive number."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for path, leaf in entry.leaves.items():
        if path.startswith("kernels."):
            _, family, key, constant = path.split(".")
            number = entry.get(path)
            if isinstance(number, bool) or not isinstance(number, int | float) or not number > 0.0:
                raise InvalidInput(f"expected a positive number, got {number!r}", where=leaf.where)
            found.setdefault(family, {}).setdefault(key, {})[constant] = float(number)
    return found


def machine_of(entry: Resolved, count: int = 1, links: bool = False) -> Machine:
    """The ``Machine`` of ``count`` units of an entry, or that of its ``links`` alone."""
    part = chip_of(chip_part(entry), "chip.", entry.name, links=links)
    chips = _need(entry, "chips") * count
    ranks = chips * part.dies
    if ranks > MOST_RANKS:
        raise InvalidInput(f"{chips:,} chips are {ranks:,} ranks, more than the {MOST_RANKS:,} that are modelled",
                           where=f"machine {entry.name}")  # fmt: skip
    planes = sorted({path.split(".")[1] for path in entry.leaves if path.startswith("planes.")})
    if "scale_up" not in planes:
        raise MissingFigure(entry.name, "planes.scale_up")
    if count > 1:
        _scale_out(entry)
    power, price, yuan = entry.get("power.load"), entry.get("price.usd"), entry.get("price.cny")
    return Machine(
        name=entry.name if count == 1 else f"{entry.name} x {count}",
        chip=part,
        chips=chips,
        chips_per_node=_need(entry, "chips_per_node"),
        planes=MappingProxyType({name: _plane(entry, name, ranks, ranks // count) for name in planes}),
        host_memory_bytes=(entry.get("host.memory") or 0.0) * count,
        power_w=None if power is None else power * count,
        power_from=_stated(entry, "power.load"),
        pue_ratio=entry.get("pue") or 1.0,
        price_usd=None if price is None else price * count,
        price_cny=None if yuan is None else yuan * count,
        status=_need(entry, "status"),
        overlap_tax_ratio=entry.get("overlap_tax") or 0.0,
        chips_per_rack=entry.get("chips_per_rack"),
        links=_links(entry),
    )


def _stated(entry: Resolved, key: str) -> str:
    """What a figure that is not predicted is, in words."""
    if entry.get(key) is None:
        return f"no figure is known for {entry.name}"
    leaf = entry.leaves[key]
    said = {"assumed": "estimate", "": "given figure"}.get(leaf.kind, f"{leaf.kind} figure")
    return f"the machine's {said}{f' ({leaf.note})' if leaf.note else ''}, not predicted"


def _scale_out(entry: Resolved) -> None:
    """Refuse several units of a machine whose own network would silently grow to join them."""
    stem = "planes.scale_up."
    whole = [path.split(".")[2] for path in entry.leaves if path.startswith(stem) and path.endswith(".ranks")
             and entry.get(path) == "all"]  # fmt: skip
    if whole and not any(is_network(level, entry.get(f"{stem}{level}.profile") or "") for level in whole):
        raise MissingFigure(entry.name, f"{stem}scale_out.bandwidth")


def _links(entry: Resolved) -> Links | None:
    if not any(path.startswith("links.") for path in entry.leaves):
        return None
    failed = tuple(part.strip() for part in (entry.get("links.failed") or "").split(",") if part.strip())
    alone = not any(path.startswith("links.") and path != "links.placed" for path in entry.leaves)
    return Links(
        routing=entry.get("links.routing") or ("closed" if alone else "adaptive"), seed=entry.get("links.seed") or 0,
        failed=failed, placed=entry.get("links.placed"),
    )  # fmt: skip


def _plane(entry: Resolved, plane: str, ranks: int, unit: int) -> Plane:
    """The levels of a plane from the innermost out; a level that adds no rank to the one inside it is left out.

    "all" of a unit's own scale-up network are the ``unit`` ranks of one.
    """
    stem = f"planes.{plane}."
    found = list(dict.fromkeys(path[len(stem) :].split(".")[0] for path in entry.leaves if path.startswith(stem)))
    sized = []
    for level in found:
        size = _need(entry, f"{stem}{level}.ranks")
        own = plane == "scale_up" and not is_network(level, entry.get(f"{stem}{level}.profile") or "")
        whole = unit if own else ranks
        sized.append((whole if size == "all" else min(size, ranks), size == "all", level))
    sized.sort()
    levels: list[Level] = []
    for size, _, level in sized:
        if levels and size <= levels[-1].ranks:
            continue
        key = f"{stem}{level}."
        _torus(entry, key, size // (levels[-1].ranks if levels else 1))
        said = {field: entry.get(f"{key}{each}") for each, (field, _) in schema.LEVEL.items()}
        for each in ("bandwidth", "latency", "topology"):
            _need(entry, f"{key}{each}")
        given = {field: value for field, value in said.items() if value is not None}
        levels.append(Level(**given | {"name": level, "ranks": size}))
    return Plane(name=plane, levels=tuple(levels))


def _torus(entry: Resolved, key: str, units: int) -> None:
    """Refuse a torus whose extents are not given or are not its units: its bisection is theirs."""
    if entry.get(f"{key}topology") != "torus":
        return
    dims = entry.get(f"{key}dims")
    if not dims:
        says = f"a torus of {units} units needs its extents, such as 4x4x8"
        raise InvalidInput(says, where=f"{entry.name}: {key}dims")
    if math.prod(dims) != units:
        raise InvalidInput(f"{'x'.join(map(str, dims))} are not the {units} units of this level",
                           where=f"{entry.name}: {key}dims")  # fmt: skip


def _need(entry: Resolved, path: str, prefix: str = "", owner: str = "") -> Any:
    found = entry.get(path)
    if found is None:
        raise MissingFigure(owner or entry.name, f"{prefix}{path}")
    return found
