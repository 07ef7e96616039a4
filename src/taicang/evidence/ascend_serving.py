"""Published figures of DeepSeek-R1 on CloudMatrix384 (CloudMatrix-Infer and xDeepServe) as setups of the serving model.

Rows marked held-out are end-to-end results; those marked calibrated-on are ratios of ablations, layer times and kernel
times in service, which fix the three constants of these stacks (``fit_ascend``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from taicang import catalog
from taicang.catalog.grounds import Ground, ground
from taicang.catalog.rules import section
from taicang.errors import NotModelled
from taicang.evidence.ascend_steps import RULES
from taicang.evidence.tables import CARRIED, lines, record, worded
from taicang.plans import Batch, Quantisation, ServePlan, decode_batch, prefill_batch
from taicang.search.door import Run, job_of
from taicang.serve.setup import Setup, step
from taicang.stacks import Stack
from taicang.timeline import Slice, Timeline, total
from taicang.units import Count

TABLE = CARRIED / "ascend_serving.csv"
MACHINE = "cloudmatrix384"
NET = "deepseek-r1"
SCALE: Mapping[str, float] = {"us": 1e6, "ms": 1e3, "tok/s": 1.0, "ratio": 1.0}
"""Unit of a row over that of ``figure``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One published figure. Counts are of dies; ``batch`` is sequences (decode) or prompt tokens (prefill) per die."""

    id: str
    held: bool
    stack: str
    phase: str
    metric: str
    measured: Count
    """In SI units."""
    unit: str
    dies: int
    redundant: int
    shared_ranks: int
    drafts: int
    acceptance_ratio: float
    batch: int
    input_tokens: int
    output_tokens: int
    kv_dtype: str

    @property
    def suite(self) -> str:
        """End-to-end results apart from what calibrates."""
        return "ascend_serving" if self.held else "ascend_layer"

    @property
    def figure(self) -> str:
        """Which latency the row states, if one."""
        return "tpot" if self.unit == "ms" else ""

    @property
    def stated(self) -> float:
        """The measured value in the row's unit."""
        return float(self.measured * SCALE[self.unit])

    @property
    def plan(self) -> ServePlan:
        """Prefill splits attention's sequences and heads over all dies, each with a copy of the shared expert.

        Decode runs attention data-parallel and gives the shared expert dies of its own.
        """
        prefill = self.phase == "prefill"
        return ServePlan(
            tp=self.dies if prefill else 1,
            dp=1 if prefill else self.dies,
            sp=prefill,
            ep=self.dies,
            redundant=self.redundant,
            shared_ranks=self.shared_ranks,
            draft_tokens=self.drafts,
            acceptance_ratio=self.acceptance_ratio,
            microbatches=2,
            quant=Quantisation(attention="int8", dense="int8", experts="int8", dispatch="int8", kv=self.kv_dtype),
        )


@cache
def rows() -> tuple[Row, ...]:
    """All rows of the carried table."""
    return tuple(
        record(
            Row,
            cells,
            held=cells["part"] == "held-out",
            measured=float(cells["value"]) / SCALE[cells["unit"]],
            acceptance_ratio=float(cells["acceptance"]),
            batch=int(cells["batch_per_die"]),
        )
        for cells in lines(TABLE)
    )


def row_of(cells: Mapping[str, str]) -> Row:
    """A published row in the words of such files, where ``count``, ``dp``, ``ep`` and batches count dies.

    Refuses other models and machines.
    """
    if cells["system"].lower() != MACHINE or cells["model"].lower() not in (NET, "deepseek-v3"):
        raise NotModelled(f"published rows of {cells['model']} on {cells['system']}")
    metrics, units = section(RULES, "metrics"), section(RULES, "units")
    if cells["metric"] not in metrics or cells["unit"] not in units:
        raise NotModelled(f"the metric {cells['metric']} in {cells['unit']} of a published row")
    stated: dict[str, Any] = {}
    for key in ("par", "batch", "seq"):
        stated |= json.loads(cells[key] or "{}")
    unit = units[cells["unit"]]
    return record(
        Row, worded(stated, section(RULES, "published"), section(RULES, "usual")) | {"id": cells["id"]},
        held=cells["role"] != "calibration", stack=cells["sw"].replace(" ", "@"), metric=metrics[cells["metric"]],
        measured=float(cells["value"]) / SCALE[unit], unit=unit, dies=int(cells["count"]),
        kv_dtype="int8" if "KV INT8" in cells["dtype"].upper() else "bf16",
    )  # fmt: skip


