"""``vllm serve`` and its Ascend plugin: experts are split over all ranks of a stage, either whole (EP) or each (TP).

Arguments as in vLLM 0.33 (all since 0.11, docs "Data Parallel Deployment" and "Expert Parallel Deployment") and
vllm-ascend 0.23.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

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
    unknown_to_all,
)

RECOMPUTED = 2048
KV_ROLES = {"prefill": "kv_producer", "decode": "kv_consumer"}


def vllm(placed: Placed) -> Launch:
    """On GPUs. Raises ``NotModelled`` for a plan that vLLM cannot express."""
    return _launch(placed, ["vllm", "serve", placed.path, "--port", str(placed.port), *arguments(placed)])


def arguments(placed: Placed) -> list[str]:
    """Layout, limits and features of an instance, without the addresses of its nodes."""
    plan = placed.plan
    words = _layout(placed, "vLLM")
    if plan.redundant:
        words += ["--enable-eplb", "--eplb-config", json.dumps({"num_redundant_experts": int(plan.redundant)})]
    exchanged = all_to_all(plan)
    # its all-to-all kernels are those of expert parallelism: without it the backend would be named and not used
    whole = "an all-to-all exchange without expert parallelism" if exchanged and plan.ep == 1 else ""
    refuse("vLLM", [overlap_without(plan), whole])
    if exchanged:
        backend = "deepep_high_throughput" if placed.pool.role == "prefill" else "deepep_low_latency"
        words += ["--all2all-backend", backend]
    if plan.microbatches > 1:
        words += ["--enable-dbo"]
    if placed.drafts:
        words += ["--speculative-config", json.dumps({"method": "mtp", "num_speculative_tokens": placed.drafts})]
    if plan.quant.kv.startswith("fp8"):
        words += ["--kv-cache-dtype", "fp8"]
    if plan.quant.dense in ("fp8", "fp8_w8a16") and placed.net.dtype == "bf16":
        words += ["--quantization", "fp8"]
    if placed.graph in ("piecewise", "full"):
        words += _captured("PIECEWISE" if placed.graph == "piecewise" else "FULL_AND_PIECEWISE")
    return words + _handed_on(placed, "NixlConnector")


def _captured(mode: str) -> list[str]:
    return ["--compilation-config", json.dumps({"cudagraph_mode": mode})]


def ascend(placed: Placed) -> Launch:
    """On Ascend: the plugin chooses the token exchange itself and takes redundant experts as a setting of its own."""
    plan = placed.plan
    words = _layout(placed, "vllm-ascend")
    refuse("vllm-ascend", ["two microbatches that overlap (it ignores --enable-dbo)" if plan.microbatches > 1 else ""])
    env = {}
    if plan.redundant:
        eplb = {"dynamic_eplb": True, "num_redundant_experts": int(plan.redundant)}
        words += ["--additional-config", json.dumps({"eplb_config": eplb})]
        env = {"DYNAMIC_EPLB": "true"}
    if placed.drafts:
        words += ["--speculative-config", json.dumps({"method": "mtp", "num_speculative_tokens": placed.drafts})]
    if {plan.quant.attention, plan.quant.dense, plan.quant.experts} & {"int8", "w4a8"}:
        words += ["--quantization", "ascend"]
    # as priced: releases differ in what they do by themselves
    if placed.pool.role != "prefill" and placed.graph != "eager":
        words += _captured("PIECEWISE" if placed.graph == "piecewise" else "FULL_DECODE_ONLY")
    words += _handed_on(placed, "MooncakeConnectorV1")
    return _launch(placed, ["vllm", "serve", placed.path, "--port", str(placed.port), *words], env)


def _layout(placed: Placed, engine: str) -> list[str]:
    plan = placed.plan
    split = ""
    if plan.ep > 1 and plan.moe_tp > 1:
        split = f"experts as {plan.ep} x {plan.moe_tp}; it has ep {placed.stage} or tensor-parallel experts"
    refuse(engine, [unknown_to_all(plan), split, spare_without_experts(placed), staged_drafts(placed)])
    words = ["--tensor-parallel-size", str(plan.tp), "--pipeline-parallel-size", str(plan.pp)]
    if plan.dp > 1:
        words += ["--data-parallel-size", str(plan.dp)]
    words += ["--max-num-seqs", str(placed.sequences), "--max-model-len", str(placed.longest_tokens)]
    # a decode instance computes the odd prompt again whose cache got lost
    least = RECOMPUTED if placed.pool.role == "decode" else placed.sequences * (1 + placed.drafts)
    words += ["--max-num-batched-tokens", str(max(placed.budget_tokens, least))]
    if placed.pool.chunk_tokens:
        words += ["--enable-chunked-prefill"]
    if placed.memory_ratio:
        words += ["--gpu-memory-utilization", str(placed.memory_ratio)]
    if placed.graph == "eager":
        words += ["--enforce-eager"]
    return words + (["--enable-expert-parallel"] if plan.ep > 1 else [])


def spare_without_experts(placed: Placed) -> str:
    """Why redundant experts make no sense here, if they do not."""
    return "redundant experts without expert parallelism" if placed.plan.redundant and placed.plan.ep == 1 else ""


def _handed_on(placed: Placed, connector: str) -> list[str]:
    if placed.pool.role == "both":
        return []
    config = {"kv_connector": connector, "kv_role": KV_ROLES[placed.pool.role]}
    return ["--kv-transfer-config", json.dumps(config)]


def _launch(placed: Placed, command: Sequence[str], env: dict[str, str] | None = None) -> Launch:
    """The command with the addresses of the nodes: workers after the first node have no server of their own."""
    local, words, extra = placed.groups_per_node, list(command), env or {}
    if placed.where.nodes == 1:
        return Launch(command=tuple(words), env=extra)
    if placed.plan.dp > 1:
        words += ["--data-parallel-size-local", str(max(local, 1)), "--data-parallel-address", LEADER]
        words += ["--data-parallel-rpc-port", str(RENDEZVOUS)]
    if placed.plan.dp > 1 and local:
        follower = [*words, "--headless", "--data-parallel-start-rank", f"$(({NODE} * {local}))"]
    else:  # a group spans nodes
        words += ["--nnodes", str(placed.where.nodes), "--node-rank", NODE, "--master-addr", LEADER]
        follower = [*words, "--headless"]
    return Launch(command=tuple(words), follower=tuple(follower), env=extra)
