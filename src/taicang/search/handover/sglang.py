"""``sglang.launch_server``: its tensor-parallel size counts all ranks of a stage. Arguments as in SGLang 0.5.23."""

from __future__ import annotations

from taicang.search.handover.launch import (
    LEADER,
    NODE,
    RENDEZVOUS,
    Launch,
    Placed,
    all_to_all,
    overlap_without,
    refuse,
    staged_drafts,
    uncaptured,
    unknown_to_all,
)
from taicang.search.handover.vllm import spare_without_experts

UNFED = "No draft head runs over pipeline stages (SGLang's issue 39634): fewer drafts may be accepted than priced"


def sglang(placed: Placed) -> Launch:
    """Command of every node of an instance. Raises ``NotModelled`` for a plan that SGLang cannot express."""
    words = ["python3", "-m", "sglang.launch_server", "--host", "0.0.0.0", "--port", str(placed.port)]
    words += arguments(placed)
    if placed.where.nodes > 1:
        words += ["--nnodes", str(placed.where.nodes), "--node-rank", NODE]
        words += ["--dist-init-addr", f"{LEADER}:{RENDEZVOUS}"]
    return Launch(command=tuple(words), notes=(UNFED,) if placed.feeds_drafts and placed.plan.pp > 1 else ())


def arguments(placed: Placed) -> list[str]:
    """Model, layout, limits and features, without the addresses of nodes.

    Budgets of the whole server count all attention groups: SGLang divides them by the data-parallel size.
    """
    plan, exchanged = placed.plan, all_to_all(placed.plan)
    split = f"an all-to-all exchange over ep {plan.ep}; its stage of {placed.stage} ranks would be one EP group"
    mixed = split if exchanged and plan.moe_tp > 1 else ""
    reasons = [
        uncaptured(placed, "eager"),
        unknown_to_all(plan),
        mixed,
        overlap_without(plan),
        spare_without_experts(placed),
        staged_drafts(placed),
    ]
    refuse("SGLang", reasons)
    words = ["--model-path", placed.path, "--tp-size", str(placed.stage), "--pp-size", str(plan.pp)]
    words += ["--ep-size", str(plan.ep)]
    if plan.dp > 1:
        words += ["--dp-size", str(plan.dp), "--enable-dp-attention"]
    if exchanged:
        words += ["--moe-a2a-backend", "deepep", "--deepep-mode", "normal" if placed.pool.role == "prefill" else "auto"]
    if plan.redundant:
        words += ["--enable-eplb", "--ep-num-redundant-experts", str(int(plan.redundant))]
    if plan.microbatches > 1:
        words += ["--enable-two-batch-overlap"]
    words += ["--max-running-requests", str(placed.sequences * plan.dp)]
    words += ["--context-length", str(placed.longest_tokens)]
    if placed.pool.role != "decode":
        words += ["--chunked-prefill-size", str(placed.budget_tokens * plan.dp)]
    if placed.memory_ratio:
        words += ["--mem-fraction-static", str(placed.memory_ratio)]
    # what drafts on decode instances reads of a prompt is the cache that a draft head wrote where it was prefilled
    drafts = placed.drafts or (placed.feeds_drafts if plan.pp == 1 else 0)
    if drafts:
        words += ["--speculative-algorithm", "NEXTN", "--speculative-num-steps", str(drafts)]
        words += ["--speculative-eagle-topk", "1", "--speculative-num-draft-tokens", str(drafts + 1)]
    if plan.quant.kv.startswith("fp8"):
        words += ["--kv-cache-dtype", "fp8_e4m3"]
    if plan.quant.dense == "fp8" and placed.net.dtype == "bf16":
        words += ["--quantization", "fp8"]
    words += ["--disable-cuda-graph"] * (placed.graph == "eager")
    if placed.machine.chip.ascend:
        words += ["--device", "npu", "--attention-backend", "ascend"]
    if placed.pool.role != "both":
        words += ["--disaggregation-mode", placed.pool.role]
    return words
