"""A plan from command-line options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taicang.plans import ServePlan

FIELDS = {
    "tp": "tp",
    "dp": "dp",
    "pp": "pp",
    "ep": "ep",
    "moe_tp": "moe_tp",
    "redundant": "redundant",
    "shared_ranks": "shared_ranks",
    "microbatches": "microbatches",
}


def plan_from(options: Mapping[str, Any]) -> ServePlan | None:
    """The decode plan that the options fix, or None where they leave it open.

    Expert degrees that are not given follow from the attention ranks: all of them expert-parallel with attention data
    parallelism, else tensor-parallel experts.
    """
    given = {field: options[name] for name, field in FIELDS.items() if options.get(name) is not None}
    if not given:
        return None
    stage = given.get("tp", 1) * given.get("dp", 1)
    if "ep" in given and "tp" not in given and "dp" not in given:
        stage = given["dp"] = given["ep"] * given.get("moe_tp", 1)
    if "ep" not in given:
        given["ep"] = stage // given.get("moe_tp", 1) if given.get("dp", 1) > 1 else 1
    if "moe_tp" not in given:
        given["moe_tp"] = max(stage // given["ep"], 1)
    return ServePlan(**given, draft_tokens=options.get("drafts") or 0)
