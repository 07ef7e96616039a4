"""Price of a collective in closed form, tier by tier.

Every algorithm and protocol of a library is a line: ``base_s`` (launch, set-up of channels) + ``hop_s`` per step +
bytes over the bandwidth that it can use. All lines are open at all sizes and the library takes the best, so the price
is their smooth minimum (sixteenth-power norm): quick low-bandwidth protocols win small messages, slow-starting ones
win large messages, and no size is looked up. The form is Hockney's alpha-beta (1994) per protocol, as NCCL's own tuner
has it; groups that cross tiers run the same line on each tier, pipelined: hops add, bandwidths saturate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from taicang.cost.collective_bound import bound_over, joins, met_ratios, reaches, rows_of, sent_ratio
from taicang.cost.cost import Cost
from taicang.errors import UnknownName

if TYPE_CHECKING:
    from taicang.hardware import Chip, Level, Machine
    from taicang.ops import Collective
    from taicang.units import Count, Num

FLAVOURS = ("nccl", "trtllm", "sglang", "sglang_v1", "vllm", "best")
"""Kernels for all-reduce: the vendor's library (NCCL, HCCL), or an engine's own with the library behind them.

"sglang_v1" is SGLang's kernel up to 0.5.10, which the next one halved at small sizes. An engine may have several
("trtllm+vllm"), of which it takes the faster."""
PROTOCOLS = ("ll", "ll128", "simple")
SHOTS = ("one_shot", "two_shot")
ADAPTERS = "adapters"
"""Profile that serves networks of adapters that nobody has measured."""
VLLM_RANKS = 8
RING_STEPS_PER_TREE_LEVEL = 4.0
"""Assumed: rings up to about 20 members, trees beyond; a tree's level costs as much as four steps of a ring."""
PIECE_BYTES = 4.0 * 2**20 / 8.0
"""What a broadcast passes on at once between nodes: NCCL's buffer of 4 MiB in its 8 steps (``NCCL_BUFFSIZE``)."""
CHANNELS = 16.0
"""Of a library between nodes, two to each of eight adapters (assumed), each of which passes pieces of its own on."""
PIECES = 4.0
"""The library deals a buffer into this many pieces for each step of a tree, of 32 KiB at least: what fills its steps is
a part of the whole (NCCL, src/enqueue.cc)."""
LEAST_PIECE_BYTES, TREE_PIECE_BYTES, SWITCH_PIECE_BYTES = 2.0**15, 2.0**19, 2.0**17
"""Of one channel: the least, the largest in a tree, and the largest of each rank's where switches add."""
RELAY_S = {"ll": 1e-6, "ll128": 1e-6, "simple": 3e-6}
"""A step of a ring or a message that the host's proxy sees to, by protocol, as the library's own tuner has it (NCCL,
src/graph/tuning.cc); steps within nodes are no faster than this where the ring leaves them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One algorithm and protocol on one kind of fabric.

    ``efficiency_ratio`` is of the tier's one-way bandwidth. ``own_ratio`` prices the copy of the rank's own shard
    beside a byte that travels. ``shared_ratio`` is the slowdown by a third rank where ranks share a bus (PCIe), which
    grows with the ranks beyond two to the ``shared_power``: 1 where each is in the others' way, near 0 where only the
    host between two cards counts (one hop of the ring crosses it, however many cards there are). ``spread_ratio`` is
    the wire time added per doubling of the ranks whose parts a switch waits for before it adds them.
    """

    base_s: float
    hop_s: float
    efficiency_ratio: float
    own_ratio: float = 0.0
    shared_ratio: float = 0.0
    shared_power: float = 1.0
    spread_ratio: float = 0.0


Fits: TypeAlias = Mapping[str, Mapping[str, Line]]
"""Lines by level profile and ``operation/protocol``; profile "default" serves levels that nobody has measured."""


class Wires(Protocol):
    """Links one by one: what each level of a plane gives to a rank under real routes, shares, collisions and faults."""

    def rates(self, plane: str, kind: str, ranks: Count, stride: Count) -> list[Num]:
        """Bytes/s of one rank through every level, in the order of the plane's levels."""
        ...


