"""``trtllm-serve``: attention is all tensor- or all data-parallel over a stage. Arguments as in TensorRT-LLM 1.2."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import yaml

from taicang.models.types import routed
from taicang.search.handover.launch import Launch, Placed, refuse, uncaptured, unknown_to_all


def trtllm(placed: Placed) -> Launch:
    """Command and options file. Raises ``NotModelled`` for a plan that TensorRT-LLM cannot express."""
    plan, name = placed.plan, f"{placed.pool.role}-options.yaml"
    text = yaml.safe_dump(options(placed), sort_keys=False)
    words = ["trtllm-serve", "serve", placed.path, "--host", "0.0.0.0", "--port", str(placed.port)]
    words += ["--backend", "pytorch", "--tp_size", str(placed.stage), "--pp_size", str(plan.pp)]
    words += ["--ep_size", str(plan.ep), "--gpus_per_node", str(placed.where.devices), *limits(placed, "_")]
    words += ["--extra_llm_api_options", name]
    several = placed.where.nodes > 1
    if several:
        # one process per rank: the first becomes the server, the others its workers
        words = ["trtllm-llmapi-launch", *words]
    return Launch(command=tuple(words), files=MappingProxyType({name: text}), mpi=several)


def limits(placed: Placed, joint: str) -> list[str]:
    """Batch, token and length limits, in words joined by ``joint``."""
    found = {
        "max batch size": placed.sequences,
        "max num tokens": max(placed.budget_tokens, placed.sequences * (1 + placed.drafts)),
        "max seq len": placed.longest_tokens,
    }
    return [word for key, value in found.items() for word in (f"--{key.replace(' ', joint)}", str(value))]


def options(placed: Placed) -> dict[str, Any]:
    """What only the options file can say (``LlmArgs``)."""
    plan = placed.plan
    mixed = ""
    if plan.dp > 1 and plan.tp > 1:
        mixed = f"attention as {plan.dp} groups of {plan.tp} ranks; it has all tensor- or all data-parallel"
    refuse(
        "TensorRT-LLM",
        [uncaptured(placed), unknown_to_all(plan), mixed, "overlapping microbatches" if plan.microbatches > 1 else ""],
    )
    found: dict[str, Any] = {
        "enable_attention_dp": plan.dp > 1,
        "enable_chunked_prefill": bool(placed.pool.chunk_tokens),
    }
    if placed.drafts:
        found["speculative_config"] = {"decoding_type": "MTP", "num_nextn_predict_layers": placed.drafts}
    if plan.redundant and (experts := routed(placed.net)):
        slots = experts.experts + int(plan.redundant)
        found["moe_config"] = {"load_balancer": {"layer_updates_per_iter": 1, "num_slots": slots}}
    cache = {"dtype": "fp8"} if plan.quant.kv.startswith("fp8") else {}
    if kept := cache | ({"free_gpu_memory_fraction": placed.memory_ratio} if placed.memory_ratio else {}):
        found["kv_cache_config"] = kept
    if placed.pool.role != "both":
        found["cache_transceiver_config"] = {"backend": "DEFAULT"}
    return found
