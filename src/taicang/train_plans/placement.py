"""Which ranks a parallel axis joins: its stride in the machine's rank order, which decides the levels that it crosses.

Ranks of dense layers form a grid of tp, cp, dp and pp, those of experts one of etp, ep, their own data-parallel groups
and pp, both in the plan's ``order`` from the innermost axis out. Sizes may be arrays (a search prices many plans).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np

from taicang.errors import InvalidPlan
from taicang.train_plans.plan import TrainPlan
from taicang.units import Count, digits

AXES: Final = ("tp", "cp", "ep", "dp", "pp")
RANDOM: Final = "random"
"""In place of an order: ranks at random places ("random:SEED")."""
Stride: TypeAlias = Literal["tp", "cp", "dp", "pp", "etp", "ep", "edp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """``ranks`` ranks that lie ``stride`` apart."""

    ranks: Count
    stride: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas:
    """Who holds the same parameters: ranks of ``shards`` split their state (ZeRO), those of ``copies`` repeat it.

    Both are nested groups from the innermost out: a collective runs over one after the other.
    """

    shards: tuple[Group, ...]
    copies: tuple[Group, ...]

    @property
    def sharding(self) -> Count:
        """Ranks that one copy of the state is split over."""
        return _ranks(self.shards)


def _ranks(groups: tuple[Group, ...]) -> Count:
    total: Count = 1
    for group in groups:
        total = total * group.ranks
    return total


def _experts_each(plan: TrainPlan) -> Count:
    """Ranks that hold the same experts."""
    each: Count = np.maximum(plan.tp * plan.cp * plan.dp // (plan.ep * plan.etp), 1)
    return each


def _sizes(plan: TrainPlan, *, experts: bool) -> dict[str, Count]:
    if experts:
        return {"tp": plan.etp, "cp": 1, "ep": plan.ep, "dp": _experts_each(plan), "pp": plan.pp}
    return {"tp": plan.tp, "cp": plan.cp, "ep": 1, "dp": plan.dp, "pp": plan.pp}


def seed_of(order: str) -> int | None:
    """The seed of "random" (0) or "random:SEED", None of any other order."""
    name, colon, seed = order.partition(":")
    if name != RANDOM:
        return None
    if colon and not (digits(seed) and len(seed) < 10):
        raise InvalidPlan(f"order {order!r}: expected random or random:SEED such as random:7")
    return int(seed or 0)


def axes_of(order: str) -> list[str]:
    """The axes of an order, the innermost first. Raises ``InvalidPlan`` where it does not name each of them once."""
    axes = order.split("-")
    if sorted(axes) != sorted(AXES) and seed_of(order) is None:
        raise InvalidPlan(f"order {order!r} must name each of {', '.join(AXES)} once, innermost first, or be {RANDOM}")
    return axes if seed_of(order) is None else list(AXES)


def stride(plan: TrainPlan, axis: Stride) -> Count:
    """Distance between neighbours along ``axis`` ("etp", "ep" and "edp" are the experts')."""
    experts = axis in ("etp", "ep", "edp")
    sizes = _sizes(plan, experts=experts)
    name = {"etp": "tp", "edp": "dp"}.get(axis, axis)
    if seed_of(plan.order) is not None:
        return _scattered(plan, sizes[name])
    apart: Count = 1
    for other in axes_of(plan.order):
        if other == name:
            break
        apart = apart * sizes[other]
    return apart


def _scattered(plan: TrainPlan, ranks: Count) -> Count:
    """Distance between the members of a group at random places: as many in a unit of any level as its share of all."""
    return np.maximum(plan.ranks // ranks, 1)


def side_by_side(order: str) -> bool:
    """Whether context- and data-parallel ranks of dense layers are neighbours, and so form one group."""
    axes = [axis for axis in axes_of(order) if axis != "ep"]
    return abs(axes.index("cp") - axes.index("dp")) == 1


def data_groups(plan: TrainPlan) -> Replicas:
    """Ranks that hold the same dense parameters: cp and dp, one group where they are neighbours."""
    inner, outer = sorted(("cp", "dp"), key=axes_of(plan.order).index)
    if side_by_side(plan.order):
        both = plan.cp * plan.dp
        apart = stride(plan, inner) if seed_of(plan.order) is None else _scattered(plan, both)  # type: ignore[arg-type]
        whole: tuple[Group, ...] = (Group(ranks=both, stride=apart),)
    else:
        whole = tuple(Group(ranks=getattr(plan, axis), stride=stride(plan, axis)) for axis in (inner, outer))  # type: ignore[arg-type]
    return _split(plan, whole, plan.shard)


def expert_groups(plan: TrainPlan) -> Replicas:
    """Ranks that hold the same experts: what ep and etp leave of a stage."""
    each = _experts_each(plan)
    shard = expert_shard(plan, each) if plan.shard else 0
    return _split(plan, (Group(ranks=each, stride=stride(plan, "edp")),), shard)


def expert_shard(plan: TrainPlan, each: Count) -> Count:
    """Ranks of a shard group that hold the same experts, of ``each`` that do."""
    return np.minimum(np.maximum(plan.shard * plan.tp // (plan.ep * plan.etp), 1), each)


def _split(plan: TrainPlan, whole: tuple[Group, ...], shard: Count) -> Replicas:
    mirrored = (Group(ranks=2, stride=stride(plan, "pp")),) if plan.copies > 1 else ()
    if not np.any(np.asarray(shard) > 0):
        return Replicas(shards=whole + mirrored, copies=())
    (group,) = whole  # see ``check``
    inner = np.minimum(shard, group.ranks)
    return Replicas(
        shards=(Group(ranks=inner, stride=group.stride), *mirrored),
        copies=(Group(ranks=group.ranks // inner, stride=group.stride * inner),),
    )
