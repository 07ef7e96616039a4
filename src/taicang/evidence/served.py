"""Rows of served end-to-end measurements as setups and loads.

One row is one served model under a closed loop of clients. Two conventions of the sources are undone here: rows with
attention data parallelism state dp = tp x ep of their launcher, so the number of GPUs is the larger of the expert
degrees; rows that describe several replicas state the batch of one.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from taicang.catalog.models import model
from taicang.models.types import Experts, Latent, Model
from taicang.plans import Quantisation, ServePlan

SYSTEMS = {"b200_sxm": "hgx-b200", "h100_sxm": "hgx-h100", "h200_sxm": "hgx-h200", "gb200": "gb200-nvl72"}
ENGINES = {"trtllm": "tensorrt-llm", "vllm": "vllm", "sglang": "sglang"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """Layout of the instances of one phase."""

    plan: ServePlan
    instances: int
    batch: float
    """Sequences of one attention group as the source states it (0: not stated)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured row in the words of this package."""

    id: str
    model: str
    net: Model
    machine: str
    engine: str
    version: str
    measured_on: str
    """Date of the measurement, year-month-day."""
    disaggregated: bool
    input_tokens: int
    output_tokens: int
    concurrency: float
    prefill: Role | None
    decode: Role
    """The only role of an aggregated row."""
    ttft_s: float
    tpot_s: float

    @property
    def key(self) -> tuple[object, ...]:
        """What the evidence split hashes: the configuration but its concurrency, so that curves are held out whole."""
        plan = self.decode.plan
        return (self.model, self.machine, self.engine, self.version, self.disaggregated, plan.tp, plan.dp, plan.ep,
                self.input_tokens, self.output_tokens)  # fmt: skip


def number(row: dict[str, str], key: str, default: float = 0.0) -> float:
    """A numeric cell, or ``default`` where it is empty."""
    cell = row.get(key, "")
    return float(cell) if cell not in ("", "nan") else default


def layout(tp: float, dp: float, moe_tp: float, moe_ep: float, routed: bool) -> tuple[int, int, int, int]:
    """(tp, dp, moe_tp, ep) of the instance that ran, from the degrees that the source states."""
    tp_, dp_, moe_tp_, ep_ = (max(int(v), 1) for v in (tp, dp, moe_tp, moe_ep))
    if dp_ > 1:
        # attention-DP launchers state tp x ep as dp and tp x dp as ep; a node has at most eight GPUs, so larger
        # products name the same GPUs twice
        ranks = max(moe_tp_, ep_) if dp_ == moe_tp_ * ep_ and moe_tp_ == ep_ else dp_
        ep_ = ranks if ep_ > 1 or moe_tp_ == 1 else 1
        return 1, ranks, ranks // ep_, ep_
    if not routed:
        return tp_, 1, tp_, 1
    if moe_tp_ * ep_ > tp_:  # attention replicated over the expert ranks
        return tp_, moe_tp_ * ep_ // tp_, moe_tp_, ep_
    return tp_, 1, tp_ // ep_, ep_


def quantisation(net: Model, gemm: str, engine: str, machine: str, precision: str) -> Quantisation:
    """Formats of the checkpoint that the row served, per tensor class."""
    name = net.name
    if name.startswith("gpt-oss"):
        form = "mxfp4_w4a8" if machine in ("hgx-b200", "gb200-nvl72") else "mxfp4_w4a16"
        return Quantisation(experts=form, kv="fp8" if engine == "trtllm" else "bf16")
    block = net.dtype == "fp8_block" or gemm == "fp8_block"
    kv = "fp8" if engine == "trtllm" and gemm else "bf16"
    if gemm == "nvfp4":
        latent = isinstance(net.blocks[0].attention, Latent)
        # DeepSeek checkpoints in nvfp4 keep the attention projections in bf16
        return Quantisation(
            attention="bf16" if latent else "nvfp4", dense="nvfp4", experts="nvfp4", kv="fp8", dispatch="nvfp4"
        )
    if gemm in ("fp8", "fp8_block"):
        form = "fp8_block" if block else "fp8"
        return Quantisation(attention=form, dense=form, experts=form, kv=kv, dispatch="fp8")
    return Quantisation() if precision != "fp8" else Quantisation(attention="fp8", dense="fp8", experts="fp8", kv=kv)


def _role(row: dict[str, str], prefix: str, net: Model, instances: int) -> Role:
    routed = any(isinstance(block.ffn, Experts) for block in net.blocks)
    tp, dp, moe_tp, ep = layout(
        number(row, f"{prefix}tp_size", 1.0),
        number(row, f"{prefix}attention_dp_size"),
        number(row, f"{prefix}moe_tp_size"),
        number(row, f"{prefix}moe_ep_size"),
        routed,
    )
    if not routed:
        moe_tp, ep = tp * dp, 1
    machine = SYSTEMS[row["system"]]
    quant = quantisation(net, row["gemm_quant_mode"], row["backend"], machine, row["precision"])
    plan = ServePlan(tp=tp, dp=dp, pp=max(1, int(number(row, "pp_size", 1.0))), ep=ep, moe_tp=moe_tp, quant=quant)
    return Role(plan=plan, instances=instances, batch=number(row, f"{prefix}batch_size"))


def read(path: Path) -> list[Row]:
    """Rows of the file, with the models that it names imported."""
    with path.open(newline="", encoding="utf-8") as handle:
        return [_row(cells, model(cells["model_path"])) for cells in csv.DictReader(handle)]


def _row(cells: dict[str, str], net: Model) -> Row:
    split = cells["mode"] == "disagg"
    prefill = None
    if split:
        prefill = _role(cells, "prefill_", net, max(1, int(number(cells, "prefill_num_workers", 1.0))))
        decode = _role(cells, "decode_", net, max(1, int(number(cells, "decode_num_workers", 1.0))))
        concurrency = number(cells, "concurrency", decode.batch * decode.plan.dp * decode.instances)
    else:
        decode = _role(cells, "", net, 1)
        stated = number(cells, "concurrency")
        # one replica's share: sources that ran several replicas behind one client pool state the batch of one
        concurrency = stated if decode.plan.dp > 1 and stated else decode.batch or stated
    return Row(
        id=cells["id"],
        model=net.name,
        net=net,
        machine=SYSTEMS[cells["system"]],
        engine=ENGINES[cells["backend"]],
        version=cells["backend_version"],
        measured_on=cells["measured"],
        disaggregated=split,
        input_tokens=int(float(cells["isl"])),
        output_tokens=int(float(cells["osl"])),
        concurrency=concurrency,
        prefill=prefill,
        decode=decode,
        ttft_s=number(cells, "silicon_ttft_ms") / 1e3,
        tpot_s=number(cells, "silicon_tpot_ms") / 1e3,
    )
