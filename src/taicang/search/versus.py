"""A plan of the user's beside what the search found, and what would make a rival machine draw level."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from taicang.errors import InvalidInput, UnknownName
from taicang.lower import lower
from taicang.plans import EXCHANGES, Quantisation, ServePlan, decode_batch
from taicang.search.door import PLAN, moved, plan_of
from taicang.search.explain import RESOURCES, again, against
from taicang.search.points import Job
from taicang.search.result import FIGURES, Choice, Objective
from taicang.search.run import Ask, every, search
from taicang.search.space import Space
from taicang.units import count

MOST_RATIO = 64.0
"""How much more of a resource is tried before a rival is said never to draw level."""
AXES: tuple[tuple[str, str, Callable[[int], float]], ...] = (("batch", "batches", float), ("mtp", "drafts", int))
"""Fields of a plan that are no layout, and where a space has them."""
FIELDS = (*PLAN, *(key for key, *_ in AXES))
LEAST, MOST = {"redundant": 0, "shared_ranks": 0, "mtp": 0}, {"microbatches": 2, "mtp": 8}
"""Of fields that do not begin at one, and of those that have an end."""


def fields(text: str) -> dict[str, Any]:
    """Plan fields of "dp=320,ep=320,batch=48". Raises ``InvalidInput`` for a key or a value that there is not."""
    found: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, _, value = (word.strip() for word in part.partition("="))
        if key not in FIELDS:
            raise UnknownName("plan field", key, FIELDS, where="--versus")
        if key in found:
            raise InvalidInput(f"{key} is given twice", where="--versus")
        if key != "exchange":
            found[key] = count(value, LEAST.get(key, 1), MOST.get(key, 10**9), where=f"--versus {key}")
        elif value in EXCHANGES:
            found[key] = value
        else:
            raise UnknownName("exchange", value, EXCHANGES, where="--versus exchange")
    return found


def layout(job: Job, given: Mapping[str, Any]) -> ServePlan:
    """The layout that ``given`` fixes, in default formats. Raises ``InvalidPlan`` where it breaks a rule."""
    plan = plan_of(given, job.model)
    if plan is None:
        raise InvalidInput("names no plan field", where="--versus")
    job.setup(plan)
    lower(job.model, plan, decode_batch(sequences=1.0, context=1.0), job.stack)  # rules before sizes
    return plan


def widened(space: Space, given: Mapping[str, Any]) -> Space:
    """``space`` with the batch and draft length that ``given`` fixes: a search of it cannot do worse than the plan."""
    more: dict[str, Any] = {axis: tuple(sorted({*getattr(space, axis), value})) for axis, value in _axes(given).items()}
    return replace(space, **more)


def _axes(given: Mapping[str, Any]) -> dict[str, Any]:
    """What ``given`` fixes of the axes of a space."""
    return {axis: as_axis(given[key]) for key, axis, as_axis in AXES if key in given}


@dataclass(frozen=True, slots=True, kw_only=True)
class Versus:
    """A decode plan of the user's beside what the search found."""

    given: Choice
    """The plan on the whole machine with the prefill instances that suit it, whatever its TPOT; beside a winner that
    only decodes, its decode instances alone."""
    alone: Choice
    """Its decode instances over their own chips."""
    best_alone: Choice | None
    """What the search finds for decode alone, within the TPOT limit; none where the winner is that."""
    said: tuple[str, ...]
    """Where the winner is ahead of it, and the best decode plan of its decode."""


