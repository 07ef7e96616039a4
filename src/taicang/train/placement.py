"""Which levels of the machine each parallel axis of a plan crosses."""

from __future__ import annotations

from dataclasses import dataclass

from taicang.cost.collective_bound import members
from taicang.hardware import Machine
from taicang.train_plans import TrainPlan, expert_groups, stride
from taicang.units import Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """``ranks`` ranks of ``axis`` that lie ``stride`` apart: how many of them meet inside a unit of each level."""

    axis: str
    ranks: Count
    stride: Count
    together: tuple[tuple[str, float], ...]
    """Level and members of the group in one of its units, for the levels that the axis crosses."""


def placed(plan: TrainPlan, machine: Machine) -> tuple[Placed, ...]:
    """Every axis with more than one rank, from the innermost out; "edp" replicates experts."""
    (replicas,) = expert_groups(plan).shards[:1]
    sizes = {"tp": plan.tp, "cp": plan.cp, "dp": plan.dp, "pp": plan.pp}
    if plan.ep * plan.etp > 1:
        sizes |= {"etp": plan.etp, "ep": plan.ep, "edp": int(replicas.ranks * (replicas_copies(plan)))}
    found = [_placed(axis, ranks, stride(plan, axis), machine) for axis, ranks in sizes.items() if ranks > 1]  # type: ignore[arg-type]
    return tuple(sorted(found, key=lambda one: (one.stride, one.axis)))


def replicas_copies(plan: TrainPlan) -> int:
    """Shard groups of experts that hold copies of each other."""
    count = 1
    for group in expert_groups(plan).copies:
        count *= int(group.ranks)
    return count


def _placed(axis: str, ranks: Count, apart: Count, machine: Machine) -> Placed:
    levels = machine.plane("scale_up").levels
    held = members(levels, ranks, apart)
    crossed = [
        (level.name, float(outer)) for level, inner, outer in zip(levels, held, held[1:], strict=False) if outer > inner
    ]
    return Placed(axis=axis, ranks=ranks, stride=apart, together=tuple(crossed))
