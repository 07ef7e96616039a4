"""A plan of the user's beside what the search found, and where a rival machine would draw level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from taicang.errors import InvalidInput, UnknownName
from taicang.lower import lower
from taicang.plans import EXCHANGES, Quantisation, ServePlan, decode_batch
from taicang.search.door import PLAN, moved, plan_of
from taicang.search.evaluate import limits
from taicang.search.explain import RESOURCES, again, against
from taicang.search.points import Job
from taicang.search.result import Choice
from taicang.search.run import Ask, every, search
from taicang.search.space import Space
from taicang.units import digits

MOST_RATIO = 64.0
"""How much more of a resource is tried before a rival is said never to draw level."""


FIELDS = (*PLAN, "batch", "mtp")


def fields(text: str) -> dict[str, Any]:
    """Plan fields of "dp=320,ep=320,batch=48". Raises ``InvalidInput`` for a key or a value that there is not."""
    found: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, _, value = (word.strip() for word in part.partition("="))
        if key not in FIELDS:
            raise UnknownName("plan field", key, FIELDS, where="--versus")
        if key in found:
            raise InvalidInput(f"{key} is given twice", where="--versus")
        found[key] = _exchange(value) if key == "exchange" else _number(key, value, part)
    return found


def _number(key: str, value: str, part: str) -> int:
    least, most = limits(key)
    if not digits(value):
        raise InvalidInput(f"expected {key}=NUMBER, got {part!r}", where="--versus")
    if int(value) < least or (most is not None and int(value) > most):
        allowed = f"at least {least}" if most is None else f"{least} to {most}"
        raise InvalidInput(f"{key} must be {allowed}, got {int(value)}", where="--versus")
    return int(value)


def _exchange(value: str) -> str:
    if value not in EXCHANGES:
        raise UnknownName("exchange", value, EXCHANGES, where="--versus")
    return value


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
    if "batch" in given:
        space = replace(space, batches=tuple(sorted({*space.batches, float(given["batch"])})))
    if "mtp" in given:
        space = replace(space, drafts=tuple(sorted({*space.drafts, int(given["mtp"])})))
    return space


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
    fixed = space
    if "batch" in given:
        fixed = replace(fixed, batches=(float(given["batch"]),))
    if "mtp" in given:
        fixed = replace(fixed, drafts=(int(given["mtp"]),))
    free, alone_only = replace(job, tpot_s=np.inf), replace(ask, modes=("decode",), top=1)
    only = every(job, quant, fixed) | {"decode": (plan,)}
    alone = search(free, [("", quant)], fixed, alone_only, only).best
    if not alone:
        return None
    if winner.mode == "decode":  # like with like: a machine that also prefills decodes on fewer chips
        lead = f"winner against it: {'; '.join(against(job, winner, alone[0], ask.objective))}"
        return Versus(given=alone[0], alone=alone[0], best_alone=None, said=(lead,))
    whole = search(free, [("", quant)], fixed, replace(ask, modes=("disaggregated",), top=1), only).best
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
