"""Why a choice wins, what binds it, and what one more unit of each resource would buy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from taicang.hardware import Machine
from taicang.plans import ServePlan
from taicang.search.door import moved
from taicang.search.points import Job, prefill_points, serving_points, step_tokens
from taicang.search.result import Choice, Objective, Pool
from taicang.search.run import Ask, search
from taicang.search.space import Space
from taicang.serve.setup import step
from taicang.timeline import Timeline
from taicang.units import show

NUDGE_RATIO = 0.1
"""How much more of a resource a sensitivity grants."""
LEVEL_RATIO = 5e-4
"""Below this lead two plans count as level."""


def _memory(machine: Machine, **scales: float) -> Machine:
    memory = machine.chip.memory
    changed = replace(memory, **{name: getattr(memory, name) * ratio for name, ratio in scales.items()})
    return replace(machine, chip=replace(machine.chip, memory=changed))


def _peak(machine: Machine, ratio: float) -> Machine:
    chip = machine.chip
    peaks = MappingProxyType({name: peak * ratio for name, peak in chip.peak_flop_per_s.items()})
    return replace(machine, chip=replace(chip, peak_flop_per_s=peaks, vector_flop_per_s=chip.vector_flop_per_s * ratio))


def _links(machine: Machine, field: str, ratio: float) -> Machine:
    planes = {
        name: replace(
            plane, levels=tuple(replace(level, **{field: getattr(level, field) * ratio}) for level in plane.levels)
        )
        for name, plane in machine.planes.items()
    }
    return replace(machine, planes=MappingProxyType(planes))


RESOURCES: Mapping[str, Callable[[Machine, float], Machine]] = MappingProxyType(
    {
        "memory bandwidth": lambda machine, ratio: _memory(machine, bandwidth_bytes_per_s=ratio),
        "memory capacity": lambda machine, ratio: _memory(machine, capacity_bytes=ratio),
        "arithmetic peak": _peak,
        "link bandwidth": lambda machine, ratio: _links(machine, "bandwidth_bytes_per_s", ratio),
        "link speed of response": lambda machine, ratio: _links(machine, "latency_s", 1.0 / ratio),
    }
)
"""How to give a machine ``ratio`` times as much of each resource."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Throughput gained by ``NUDGE_RATIO`` more of a resource, layouts kept and batches chosen anew."""

    resource: str
    gain_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What holds a pool back."""

    role: str
    resource: str
    """Most of its busy time is spent on this."""
    share_ratio: float
    next_batch: str
    """What keeps it from the next larger batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a choice wins, how it stands to another, what binds, and what more of each resource would buy."""

    bounds: tuple[Bound, ...]
    beside_rank: int
    """Rank of the other: the runner-up of the first, else the first (0: there is no other)."""
    beside: tuple[str, ...]
    gains: tuple[Gain, ...]


def explained(
    job: Job, choice: Choice, rank: int, best: Sequence[Choice], space: Space, objective: Objective = "tokens/s/chip"
) -> Explanation:
    """Explain ``choice``, which has this ``rank`` (from 1) in the ranking that ``best`` begins."""
    other = 1 if rank > 1 else 2
    beside = against(job, choice, best[other - 1], objective) if len(best) >= other else []
    return Explanation(
        bounds=tuple(bound(job, pool, space) for pool in choice.pools),
        beside_rank=other if beside else 0,
        beside=tuple(beside),
        gains=sensitivity(job, choice, space, best=rank == 1 and objective != "smallest"),
    )


def bound(job: Job, pool: Pool, space: Space) -> Bound:
    """What holds ``pool`` back."""
    name, share = binding(timeline(job, pool))
    return Bound(role=pool.role, resource=name, share_ratio=share, next_batch=stops(job, pool, space))


def sensitivity(job: Job, choice: Choice, space: Space, *, best: bool = False) -> tuple[Gain, ...]:
    """What more of each resource buys, by finite differences; best first. ``best``: the plan that serves most."""
    known = best and all(_in(space, pool) for pool in choice.pools)
    base = choice.output_tokens_per_s if known else again(job, choice, space)
    found = []
    for name, change in RESOURCES.items():
        there = again(moved(job, change(job.machine, 1.0 + NUDGE_RATIO)), choice, space)
        found.append(Gain(resource=name, gain_ratio=there / base - 1.0))
    return tuple(sorted(found, key=lambda gain: -gain.gain_ratio))


def _in(space: Space, pool: Pool) -> bool:
    """Whether the batch of ``pool`` is one of the space's: a user may set others beside them."""
    sizes = space.prompts if pool.role == "prefill" else space.batches
    return pool.sequences in sizes and (not pool.chunk_tokens or pool.chunk_tokens in space.chunks)


def again(job: Job, choice: Choice, space: Space) -> float:
    """Output tokens/s of the layouts of ``choice`` with batches chosen anew; 0 where none meets the limits."""
    only: dict[str, Sequence[ServePlan]] = {pool.role: (replace(pool.plan, draft_tokens=0),) for pool in choice.pools}
    quant = choice.pools[0].plan.quant
    drafts = tuple({int(pool.plan.draft_tokens) for pool in choice.pools if pool.role != "prefill"})
    narrow = replace(space, drafts=drafts)
    found = search(job, [("", quant)], narrow, Ask(modes=(choice.mode,), top=1, front=False), only)
    return found.best[0].output_tokens_per_s if found.best else 0.0


