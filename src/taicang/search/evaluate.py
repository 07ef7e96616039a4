"""One point of a study to one row: the best way to run it, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from taicang.catalog.models import model as load_model
from taicang.catalog.slo import slo
from taicang.errors import InvalidInput, InvalidPlan, TaicangError, UnknownName
from taicang.lower import lower
from taicang.models.types import Model, routed
from taicang.plans import ServePlan, decode_batch
from taicang.records import plain
from taicang.search.door import formats, prepare
from taicang.search.lengths import of_profile
from taicang.search.result import Choice
from taicang.search.run import Ask, search
from taicang.search.space import Space, default
from taicang.search.words import MODES
from taicang.serve.uneven import EVEN
from taicang.units import parse

PLAN = ("tp", "dp", "pp", "ep", "moe_tp", "redundant", "shared_ranks", "microbatches", "exchange")
EXPERTS = {"ep": 1, "moe_tp": 1, "redundant": 0, "shared_ranks": 0}
"""Fields that say something of experts alone, and what a model without experts has."""
_LIMITS: Mapping[str, tuple[int, int | None]] = MappingProxyType(
    {"redundant": (0, None), "shared_ranks": (0, None), "mtp": (0, 8), "microbatches": (1, 2)}
)
LOAD = ("model", "on", "input", "output", "profile", "ttft", "tpot", "slo", "objective", "load")
TRAITS = ("stack", "memory_fraction", "quant", "kv", "mode", "batch", "mtp", "acceptance", "skew", "chunk")
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
KEYS = (*LOAD, *TRAITS, *PLAN)
"""Keys of a point besides catalogue fields, which have a dot in them ("chip.memory.bandwidth")."""


def limits(key: str) -> tuple[int, int | None]:
    """Least and largest whole number of a key of plans and batches (None: any)."""
    return _LIMITS.get(key, (1, None))


def evaluate(point: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of the best choice at ``point``, or ``error``: why there is none. One bad point never ends a study."""
    try:
        choice = _best(point)
    except TaicangError as error:
        return failed(f"{type(error).__name__}: {error}")
    except Exception as error:  # a fault of ours at this point, which must not take the others with it
        return failed(f"crashed: {type(error).__name__}: {error}")
    if isinstance(choice, str):
        return failed(choice)
    row = {name: getattr(choice, name) for name in FIGURES}
    nested = plain({"pools": choice.pools, "bands": choice.bands})
    return {"feasible": True, "error": "", "mode": choice.mode, **row, **nested}


def failed(why: str) -> dict[str, Any]:
    """Figures of a point that has none."""
    return {"feasible": False, "error": why}


def _best(point: Mapping[str, Any]) -> Choice | str:
    for key in ("model", "on"):
        if key not in point:
            raise InvalidInput(f"a point needs {key!r}", where="study")
    preset = slo(str(point["slo"]), load_model(str(point["model"])).name) if point.get("slo") is not None else None
    lengths = of_profile(str(point["profile"])) if point.get("profile") is not None else None
    job = prepare(
        str(point["model"]),
        str(point["on"]),
        input_tokens=lengths.input_tokens if lengths else float(point.get("input", 4096)),
        output_tokens=lengths.output_tokens if lengths else float(point.get("output", 256)),
        spread=lengths.spread if lengths else EVEN,
        ttft_s=_seconds(point, "ttft") or (preset.ttft_s if preset else None),
        tpot_s=_seconds(point, "tpot") or (preset.tpot_s if preset else None),
        stack=point.get("stack"),
        memory_ratio=point.get("memory_fraction"),
        acceptance_ratio=float(point.get("acceptance", 0.7)),
        skew=float(point.get("skew", 1.01)),
        sets=[f"{key}={value}" for key, value in point.items() if "." in key],
    )
    quants = formats([str(point.get("quant", "auto"))], job, str(point.get("kv", "auto")))
    only = plan_of(point)
    if only is not None:
        plan = replace(only, quant=quants[0][1])
        check_experts(point, job.model)
        job.setup(plan)  # refuses a plan that is larger than the machine
        lower(job.model, plan, decode_batch(sequences=1.0, context=1.0), job.stack)  # rules before sizes
    mode = str(point.get("mode", "both"))
    if mode not in MODES:
        raise UnknownName("mode", mode, MODES, where="study")
    ask = Ask(objective=point.get("objective", "tokens/s/chip"), modes=MODES[mode], load_per_s=point.get("load"), top=1)
    layouts = None if only is None else dict.fromkeys(("both", "decode", "prefill"), (plan,))
    found = search(job, quants, _space(point, default(job.model)), ask, layouts)
    return found.best[0] if found.best else "; ".join(found.nearest)


def check_experts(point: Mapping[str, Any], model: Model) -> None:
    """Raise ``InvalidPlan`` where ``point`` lays out experts that ``model`` does not have."""
    for key, none in EXPERTS.items():
        if routed(model) is None and point.get(key, none) not in (none, point.get("tp") if key == "moe_tp" else none):
            raise InvalidPlan(f"{model.name} has no experts", where=f"{key}={point[key]}")


def _seconds(point: Mapping[str, Any], key: str) -> float | None:
    return None if point.get(key) is None else parse(point[key], "s", where=key)


def _space(point: Mapping[str, Any], space: Space) -> Space:
    if "batch" in point:
        space = replace(space, batches=(float(point["batch"]),))
    if "mtp" in point:
        space = replace(space, drafts=(int(point["mtp"]),))
    if "chunk" in point:
        space = replace(space, chunks=(int(point["chunk"]),))
    return space


def plan_of(point: Mapping[str, Any]) -> ServePlan | None:
    """The layout that the point fixes; experts fill the stage where their degrees are not given."""
    given = {key: point[key] for key in PLAN if key in point}
    if not given:
        return None
    stage = int(given.get("tp", 1)) * int(given.get("dp", 1))
    if "ep" not in given:
        given["ep"] = stage // int(given.get("moe_tp", 1)) if int(given.get("dp", 1)) > 1 else 1
    if "moe_tp" not in given:
        given["moe_tp"] = max(stage // int(given["ep"]), 1)
    return ServePlan(**given)
