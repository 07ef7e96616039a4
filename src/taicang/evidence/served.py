"""Rows of served end-to-end measurements as setups and loads.

One row is one served model under a closed loop of clients. Conventions of the sources that are undone here:

* Rows with attention data parallelism state dp = tp x ep of their launcher, so the number of GPUs is the larger of the
  expert degrees. Decode instances of SGLang that span nodes state no expert parallelism although their expert library
  (DeepEP) turns all ranks into expert ranks; those inside a node without expert parallelism run attention tensor
  parallel, as the same launcher states from its next version on.
* Rows that describe several replicas state the batch of one.
* The public source files DeepSeek under two names: DeepSeek-V3 for plain decoding, DeepSeek-R1 for runs with the
  model's own draft layer (public launch scripts since December 2025: three drafted tokens, one under attention data
  parallelism; SGLang two). Its Qwen3.5 runs in fp8 on B200 with four GPUs and no expert parallelism draft three tokens.
* One set (vLLM on H200 of the other source) states the median time between tokens, which steps without prompts decide:
  its TPOT does not depend on the answer's length, and prefilling everybody's prompts within the stated turns would take
  more than the chip's peak.
* The public source draws lengths evenly between 80 % and 100 % of the stated ones, so the means are 90 % of them.
* The other source's rows of Qwen3.5 are runs of the public one, with its figures rounded (33 of 38 are among both).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from taicang.catalog.models import model
from taicang.evidence.launches import CACHE
from taicang.evidence.systems import MACHINES
from taicang.evidence.tables import lines
from taicang.models.types import Latent, Model, routed
from taicang.plans import Quantisation, ServePlan
from taicang.units import Count

PUBLIC = "inferencex"
"""The source whose launch scripts are public."""
MEAN_LENGTH_RATIO = 0.9
"""Mean over stated length of that source's prompts and answers."""
DRAFTS_SINCE = "2025-12"
"""First month of that source's launch scripts with draft tokens."""
WIDE = 8
"""Ranks of attention data parallelism beyond which tokens travel to their experts (a node; wide expert parallelism)."""
ENGINES = {"trtllm": "tensorrt-llm", "vllm": "vllm", "sglang": "sglang"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """Layout of the instances of one phase."""

    plan: ServePlan
    instances: int
    batch: int
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
    """As stated."""
    output_tokens: int
    length_ratio: float
    """Mean over stated length of prompts and answers."""
    median_gap: bool
    """Whether the stated TPOT is the median time between tokens."""
    concurrency: Count
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


def public(cells: dict[str, str]) -> bool:
    """Whether the source with public launch scripts measured a row."""
    return cells["source"] == PUBLIC or "Qwen3.5" in cells["model_path"]


def number(row: dict[str, str], key: str, default: float = 0.0) -> float:
    """A numeric cell, or ``default`` where it is empty."""
    cell = row.get(key, "")
    return float(cell) if cell not in ("", "nan") else default


def layout(tp: float, dp: float, moe_tp: float, moe_ep: float, experts: bool) -> tuple[int, int, int, int]:
    """(tp, dp, moe_tp, ep) of the instance that ran, from the degrees that the source states."""
    tp_, dp_, moe_tp_, ep_ = (max(int(v), 1) for v in (tp, dp, moe_tp, moe_ep))
    if dp_ > 1:
        # attention-DP launchers state tp x ep as dp and tp x dp as ep; a node has at most eight GPUs, so larger
        # products name the same GPUs twice
        ranks = max(moe_tp_, ep_) if dp_ == moe_tp_ * ep_ and moe_tp_ == ep_ else dp_
        ep_ = ranks if ep_ > 1 or moe_tp_ == 1 else 1
        return 1, ranks, ranks // ep_, ep_
    if not experts:
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


def drafts(cells: dict[str, str], engine: str, dp: int, ep: int) -> int:
    """Tokens drafted per step: which runs speculate is told by the model's name and layout (see above)."""
    if cells["model_path"].endswith("DeepSeek-R1") and cells["source"] == PUBLIC and cells["measured"] >= DRAFTS_SINCE:
        return 2 if engine == "sglang" else 3 if dp == 1 else 1
    four = engine == "sglang" and cells["system"] == "b200_sxm" and number(cells, "tp_size") == 4
    return 3 if four and ep == 1 and "Qwen3.5" in cells["model_path"] and cells["precision"] == "fp8" else 0


def _role(row: dict[str, str], prefix: str, net: Model, instances: int) -> Role:
    experts = routed(net) is not None
    tp, dp, moe_tp, ep = layout(
        number(row, f"{prefix}tp_size", 1.0),
        number(row, f"{prefix}attention_dp_size"),
        number(row, f"{prefix}moe_tp_size"),
        number(row, f"{prefix}moe_ep_size"),
        experts,
    )
    if not experts:
        moe_tp, ep = tp * dp, 1
    if experts and prefix == "decode_" and row["backend"] == "sglang" and 1 < dp <= WIDE and ep == 1:
        tp, dp = tp * dp, 1
    wide = experts and dp > WIDE
    if wide and row["backend"] == "sglang":
        moe_tp, ep = 1, tp * dp
    machine = MACHINES[row["system"]]
    quant = quantisation(net, row["gemm_quant_mode"], row["backend"], machine, row["precision"])
    if public(row) and not prefix:
        quant = replace(quant, kv=CACHE.get((ENGINES[row["backend"]], net.name, machine), quant.kv))
    plan = ServePlan(
        tp=tp,
        dp=dp,
        pp=max(1, int(number(row, "pp_size", 1.0))),
        ep=ep,
        moe_tp=moe_tp,
        draft_tokens=drafts(row, row["backend"], dp, ep) if prefix != "prefill_" else 0,
        exchange="all_to_all" if wide else "auto",
        quant=quant,
    )
    return Role(plan=plan, instances=instances, batch=int(number(row, f"{prefix}batch_size")))


def read(path: Path) -> list[Row]:
    """Rows of the file, with the models that it names imported."""
    return [_row(cells, model(cells["model_path"])) for cells in lines(path)]


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
        machine=MACHINES[cells["system"]],
        engine=ENGINES[cells["backend"]],
        version=cells["backend_version"],
        measured_on=cells["measured"],
        disaggregated=split,
        input_tokens=int(float(cells["isl"])),
        output_tokens=int(float(cells["osl"])),
        length_ratio=MEAN_LENGTH_RATIO if public(cells) else 1.0,
        median_gap=(cells["source"], cells["backend"], cells["system"]) == ("nvidia-internal", "vllm", "h200_sxm"),
        concurrency=concurrency,
        prefill=prefill,
        decode=decode,
        ttft_s=number(cells, "silicon_ttft_ms") / 1e3,
        tpot_s=number(cells, "silicon_tpot_ms") / 1e3,
    )