def timeline(job: Job, pool: Pool) -> Timeline:
    """The step that a pool runs: of decode, or of prompts where it only prefills."""
    if pool.role == "prefill":
        return step(job.setup(pool.plan), job.prompts(pool.sequences, pool.plan.dp))
    return step(job.setup(pool.plan), job.decoding(pool.sequences, pool.plan.dp))


def stops(job: Job, pool: Pool, space: Space) -> str:
    """What keeps the pool from the next larger batch of the space."""
    sizes = space.prompts if pool.role == "prefill" else space.batches
    larger = [n for n in sizes if n > pool.sequences]
    if not larger:
        return "batch: the largest of the space"
    if pool.role == "prefill" and larger[0] * job.input_tokens > (most := step_tokens(pool.plan, job, space)):
        return f"budget: a step takes {most:,.0f} tokens"
    narrow = replace(
        space,
        batches=(larger[0],),
        prompts=(larger[0],),
        drafts=(int(pool.plan.draft_tokens),),
        chunks=(pool.chunk_tokens,),
    )
    plans = [replace(pool.plan, draft_tokens=0)]
    if pool.role == "prefill":
        points = prefill_points(plans, job, narrow)
    else:
        points = serving_points(plans, job, narrow, (pool.role,))[pool.role]
    what = f"at {larger[0]:.0f} {'prompts' if pool.role == 'prefill' else 'sequences'} a group"
    if not points.size:
        return f"memory: full {what}"
    ttft, tpot = float(points.ttft_s[0]), float(points.tpot_s[0])
    if tpot > job.tpot_s:
        return f"TPOT: {show(tpot, 's')} {what}"
    if ttft > job.ttft_s:
        return f"TTFT: {show(ttft, 's')} {what}"
    return f"no gain: a larger batch serves no more ({what})"


def against(job: Job, winner: Choice, other: Choice, objective: Objective = "tokens/s/chip") -> list[str]:
    """How the winner stands to ``other`` in what the objective counts, then what made the difference.

    Where both are level in it, what the ranking looked at next; the parts of their steps would then explain nothing.
    """
    lead = winner.output_tokens_per_s_per_chip / other.output_tokens_per_s_per_chip - 1.0
    rate, chips = f"{lead:+.1%} output tokens/s per chip", f"{winner.chips} chips in use against {other.chips}"
    fewest = objective == "smallest"
    if fewest and winner.chips != other.chips:
        return [chips, *_sizes(winner, other)]
    said = [f"{chips}, {rate}" if fewest else f"{rate}, {chips}"]
    if abs(lead) < LEVEL_RATIO:
        name = "TPOT" if winner.mode == "decode" or winner.ttft_s == other.ttft_s else "TTFT"
        mine, theirs = (winner.tpot_s, other.tpot_s) if name == "TPOT" else (winner.ttft_s, other.ttft_s)
        return [*said, f"level in both; {name} {show(mine, 's')} against {show(theirs, 's')}"]
    if fewest:
        return said
    pools = {pool.role: pool for pool in winner.pools}
    for pool in other.pools:
        if pool.role in pools:
            said += _parts(job, pools[pool.role], pool)
    if not any(pool.role in pools for pool in other.pools):
        said.append(f"{winner.mode} against {other.mode}: TPOT {show(winner.tpot_s, 's')} / {show(other.tpot_s, 's')}")
    return said


def _sizes(winner: Choice, other: Choice) -> list[str]:
    """Chips of each pool that both have."""
    theirs = {pool.role: pool.instances * pool.chips for pool in other.pools}
    if winner.mode != other.mode:
        return [f"{winner.mode} against {other.mode}"]
    return [f"{pool.role}: {pool.instances * pool.chips} against {theirs[pool.role]}" for pool in winner.pools]


def _parts(job: Job, mine: Pool, other: Pool) -> list[str]:
    if (mine.plan, mine.sequences) == (other.plan, other.sequences):
        return [f"{mine.role}: the same"]
    spent = []
    for pool in (mine, other):
        run = timeline(job, pool)
        gained = pool.plan.tokens_per_step if pool.role != "prefill" else job.input_tokens
        tokens = pool.sequences * pool.plan.dp * gained / pool.chips
        scale = float(run.seconds) / float(run.busy_s) / tokens
        spent.append({str(part): float(seconds) * scale for part, seconds in run.by_part().items()})
    totals = [sum(parts.values()) for parts in spent]
    moves = {part: spent[0].get(part, 0.0) - spent[1].get(part, 0.0) for part in dict.fromkeys([*spent[0], *spent[1]])}
    most = sorted(moves, key=lambda part: -abs(moves[part]))[:3]
    shown = ", ".join(f"{part} {moves[part] * 1e6:+.1f}" for part in most)
    return [f"{mine.role}: {totals[0] * 1e6:.1f} µs of a chip per token against {totals[1] * 1e6:.1f} ({shown})"]


def binding(run: Timeline) -> tuple[str, float]:
    """The resource that most of the busy time of a step is spent on, and its share."""
    shares = {name: float(seconds) for name, seconds in run.by_resource().items()}
    name = max(shares, key=lambda key: shares[key])
    return name, shares[name] / max(sum(shares.values()), 1e-30)
