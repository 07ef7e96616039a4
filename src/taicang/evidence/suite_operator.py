"""Published single operators: matrix products and grouped-query attention, priced as one kernel of the stack named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from taicang import catalog
from taicang.catalog.costing import cost_model
from taicang.errors import NotModelled
from taicang.evidence.measured import answered
from taicang.evidence.operators import gqa_operator
from taicang.evidence.score import Outcome
from taicang.evidence.systems import machine_stated, stack_named
from taicang.evidence.tables import Cells, held_out, lines
from taicang.ops import Attend, Gemm
from taicang.stacks import BARE

FILE = "published_operator.csv"
PER = {"latency": {"us": 1e6, "ms": 1e3, "s": 1.0}, "tflops": {"TFLOP/s": 1e-12}}
FORMATS = {"bfloat16": "bf16", "fp8-block": "fp8_block"}


def operator_of(row: Cells) -> Gemm | Attend:
    """The operator of a row; refuses what is not one kernel of stated sizes."""
    batch, seq = json.loads(row["batch"] or "{}"), json.loads(row["seq"] or "{}")
    dtype = FORMATS.get(row["dtype"].lower(), row["dtype"].lower())
    if row["model"].startswith("GEMM"):
        sizes = batch["mnk"].split("x") if "mnk" in batch else [batch[name] for name in "mnk"]
        m, n, k = (float(size) for size in sizes)
        return Gemm(m=m, n=n, k=k, dtype=dtype)
    phases = {"context attention": "prefill", "generation attention": "decode"}
    if row["model"] in phases:
        names = {"heads": "num_heads", "kv_heads": "num_key_value_heads", "batch": "batch_size", "head_dim": "head_dim"}
        cells = {column: str(batch[name]) for name, column in names.items()}
        cells |= dict.fromkeys(("isl", "kv_len"), str(seq["seq_len"])) | {"dtype": dtype, "kv": dtype}
        return gqa_operator([cells], phases[row["model"]])  # type: ignore[arg-type]  # the two phases
    raise NotModelled(f"{row['model']} is no single kernel of stated sizes")


def predict(row: Cells) -> float:
    """The figure of a row, in its unit."""
    if row["metric"] not in PER or row["unit"] not in PER[row["metric"]]:
        raise NotModelled(f"{row['metric']} in {row['unit']} of an operator")
    op, stack = operator_of(row), row["sw"]
    machine = machine_stated(row["system"], row["chip"], int(row["count"]), {})
    cost = cost_model(machine, catalog.stack(stack_named(stack)) if stack else BARE).price(op, 1.0, 1.0)
    seconds = float(cost.seconds if isinstance(op, Gemm) else cost.seconds[0])  # type: ignore[index]
    scale = PER[row["metric"]][row["unit"]]
    return seconds * scale if row["metric"] == "latency" else float(cost.flop) / seconds * scale


def _held(row: Cells) -> bool:
    """Rows that repeat the kernel tables keep their split (attention: seen); no fit sees any other."""
    if row["src"] != "aic":
        return True
    batch = json.loads(row["batch"] or "{}")
    return "m" in batch and held_out("gemm", *(batch[name] for name in "mnk"))


def outcomes(folder: Path) -> Iterator[Outcome]:
    """One outcome per row of the evidence ``folder``; a refusal names its reason."""
    for row in lines(folder / FILE):
        yield answered(
            partial(predict, row), id=row["id"], suite="published_operator", group=f"{row['src']} {row['chip']}",
            measured=float(row["value"]), unit=row["unit"], held_out=_held(row),
        )  # fmt: skip
