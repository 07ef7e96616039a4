"""A plan of the user's beside what the search found, and where a rival machine would draw level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from taicang.errors import InvalidInput, UnknownName
from taicang.lower import lower
from taicang.plans import Quantisation, decode_batch
from taicang.search.door import moved
from taicang.search.evaluate import PLAN, plan_of
from taicang.search.explain import RESOURCES, again
from taicang.search.points import Job
from taicang.search.result import Choice
from taicang.search.run import Ask, every, search
from taicang.search.space import Space

MOST_RATIO = 64.0
"""How much more of a resource is tried before a rival is said never to draw level."""


FIELDS = (*PLAN, "batch", "mtp")


def fields(text: str) -> dict[str, Any]:
    """Plan fields of "dp=320,ep=320,batch=48". Raises ``InvalidInput``."""
    found: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, _, value = part.partition("=")
        if key not in FIELDS:
            raise UnknownName("plan field", key, FIELDS, where="--versus")
        if key != "exchange" and not value.isdigit():
            raise InvalidInput(f"expected {key}=NUMBER, got {part!r}", where="--versus")
        found[key] = value if key == "exchange" else int(value)
    return found


def versus(job: Job, quant: Quantisation, given: Mapping[str, Any], space: Space) -> Choice | None:
    """The best way to run the decode plan that ``given`` fixes, with any prefill beside it, whatever its TPOT.

    ``given`` may fix batch and mtp as well. Returns ``None`` where nothing fits. Raises ``InvalidPlan`` for a plan that
    breaks a rule and ``InvalidInput`` for unknown fields.
    """
    plan = plan_of({key: value for key, value in given.items() if key not in ("batch", "mtp")})
    if plan is None:
        raise InvalidInput("names no plan field", where="--versus")
    plan = replace(plan, quant=quant)
    job.setup(plan)
    lower(job.model, plan, decode_batch(sequences=1.0, context=1.0), job.stack)  # rules before sizes
    if "batch" in given:
        space = replace(space, batches=(float(given["batch"]),))
    if "mtp" in given:
        space = replace(space, drafts=(int(given["mtp"]),))
    only = every(job, quant, space) | {"decode": (plan,)}
    asked = Ask(modes=("disaggregated",), top=1)
    found = search(replace(job, tpot_s=np.inf), [("", quant)], space, asked, only)
    return found.best[0] if found.best else None


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
