"""Measured kernels: tables as operators of arrays, by their rows in ``data/kernels.yaml``, and published single ones.

A row of a table is one launch of one kernel of one layer, the fastest of the serving stacks that were measured on that
machine. A table names the function that makes an operator of its columns, and the one that prices it with the shipped
constants.
Timings of matrix products and attention repeat one launch, so operands that fit lie in the level-2 cache. Latent
attention: one layer of DeepSeek-V3 (128 heads; some A100 rows 64) at one tensor-parallel degree, ``num_heads`` counts
the heads of one rank; prefill rows hold the 192/128 core and the append to the cache, not the projection of the latent.
Experts: tokens count all ranks, the hottest rank is timed, loads are drawn from the power law of ``cost.skew``, inter
is before sharding; every rank sees all tokens ("experts") or those dispatched to it ("experts_wideep"). Collectives:
``message_size`` counts two-byte elements of the whole buffer: the output of an all-gather, the input of everything else
(checked: only so do large messages stay under the line rate).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from taicang import catalog
from taicang.catalog import calibration, files
from taicang.catalog.costing import BOOKED, book_of, cost_model
from taicang.cost.attend_gqa import AttendFit, attend_gqa
from taicang.cost.attend_gqa import fit_for as attend_fit_for
from taicang.cost.attend_mla import MlaFit, attend_mla
from taicang.cost.attend_mla import fit_for as mla_fit_for
from taicang.cost.collective import Fits, Line, collective
from taicang.cost.experts import ExpertsFit, experts
from taicang.cost.experts import priced as priced_experts
from taicang.cost.gemm import GemmFit, gemm
from taicang.cost.gemm import fit_for as gemm_fit_for
from taicang.errors import NotModelled
from taicang.evidence.measured import Measured
from taicang.evidence.score import Outcome
from taicang.evidence.systems import (
    KINDS,
    chip_of,
    fabric_of,
    fabric_tables,
    level,
    machine_stated,
    stack_named,
    system_of,
)
from taicang.evidence.tables import (
    CARRIED,
    Array,
    Cells,
    column,
    grouped,
    held_out,
    lines,
    named,
    number_format,
)
from taicang.hardware import Chip
from taicang.ops import Attend, AttendKind, Collective, Gemm, GroupedGemm
from taicang.plans import Phase
from taicang.stacks import BARE
from taicang.units import Count, Num

ASCEND = "ascend-910c"
ASCEND_GEMM = CARRIED / "ascend_gemm.csv"
ELEMENT_BYTES = 2.0
KV_LORA, ROPE, HEAD = 512.0, 64.0, 128.0
"""Widths of DeepSeek-V2/V3: latent, rotary key, head without its rotary part."""


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
    operator: str
    """Function of lines of one kernel, and of what is ``given`` beside them."""
    given: Mapping[str, str] = field(default_factory=dict)
    price: str
    """Function of the rows: their seconds with the constants that the package carries."""
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
    return cells | more | reading(table.suite, cells)


def part(table: Table, listed: Sequence[Cells]) -> Measured[Any]:
    """Lines of one kernel as one operator of arrays."""
    first, key = listed[0], table.split.split()
    keys = [tuple(line[name] for name in key) for line in listed]
    return Measured(
        suite=table.suite,
        system=first["system"],
        kernel=table.kernel.format(**first),
        op=named(table.operator)(listed, **table.given),
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
        for rows in kernel_rows(folder, suite) + ([ascend_gemm_rows()] if suite == "gemm" else []):
            yield from rows.outcomes(partial(price, rows), unit=table.unit)


def price(rows: Measured[Any]) -> Num:
    """Seconds of rows of a suite."""
    return named(tables()[rows.suite].price)(rows)  # type: ignore[no-any-return]


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


def reading(suite: str, cells: Cells) -> Cells:
    """Further cells of a line, where a table's own do not tell its rows apart."""
    if suite == "gemm":
        return {"system": cells["system"].replace("_", "-")}
    if suite.startswith("experts"):
        return {"balanced": str(cells["distribution"].endswith("_eplb"))}
    if suite == "allreduce":
        return {"system": system_of(cells["system"], cells["fwver"]), "flavour": _flavour(cells), "kind": "all_reduce"}
    return {"kind": KINDS[cells["op_name"]]} if suite == "nccl" else {}


