"""A question of serving to one row of a study: the best way to run it, or why there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from taicang.errors import TaicangError, unless_interrupted
from taicang.lower import lower
from taicang.plans import decode_batch
from taicang.records import plain
from taicang.search.door import Run, forms_of, job_of, narrowed
from taicang.search.run import Ask, search
from taicang.search.space import default
from taicang.search.trusted import told

Evaluate: TypeAlias = Callable[[Mapping[str, Any]], dict[str, Any]]
"""From a point to its row."""
FIGURES = (
    "ttft_s",
    "tpot_s",
    "user_tokens_per_s",
    "requests_per_s",
    "output_tokens_per_s",
    "chips",
    "machine_chips",
    "output_tokens_per_s_per_w",
    "output_tokens_per_s_per_usd",
    "output_tokens_per_s_per_cny",
    "output_tokens_per_s_per_chip",
)
"""Figures of a row."""


def guarded(row: Evaluate, point: Mapping[str, Any]) -> dict[str, Any]:
    """``row`` of ``point``, or why there is none. One bad point never ends a study."""
    try:
        return row(point)
    except TaicangError as error:
        return failed(f"{type(error).__name__}: {error}")
    except Exception as error:  # a fault of ours at this point, which must not take the others with it
        unless_interrupted(error)
        return failed(f"crashed: {type(error).__name__}: {error}")


def failed(why: str) -> dict[str, Any]:
    """Figures of a point that has none."""
    return {"feasible": False, "error": why}


def best_row(run: Run, ask: Ask) -> dict[str, Any]:
    """Figures of the best choice for ``run``, or ``error``: why there is none."""
    job = job_of(run)
    forms = forms_of(run, job.model, job.machine, job.stack)
    layouts = None
    if run.plan is not None:
        plan = replace(run.plan, quant=forms)
        job.setup(plan)  # refuses a plan that is larger than the machine
        lower(job.model, plan, decode_batch(sequences=1.0, context=1.0), job.stack)  # rules before sizes
        layouts = dict.fromkeys(("both", "decode", "prefill"), (plan,))
    found = search(job, [(str(run.quant), forms)], narrowed(default(job.model), run), ask, layouts)
    if not found.best:
        return failed("; ".join(found.nearest))
    choice, said = found.best[0], told(job, found.best[0], run.sets)
    row = {name: getattr(choice, name) for name in FIGURES}
    nested = plain({"pools": choice.pools, "bands": choice.bands, "assumptions": said["assumptions"]})
    return {"feasible": True, "error": "", "mode": choice.mode, "stack_used": said["stack"], **row, **nested}
