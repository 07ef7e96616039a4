"""Layouts of one structure as one plan of arrays.

Layouts that run the same operators differ only in counts: attention groups, ranks of experts, replicas. As columns of
shape [layouts, 1, ...] in one plan they are lowered and priced together; what does not depend on them (attention) is
priced once for all, by broadcasting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from taicang.plans import ServePlan


def structure(plan: ServePlan) -> tuple[Any, ...]:
    """What decides which operators run and with what kernels; layouts that agree in it may be one plan of arrays."""
    return (
        plan.tp,
        plan.pp,
        plan.sp,
        plan.dp > 1,
        plan.ep > 1 or plan.moe_tp > 1,
        plan.redundant > 0,
        plan.shared_ranks,
        plan.microbatches,
        plan.exchange,
        plan.quant,
    )


def grouped(plans: Sequence[ServePlan]) -> list[list[int]]:
    """Indices of ``plans`` by structure, families together."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for index, plan in enumerate(plans):
        found.setdefault(structure(plan), []).append(index)
    return sorted(found.values(), key=lambda group: family(plans[group[0]]))


def family(plan: ServePlan) -> tuple[Any, ...]:
    """Layouts of one family share their attention operators."""
    return plan.tp, plan.pp, plan.sp, plan.microbatches


def stacked(plans: Sequence[ServePlan], dimensions: int) -> ServePlan:
    """``plans`` of one structure as one: arrays of shape [plans, 1, ...] with ``dimensions`` axes after the first."""
    shape = (len(plans),) + (1,) * dimensions

    def column(name: str) -> Any:
        return np.array([getattr(plan, name) for plan in plans], dtype=float).reshape(shape)

    columns = {name: column(name) for name in ("dp", "ep", "moe_tp", "redundant")}
    return replace(plans[0], **columns)
