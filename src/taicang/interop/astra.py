"""ASTRA-sim's network and system files: a network of dimensions, the innermost first, and how collectives run on it.

Meanings as its analytical network has them: a gigabyte is 2^30 bytes, a message takes the latency of each hop once and
its bytes once (cut through), a switch is two hops away, and the far end adds its delay and what its memory takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml

from taicang import reading
from taicang.errors import InvalidInput, UnknownName

Topology: TypeAlias = Literal["Ring", "Switch", "FullyConnected"]
TOPOLOGIES = ("Ring", "Switch", "FullyConnected")
ALGORITHMS = ("ring", "oneRing", "direct", "oneDirect", "halvingDoubling", "oneHalvingDoubling", "doubleBinaryTree")
GB_NETWORK = float(2**30)
"""ASTRA-sim's links count gigabytes in powers of two..."""
GB_MEMORY = 1e9
"""... and its memories in powers of ten."""
NS = 1e-9
MOST_RANKS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """One tier: ``ranks`` of it meet, each by links of one speed."""

    topology: Topology
    ranks: int
    bandwidth_bytes_per_s: float
    """Of a link, in one direction."""
    latency_s: float
    """Of a link."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """How collectives are cut and run."""

    splits: int = 1
    active_chunks: int = 1
    """Chunks of a collective that are in flight on a dimension at once."""
    endpoint_s: float = 0.0
    memory_bytes_per_s: float | None = None
    """None: memory takes no time."""
    peak_flop_per_s: float | None = None
    algorithms: Mapping[str, tuple[str, ...]]
    """By collective, one for each dimension."""


def network(path: Path) -> tuple[Dimension, ...]:
    """The dimensions of a network file. Raises ``InvalidInput`` with file and key."""
    try:
        found = yaml.safe_load(reading.text(path))
    except (yaml.YAMLError, RecursionError) as error:
        raise InvalidInput(f"not YAML ({' '.join(str(error).split())})", where=str(path)) from None
    if not isinstance(found, dict):
        raise InvalidInput("not a mapping", where=str(path))
    keys = ("topology", "npus_count", "bandwidth", "latency")
    for key in found:
        if key not in keys:
            raise UnknownName("key", str(key), keys, where=str(path))
    lists: dict[str, list[Any]] = {}
    for key in keys:
        value = found.get(key)
        if not isinstance(value, list) or not value:
            raise InvalidInput("a list with a value for each dimension is needed", where=f"{path}: {key}")
        lists[key] = value
    if len({len(each) for each in lists.values()}) > 1:
        sizes = ", ".join(f"{len(each)} of {key}" for key, each in lists.items())
        raise InvalidInput(f"lists of unequal length: {sizes}", where=str(path))
    made = []
    for kind, ranks, bandwidth, latency in zip(*lists.values(), strict=True):
        if kind not in TOPOLOGIES:
            raise UnknownName("topology", str(kind), TOPOLOGIES, where=f"{path}: topology")
        made.append(
            Dimension(
                topology=kind,
                ranks=int(_number(ranks, f"{path}: npus_count", least=1)),
                bandwidth_bytes_per_s=_number(bandwidth, f"{path}: bandwidth", least=1e-9) * GB_NETWORK,
                latency_s=_number(latency, f"{path}: latency") * NS,
            )
        )
    whole = 1
    for each in made:
        whole *= each.ranks
    if whole > MOST_RANKS:
        raise InvalidInput(f"{whole:,} ranks are more than {MOST_RANKS:,}", where=f"{path}: npus_count")
    return tuple(made)


def system(path: Path, dimensions: int) -> System:
    """How a system file runs collectives on a network of ``dimensions``. Raises ``InvalidInput`` with file and key."""
    found = reading.document(reading.text(path), str(path))
    if not isinstance(found, dict):
        raise InvalidInput("not an object", where=str(path))
    algorithms = {}
    for name in ("all-reduce", "all-gather", "reduce-scatter", "all-to-all"):
        listed = found.get(f"{name}-implementation", ["ring"] * dimensions)
        if not isinstance(listed, list) or len(listed) not in (1, dimensions):
            raise InvalidInput(
                f"one algorithm for each of {dimensions} dimensions", where=f"{path}: {name}-implementation"
            )
        for each in listed:
            if each not in ALGORITHMS:
                raise UnknownName("algorithm", str(each), ALGORITHMS, where=f"{path}: {name}-implementation")
        algorithms[name.replace("-", "_")] = tuple(listed * (dimensions if len(listed) == 1 else 1))
    memory, peak = found.get("local-mem-bw"), found.get("peak-perf")
    return System(
        splits=int(_number(found.get("preferred-dataset-splits", 1), f"{path}: preferred-dataset-splits", least=1)),
        active_chunks=int(
            _number(found.get("active-chunks-per-dimension", 1), f"{path}: active-chunks-per-dimension", least=1)
        ),
        endpoint_s=_number(found.get("endpoint-delay", 0), f"{path}: endpoint-delay") * NS,
        memory_bytes_per_s=_number(memory, f"{path}: local-mem-bw", least=1e-9) * GB_MEMORY if memory else None,
        peak_flop_per_s=_number(peak, f"{path}: peak-perf", least=1e-9) * 1e12 if peak else None,
        algorithms=algorithms,
    )


def _number(value: Any, where: str, least: float = 0.0) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < 1e15:
        raise InvalidInput(f"{value!r} is not a number of at least {least:g}", where=where)
    return float(value)
