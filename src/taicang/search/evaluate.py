"""One point of a study to one row: the best way to run it, or why there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeAlias

from taicang.catalog.models import model as load_model
from taicang.catalog.profiles import slo
from taicang.errors import InvalidInput, TaicangError, UnknownName
from taicang.lower import lower
from taicang.models.types import Model
from taicang.plans import decode_batch
from taicang.records import plain
from taicang.search.door import Run, forms_of, job_of, narrowed, of_profile, plan_of
from taicang.search.run import Ask, search
from taicang.search.space import default
from taicang.search.trusted import told
from taicang.search.words import MODES
from taicang.units import parse

Evaluate: TypeAlias = Callable[[Mapping[str, Any]], dict[str, Any]]
"""From a point to its row."""
FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "input": "input_tokens", "output": "output_tokens", "memory_fraction": "memory_ratio", "mtp": "drafts",
        "acceptance": "acceptance_ratio",
    }
)  # fmt: skip
"""Keys of a point that a ``Run`` knows by another name."""
TRAITS = ("stack", "memory_fraction", "quant", "kv", "batch", "mtp", "acceptance", "skew", "chunk")
"""Keys of a point that are fields of a ``Run`` as they stand."""
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


def evaluate(point: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of the best choice at ``point``, or ``error``: why there is none."""
    return guarded(_row, point)


def guarded(row: Evaluate, point: Mapping[str, Any]) -> dict[str, Any]:
    """``row`` of ``point``, or why there is none. One bad point never ends a study."""
    try:
        return row(point)
    except TaicangError as error:
        return failed(f"{type(error).__name__}: {error}")
    except Exception as error:  # a fault of ours at this point, which must not take the others with it
        return failed(f"crashed: {type(error).__name__}: {error}")


def failed(why: str) -> dict[str, Any]:
    """Figures of a point that has none."""
    return {"feasible": False, "error": why}


def run_of(point: Mapping[str, Any], model: Model) -> Run:
    """The question of ``point`` about ``model``."""
    preset = slo(str(point["slo"]), model.name) if point.get("slo") is not None else None
    mode = str(point.get("mode", "both"))
    if mode not in MODES:
        raise UnknownName("mode", mode, MODES, where="study")
    said = {FIELDS.get(key, key): point[key] for key in ("input", "output", "users", *TRAITS) if key in point}
    if point.get("profile") is not None:
        said |= of_profile(str(point["profile"]))
    for name in ("ttft", "tpot"):
        limit = None if point.get(name) is None else parse(point[name], "s", where=name)
        said[f"{name}_s"] = limit or (preset and getattr(preset, f"{name}_s"))
    said["within_ratio"] = point.get("attainment") or (preset and preset.within_ratio)
    sets = tuple(f"{key}={value}" for key, value in point.items() if "." in key)
    return Run(model=model, on=str(point["on"]), plan=plan_of(point, model), modes=MODES[mode], sets=sets, **said)


def _row(point: Mapping[str, Any]) -> dict[str, Any]:
    for key in ("model", "on"):
        if key not in point:
            raise InvalidInput(f"a point needs {key!r}", where="study")
    run = run_of(point, load_model(str(point["model"])))
    job = job_of(run)
    forms = forms_of(run, job.model, job.machine, job.stack)
    layouts = None
    if run.plan is not None:
        plan = replace(run.plan, quant=forms)
        job.setup(plan)  # refuses a plan that is larger than the machine
        lower(job.model, plan, decode_batch(sequences=1.0, context=1.0), job.stack)  # rules before sizes
        layouts = dict.fromkeys(("both", "decode", "prefill"), (plan,))
    ask = Ask(objective=point.get("objective", "tokens/s/chip"), modes=run.modes, load_per_s=point.get("load"), top=1)
    found = search(job, [(str(run.quant), forms)], narrowed(default(job.model), run), ask, layouts)
    if not found.best:
        return failed("; ".join(found.nearest))
    choice, said = found.best[0], told(job, found.best[0], run.sets)
    row = {name: getattr(choice, name) for name in FIGURES}
    nested = plain({"pools": choice.pools, "bands": choice.bands, "assumptions": said["assumptions"]})
    return {"feasible": True, "error": "", "mode": choice.mode, "stack_used": said["stack"], **row, **nested}
