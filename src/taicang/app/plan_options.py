"""A plan from command-line options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taicang.errors import InvalidPlan
from taicang.models.types import Model, routed
from taicang.plans import ServePlan

FIELDS = ("tp", "dp", "pp", "ep", "moe_tp", "redundant", "shared_ranks", "microbatches", "exchange")
EXPERTS = ("ep", "moe_tp", "redundant", "shared_ranks", "exchange")
"""Options that say something of experts alone."""


def plan_from(options: Mapping[str, Any], model: Model | None = None) -> ServePlan | None:
    """The decode plan that the options fix, or None where they leave it open.

    Expert degrees that are not given follow from the attention ranks: all of them expert-parallel with attention data
    parallelism, else tensor-parallel experts. Raises ``InvalidPlan`` where ``model`` has no experts to lay out.
    """
    given = {name: options[name] for name in FIELDS if options.get(name) is not None}
    if not given:
        return None
    if model is not None and routed(model) is None:
        for name in EXPERTS:
            if options.get(name):
                raise InvalidPlan(f"{model.name} has no experts", where=f"--{name.replace('_', '-')}")
        return ServePlan(**given, moe_tp=given.get("tp", 1), draft_tokens=options.get("drafts") or 0)
    stage = given.get("tp", 1) * given.get("dp", 1)
    if "ep" in given and "tp" not in given and "dp" not in given:
        stage = given["dp"] = given["ep"] * given.get("moe_tp", 1)
    if "ep" not in given:
        given["ep"] = stage // given.get("moe_tp", 1) if given.get("dp", 1) > 1 else 1
    if "moe_tp" not in given:
        given["moe_tp"] = max(stage // given["ep"], 1)
    return ServePlan(**given, draft_tokens=options.get("drafts") or 0)
