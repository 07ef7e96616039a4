"""Setups of published rows by rule: stack of the epoch, number formats, layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from taicang import catalog
from taicang.catalog.costing import cost_model
from taicang.errors import NotModelled
from taicang.evidence.published import Published
from taicang.evidence.served import quantisation
from taicang.evidence.systems import machine_for
from taicang.models.types import Experts, Latent, Model, routed
from taicang.plans import Quantisation, ServePlan
from taicang.serve.setup import Setup
from taicang.stacks import Stack

SKEW = 1.01
"""Assumed exponent of expert popularity, as for the served rows."""
EPLB_EXPERTS = 32
"""Redundant experts that wide expert parallelism places by default (SGLang's and DeepSeek's published deployments)."""
WIDE = 32
"""Expert ranks from which a deployment counts as wide."""
DRAFT_ACCEPTANCE_RATIO = 0.85
"""Chance that DeepSeek's own draft token is accepted: 85 to 90 % for the second token (DeepSeek-V3 report)."""

STACKS: Mapping[str, str] = {
    "infersim": "sglang@0.5.1",
    "mlenergy": "vllm-stream@0.11.2",
    "mooncake_kv": "vllm@0.8.5",
    "sglang_96h100": "sglang@0.4.6",
    "sglang_gb200_p1": "sglang@0.4.6",
    "sglang_gb200_p2": "sglang@0.5.1",
    "sglang_gb300_long": "sglang@0.5.8",
    "sglang_h20": "sglang@0.5.1",
    "sglang_k2": "sglang@0.4.6",
    "splitwise": "vllm-2023",
    "trtllm_blog3": "trtllm-bench@0.20.0",
    "trtllm_new": "trtllm-bench@1.1.0",
    "trtllm_v1": "trtllm-bench@1.0.0",
    "vllm_gb300": "vllm@0.15.1",
    "vllm_wideep": "vllm@0.11.2",
}
"""Source -> the stack of its epoch."""


def stack_of(row: Published) -> Stack:
    """The stack that a row ran on; sources that are not listed are told by their first word, MLPerf by its system."""
    if row.source in STACKS:
        return catalog.stack(STACKS[row.source])
    if row.source.startswith("mlperf"):
        amd = row.chip.startswith("MI")
        return catalog.stack("vllm@0.9.0" if amd or "vllm" in row.system.lower() else "trtllm-bench@0.20.0")
    engine = row.source.split("_")[0]
    return catalog.stack({"trtllm": "trtllm-bench"}.get(engine, engine))


def formats(row: Published, net: Model, stack: Stack) -> Quantisation:
    """Formats by the row's dtype: attention may be named apart ("FP8+BF16attn"), the cache too ("+FP8KV")."""
    text = row.dtype.lower()
    engine = "trtllm" if stack.engine in ("tensorrt-llm", "trtllm-bench") else stack.engine
    gemm = ""
    if "fp4" in text and not text.startswith("mxfp4"):
        gemm = "nvfp4"
    elif "fp8" in text:
        gemm = "fp8"
    elif "bf" not in text and "fp16" not in text and "mxfp4" not in text:
        raise NotModelled(f"number format {row.dtype}")
    quant = quantisation(net, gemm, engine, row.machine, "")
    if "fp8kv" in text:
        quant = replace(quant, kv="fp8")
    if gemm == "nvfp4" and not net.name.startswith("gpt-oss"):
        quant = replace(quant, kv="fp8") if not engine.startswith("vllm") else quant
        if "fp8 attn" in text:
            quant = replace(quant, attention="fp8", kv="fp8")
    return replace(quant, attention="bf16") if "bf16attn" in text else quant


def layout(row: Published, net: Model) -> ServePlan:
    """The plan that ``par`` states; ``NotModelled`` where it leaves the layout open."""
    par = row.par
    experts = routed(net)
    if experts and row.source.startswith("trtllm"):
        # its benchmark runs every expert model with attention data parallelism (performance overview, "MoE models")
        ranks = max(int(par.get(key, 1)) for key in ("tp", "dp_attn", "ep"))
        return ServePlan(dp=ranks, ep=ranks)
    tp, ep, dp = int(par.get("tp", 1)), int(par.get("ep", 1)), int(par.get("dp", 1))
    pp = int(par.get("pp", 1)) if str(par.get("pp", 1)).isdigit() else 1
    if row.phase in ("prefill", "decode", "prefill-only") and ep > 1:
        return ServePlan(dp=ep // tp, tp=tp, ep=ep, redundant=_redundant(row, experts, ep))
    if ep > 1 and "tp" in par:  # one group of ranks that shards attention by heads and experts whole
        ranks = max(tp, ep)
        return ServePlan(tp=ranks, ep=ep, moe_tp=ranks // ep)
    if not any(key in par for key in ("tp", "ep", "pp")):
        raise NotModelled("the source does not say how the model was laid out")
    return ServePlan(tp=tp, pp=pp, dp=dp, moe_tp=tp * dp)


def _redundant(row: Published, experts: Experts | None, ep: int) -> int:
    if experts is None:
        raise NotModelled(f"expert parallelism of {row.model}, which has no experts")
    wanted = int(row.par.get("redundant_experts", EPLB_EXPERTS if ep >= WIDE and not row.balanced else 0))
    return wanted + (-(experts.experts + wanted)) % ep


def drafted(row: Published, plan: ServePlan) -> ServePlan:
    """``plan`` with the row's multi-token prediction."""
    drafts = row.par.get("mtp", 0)
    if isinstance(drafts, str):
        raise NotModelled(f"multi-token prediction of unstated depth ({drafts})")
    if not drafts:
        return plan
    depth = int(drafts)
    chance = DRAFT_ACCEPTANCE_RATIO
    if row.accepted is not None:
        low, high = 0.0, 1.0
        for _ in range(40):  # tokens_per_step grows with the chance
            chance = (low + high) / 2
            gained = sum(chance**i for i in range(depth + 1))
            low, high = (chance, high) if gained < row.accepted else (low, chance)
    return replace(plan, draft_tokens=depth, acceptance_ratio=chance)


def make(row: Published, plan: ServePlan, net: Model, stack: Stack) -> Setup:
    """The setup of a row under ``plan``."""
    machine = machine_for(row.machine, plan.ranks)
    costs = cost_model(machine, stack)
    skew = 0.0 if row.balanced else SKEW
    full = replace(plan, quant=formats(row, net, stack))
    return Setup(model=net, plan=full, machine=machine, stack=stack, price=costs.price, skew=skew)


def setups(row: Published, given: Stack | None = None) -> list[Setup]:
    """Setups that answer for a row: one, or those with and without two-batch overlap where the source is silent."""
    net, stack = row.net, given or stack_of(row)
    plan = drafted(row, layout(row, net))
    wide = row.phase in ("prefill", "decode", "prefill-only") and plan.dp > 1
    if wide:
        # such deployments bring the best known kernels (DeepGEMM, FlashMLA, DeepEP), not the engine's own
        plan, stack = replace(plan, exchange="all_to_all"), replace(stack, kernel_ratio=MappingProxyType({}))
    overlap = row.par.get("tbo", row.par.get("dbo"))
    counts = (1, 2) if wide and overlap is None else (2,) if overlap else (1,)
    return [make(row, replace(plan, microbatches=count), net, stack) for count in counts]


def latent(net: Model) -> bool:
    """Whether the model's attention is latent (MLA)."""
    return isinstance(net.blocks[0].attention, Latent)