def _lines(op: Collective, levels: tuple[Level, ...], fits: Fits, flavour: str) -> list[str]:
    """Keys of the lines open to ``op`` on a plane with these levels."""
    like = "all_gather" if op.kind == "broadcast" else op.kind  # the same protocols, from one rank
    keys = [f"{like}/{protocol}" for protocol in PROTOCOLS]
    if op.kind == "all_reduce":
        if levels[0].reduces:
            keys.append("all_reduce/in_switch")
        near = fits.get(levels[0].profile, {})
        makers = FLAVOURS[1:-1] if flavour == "best" else flavour.split("+")
        own = (f"all_reduce/{maker}_{shot}" for maker in makers for shot in SHOTS)
        keys.extend(key for key in own if key in near)
    return keys


def _line(fits: Fits, level: Level, key: str) -> tuple[Line, float]:
    """The line's constants on this level and the time of one hop (the level's own latency where nobody measured)."""
    found = fits.get(level.profile, {}).get(key)
    if found is not None:
        return found, found.hop_s
    default = fits[ADAPTERS if level.behind_adapters and ADAPTERS in fits else "default"]
    assumed = default[key] if key in default else default["all_reduce/simple"]  # an engine's kernel never gets here
    return assumed, max(assumed.hop_s, level.latency_s)


@dataclass(frozen=True, slots=True)
class _Tier:
    """One tier as a group sees it: what does not depend on the line."""

    level: Level
    inner: Count
    outer: Count
    reach: Count
    """Members that this tier's ports lead to, through it and the tiers built on it."""
    crossed: Count
    steps: Count
    messages: Count
    """Of an exchange through adapters, one after the other, beyond the first."""
    left: Count
    """1 where the group leaves this tier by adapters."""
    ringed: bool
    """Whether the library is NCCL or its kin."""
    depth: Count
    """Of a tree over all tiers."""
    crowd: Count
    doublings: Count
    """Of the ranks or units whose parts its switches add."""
    rate_bytes_per_s: Num
    within: bool
    """Whether switches of the tiers inside it add."""
    beyond: bool
    """Whether switches of the next tier add."""


def _steps(op: Collective, rows: list[tuple[Level, Num, Num, Num]], ringed: bool) -> list[tuple[Count, Count]]:
    """Hops in a row across each tier, and 1 where the group leaves it by adapters.

    Of NCCL and its kin (``ringed``) a ring goes through every rank of each node on its way, a tree through a chain of
    a node's ranks; of others the ranks of a node speak at once.
    """
    found: list[tuple[Count, Count]] = []
    left: Count = 0.0
    passed: Count = 1.0
    for level, inner, outer, _ in reversed(rows):
        joined = joins(outer, inner)
        steps: Count = np.minimum(joined - 1.0, RING_STEPS_PER_TREE_LEVEL * np.log2(joined))
        if op.kind == "all_reduce" and level.behind_adapters:  # a tree between nodes, of which a level is one hop
            steps = np.log2(joined)
        elif op.kind in ("all_gather", "reduce_scatter") and level.behind_adapters and ringed:  # which have no tree
            steps = joined - 1.0
        elif op.kind == "broadcast":  # libraries have no tree for it: a chain through every rank
            steps = rows[-1][2] / inner - rows[-1][2] / outer
        elif op.kind != "all_to_all" and ringed and not level.behind_adapters:
            steps = steps + left * ((joined - 1.0) * passed - steps)
        found.append((steps, left))
        if level.behind_adapters:
            left = np.maximum(left, (outer > inner) * 1.0)
            passed = passed if op.kind == "all_reduce" else passed * (steps + 1.0)
    return found[::-1]


