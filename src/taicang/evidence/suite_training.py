"""Training steps of published measurements (dense, expert, fine-tuning, Megatron's classic table), and scaling."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from taicang import catalog
from taicang.catalog.grounds import Ground, trained
from taicang.catalog.rules import settings
from taicang.cost.sustained import Sustained
from taicang.errors import NotModelled
from taicang.evidence.systems import TRAINING, machine_stated
from taicang.evidence.training_rows import (
    Row,
    model_of,
    plan_of,
    script_of,
    stack_of,
    training_rows,
)  # fmt: skip
from taicang.search.training import Training, settle
from taicang.stacks import Stack
from taicang.train.step import Setup, TrainStep, train_step


def question(row: Row, stack: Stack | None = None, clock: Sustained | None = None) -> Training:
    """What one row asks; ``stack`` and ``clock`` replace its own constants (for fitting)."""
    if row.refused:
        raise NotModelled(row.refused)
    model = model_of(row)
    machine = machine_stated(row.raw["system"], row.chip, row.count, row.raw["extra"])
    engine = stack or catalog.stack(stack_of(row))
    said = script_of(row)
    engine = replace(
        engine,
        captured=frozenset(said.get("captured", engine.captured)),
        fused=engine.fused.union(said.get("fused", ())),
        overlap=engine.overlap.union(said.get("overlap", ())),
        expert_dispatch=said.get("expert_dispatch", engine.expert_dispatch),
    )
    return Training(model=model, on=machine, plan=plan_of(row, model), stack=_as_said(row, engine), clock=clock)


def setup(row: Row) -> Setup:
    """The job of one row."""
    return settle(question(row))


def _as_said(row: Row, engine: Stack) -> Stack:
    """``engine`` with what the row itself and its source say of its script."""
    extra = row.raw["extra"]
    facts = {
        "source": row.source, "notes": row.raw["notes"], "fsdp": bool(row.raw["par"].get("fsdp")),
        "dispatcher": str(extra.get("dispatcher")).lower(), "mc2": extra.get("mc2"),
        "distributed": extra.get("overlapped_distributed_optimizer"), "flash": extra.get("flash_attention"),
        "chunked": bool(extra.get("chunked_loss")), "grouped": bool(extra.get("grouped_gemm", True)),
    }  # fmt: skip
    said = settings(TRAINING, "engines", facts)
    keeps = replace(engine.keeps, logit_bytes=said.pop("logit_bytes", engine.keeps.logit_bytes))
    for name in [name for name in said if "/" in name]:
        field, _, part = name.partition("/")
        has: frozenset[str] = getattr(engine, field)
        engine = replace(engine, **{field: has | {part} if said.pop(name) else has - {part}})  # type: ignore[arg-type]
    return replace(engine, keeps=keeps, **said)


def predict(row: Row, stack: Stack | None = None, clock: Sustained | None = None) -> TrainStep:
    """The priced step of one row, as ``question`` has it."""
    return train_step(settle(question(row, stack, clock)))


def seconds(row: Row) -> float:
    """Of the priced step of one row."""
    return predict(row).seconds


def run_of(row: Row) -> Ground:
    """What is known of a row."""
    made = setup(row)
    return trained(made.model, made.machine, made.stack, made.plan)


LEAST = 2
"""Times that a curve's largest run has its smallest one's chips."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The smallest and the largest run of one publisher, epoch, chip, model, format and layout that differ in data
    parallelism only, at the same work per chip."""

    small: Row
    large: Row

    @property
    def measured(self) -> float:
        """Step time of the large run over that of the small one: one where scaling is perfect, so that its error is
        that of the curve's slope."""
        return self.large.step_s / self.small.step_s


def curves(path: Path) -> list[Curve]:
    """Every curve."""
    found = defaultdict(list)
    for row in training_rows(path):
        if not row.refused:
            found[_curve(row)].append(row)
    made = [
        Curve(small=min(rows, key=lambda row: row.count), large=max(rows, key=lambda row: row.count))
        for rows in found.values()
    ]
    return [curve for curve in made if curve.large.count >= LEAST * curve.small.count]


def _curve(row: Row) -> tuple[object, ...]:
    raw, extra = row.raw, row.raw["extra"]
    par = {key: value for key, value in raw["par"].items() if key != "dp"}
    batch = raw["batch"].get("mbs"), raw["batch"].get("ga"), row.batch / row.count
    shape = extra.get("layers"), extra.get("hidden"), extra.get("recompute"), extra.get("submitter")
    return (row.source, raw["sw"], row.chip, row.model, raw["dtype"], json.dumps(par, sort_keys=True), batch, row.seq,
            *shape)  # fmt: skip


def slope(curve: Curve) -> float:
    """What is predicted of a curve."""
    return seconds(curve.large) / seconds(curve.small)
