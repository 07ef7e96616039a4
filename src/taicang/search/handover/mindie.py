"""MindIE: its server's ``config.json``, the rank table of an instance on several nodes, Motor's ``user_config.json``
for prefill and decode apart.

Keys as in the documentation of MindIE LLM 3.1 (serving parameters, rank table, data and expert parallelism, MTP) and of
MindIE Motor's Kubernetes scripts (``deploy_config``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

from taicang.models.types import Latent
from taicang.search.handover.launch import LEADER, Launch, Placed, refuse, uncaptured, unknown_to_all

MOST_DRAFTS = 2
GATHER, ALL_TO_ALL = 1, 2
"""Values of ``ep_level``."""


def mindie(placed: Placed) -> Launch:
    """Server, configuration and rank table. Raises ``NotModelled`` for a plan that MindIE cannot express."""
    name = f"{placed.pool.role}-config.json"
    files, notes = {name: _text(config(placed))}, list(_notes(placed))
    env = {"MIES_CONFIG_JSON_PATH": name}
    if placed.where.nodes > 1:
        table = f"{placed.pool.role}-ranktable.json"
        files[table] = _text(rank_table(placed))
        env |= {"RANK_TABLE_FILE": table, "MASTER_IP": LEADER, "MIES_CONTAINER_IP": "$(hostname -i)"}
        notes.append(f"{table}: write the addresses of the nodes and devices that you have in place of the names")
    return Launch(
        command=("mindie_llm_server",), files=MappingProxyType(files), env=MappingProxyType(env), notes=tuple(notes)
    )


def config(placed: Placed) -> dict[str, Any]:
    """``config.json``; what it leaves out keeps the server's default."""
    plan, one = placed.plan, placed.where.nodes == 1
    _refuse(placed)
    model: dict[str, Any] = {
        "modelInstanceType": "Standard",
        "modelName": placed.net.name,
        "modelWeightPath": placed.path,
        "worldSize": plan.ranks,
        "cpuMemSize": 0,
        "npuMemSize": -1,
        "backendType": "atb",
        "trustRemoteCode": False,
        "tp": plan.tp,
        "dp": plan.dp if plan.dp > 1 else -1,
    }
    if plan.ep > 1 or plan.moe_tp > 1:
        model |= {"moe_tp": plan.moe_tp, "moe_ep": plan.ep}
    if settings := _settings(placed):
        model["models"] = {"deepseekv2": settings}
    if placed.drafts:
        model["plugin_params"] = json.dumps({"plugin_type": "mtp", "num_speculative_tokens": placed.drafts})
    deploy = {
        "maxSeqLen": placed.longest_tokens,
        "maxInputTokenLen": placed.input_tokens,
        "truncation": False,
        "ModelConfig": [model],
    }
    schedule = {
        "templateType": "Mix" if placed.pool.chunk_tokens else "Standard",
        "templateName": "Standard_LLM",
        "cacheBlockSize": 128,
        "maxPrefillBatchSize": placed.sequences,
        "maxPrefillTokens": max(placed.budget_tokens, placed.input_tokens),
        "maxBatchSize": placed.sequences,
        "maxIterTimes": placed.output_tokens,
    }
    backend = {
        "backendName": "mindieservice_llm_engine",
        "modelInstanceNumber": 1,
        "npuDeviceIds": [list(range(placed.where.devices))],
        "multiNodesInferEnabled": not one,
        "ModelDeployConfig": deploy,
        "ScheduleConfig": schedule,
    }
    server = {
        "ipAddress": "0.0.0.0",
        "allowAllZeroIpListening": True,
        "port": placed.port,
        "httpsEnabled": False,
        "inferMode": "standard" if placed.pool.role == "both" else "dmi",
    }
    return {"Version": "1.0.0", "ServerConfig": server, "BackendConfig": backend}


def _refuse(placed: Placed) -> None:
    plan, latent = placed.plan, isinstance(placed.net.blocks[0].attention, Latent)
    reasons = [
        unknown_to_all(plan),
        uncaptured(placed),
        "pipeline stages" if plan.pp > 1 else "",
        "expert parallelism of models other than DeepSeek's" if plan.ep > 1 and not latent else "",
        f"{placed.drafts} drafted tokens; it drafts {MOST_DRAFTS} at most" if placed.drafts > MOST_DRAFTS else "",
        "redundant experts under a gather exchange" if plan.redundant and plan.exchange == "gather" else "",
    ]
    refuse("MindIE", reasons)


def _settings(placed: Placed) -> dict[str, Any]:
    """The part of the model's configuration that concerns experts and streams."""
    plan, found = placed.plan, dict[str, Any]()
    if plan.ep > 1:
        found["ep_level"] = GATHER if plan.exchange == "gather" else ALL_TO_ALL
    if plan.redundant:
        found["eplb"] = {"level": 1, "expert_map_file": "expert_map.json"}
    if plan.microbatches > 1:
        found["stream_options"] = {"micro_batch": True}
    return found


def _notes(placed: Placed) -> list[str]:
    spare = int(placed.plan.redundant)
    return [f"expert_map.json: a table with {spare} redundant experts, made from recorded loads"] if spare else []


def rank_table(placed: Placed) -> dict[str, Any]:
    """Every rank of one instance; names such as ``NODE_0_IP`` stand for addresses that only the cluster knows."""
    count = placed.where.devices
    servers = [
        {
            "server_id": f"NODE_{node}_IP",
            "container_ip": f"NODE_{node}_IP",
            "device": [
                {"device_id": str(i), "device_ip": f"NODE_{node}_DEVICE_{i}_IP", "rank_id": str(node * count + i)}
                for i in range(count)
            ],
        }
        for node in range(placed.where.nodes)
    ]
    return {
        "server_count": str(placed.where.nodes),
        "server_list": servers,
        "status": "completed",
        "version": "1.0",
    }


def user_config(pools: Sequence[Placed], image: str) -> str:
    """MindIE Motor's file for prefill and decode apart: instances, pods of an instance and devices of a pod."""
    deploy: dict[str, Any] = {"image_name": image, "job_id": "mindie"}
    found: dict[str, Any] = {"version": "v1.0", "deploy_config": deploy}
    for placed in pools:
        letter, where = placed.pool.role[0], placed.where
        deploy |= {
            f"{letter}_instances_num": placed.pool.instances,
            f"single_{letter}_instance_pod_num": where.nodes,
            f"{letter}_pod_npu_num": where.devices,
        }
        found[f"mindie_server_{placed.pool.role}_config"] = config(placed)
    return _text(found)


def _text(tree: dict[str, Any]) -> str:
    return json.dumps(tree, indent=2) + "\n"