def batch_of(row: Row) -> Batch:
    """One attention group's batch; a decoding sequence is on average half way through its output."""
    if row.phase == "prefill":
        return prefill_batch(sequences=row.batch * row.dies / row.input_tokens, length=float(row.input_tokens))
    return decode_batch(sequences=float(row.batch), context=row.input_tokens + row.output_tokens / 2)


def setup_of(row: Row, stack: Stack, microbatches: int) -> Setup:
    """The row's instance with that many microbatches."""
    run = Run(model=NET, on=MACHINE, stack=stack, acceptance_ratio=row.acceptance_ratio, skew=0.0)
    return job_of(run).setup(replace(row.plan, microbatches=microbatches))


def run_of(row: Row) -> Ground | None:
    """What is known of an end-to-end result; each has pools of its own for prefill and decode."""
    if not row.held:
        return None
    made = setup_of(row, catalog.stack(row.stack), 1)
    return ground(
        made.model, made.machine, made.stack, use="disaggregated", ranks=row.dies, quant=row.plan.quant, plan=row.plan
    )


def run(row: Row, stack: Stack, microbatches: int) -> Timeline:
    """One step of it."""
    return step(setup_of(row, stack, microbatches), batch_of(row))


def best(row: Row, stack: Stack) -> Timeline:
    """With two microbatches where the stack has them and they are faster (small batches run in one)."""
    one = run(row, stack, 1)
    if "two_batch" not in stack.overlap:
        return one
    two = run(row, stack, 2)
    return two if float(two.seconds) < float(one.seconds) else one


def figure(row: Row, stack: Stack | None = None) -> float:
    """What the model says of the row, in SI units."""
    chosen = stack or catalog.stack(row.stack)
    if row.metric == "pipeline_gain":
        return float(run(row, chosen, 1).seconds / run(row, chosen, 2).seconds)
    if row.metric == "balance_gain":
        return float(best(row, chosen).seconds / best(row, replace(chosen, imbalance_ratio=1.0)).seconds)
    if row.metric == "layer_time":
        return _layer_s(run(row, chosen, 2))
    timeline = best(row, chosen)
    if row.metric == "exchange_time":
        return _exchange_s(timeline)
    seconds = float(timeline.seconds)
    if row.metric == "iteration":
        return seconds - chosen.step_host_s
    if row.phase == "prefill":
        return 2 * row.batch / seconds
    tpot = seconds / row.plan.tokens_per_step
    return tpot if row.metric == "tpot" else float(2 * row.batch / tpot)


def stated(row: Row) -> float:
    """The same in the row's unit."""
    return figure(row) * SCALE[row.unit]


def _last_block(timeline: Timeline) -> tuple[Slice, ...]:
    last = max(piece.block for piece in timeline.slices)
    mine = (piece for piece in timeline.slices if piece.block == last and piece.stream != "outside")
    return tuple(replace(piece, repeat=1) for piece in mine)


def _layer_s(timeline: Timeline) -> float:
    """A mixture-of-experts layer of both microbatches: twice the longer stream."""
    layer = _last_block(timeline)
    return 2 * max(float(total(tuple(p for p in layer if p.stream == stream))) for stream in ("attention", "experts"))


def _exchange_s(timeline: Timeline) -> float:
    """Dispatch and combine of one layer."""
    return float(total(tuple(p for p in _last_block(timeline) if p.label in ("dispatch", "combine"))))
