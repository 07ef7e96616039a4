"""Measured kernels: tables as operators of arrays, by their rows in ``data/kernels.yaml``, and published single ones.

A row of a table is one launch of one kernel of one layer, the fastest of the serving stacks that were measured on that
machine; ``operators`` says what its columns mean and what the kernel should take.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from taicang import catalog
from taicang.catalog import files
from taicang.catalog.costing import cost_model
from taicang.errors import NotModelled
from taicang.evidence import operators
from taicang.evidence.measured import Measured
from taicang.evidence.score import Outcome
from taicang.evidence.systems import machine_stated, stack_named
from taicang.evidence.tables import CARRIED, Cells, column, grouped, held_out, lines, number_format
from taicang.ops import Attend, Gemm
from taicang.stacks import BARE


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One suite of ``data/kernels.yaml``; columns are listed with blanks between."""

    suite: str
    file: str
    columns: str
    by: str
    split: str
    time: str
    kernel: str
    id: str = ""
    named: str = ""
    """Name under which the split hashes its keys, where it is not the suite's."""
    unit: str = "s"
    engines: str = ""


@cache
def tables() -> Mapping[str, Table]:
    """Every declared suite."""
    listed = files.read(CARRIED / "kernels.yaml")
    names = {f.name for f in fields(Table)} - {"suite"}
    return {suite: Table(suite=suite, **made) for suite, made in listed.items() if set(made) <= names}


def kernel_rows(folder: Path, suite: str) -> list[Measured[Any]]:
    """The rows of one suite in the evidence ``folder``, parted as its table says; none of an absent file."""
    table = tables()[suite]
    listed = [enriched(cells, table) for cells in lines(folder / table.file)]
    return [part(table, each) for each in grouped(listed, *table.by.split())]


def enriched(cells: Cells, table: Table) -> Cells:
    """The line with the cells that its table's templates and groups speak of."""
    dtype = next((name for name in cells if name.endswith("_dtype")), "")
    more = {"suite": table.suite, "number": str(int(cells["line"]) - 2)}
    more |= {"dtype": number_format(cells.get(dtype, "")), "kv": number_format(cells.get("kv_cache_dtype", ""))}
    return cells | more | operators.reading(table.suite, cells)


def part(table: Table, listed: Sequence[Cells]) -> Measured[Any]:
    """Lines of one kernel as one operator of arrays."""
    first, key = listed[0], table.split.split()
    keys = [tuple(line[name] for name in key) for line in listed]
    return Measured(
        suite=table.suite,
        system=first["system"],
        kernel=table.kernel.format(**first),
        op=operators.OPERATORS[table.suite](listed),
        ids=tuple(
            table.id.format(**line) if table.id else "/".join((line["system"], *cells))
            for line, cells in zip(listed, keys, strict=True)
        ),
        measured_s=column(listed, table.time) * 1e-3,
        held=np.array([held_out(table.named or table.suite, *cells) for cells in keys]),
        by_engine={
            engine: column(listed, f"latency_ms_{engine}", blank=np.nan) * 1e-3 for engine in table.engines.split()
        },
    )


def outcomes(folder: Path) -> Iterator[Outcome]:
    """One outcome per row of every table in the evidence ``folder``; what is refused says why."""
    for suite, table in tables().items():
        rows = kernel_rows(folder, suite) + ([operators.ascend_gemm_rows()] if suite == "gemm" else [])
        for part in rows:
            yield from part.outcomes(partial(operators.PRICES[suite], part), unit=table.unit)


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
        return operators.gqa_operator([cells], phases[row["model"]])  # type: ignore[arg-type]  # the two phases
    raise NotModelled(f"{row['model']} is no single kernel of stated sizes")


def operator_figure(row: Cells) -> float:
    """The figure of a row, in its unit."""
    if row["metric"] not in PER or row["unit"] not in PER[row["metric"]]:
        raise NotModelled(f"{row['metric']} in {row['unit']} of an operator")
    op, stack = operator_of(row), row["sw"]
    machine = machine_stated(row["system"], row["chip"], int(row["count"]), {})
    cost = cost_model(machine, catalog.stack(stack_named(stack)) if stack else BARE).price(op, 1.0, 1.0)
    seconds = float(cost.seconds if isinstance(op, Gemm) else cost.seconds[0])  # type: ignore[index]
    scale = PER[row["metric"]][row["unit"]]
    return seconds * scale if row["metric"] == "latency" else float(cost.flop) / seconds * scale


def operator_held(row: Cells) -> bool:
    """Rows that repeat the kernel tables keep their split (attention: seen); no fit sees any other."""
    if row["src"] != "aic":
        return True
    batch = json.loads(row["batch"] or "{}")
    return "m" in batch and held_out("gemm", *(batch[name] for name in "mnk"))