def _flavour(cells: Cells) -> str:
    if cells["kernel_source"].startswith("SGLang"):
        # A100 was measured before the change only
        old = cells["system"] != "a100_sxm" and cells["fwver"] in ("0.5.9", "0.5.10")
        return "sglang_v1" if old else "sglang"
    return "vllm" if cells["kernel_source"].startswith("vLLM") else "trtllm"


def gemm_operator(listed: Sequence[Cells]) -> Gemm:
    """Products of one format."""
    m, n, k = (column(listed, name) for name in "mnk")
    return Gemm(m=m, n=n, k=k, batch=np.ones_like(m), dtype=listed[0]["dtype"])


def _attend(
    kind: AttendKind, phase: Phase, sequences: Count, length: Count, heads: Count, kv_heads: Count, qk_dim: Count,
    v_dim: Count, dtype: str, kv: str, queries: Count = 1.0,
) -> Attend:  # fmt: skip
    """Whole prompts of ``length``, or ``queries`` tokens per sequence over a cache of so many."""
    whole, prefill = sequences * length, phase == "prefill"
    pairs = sequences * (length * (length + 1.0) / 2.0) if prefill else whole * queries
    return Attend(
        kind=kind, phase=phase, sequences=sequences, queries=whole if prefill else sequences * queries, pairs=pairs,
        context=whole, heads=heads, kv_heads=kv_heads, qk_dim=qk_dim, v_dim=v_dim, dtype=dtype, kv_dtype=kv,
    )  # fmt: skip


LENGTH = {"prefill": "isl", "decode": "kv_len"}


def gqa_operator(listed: Sequence[Cells], phase: Phase) -> Attend:
    """Whole prompts, or one token per sequence over its cache."""
    names = ("batch_size", LENGTH[phase], "num_heads", "num_key_value_heads", "head_dim")
    batch, length, heads, kv_heads, dim = (column(listed, name) for name in names)
    return _attend("gqa", phase, batch, length, heads, kv_heads, dim, dim, listed[0]["dtype"], listed[0]["kv"])


def absorbed(
    sequences: Count, length: Count, heads: Count, kv: str, *, dtype: str = "bf16", queries: Count = 1.0
) -> Attend:
    """Latent decode of ``queries`` tokens per sequence over ``length`` cached tokens."""
    return _attend("mla", "decode", sequences, length, heads, 1, KV_LORA + ROPE, KV_LORA, dtype, kv, queries)


def unabsorbed(sequences: Count, length: Count, heads: Count, kv: str) -> Attend:
    """Latent prefill of whole prompts of ``length`` tokens."""
    return _attend("mla", "prefill", sequences, length, heads, heads, HEAD + ROPE, HEAD, "bf16", kv)


def mla_operator(listed: Sequence[Cells], phase: Phase) -> Attend:
    """Latent attention; the arithmetic is told by the cache's format."""
    make = unabsorbed if phase == "prefill" else absorbed
    sequences, length, heads = (column(listed, name) for name in ("batch_size", LENGTH[phase], "num_heads"))
    return make(sequences, length, heads, listed[0]["kv"])


def experts_operator(listed: Sequence[Cells], slots: str) -> GroupedGemm:
    """A layer's experts; the column ``slots`` counts them with their copies."""
    copies, loads = column(listed, slots), [line["distribution"] for line in listed]
    return GroupedGemm(
        tokens=column(listed, "num_tokens"),
        topk=column(listed, "topk"),
        experts=copies,
        experts_local=copies / column(listed, "moe_ep_size"),
        hidden=column(listed, "hidden_size"),
        inter=column(listed, "inter_size") / column(listed, "moe_tp_size"),
        dtype=listed[0]["dtype"],
        skew=np.array([float(load.split("_")[2]) if load.startswith("power_law") else 0.0 for load in loads]),
        balanced_ranks=listed[0]["balanced"] == "True",
        gathered=slots == "num_experts",
    )


def collective_operator(listed: Sequence[Cells]) -> Collective:
    """One operation of a library or of an engine's own kernels."""
    payload = column(listed, "message_size") * ELEMENT_BYTES
    return Collective(kind=listed[0]["kind"], payload_bytes=payload, ranks=column(listed, "num_gpus"))  # type: ignore[arg-type]