def versus(
    job: Job,
    quant: Quantisation,
    given: Mapping[str, Any],
    space: Space,
    winner: Choice,
    ask: Ask,
) -> Versus | None:
    """The decode plan that ``given`` fixes (it may fix batch and mtp as well) beside ``winner`` and beside the best
    decode plan.

    All are judged as ``ask`` says. Returns ``None`` where nothing fits. Raises ``InvalidPlan`` for a plan that breaks a
    rule and ``InvalidInput`` for unknown fields.
    """
    plan = replace(layout(job, given), quant=quant)
    axes: dict[str, Any] = {axis: (value,) for axis, value in _axes(given).items()}
    fixed = replace(space, **axes)
    free, alone_only = replace(job, tpot_s=np.inf), replace(ask, modes=("decode",), top=1, front=False)
    only = every(job, quant, fixed) | {"decode": (plan,)}
    alone = search(free, [("", quant)], fixed, alone_only, only).best
    if not alone:
        return None
    if winner.mode == "decode":  # like with like: a machine that also prefills decodes on fewer chips
        lead = f"winner against it: {'; '.join(against(job, winner, alone[0], ask.objective))}"
        return Versus(given=alone[0], alone=alone[0], best_alone=None, said=(lead,))
    whole = search(free, [("", quant)], fixed, replace(alone_only, modes=("disaggregated",)), only).best
    if not whole:
        return None
    best = search(job, [("", quant)], widened(space, given), alone_only, beside=(plan,)).best
    said = [f"winner against it: {'; '.join(against(job, winner, whole[0], ask.objective))}"]
    if ask.objective != "smallest":
        said += _used(whole[0], alone[0])
    if best:
        said.append(f"best decode plan against it, per chip: {'; '.join(against(job, best[0], alone[0])[1:])}")
    return Versus(given=whole[0], alone=alone[0], best_alone=best[0] if best else None, said=tuple(said))


def _used(whole: Choice, alone: Choice) -> list[str]:
    """Whether its decode instances are kept busy by the prefill that has room beside them."""
    pool = whole.pools[-1]
    busy = whole.output_tokens_per_s_per_chip * whole.machine_chips
    full = alone.output_tokens_per_s_per_chip * pool.chips * pool.instances
    if busy > 0.98 * full:
        return []
    rest = whole.machine_chips - pool.chips * pool.instances
    return [
        f"beside it {rest} chips are left to prefill, which keeps its {pool.chips * pool.instances} decoding chips "
        f"{busy / full:.0%} busy; smaller instances can be cut to what prefill feeds"
    ]


def level_ratio(job: Job, choice: Choice, target_per_s: float, resource: str, space: Space) -> float | None:
    """How many times as much of ``resource`` the machine needs to reach ``target_per_s`` output tokens per second with
    the layouts of ``choice``; ``None`` if ``MOST_RATIO`` times as much does not do it.
    """

    def reached(ratio: float) -> bool:
        return again(moved(job, RESOURCES[resource](job.machine, ratio)), choice, space) >= target_per_s

    if not reached(MOST_RATIO):
        return None
    low, high = 0.0, float(np.log(MOST_RATIO))
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(float(np.exp(middle))) else (middle, high)
    return float(np.exp(high))


TRIED = ("link bandwidth", "memory bandwidth", "arithmetic peak")
"""More of these is tried for machines that are behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """``level_ratio`` times its ``what``, all else as it is; ``None`` where that alone does not do it."""

    what: str
    level_ratio: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """What makes a machine level with another: the first with the second, the rest with the first."""

    machine: str
    other: str
    changes: tuple[Change, ...]


def flips(ranked: Sequence[tuple[Job, Choice, Space]], objective: Objective) -> list[Flip]:
    """A flip for each of the machines, best first; none where there is only one, or where whole chips are counted."""
    if len(ranked) < 2 or objective == "smallest":
        return []
    found = []
    for place, (job, choice, space) in enumerate(ranked):
        other = ranked[0 if place else 1][1]
        mine, theirs = choice.score(objective) or 0.0, other.score(objective) or 0.0
        if mine <= 0.0 or theirs <= 0.0:
            continue
        changes = [Change(what=FIGURES[objective][0], level_ratio=mine / theirs)] if objective in FIGURES else []
        if place:
            target = choice.output_tokens_per_s * theirs / mine
            changes += [Change(what=name, level_ratio=level_ratio(job, choice, target, name, space)) for name in TRIED]
        found.append(Flip(machine=choice.machine, other=other.machine, changes=tuple(changes)))
    return found