def _tiers(op: Collective, levels: tuple[Level, ...], chip: Chip, wires: Wires | None = None) -> list[_Tier]:
    found: list[_Tier] = []
    rows = rows_of(op, levels)
    hops = _steps(op, rows, ringed := not chip.ascend)
    given = wires.rates(op.plane, op.kind, op.ranks, op.stride) if wires else [row[3] for row in rows]
    for at, ((level, inner, outer, _), reach) in enumerate(zip(rows, reaches(rows, chip.dies), strict=True)):
        joined = joins(outer, inner)
        found.append(
            _Tier(
                level=level,
                inner=inner,
                outer=outer,
                reach=reach,
                crossed=(outer > inner) * 1.0,
                steps=hops[at][0],
                messages=(outer - inner - joined + 1.0)
                * (op.kind == "all_to_all" and level.behind_adapters and ringed),
                left=hops[at][1],
                ringed=ringed,
                depth=np.maximum(sum(each for each, _ in hops), 1.0),
                crowd=np.maximum(joined - 2.0, 0.0),
                doublings=np.log2(joined) * level.reduces,
                rate_bytes_per_s=given[at],
                within=any(row[0].reduces for row in rows[:at]),
                beyond=any(row[0].reduces for row in rows[at + 1 : at + 2]),
            )
        )
    return found


def _volume(op: Collective, key: str, tier: _Tier, ranks: Num, own_ratio: Num) -> Num:
    """Share of the payload that one rank moves through a tier."""
    if key.endswith("one_shot"):
        return ranks - 1.0
    if op.kind == "all_to_all":
        return (tier.reach - tier.inner + own_ratio) / ranks
    if op.kind == "broadcast":
        return 1.0 / tier.inner
    if key.endswith("in_switch") and tier.level.reduces:
        # a rank reads its shard reduced (and sends its copy of everyone's), then multicasts it and takes in all others'
        inside = tier.outer / tier.inner
        once = (inside + 1.0) / inside
        # two units swap their sums while they read; what more pass on comes back when it has left: one pass each
        passed = 0.0 if tier.beyond else np.clip(ranks / tier.outer - 2.0, 0.0, 1.0)
        return (once + (np.maximum(2.0 * (inside - 1.0) / inside, once) - once) * passed) / tier.inner
    if key.endswith("in_switch") and tier.within:
        # units hold their own sums, a shard on each rank: only these go round
        units = joins(ranks, tier.inner)
        return 2.0 * (units - 1.0) / units / tier.inner
    passes = 2.0 if op.kind == "all_reduce" else 1.0
    # of the inner units on these ports, all but one have their neighbour here: the ring leaves the last by outer ports
    leaving = (tier.reach < ranks) * (tier.inner / tier.reach)
    return (passes * (ranks - 1.0) * (1.0 - leaving) + own_ratio) / ranks / tier.inner


def _waited_bytes(op: Collective, key: str, rows: list[_Tier], tier: _Tier) -> Num:
    """What a rank moves through a tier before the first piece is through: a step passes whole pieces on (within a node
    the quick protocols pass on line by line). Steps of a ring are themselves the pieces.
    """
    if op.kind == "broadcast":
        return np.minimum(PIECE_BYTES, op.payload_bytes / tier.inner) * tier.steps * (tier is not rows[0])
    if op.kind != "all_reduce" or not tier.ringed or not key.endswith(("simple", "in_switch")):
        return 0.0
    node, units = rows[-1].inner, joins(rows[-1].outer, rows[-1].inner)
    deals: Num = tier.depth
    copies: Num = CHANNELS
    most: Num = TREE_PIECE_BYTES
    if key.endswith("in_switch"):  # of which the library halves the largest from four nodes on
        deals, copies, most = 1.0, CHANNELS * node, SWITCH_PIECE_BYTES / np.clip(units / 2.0, 1.0, 2.0)
    dealt: Num = np.clip(op.payload_bytes / (PIECES * deals), copies * LEAST_PIECE_BYTES, copies * most)
    piece: Num = np.minimum(dealt, op.payload_bytes) / tier.inner
    if key.endswith("in_switch") and tier.level.reduces and not tier.level.behind_adapters:
        return piece * tier.left  # in and out again, of which one is beside the wires
    # up and down: between nodes of two trees, each with half the channels, and a node that begins one ends the other
    return piece * tier.steps * (1.0 if tier.level.behind_adapters else 2.0 * tier.left)


