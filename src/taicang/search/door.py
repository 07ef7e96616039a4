"""The one door of serving: a question as it is asked, and what it comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np

from taicang import catalog
from taicang.catalog.costing import cost_model
from taicang.catalog.models import model as load_model
from taicang.catalog.profiles import profile
from taicang.catalog.rules import divided, launched
from taicang.catalog.stack_entry import with_memory
from taicang.cost.skew import SKEW
from taicang.errors import InvalidInput, InvalidPlan
from taicang.hardware import Machine
from taicang.models.types import Model, routed
from taicang.plans import Quantisation, ServePlan, chance_of
from taicang.search.choices import default_stack, quantisation
from taicang.search.points import USUAL_TOKENS, Job
from taicang.search.result import MODES, Mode
from taicang.search.space import Space
from taicang.serve.queueing import WITHIN
from taicang.serve.uneven import EVEN, Spread, spread
from taicang.stacks import GraphMode, Stack
from taicang.traffic.generate import lengths_at
from taicang.units import Count

DRAWS = 100_000
"""Evenly spaced quantiles that stand for a profile."""


PLAN = ("tp", "dp", "pp", "ep", "moe_tp", "redundant", "shared_ranks", "microbatches", "exchange")
"""Fields of a layout that a user may fix."""
EXPERTS = {"ep": 1, "moe_tp": 1, "redundant": 0, "shared_ranks": 0, "exchange": "auto"}
"""Those that say something of experts alone, and what a model without experts has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What serves, as every question of serving says it; ``None`` and "auto" leave the choice to ``settle``."""

    stack: str | Stack | None = None
    memory_ratio: float | None = None
    """Share of device memory for the engine, as it counts it (None: its own)."""
    graph: GraphMode | None = None
    """What of a decode step the engine captures (None: what it does by itself)."""
    quant: str | Quantisation = "auto"
    """Number formats by the name of their scheme, or each tensor class's."""
    kv: str = "auto"
    plan: ServePlan | None = None
    """Layout of the instances that decode."""
    drafts: int | None = None
    acceptance_ratio: float = 0.7
    """Accepted tokens over drafted ones, as engines report it."""
    skew: Count = SKEW
    approximate: bool = False
    sets: Sequence[str] = ()
    """Figures of the machine that differ: "PATH=VALUE"."""

    @property
    def chance_ratio(self) -> float:
        """What a layout's ``acceptance_ratio`` comes to for the drafts asked for."""
        return chance_of(self.acceptance_ratio, self.drafts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Serving):
    """One question of serving: a model on a machine under a load and limits, and what of the layout is fixed."""

    model: str | Model
    on: str | Machine
    input_tokens: float = USUAL_TOKENS[0]
    output_tokens: float = USUAL_TOKENS[1]
    spread: Spread = EVEN
    """Of unequal requests the lengths are means, and this says how unequal they are."""
    ttft_s: float | None = None
    tpot_s: float | None = None
    within_ratio: float | None = None
    """Share of the requests that must keep the limits (None: nine in ten)."""
    users: int | None = None
    """So many at a time, each of whom sends a request after the answer, on the whole machine: the load (None: all that
    it takes)."""
    modes: Sequence[Mode] = MODES
    prefill_plan: ServePlan | None = None
    """Layout of prefill instances of their own."""
    batch: int | None = None
    """Sequences of an attention group that decode."""
    chunk: int | None = None
    """Token budget of a step."""
    clients: Count | None = None
    """A closed loop of so many on one instance that does both (``predict.serving``)."""


def settle(asked: Serving, model: str | Model, on: str | Machine) -> tuple[Model, Machine, Stack]:
    """Model, machine and stack of a question, with what it leaves open chosen. Raises from ``taicang.errors``."""
    net = load_model(model, approximate=asked.approximate) if isinstance(model, str) else model
    machine = catalog.machine(on, asked.sets) if isinstance(on, str) else on
    engine = asked.stack
    if not isinstance(engine, Stack):
        named = catalog.stack(engine or default_stack(machine, net), ascend=machine.chip.ascend)
        engine = launched(named, machine.chip, net)
    engine = catalog.fit_for(engine, "serving", machine.chip)
    engine = replace(engine, graph=asked.graph or engine.graph)
    return net, machine, with_memory(divided(engine, machine, net), asked.memory_ratio)


def forms_of(asked: Serving, net: Model, machine: Machine, engine: Stack) -> Quantisation:
    """Number formats in each tensor class: as asked, or what the name of the scheme comes to."""
    if isinstance(asked.quant, Quantisation):
        return asked.quant
    return quantisation(asked.quant, net, machine.chip, engine, asked.kv)


