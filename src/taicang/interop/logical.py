"""Time of a collective on a network of dimensions, as ASTRA-sim's analytical network runs it.

The payload is cut into chunks. Each goes through the dimensions one after the other: an all-reduce scatters inwards to
outwards, reduces over the outermost, and gathers on the way back. So many chunks are in flight on a dimension; their
bytes share its links, their latencies overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2

from taicang.interop.astra import Dimension, System
from taicang.interop.work import Collective

HOPS = {"Ring": 1, "Switch": 2, "FullyConnected": 1}
"""Links from one rank to its neighbour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What one chunk does on one dimension: a time that overlaps with other chunks', and one that does not."""

    dimension: int
    latency_s: float
    serial_s: float


def phases(kind: Collective, payload_bytes: float, dims: Sequence[Dimension], system: System) -> list[Phase]:
    """Of one chunk of ``payload_bytes`` (of an all-gather: what each rank brings)."""
    order = [index for index, each in enumerate(dims) if each.ranks > 1]
    made: list[Phase] = []
    size = payload_bytes
    if kind in ("all_reduce", "reduce_scatter"):
        for index in order:
            made.append(_phase("reduce_scatter", size, index, dims[index], system, kind))
            size /= dims[index].ranks
    if kind == "all_reduce":
        order = order[::-1]
    if kind in ("all_reduce", "all_gather"):
        for index in order:
            made.append(_phase("all_gather", size, index, dims[index], system, kind))
            size *= dims[index].ranks
    if kind in ("all_to_all", "broadcast"):
        made += [_phase(kind, size, index, dims[index], system, kind) for index in order]
    return made


def _phase(step: Collective, size_bytes: float, index: int, dim: Dimension, system: System, kind: Collective) -> Phase:
    algorithm = system.algorithms.get(kind, ("ring",) * (index + 1))[index].removeprefix("one").lower()
    messages = _messages(step, size_bytes, dim, algorithm)
    memory = 0.0
    if system.memory_bytes_per_s is not None:  # a reduction reads what is there and writes the sum
        memory = (2.0 if step == "reduce_scatter" else 1.0) / system.memory_bytes_per_s
    latency = sum(HOPS[dim.topology] * hops * dim.latency_s + system.endpoint_s for _, hops, _ in messages)
    serial = sum(size * (shared / dim.bandwidth_bytes_per_s + memory) for size, _, shared in messages)
    return Phase(dimension=index, latency_s=latency, serial_s=serial)


def _messages(step: Collective, size_bytes: float, dim: Dimension, algorithm: str) -> list[tuple[float, int, float]]:
    """(Bytes, hops in units of a neighbour's, messages that share its link) of each message in a row."""
    n = dim.ranks
    part = size_bytes if step == "all_gather" else size_bytes / n
    if step == "broadcast":
        return [(size_bytes, 1, 1.0)] * ceil(log2(n))
    if step == "all_to_all":
        if dim.topology != "Ring":
            return [(part, 1, 1.0)] * (n - 1) if algorithm == "ring" else [(part * (n - 1), 1, 1.0)]
        # a message to the rank d places away passes d links, each of which then carries d of them
        return [(part, min(d, n - d), float(min(d, n - d))) for d in range(1, n)]
    if algorithm == "direct":
        return [(part * (n - 1), 1, 1.0)]
    if algorithm in ("halvingdoubling", "doublebinarytree"):
        rounds = ceil(log2(n))
        whole = part * n
        return [(whole / 2 ** (each + 1), 1, 1.0) for each in range(rounds)]
    return [(part, 1, 1.0)] * (n - 1)


def seconds(kind: Collective, payload_bytes: float, dims: Sequence[Dimension], system: System) -> float:
    """All chunks of one collective, on an idle network."""
    if kind == "barrier" or payload_bytes <= 0.0:
        return 0.0
    rows = phases(kind, payload_bytes / system.splits, dims, system)
    slots = {row.dimension: [0.0] * system.active_chunks for row in rows}
    links = dict.fromkeys(slots, 0.0)
    end = 0.0
    for _ in range(system.splits):
        at = 0.0
        for row in rows:
            free = slots[row.dimension]
            slot = min(range(len(free)), key=free.__getitem__)
            begin = max(at, free[slot])
            at = max(begin + row.latency_s + row.serial_s, links[row.dimension] + row.serial_s)
            free[slot] = links[row.dimension] = at
        end = max(end, at)
    return end


def send_s(payload_bytes: float, source: int, target: int, dims: Sequence[Dimension], system: System) -> float:
    """One message on an idle network: by its coordinates, dimension after dimension, cut through."""
    latency, slowest, stride = 0.0, 0.0, 1
    for dim in dims:
        a, b = source // stride % dim.ranks, target // stride % dim.ranks
        away = abs(a - b)
        if away:
            hops = min(away, dim.ranks - away) if dim.topology == "Ring" else HOPS[dim.topology]
            latency += hops * dim.latency_s
            slowest = max(slowest, payload_bytes / dim.bandwidth_bytes_per_s)
        stride *= dim.ranks
    memory = payload_bytes / system.memory_bytes_per_s if system.memory_bytes_per_s else 0.0
    return latency + slowest + system.endpoint_s + memory
