"""What an exchange puts on each tier of the fabric, and the time below which no library can go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from taicang.cost.collective import Wires
from taicang.cost.routing import Spread, distinct_groups
from taicang.hardware import Level, Machine
from taicang.ops import Exchange
from taicang.units import Count, Num

Merge: TypeAlias = Literal["expert", "rank", "node"]
"""Copies of a token that travel: one per expert, one per distinct rank, or one per node, fanned out on arrival."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How the library was run, beyond what the operator says."""

    spread: Spread = "random"
    node_limit: Count = 0
    """Nodes that the router may choose per token (DeepSeek's group-limited routing); 0 is any."""
    cores: Count = 0
    """Cores given to the kernel where that is a choice (DeepEP normal); 0 is the library's default."""


PLAIN = Setting()
"""Random routing over all nodes, the library's own number of cores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Expected copies per token, summed over destinations other than the sender itself.

    ``near`` move inside the scale-up domain and ``far`` over the scale-out network. ``near_s_per_byte`` is the time of
    the fullest tier per byte of a copy and token at full bandwidth, ``far_s_per_byte`` likewise; ``hop_s`` is the sum
    over near copies of the latency of the tier that they cross.
    """

    near: Count
    far: Count
    near_s_per_byte: Num
    far_s_per_byte: Num
    hop_s: Num
    domain_ranks: Count
    """Ranks of the exchange inside one scale-up domain."""
    domains: Count
    peers: Count
    """Outside the domain, each with flags of its own: all ranks, or one a node where that one fans out."""
    met: tuple[Num, ...]
    """Copies whose receiver is met at each level."""


def domain_levels(levels: tuple[Level, ...]) -> int:
    """How many of the inner tiers form the scale-up domain; tiers behind NICs lie beyond it."""
    for i, level in enumerate(levels):
        if i and level.behind_adapters:
            return i
    return len(levels)


def _members(levels: tuple[Level, ...], ranks: Count, stride: Count) -> list[Num]:
    """Ranks of the exchange under one switch of each tier, from 1 (the rank itself) to all of them."""
    inside: list[Num] = [1.0]
    for level in levels[:-1]:
        inside.append(np.minimum(np.maximum(level.ranks / stride, 1.0), ranks))
    return [*inside, np.maximum(ranks, 1.0) * 1.0]


def _capacity(level: Level, inner: int, here: Num, below: Num) -> Num:
    """One rank's bandwidth through a tier; in a full mesh only the links to ranks that take part."""
    if level.topology != "mesh":
        return level.bandwidth_bytes_per_s
    links = max(level.ranks / inner - 1.0, 1.0)
    used = np.minimum(here / below - 1.0, links)
    return level.bandwidth_bytes_per_s * np.where(used > 0.0, used, links)[()] / links


def traffic(op: Exchange, machine: Machine, merge: Merge, setting: Setting, wires: Wires | None = None) -> Traffic:
    """Copies and occupancy of ``op`` when the library merges copies as ``merge`` says.

    Destinations are uniform over the ranks of the exchange. A tier inside the domain carries all copies that leave the
    tier below but not the domain, except the die-to-die link of a package, which carries only its own.
    """
    levels = machine.plane("scale_up").levels
    domain = domain_levels(levels)
    inside = _members(levels, op.ranks, op.stride)
    ranks, near_ranks = inside[-1], inside[domain]
    domains = ranks / near_ranks
    chosen = np.minimum(setting.node_limit, domains) if np.any(setting.node_limit) else domains
    open_ranks, open_experts = chosen * near_ranks, op.experts * (chosen / domains)
    copies: Num = op.topk
    if merge != "expert":
        copies = distinct_groups(op.topk, open_experts, open_ranks, spread=setting.spread)
    # A copy per node is fanned out inside it: every rank's copy then travels in the domain, wherever it came from.
    width = near_ranks if merge == "node" else ranks
    far_copies = distinct_groups(op.topk, open_experts, chosen, spread=setting.spread) if merge == "node" else copies
    near = copies * (near_ranks - 1.0) / width
    far = far_copies * (ranks - near_ranks) / ranks
    near_s: Num = 0.0
    far_s: Num = 0.0
    hop_s: Num = 0.0
    rates = wires.rates("scale_up", "all_to_all", op.ranks, op.stride) if wires else None
    met: list[Num] = []
    for i, level in enumerate(levels):
        below, here = inside[i], inside[i + 1]
        rate = rates[i] if rates else _capacity(level, levels[i - 1].ranks if i else 1, here, below)
        met.append((copies / width if i < domain else far_copies / ranks) * (here - below))
        if i >= domain:
            far_s = np.maximum(far_s, far_copies * (ranks - below) / ranks / rate)
            continue
        top = here if level.ranks <= machine.chip.dies else near_ranks
        near_s = np.maximum(near_s, copies * (top - below) / width / rate)
        hop_s = hop_s + copies * (here - below) / width * level.latency_s
    return Traffic(
        near=near,
        far=far,
        near_s_per_byte=near_s,
        far_s_per_byte=far_s,
        hop_s=hop_s,
        domain_ranks=near_ranks,
        domains=domains,
        peers=domains - 1.0 if merge == "node" else ranks - near_ranks,
        met=tuple(met),
    )


def lower_bound_s(op: Exchange, machine: Machine, *, setting: Setting = PLAIN) -> Num:
    """Seconds that the ports need at full bandwidth for the fewest bytes that can do the job.

    The fewest: one copy per distinct rank inside the domain and one per distinct node beyond it. Injection equals
    ejection for balanced routing, so one bound covers both.
    """
    near = traffic(op, machine, "rank", setting)
    far = traffic(op, machine, "node", setting)
    return op.tokens * op.token_bytes * np.maximum(near.near_s_per_byte, far.far_s_per_byte)