def ascend_gemm_rows() -> Measured[Gemm]:
    """Published grouped int8 products of one Ascend 910C die (CloudMatrix384 paper, Table 10), which we carry.

    The table prints the share of 752 TOPS per die; seconds follow from it, and with them the printed bandwidth (A, B
    and a bf16 result once each) comes out within 1 %. Products of a group are one launch.
    """
    listed = lines(ASCEND_GEMM)
    groups, m, n, k, share = (column(listed, name) for name in ("groups", "m", "n", "k", "utilisation_ratio"))
    return Measured(
        suite="gemm",
        system=ASCEND,
        kernel="int8",
        op=Gemm(m=m, n=n, k=k, batch=groups, dtype="int8"),
        ids=tuple(f"{ASCEND} int8 {line['id']}" for line in listed),
        measured_s=2.0 * groups * m * n * k / (share * chip_of(ASCEND).peak("int8")),
        held=np.array([line["part"] == "held-out" for line in listed]),
    )


def gemm_seconds(rows: Measured[Gemm], fit: GemmFit) -> Num:
    """Predicted seconds; the GPUs' benchmarks repeat a product, which may leave its operands in the cache."""
    return gemm(rows.op, rows.chip, fit, warm=rows.system != ASCEND).seconds


def attend_seconds(rows: Measured[Attend], fit: AttendFit | MlaFit) -> Array:
    """Predicted seconds of repeated launches."""
    if rows.op.kind == "mla":
        return np.asarray(attend_mla(rows.op, rows.chip, fit).seconds)  # type: ignore[arg-type]  # kinds agree
    return np.asarray(attend_gqa(rows.op, rows.chip, fit, resident=True).seconds)  # type: ignore[arg-type]


def experts_seconds(rows: Measured[GroupedGemm], fit: ExpertsFit) -> Array:
    """Predicted seconds of all rows."""
    return np.asarray(experts(rows.op, rows.chip, fit).seconds)


def constants_of(family: str, chip: Chip) -> Mapping[str, Any]:
    """The constants of a chip for a kernel family, by key."""
    found: Mapping[str, Any] = getattr(book_of(chip), BOOKED[family])
    return found


def mla_constants(chip: Chip, op: Attend) -> MlaFit:
    """The constants of latent attention; ``NotModelled`` where the chip has none."""
    fit: MlaFit = mla_fit_for(constants_of(f"mla_{op.phase}", chip), op.dtype, op.kv_dtype)
    return fit


def gemm_price(rows: Measured[Gemm]) -> Num:
    """Of matrix products."""
    return gemm_seconds(rows, gemm_fit_for(constants_of("gemm", rows.chip), rows.op.dtype))


def gqa_price(rows: Measured[Attend]) -> Array:
    """Of attention."""
    known = constants_of(f"attend_{rows.op.phase}", rows.chip)

    def priced(engine: str) -> Array:
        return attend_seconds(rows, attend_fit_for(known, rows.op.dtype, rows.op.kv_dtype, engine))

    return _fastest(rows, priced)


def _fastest(rows: Measured[Any], priced: Callable[[str], Array]) -> Array:
    """The fastest of the engines that a row was measured in; one that names none takes the fastest's constants."""
    unnamed = priced("")
    best = np.full(unnamed.shape, np.inf)
    for engine, its_s in rows.by_engine.items():
        best = np.where(np.isfinite(its_s), np.minimum(best, priced(engine)), best)
    return np.where(np.isfinite(best), best, unnamed)


def mla_price(rows: Measured[Attend]) -> Array:
    """Of latent attention."""
    return attend_seconds(rows, mla_constants(rows.chip, rows.op))


def experts_price(rows: Measured[GroupedGemm]) -> Array:
    """Of experts."""
    known = constants_of("experts", rows.chip)

    def priced(engine: str) -> Array:
        return np.asarray(priced_experts(rows.op, rows.chip, known, engine=engine).seconds)

    return _fastest(rows, priced)


def flavour_of(rows: Measured[Collective]) -> str:
    """Kernels of the rows as ``cost.collective`` names them."""
    return "nccl" if rows.kernel == rows.op.kind else rows.kernel


def collective_price(rows: Measured[Collective]) -> Num:
    """Of collectives; a user's chip may have ratios of its own."""
    fits: Fits = calibration.fits("collective", Line)
    plain = rows.given is None and rows.system in fabric_tables()["levels"]
    own = {} if plain else rows.chip.kernels.get("collective", {})
    ratio = own.get(rows.op.kind, {}).get("ratio", 1.0)
    return ratio * collective(rows.op, fabric_of(level(rows.system)), fits, flavour_of(rows)).seconds
