"""Command-line arguments of real engines for one pool. What an engine cannot express is refused, never approximated.

Names of arguments are those of the engines' own documentation: vLLM 0.11 and later (docs "Data Parallel Deployment",
"Expert Parallel Deployment"), SGLang 0.5 ("Server Arguments"), TensorRT-LLM 1.0 (``trtllm-serve``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from taicang.errors import NotModelled, UnknownName
from taicang.models.types import Model
from taicang.search.choices import routed
from taicang.search.placement import Placement
from taicang.search.result import Pool

PORT = 8000
RENDEZVOUS = 20000
LEADER, NODE = "$LEADER", "$NODE_RANK"
"""Shell variables that a launcher sets: address of the first node, index of this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What every node of an instance runs; ``follower`` replaces the arguments on nodes after the first, if it differs.

    ``files`` are configuration files that the command names.
    """

    command: tuple[str, ...]
    follower: tuple[str, ...] | None = None
    files: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def _spans(pool: Pool) -> str:
    plan = pool.plan
    if plan.sp:
        return "sequence-tensor-sequence attention"
    if plan.shared_ranks:
        return "ranks that hold only the shared expert"
    return ""


def _refuse(engine: str, what: str) -> None:
    if what:
        raise NotModelled(f"{engine} cannot express this plan: {what}")


def vllm(pool: Pool, where: Placement, _net: Model, model: str) -> Launch:
    """``vllm serve``: experts are split over all ranks of the stage, either as a whole (EP) or each (TP)."""
    plan, drafts = pool.plan, int(pool.plan.draft_tokens)
    stage = plan.tp * plan.dp
    what = _spans(pool)
    if plan.ep > 1 and plan.moe_tp > 1:
        what = f"experts as {plan.ep} x {plan.moe_tp}; it has ep {stage} or tensor-parallel experts"
    local = where.devices // (plan.tp * plan.pp)
    if plan.dp > 1 and local == 0:
        what = f"data parallelism whose groups of {plan.tp * plan.pp} ranks span nodes of {where.devices} devices"
    _refuse("vLLM", what)
    command = ["vllm", "serve", model, "--port", str(PORT)]
    command += ["--tensor-parallel-size", str(plan.tp), "--pipeline-parallel-size", str(plan.pp)]
    command += ["--max-num-seqs", str(int(pool.sequences))]
    if pool.chunk_tokens:
        command += ["--max-num-batched-tokens", str(pool.chunk_tokens), "--enable-chunked-prefill"]
    if plan.ep > 1:
        command += ["--enable-expert-parallel"]
    if plan.redundant:
        command += ["--enable-eplb", "--eplb-config", json.dumps({"num_redundant_experts": int(plan.redundant)})]
    if plan.exchange == "all_to_all" and plan.dp > 1:
        backend = "deepep_high_throughput" if pool.role == "prefill" else "deepep_low_latency"
        command += ["--all2all-backend", backend]
    if plan.microbatches > 1:
        command += ["--enable-dbo"]
    if drafts:
        command += ["--speculative-config", json.dumps({"method": "mtp", "num_speculative_tokens": drafts})]
    if pool.role != "both":
        kind = {"prefill": "kv_producer", "decode": "kv_consumer"}[pool.role]
        command += ["--kv-transfer-config", json.dumps({"kv_connector": "NixlConnector", "kv_role": kind})]
    follower = None
    if plan.dp > 1:
        command += ["--data-parallel-size", str(plan.dp)]
        if where.nodes > 1:
            shared = ["--data-parallel-size-local", str(local), "--data-parallel-address", LEADER]
            command += [*shared, "--data-parallel-rpc-port", str(RENDEZVOUS)]
            follower = [*command, "--headless", "--data-parallel-start-rank", f"$(({NODE} * {local}))"]
    elif where.nodes > 1:
        command += ["--nnodes", str(where.nodes), "--node-rank", NODE, "--master-addr", LEADER]
        follower = [*command, "--headless"]
    return Launch(command=tuple(command), follower=tuple(follower) if follower else None)


def sglang(pool: Pool, where: Placement, _net: Model, model: str) -> Launch:
    """``sglang.launch_server``: its tensor-parallel size counts all ranks of a stage."""
    plan, drafts = pool.plan, int(pool.plan.draft_tokens)
    stage = plan.tp * plan.dp
    what = _spans(pool)
    if plan.exchange == "all_to_all" and plan.moe_tp > 1 and plan.dp > 1:
        what = "an all-to-all exchange beside tensor-parallel experts"
    _refuse("SGLang", what)
    command = ["python3", "-m", "sglang.launch_server", "--model-path", model, "--host", "0.0.0.0", "--port", str(PORT)]
    command += ["--tp-size", str(stage), "--pp-size", str(plan.pp), "--ep-size", str(plan.ep)]
    if plan.dp > 1:
        command += ["--dp-size", str(plan.dp), "--enable-dp-attention"]
    if plan.exchange == "all_to_all" and plan.dp > 1:
        command += ["--moe-a2a-backend", "deepep", "--deepep-mode", "normal" if pool.role == "prefill" else "auto"]
    if plan.redundant:
        command += ["--enable-eplb", "--ep-num-redundant-experts", str(int(plan.redundant))]
    if plan.microbatches > 1:
        command += ["--enable-two-batch-overlap"]
    if pool.chunk_tokens:
        command += ["--chunked-prefill-size", str(pool.chunk_tokens)]
    command += ["--max-running-requests", str(int(pool.sequences) * plan.dp)]
    if drafts:
        command += ["--speculative-algorithm", "NEXTN", "--speculative-num-steps", str(drafts)]
        command += ["--speculative-eagle-topk", "1", "--speculative-num-draft-tokens", str(drafts + 1)]
    if pool.role != "both":
        command += ["--disaggregation-mode", pool.role]
    if where.nodes > 1:
        command += ["--nnodes", str(where.nodes), "--node-rank", NODE]
        command += ["--dist-init-addr", f"{LEADER}:{RENDEZVOUS}"]
    return Launch(command=tuple(command))


def trtllm(pool: Pool, where: Placement, net: Model, model: str) -> Launch:
    """``trtllm-serve``: attention is either tensor-parallel or data-parallel over all ranks of a stage."""
    plan, drafts = pool.plan, int(pool.plan.draft_tokens)
    stage = plan.tp * plan.dp
    what = _spans(pool)
    if plan.dp > 1 and plan.tp > 1:
        what = f"attention as {plan.dp} groups of {plan.tp} ranks; it has all tensor- or all data-parallel"
    if plan.microbatches > 1:
        what = "two microbatches that overlap"
    _refuse("TensorRT-LLM", what)
    chunked = str(bool(pool.chunk_tokens)).lower()
    lines = [f"enable_attention_dp: {str(plan.dp > 1).lower()}", f"enable_chunked_prefill: {chunked}"]
    if drafts:
        lines += ["speculative_config:", "  decoding_type: MTP", f"  num_nextn_predict_layers: {drafts}"]
    if plan.redundant and (experts := routed(net)):
        slots = experts.experts + int(plan.redundant)
        lines += ["moe_config:", "  load_balancer:", "    layer_updates_per_iter: 1", f"    num_slots: {slots}"]
    if pool.role != "both":
        lines += ["cache_transceiver_config:", "  backend: DEFAULT"]
    name = f"{pool.role}-extra.yaml"
    command = ["trtllm-serve", "serve", model, "--host", "0.0.0.0", "--port", str(PORT), "--backend", "pytorch"]
    command += ["--tp_size", str(stage), "--pp_size", str(plan.pp), "--ep_size", str(plan.ep)]
    command += ["--max_batch_size", str(int(pool.sequences))]
    if pool.chunk_tokens:
        command += ["--max_num_tokens", str(pool.chunk_tokens)]
    command += ["--extra_llm_api_options", name]
    if where.nodes > 1:
        command = ["trtllm-llmapi-launch", *command]
    return Launch(command=tuple(command), files=MappingProxyType({name: "\n".join(lines) + "\n"}))


Writer: TypeAlias = Callable[[Pool, Placement, Model, str], Launch]
"""From a pool, where an instance lies, the model and its path to what its nodes run."""

ENGINES: Mapping[str, Writer] = MappingProxyType(
    {"vllm": vllm, "vllm-ascend": vllm, "sglang": sglang, "trtllm": trtllm}
)
"""Engines that a plan can be handed to."""


def engine(name: str) -> Writer:
    """Argument writer of an engine; ``UnknownName`` suggests the nearest."""
    try:
        return ENGINES[name]
    except KeyError:
        raise UnknownName("engine", name, ENGINES, where="--emit") from None
