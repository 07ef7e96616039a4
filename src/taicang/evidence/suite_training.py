"""Training steps against published measurements: dense, expert, fine-tuning, and Megatron's classic table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

from taicang import catalog
from taicang.catalog.training import sustained, training_price
from taicang.cost.sustained import Sustained
from taicang.errors import TaicangError
from taicang.evidence.score import Outcome
from taicang.evidence.training_recipes import dispatcher, tuned
from taicang.evidence.training_rows import FILE, Row, machine_of, model_of, plan_of, read, stack_of
from taicang.hardware import Machine
from taicang.stacks import Stack
from taicang.train.step import Setup, TrainStep, train_step


@cache
def _machine(spec: str) -> Machine:
    return catalog.machine(spec)


def setup(row: Row, stack: Stack | None = None, found: Sustained | None = None) -> Setup:
    """The job of one row; ``stack`` and ``found`` replace the row's own constants (for fitting)."""
    model = model_of(row)
    machine = _machine(machine_of(row))
    engine = stack or catalog.stack(stack_of(row))
    if "A2A overlap" in row.raw["notes"]:
        engine = replace(engine, overlap=engine.overlap | {"expert_exchange"})
    if row.source == "mbridge":
        extra = tuned(row.model, row.chip, row.raw["dtype"], row.raw["sw"].removeprefix("NeMo "))
        engine = replace(
            engine, captured=extra.captured, fused=engine.fused | extra.fused, overlap=engine.overlap | extra.overlap,
            expert_dispatch=dispatcher(row.model, row.chip, row.raw["dtype"]),
        )  # fmt: skip
    if row.raw["extra"].get("dispatcher") == "A2A":
        engine = replace(engine, expert_dispatch="plain")
    load = found or sustained(machine.chip)
    price = training_price(machine, engine, load)
    return Setup(
        model=model, plan=plan_of(row, model), machine=machine, stack=engine, price=price, clock_ratio=load.clock_ratio
    )


def predict(row: Row, stack: Stack | None = None, found: Sustained | None = None) -> TrainStep:
    """The priced step of one row."""
    return train_step(setup(row, stack, found))


def outcomes(folder: Path) -> Iterator[Outcome]:
    """Step time of every row; a refusal names its reason."""
    for row in read(folder / FILE):
        try:
            predicted, why = predict(row).seconds, ""
        except TaicangError as error:
            predicted, why = None, str(error)
        yield Outcome(
            id=row.id, suite=row.suite, group=f"{row.source} {row.chip}", measured=row.step_s, predicted=predicted,
            unit="s", held_out=row.held_out, refused=why,
        )  # fmt: skip
