"""From names and options to a job that can be searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from taicang import catalog
from taicang.catalog.costing import cost_model
from taicang.catalog.models import model as load_model
from taicang.errors import InvalidInput
from taicang.hardware import Machine
from taicang.models.types import Model
from taicang.plans import Quantisation
from taicang.search.choices import quantisation, serving_stack
from taicang.search.points import Job
from taicang.serve.uneven import EVEN, Spread


def prepare(
    model: str | Model,
    on: str | Machine,
    *,
    input_tokens: float,
    output_tokens: float,
    ttft_s: float | None = None,
    tpot_s: float | None = None,
    stack: str | None = None,
    memory_ratio: float | None = None,
    acceptance_ratio: float = 0.7,
    skew: float = 1.01,
    approximate: bool = False,
    spread: Spread = EVEN,
    sets: Sequence[str] = (),
) -> Job:
    """The job of serving ``model`` on ``on``. Raises from ``taicang.errors`` for names, figures and sizes."""
    if input_tokens < 1 or output_tokens < 1:
        raise InvalidInput(f"input and output need at least one token, got {input_tokens} and {output_tokens}")
    net = load_model(model, approximate=approximate) if isinstance(model, str) else model
    machine = catalog.machine(on, sets) if isinstance(on, str) else on
    engine = serving_stack(stack, machine, net, memory_ratio=memory_ratio)
    return Job(
        model=net,
        machine=machine,
        stack=engine,
        price=cost_model(machine, engine).price,
        input_tokens=float(input_tokens),
        output_tokens=float(output_tokens),
        ttft_s=ttft_s or np.inf,
        tpot_s=tpot_s or np.inf,
        skew=skew,
        acceptance_ratio=acceptance_ratio,
        spread=spread,
    )


def formats(names: Sequence[str], job: Job, kv: str = "auto") -> list[tuple[str, Quantisation]]:
    """Number formats by name ("auto", "fp8"...) with a cache in ``kv``; those that come to the same formats once."""
    found: dict[Quantisation, str] = {}
    for name in names:
        found.setdefault(quantisation(name, job.model, job.machine.chip, job.stack, kv), name)
    return [(name, quant) for quant, name in found.items()]


def moved(job: Job, machine: Machine) -> Job:
    """``job`` on another machine, priced there."""
    return replace(job, machine=machine, price=cost_model(machine, job.stack).price)


def restacked(job: Job, name: str, memory_ratio: float | None = None) -> Job:
    """``job`` under another software stack, priced with it."""
    engine = serving_stack(name, job.machine, job.model, memory_ratio=memory_ratio)
    return replace(job, stack=engine, price=cost_model(job.machine, engine).price)
