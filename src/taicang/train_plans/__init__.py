"""How training is laid on ranks, and in which formats."""

from __future__ import annotations

from taicang.train_plans.check import check
from taicang.train_plans.placement import (
    AXES,
    Group,
    Replicas,
    Stride,
    data_groups,
    expert_groups,
    expert_shard,
    side_by_side,
    stride,
)
from taicang.train_plans.plan import WAVES, Context, Recompute, Schedule, TrainPlan, describe
from taicang.train_plans.recipe import MASTERS, MOMENTS, RECIPES, Recipe, recipe

__all__ = [
    "AXES",
    "MASTERS",
    "MOMENTS",
    "RECIPES",
    "WAVES",
    "Context",
    "Group",
    "Recipe",
    "Recompute",
    "Replicas",
    "Schedule",
    "Stride",
    "TrainPlan",
    "check",
    "data_groups",
    "describe",
    "expert_groups",
    "expert_shard",
    "recipe",
    "side_by_side",
    "stride",
]