TOKENS = ("input_tokens", "output_tokens")


def job_of(run: Run) -> Job:
    """What ``run`` comes to, priced. Raises from ``taicang.errors`` for names, figures and sizes."""
    for name in (*TOKENS, "ttft_s", "tpot_s", "within_ratio"):
        said = getattr(run, name)
        if said is not None and not (isinstance(said, Real) and (name in TOKENS or float(said) >= 0.0)):
            raise InvalidInput(f"{name} is {said!r}, not a number of at least 0")
    if not (run.input_tokens >= 1 and run.output_tokens >= 1):
        said = f"got {run.input_tokens} and {run.output_tokens}"
        raise InvalidInput(f"input and output need at least one token, {said}")
    net, machine, engine = settle(run, run.model, run.on)
    return Job(
        model=net,
        machine=machine,
        stack=engine,
        price=cost_model(machine, engine).price,
        input_tokens=float(run.input_tokens),
        output_tokens=float(run.output_tokens),
        ttft_s=run.ttft_s or np.inf,
        tpot_s=run.tpot_s or np.inf,
        within_ratio=run.within_ratio or WITHIN,
        users=run.users,
        skew=run.skew,
        acceptance_ratio=run.chance_ratio,
        spread=run.spread,
    )


def prepare(model: str | Model, on: str | Machine, **asked: Any) -> Job:
    """``job_of`` the ``Run`` of these fields."""
    return job_of(Run(model=model, on=on, **asked))


def narrowed(space: Space, run: Run) -> Space:
    """``space`` with the batch, drafts and token budget that ``run`` fixes."""
    fixed = {"batches": run.batch, "drafts": run.drafts, "chunks": run.chunk}
    axes: dict[str, Any] = {axis: (value,) for axis, value in fixed.items() if value is not None}
    return replace(space, **axes)


def plan_of(given: Mapping[str, Any], model: Model | None = None) -> ServePlan | None:
    """The layout that the fields ``given`` fix (``None``: none of ``PLAN`` is among them).

    Expert degrees that are not given follow from the attention ranks: all of them expert-parallel with attention data
    parallelism, else tensor-parallel experts; given alone, they make the attention ranks. Raises ``InvalidPlan`` where
    ``model`` has no experts to lay out.
    """
    fixed = {key: given[key] for key in PLAN if given.get(key) is not None}
    if not fixed:
        return None
    drafts = given.get("drafts") or 0
    tp, dp = fixed.get("tp", 1), fixed.get("dp", 1)
    if model is not None and routed(model) is None:
        for key, none in EXPERTS.items():
            if fixed.get(key, none) not in (none, tp if key == "moe_tp" else none):
                raise InvalidPlan(f"{model.name} has no experts", where=f"--{key.replace('_', '-')}")
        return ServePlan(**{"moe_tp": tp} | fixed, draft_tokens=drafts)
    if "ep" in fixed and "tp" not in fixed and "dp" not in fixed:
        dp = fixed["dp"] = fixed["ep"] * fixed.get("moe_tp", 1)
    fixed.setdefault("ep", max(tp * dp // fixed.get("moe_tp", 1), 1) if dp > 1 else 1)
    fixed.setdefault("moe_tp", max(tp * dp // fixed["ep"], 1))
    return ServePlan(**fixed, draft_tokens=drafts)


def formats(names: Sequence[str], job: Job, kv: str = "auto") -> list[tuple[str, Quantisation]]:
    """Number formats by name ("auto", "fp8"...) with a cache in ``kv``; those that come to the same formats once."""
    found: dict[Quantisation, str] = {}
    for name in names:
        found.setdefault(quantisation(name, job.model, job.machine.chip, job.stack, kv), name)
    return [(name, quant) for quant, name in found.items()]


def moved(job: Job, machine: Machine) -> Job:
    """``job`` on another machine, priced there."""
    return replace(job, machine=machine, price=cost_model(machine, job.stack).price)


def of_profile(name: str) -> dict[str, Any]:
    """Mean lengths of the embedded profile ``name`` and how unequal they are, as a ``Run`` has them.

    ``UnknownName`` suggests the nearest.
    """
    found = profile(name)
    even = (np.arange(DRAWS) + 0.5) / DRAWS
    inputs, outputs = (lengths_at(even, name, found, key).astype(float) for key in ("input", "output"))
    lengths = spread(inputs, outputs)
    return {"input_tokens": float(inputs.mean()), "output_tokens": float(outputs.mean()), "spread": lengths}
