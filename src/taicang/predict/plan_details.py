"""Each plan of a ranking by itself: where its step's time goes, its memory, what holds it back, why it is not first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from taicang.predict.serving import phase_memory
from taicang.search.explain import Bound, Gain, against, bound, sensitivity, timeline
from taicang.search.points import Job
from taicang.search.result import Choice, Objective
from taicang.search.space import Space
from taicang.serve.memory import MemoryUse

FRONT = 12
"""Plans of the front that are told of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDetails:
    """One plan; by role ("both", or "prefill" and "decode") what its instances do."""

    rank: int
    """In the ranking, from 1; 0 for one that is on the front only."""
    place: int
    """On the front; -1 for one that is in the ranking."""
    spent_s: Mapping[str, Mapping[str, float]]
    """Busy seconds of a step by part of the model."""
    memory: Mapping[str, MemoryUse]
    bounds: tuple[Bound, ...]
    gains: tuple[Gain, ...]
    """Of the plans in the ranking."""
    lost: tuple[str, ...]
    """How it stands to the first of the ranking; nothing for that one."""


def plan_details(
    job: Job, best: Sequence[Choice], front: Sequence[Choice], space: Space, objective: Objective
) -> tuple[PlanDetails, ...]:
    """The plans of ``best``, and some of ``front`` from one end to the other."""
    told = [(choice, rank, -1) for rank, choice in enumerate(best, 1)]
    steps = max(min(FRONT, len(front)) - 1, 1)
    places = sorted({round(step * (len(front) - 1) / steps) for step in range(steps + 1)}) if front else []
    told += [(front[place], 0, place) for place in places]
    return tuple(_details(job, choice, rank, place, best[0], space, objective) for choice, rank, place in told)


def _details(
    job: Job, choice: Choice, rank: int, place: int, first: Choice, space: Space, objective: Objective
) -> PlanDetails:
    pools = {pool.role: pool for pool in choice.pools}
    phases = {role: "prefill" if role == "prefill" else "decode" for role in pools}
    return PlanDetails(
        rank=rank,
        place=place,
        spent_s={
            role: {str(part): float(seconds) for part, seconds in timeline(job, pool).by_part().items()}
            for role, pool in pools.items()
        },
        memory={
            role: phase_memory(job.setup(pool.plan), job, space, phases[role], pool.sequences)
            for role, pool in pools.items()
        },
        bounds=tuple(bound(job, pool, space) for pool in choice.pools),
        gains=sensitivity(job, choice, space) if rank else (),
        lost=tuple(against(job, choice, first, objective)) if rank != 1 else (),
    )