def _seconds(op: Collective, rows: list[_Tier], fits: Fits, key: str) -> Num:
    """One line's time; hops of all tiers add, their bandwidth times saturate (sixteenth-power norm)."""
    ranks = rows[-1].outer
    base: Num = 0.0
    hops: Num = 0.0
    wires: Num = 0.0
    for tier in rows:
        line, latency_s = _line(fits, tier.level, key)
        hop_s: Num = latency_s
        base = np.maximum(base, line.base_s * (0.01 + 0.99 * tier.crossed))
        rate = tier.rate_bytes_per_s * line.efficiency_ratio
        relay_s = RELAY_S.get(key.rpartition("/")[2], 0.0)
        if op.kind in ("all_gather", "reduce_scatter"):
            hop_s = np.maximum(hop_s, relay_s * tier.left * tier.ringed)
        hops = hops + hop_s * tier.steps + _waited_bytes(op, key, rows, tier) / rate + tier.messages * relay_s
        # the copy of the own shard crosses no link: in a mesh it is not slowed to the few links that a small group has
        own = line.own_ratio * (tier.rate_bytes_per_s / tier.level.bandwidth_bytes_per_s)
        moved = op.payload_bytes * _volume(op, key, tier, ranks, own)
        if op.kind != "all_to_all":  # kernels copy what leaves by outer ports too: several units are no faster than one
            moved = np.maximum(moved, op.payload_bytes * _volume(op, key, tier, tier.reach, own))
        slowed = (1.0 + line.shared_ratio * tier.crowd**line.shared_power) * (1.0 + line.spread_ratio * tier.doublings)
        wire = tier.crossed * (moved * slowed / rate)
        fourth = wire * wire * (wire * wire)
        eighth = fourth * fourth
        wires = wires + eighth * eighth
    return base + hops + np.sqrt(np.sqrt(np.sqrt(np.sqrt(wires))))


def _within_reach(op: Collective, machine: Machine, key: str) -> Num:
    """1 where an engine's own kernel can see all peers' memory, else 0.

    TensorRT-LLM's multicast kernels span the level, vLLM's at most eight ranks, SGLang's (CUDA IPC) one node.
    """
    level = machine.plane(op.plane).levels[0]
    node = machine.chips_per_node * machine.chip.dies
    reach = level.ranks
    if "/vllm_" in key:
        reach = min(reach, VLLM_RANKS)
    elif "/sglang" in key:
        reach = min(reach, node)
    return (op.ranks * op.stride <= reach) * 1.0


def collective(op: Collective, machine: Machine, fits: Fits, flavour: str = "nccl", wires: Wires | None = None) -> Cost:
    """Price ``op`` on the plane that it names, or on its links where ``wires`` are given; one rank costs exactly zero.

    Fields of ``op`` may be floats or arrays. ``flavour`` (see ``FLAVOURS``) chooses the all-reduce kernels; an engine's
    own kernels exist only where they were measured and as far as they reach. Never below ``lower_bound_s``.
    Raises ``NotModelled`` if the machine lacks the plane, ``UnknownName`` for a flavour.
    """
    for each in flavour.split("+"):
        if each not in FLAVOURS:
            raise UnknownName("collective flavour", each, FLAVOURS)
    levels = machine.plane(op.plane).levels
    rows = _tiers(op, levels, machine.chip, wires)
    ranks = rows[-1].outer
    keys = _lines(op, levels, fits, flavour)
    inverse: Num = 0.0
    for key in keys:
        rate = 1.0 / _seconds(op, rows, fits, key)
        fourth = rate * rate * (rate * rate)
        eighth = fourth * fourth
        power = eighth * eighth
        inverse = inverse + (power * _within_reach(op, machine, key) if key.endswith("shot") else power)
    best = 1.0 / np.sqrt(np.sqrt(np.sqrt(np.sqrt(inverse))))
    apart = (ranks > 1.0) * 1.0
    crossed = [(row.level, row.inner, row.outer, row.rate_bytes_per_s) for row in rows]
    bound = bound_over(op, crossed, machine.chip.dies)
    seconds = np.maximum(best, bound) * apart
    return Cost(
        seconds=seconds,
        network_s=bound,
        latency_s=seconds - bound,
        sent_bytes=(sent := op.payload_bytes * sent_ratio(op, crossed)),
        level_bytes=tuple(sent * share for share in met_ratios(op.kind, crossed)),
        origin=f"collective/{levels[0].profile or 'default'}/{op.kind}/{flavour}",
    )
