"""Training steps of published measurements (dense, expert, fine-tuning, Megatron's classic table), and scaling."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from taicang import catalog
from taicang.catalog.trust import Ground, trained
from taicang.cost.sustained import Sustained
from taicang.errors import NotModelled
from taicang.evidence.systems import ON_REQUEST, machine_stated, recipe_of, training_tables
from taicang.evidence.training_rows import Row, model_of, plan_of, stack_of, submission, training_rows
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
    engine = replace(engine, overlap=engine.overlap | set(training_tables()["asked"].get(row.source, ())))
    if "A2A overlap" in row.raw["notes"]:
        engine = replace(engine, overlap=engine.overlap | {"expert_exchange"})
    if row.raw["par"].get("fsdp") and row.source == "moezoo":  # Megatron-FSDP with nccl_ub, as its paper has it
        engine = replace(engine, overlap=engine.overlap | {"registered"})
    if row.source == "mbridge":
        job = (row.model, row.chip, row.raw["dtype"])
        found_on = recipe_of("tuned", *job, row.raw["sw"].removeprefix("NeMo "))
        more = {name: frozenset(found_on.get(name, ())) for name in ON_REQUEST}
        engine = replace(
            engine, captured=more["captured"], fused=engine.fused | more["fused"],
            overlap=engine.overlap | more["overlap"], expert_dispatch="plain" if recipe_of("plain", *job) else "best",
        )  # fmt: skip
    engine = replace(engine, fused=engine.fused | set(submission(row).get("fused", ())))
    engine = _as_stated(engine, row.raw["extra"])
    alive = training_tables()["logit_bytes"].get(row.source, engine.keeps.logit_bytes)
    engine = replace(engine, keeps=replace(engine.keeps, logit_bytes=alive))
    return Training(model=model, on=machine, plan=plan_of(row, model), stack=engine, clock=clock)


def setup(row: Row) -> Setup:
    """The job of one row."""
    return settle(question(row))


def _as_stated(engine: Stack, extra: Mapping[str, Any]) -> Stack:
    """``engine`` with what the row itself says of its script."""
    if str(extra.get("dispatcher")).lower() in ("a2a", "alltoall_seq"):
        engine = replace(engine, expert_dispatch="plain")
    said = {"tensor": extra.get("mc2"), "gradients": extra.get("overlapped_distributed_optimizer")}
    off = {word for word, on in said.items() if on is False}
    fused = engine.fused - ({"flash_attention"} if extra.get("flash_attention") is False else set())
    return replace(
        engine,
        overlap=engine.overlap - off - ({"parameters"} if "gradients" in off else set()),
        fused=fused | ({"chunked_loss"} if extra.get("chunked_loss") else set()),
        grouped_experts=engine.grouped_experts and extra.get("grouped_gemm", True),
    )


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
