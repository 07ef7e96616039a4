"""The price of MoE dispatch and combine: cores that issue copies, ports that carry them, flags that end the call.

seconds = floor + sync * doublings of ranks (beyond: of peers) + flags of all experts + |issue, near wire, far wire|_p

The three times in the p-norm overlap. *issue* is the work of the sending cores: per token, per copy and per byte, over
the cores at work. A wire is the fullest tier of a network at the share of its bandwidth that the library's kernel
reaches; below what the wires alone take no library can go. Waiting for stragglers is left out
(``routing.expected_maximum_ratio``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from taicang.cost.collective import Wires
from taicang.cost.cost import Cost, faster, saturate
from taicang.cost.routing import distinct_groups
from taicang.errors import UnknownName
from taicang.hardware import Level, Machine
from taicang.ops import Exchange
from taicang.units import Count, Num

Merge: TypeAlias = Literal["expert", "rank", "node"]
"""Copies of a token that travel: one per expert, one per distinct rank, or one per node, fanned out on arrival."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How the library was run, beyond what the operator says."""

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
        copies = distinct_groups(op.topk, open_experts, open_ranks, spread=op.spread)
    # A copy per node is fanned out inside it: every rank's copy then travels in the domain, wherever it came from.
    width = near_ranks if merge == "node" else ranks
    far_copies = distinct_groups(op.topk, open_experts, chosen, spread=op.spread) if merge == "node" else copies
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeFit:
    """Constants of one kernel on one network (level profile)."""

    floor_s: float
    """An empty call; on a scale-out network what it adds."""
    sync_s: float = 0.0
    """Per doubling of the ranks that signal each other on this network."""
    expert_s: float = 0.0
    """Per expert of the whole exchange: counts and flags are kept per expert."""
    token_s: float = 0.0
    """Core time per token: read, quantise, compute offsets."""
    copy_s: float = 0.0
    """Core time per copy sent."""
    core_bytes_per_s: float = 1e15
    """Rate at which one core copies: every near copy and the rank's own side of the token."""
    fill_bytes_per_s: float = 1e15
    """Rate at which one token passes the pipeline while nothing overlaps it yet."""
    efficiency_ratio: float = 0.7
    """Share of the port's bandwidth reached by large exchanges."""
    spread_ratio: float = 0.0
    """Wire time added per doubling of ranks: more, shorter streams to more receivers."""
    exposed_ratio: float = 0.0
    """Share of a hop's latency that each copy leaves unhidden: one over the copies in flight."""
    near_share_ratio: float = 1.0
    """Of a scale-out network: share of the cores left for copies inside the node while others forward."""
    sharpness: Count = 4.0
    """How well issue and wires overlap: the p of their p-norm; the outermost network's counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """What a library does by construction; ``cores`` is how many share the issuing of copies (0: counted as one)."""

    merge: Merge
    cores: int = 0
    cores_per_expert: bool = False
    """One core per expert at most, up to all of the chip."""
    prepares: bool = False
    """A call of its own exchanges counts before dispatch."""


LIBRARIES: Mapping[str, Library] = {
    "deepep_ll": Library(merge="expert", cores_per_expert=True),
    "deepep_normal": Library(merge="node", cores=20),
    "trtllm_onesided": Library(merge="rank"),
    "trtllm_twosided": Library(merge="rank", prepares=True),
    "trtllm_twosided_low_precision": Library(merge="rank", prepares=True),
    "cann": Library(merge="expert"),
}
_PREFERENCE = {True: ("cann", "trtllm_onesided", "deepep_ll"), False: ("cann", "trtllm_onesided", "deepep_normal")}

_KIN = {
    "nvlink-gb300": "nvlink-gb200",
    "nvlink": "nvlink-h100",
    "hccs": "ub-a3",
    "ub": "ub-a3",
    "ib": "ib-ndr",
    "roce": "ib-ndr",
}
"""Whose constants an unmeasured network borrows, by its profile or the first word of it (assumed)."""
UNMEASURED = ExchangeFit(floor_s=15e-6, sync_s=2e-6, copy_s=0.0)
"""A network nobody has measured and without kin: 70 % of the port, 15 us, 2 us per doubling (assumed)."""

_Fits = Mapping[str, Mapping[str, ExchangeFit]]


def _owners(profile: str) -> tuple[str, str]:
    return profile, _KIN.get(profile, _KIN.get(profile.partition("-")[0], ""))


def _constants(fits: _Fits, profile: str, key: str) -> tuple[ExchangeFit, str]:
    for owner in _owners(profile):
        found = fits.get(owner, {}).get(key)
        if found is not None:
            return found, owner
    return UNMEASURED, "unmeasured"


def _library(fits: _Fits, profile: str, low_latency: bool) -> str:
    names = _PREFERENCE[low_latency]
    for name in names:
        for owner in _owners(profile):
            if f"{name}.dispatch" in fits.get(owner, {}):
                return name
    return names[-1]


def prepare(op: Exchange, machine: Machine, fits: _Fits, *, library: str) -> Num:
    """Seconds of the separate call that exchanges counts before a dispatch (libraries that ``prepares``)."""
    levels = machine.plane("scale_up").levels
    fit, _ = _constants(fits, levels[domain_levels(levels) - 1].profile, f"{library}.prepare")
    some = np.minimum(np.maximum(op.ranks - 1.0, 0.0), 1.0)
    return some * (fit.floor_s + fit.sync_s * np.log2(np.maximum(op.ranks, 1.0)) + op.tokens * fit.token_s)


def exchange(
    op: Exchange,
    machine: Machine,
    fits: _Fits,
    *,
    library: str = "",
    setting: Setting = PLAIN,
    hot_ratio: Num = 1.0,
    wires: Wires | None = None,
) -> Cost:
    """Price one dispatch or combine of one rank; balanced unless ``hot_ratio`` says by how much one receiver leads.

    ``fits`` holds constants by level profile and "library.kind". ``library`` defaults to the best measured one on the
    machine's scale-up network for ``op.low_latency``, whose throughput-oriented kernels take over where they are
    faster; ``UnknownName`` if there is no such one. Fields of ``op`` may be floats or arrays of one shape. The price
    never falls below ``lower_bound_s``.
    """
    levels = machine.plane("scale_up").levels
    profile = levels[domain_levels(levels) - 1].profile
    name = library or _library(fits, profile, op.low_latency)
    other = name if library else _library(fits, profile, low_latency=False)
    if name not in LIBRARIES:
        raise UnknownName("exchange library", name, LIBRARIES)
    costs = [_by(each, op, machine, fits, setting, hot_ratio, wires) for each in dict.fromkeys((name, other))]
    return costs[0] if len(costs) == 1 else faster(*costs)


def _by(
    name: str, op: Exchange, machine: Machine, fits: _Fits, setting: Setting, hot_ratio: Num, wires: Wires | None
) -> Cost:
    """The price by one library."""
    levels = machine.plane("scale_up").levels
    domain = domain_levels(levels)
    profile, traits = levels[domain - 1].profile, LIBRARIES[name]
    fit, owner = _constants(fits, profile, f"{name}.{op.kind}")
    flow = traffic(op, machine, traits.merge, setting, wires)

    cores: Count = 1
    if traits.cores_per_expert:
        cores = np.minimum(op.experts, machine.chip.cores)
    elif traits.cores:
        cores = np.where(np.asarray(setting.cores) > 0, setting.cores, traits.cores)[()]
    work = fit.token_s + flow.near * fit.copy_s + fit.exposed_ratio * flow.hop_s
    work = work + (flow.near + 1.0) * op.token_bytes / fit.core_bytes_per_s
    latency = fit.floor_s + fit.sync_s * np.log2(flow.domain_ranks) + fit.expert_s * op.experts
    latency = latency + op.token_bytes / fit.fill_bytes_per_s
    spread = 1.0 + fit.spread_ratio * np.log2(flow.domain_ranks)
    payload = op.tokens * op.token_bytes
    near_s = payload * flow.near_s_per_byte * spread / fit.efficiency_ratio
    far_s: Num = 0.0
    out: ExchangeFit | None = None
    if domain < len(levels):
        out, _ = _constants(fits, levels[domain].profile, f"{name}.{op.kind}")
        beyond = np.minimum(np.maximum(flow.domains - 1.0, 0.0), 1.0)
        work = work * (1.0 + beyond * (1.0 / out.near_share_ratio - 1.0))
        work = work + flow.far * (out.copy_s + op.token_bytes / out.core_bytes_per_s)
        latency = latency + beyond * out.floor_s + out.sync_s * np.log2(1.0 + flow.peers)
        spread = 1.0 + out.spread_ratio * np.log2(flow.domains)
        far_s = payload * flow.far_s_per_byte * spread / out.efficiency_ratio

    some = np.minimum(np.maximum(op.ranks - 1.0, 0.0), 1.0)
    issue_s = op.tokens / cores * work * hot_ratio
    near_s, far_s = near_s * hot_ratio, far_s * hot_ratio
    busy_s = saturate(issue_s, near_s, sharpness=float(fit.sharpness))
    if out is not None:
        wide_s = saturate(issue_s, near_s, far_s, sharpness=float(out.sharpness))
        busy_s = np.where(flow.domains > 1.0, wide_s, busy_s)[()]
    seconds = latency + busy_s
    if traits.prepares and op.kind == "dispatch":
        seconds = seconds + prepare(op, machine, fits, library=name)
    return Cost(
        seconds=some * seconds,
        compute_s=some * issue_s,
        network_s=np.maximum(near_s, far_s),
        latency_s=some * latency,
        sent_bytes=payload * (flow.near + flow.far),
        level_bytes=tuple(payload * copies for copies in flow.met),
        origin=f"exchange/{owner}/{name}.{op.kind}",
    )
