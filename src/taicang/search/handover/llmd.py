"""llm-d: values of its ``llm-d-modelservice`` Helm chart (0.4), which runs vLLM as Deployments or LeaderWorkerSets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import yaml

from taicang.search.handover.kubernetes import label, resource
from taicang.search.handover.launch import Placed, shell
from taicang.search.handover.vllm import vllm

BEHIND_PROXY = 8200
"""Port of a decode server behind the chart's routing sidecar."""
CACHE = "/model-cache"
"""Where the chart mounts weights of a volume claim."""


def values(pools: Sequence[Placed], image: str) -> str:
    """``values.yaml`` of a choice, whose containers start from ``image``; raises ``NotModelled`` as vLLM's writer does.

    The chart has one serving role, "decode", beside "prefill": an aggregated choice is a decode pool alone.
    """
    first, apart = pools[0], len(pools) > 1
    local = first.path.startswith("/")
    several = any(placed.where.nodes > 1 for placed in pools)
    tree: dict[str, Any] = {
        "fullnameOverride": label(first.net.name),
        "multinode": several,
        "modelArtifacts": {
            "name": first.net.name,
            "uri": f"pvc://weights{first.path}" if local else f"hf://{first.path}",
            "labels": {"llm-d.ai/inferenceServing": "true", "llm-d.ai/model": label(first.net.name)},
            "mountPath": CACHE,
        },
        "accelerator": {"type": "amd" if first.machine.chip.vendor.lower() == "amd" else "nvidia"},
        "routing": {"servicePort": first.port, "proxy": {"enabled": apart, "targetPort": BEHIND_PROXY}},
        "prefill": {"create": False, "replicas": 0},
    }
    for placed in pools:
        role = "prefill" if placed.pool.role == "prefill" else "decode"
        port = BEHIND_PROXY if apart and role == "decode" else placed.port
        path = f"{CACHE}{placed.path}" if local else placed.path
        tree[role] = component(replace(placed, port=port, path=path), image)
    return yaml.safe_dump(tree, sort_keys=False, width=120)


def component(placed: Placed, image: str) -> dict[str, Any]:
    """One role of the chart; raises ``NotModelled`` as vLLM's writer does."""
    plan, where = placed.plan, placed.where
    names = "export LEADER=${LWS_LEADER_ADDRESS:-localhost} NODE_RANK=${LWS_WORKER_INDEX:-0}"
    engine = {
        "name": "vllm",
        "image": image,
        "modelCommand": "custom",
        "command": ["/bin/sh", "-c"],
        "args": [f"{names}\n{shell(vllm(placed))}"],
        "ports": [{"containerPort": placed.port, "name": "metrics"}],
        # stated, for the chart's own sum (tensor x local data) leaves out pipeline stages
        "resources": {kind: {resource(placed.machine): where.devices} for kind in ("limits", "requests")},
        "mountModelVolume": True,
    }
    parallelism = {
        "tensor": plan.tp,
        "data": plan.dp,
        "dataLocal": max(placed.groups_per_node, 1),
        "workers": where.nodes,
    }
    return {
        "create": True,
        "replicas": placed.pool.instances,
        "parallelism": parallelism,
        "containers": [engine],
        "volumes": [],
    }
