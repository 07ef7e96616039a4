"""NVIDIA Dynamo: a ``DynamoGraphDeployment`` (``nvidia.com/v1beta1``, as of Dynamo 1.6.1) over one of its engines.

The operator adds the addresses of nodes to the command of a component that spans several (``multinode.nodeCount``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import yaml

from taicang.errors import NotModelled
from taicang.search.handover.kubernetes import label, resource
from taicang.search.handover.launch import Placed, role_name
from taicang.search.handover.launch import refuse as refused
from taicang.search.handover.sglang import arguments as sglang_arguments
from taicang.search.handover.trtllm import limits, options
from taicang.search.handover.vllm import arguments as vllm_arguments

VERSION = "1.6.1"
REGISTRY = "nvcr.io/nvidia/ai-dynamo"
KINDS = {"both": "worker", "prefill": "prefill", "decode": "decode"}


def graph(pools: Sequence[Placed], stack: str) -> str:
    """The deployment of a choice on the engine of its ``stack``; raises ``NotModelled`` as the engine's writer does."""
    engine = engine_of(stack)
    name = label(pools[0].net.name)
    front = {"name": "main", "image": image(engine)}
    components: list[dict[str, Any]] = [
        {"name": "Frontend", "type": "frontend", "replicas": 1, "podTemplate": {"spec": {"containers": [front]}}}
    ]
    components += [component(placed, engine) for placed in pools]
    tree = {
        "apiVersion": "nvidia.com/v1beta1",
        "kind": "DynamoGraphDeployment",
        "metadata": {"name": name},
        "spec": {"backendFramework": engine, "components": components},
    }
    return yaml.safe_dump(tree, sort_keys=False, width=120)


def engine_of(stack: str) -> str:
    """Dynamo's engine for a software stack."""
    for engine, words in {"sglang": ("sglang",), "trtllm": ("trtllm", "tensorrt-llm"), "vllm": ("vllm",)}.items():
        if stack.startswith(words):
            return engine
    raise NotModelled(f"Dynamo has no engine for the stack {stack}; it has vllm, sglang and trtllm")


def image(engine: str) -> str:
    """What containers of ``engine`` start from: Dynamo's own, with a release of the engine that it chose."""
    return f"{REGISTRY}/{'tensorrtllm' if engine == 'trtllm' else engine}-runtime:{VERSION}"


def component(placed: Placed, engine: str) -> dict[str, Any]:
    """One pool of the graph; raises ``NotModelled`` as the engine's writer does."""
    _spread(placed, engine)
    command = ["python3", "-m", f"dynamo.{engine}"]
    words = ARGUMENTS[engine](placed)
    devices = {resource(placed.machine): str(placed.where.devices)}
    main: dict[str, Any] = {
        "name": "main",
        "image": image(engine),
        "command": command,
        "args": words,
        "resources": {"limits": devices},
    }
    found: dict[str, Any] = {
        "name": role_name(placed.pool.role),
        "type": KINDS[placed.pool.role],
        "replicas": placed.pool.instances,
        "podTemplate": {"spec": {"containers": [main]}},
    }
    if placed.where.nodes > 1:
        found["multinode"] = {"nodeCount": placed.where.nodes}
    return found


def _spread(placed: Placed, engine: str) -> None:
    """vLLM's operator spreads either attention groups over nodes or one group, not both."""
    both = placed.where.nodes > 1 and placed.plan.dp > 1 and placed.groups_per_node == 0
    refused("Dynamo", ["several attention groups that each span nodes" if both and engine == "vllm" else ""])


def _vllm(placed: Placed) -> list[str]:
    mode = [] if placed.pool.role == "both" else ["--disaggregation-mode", placed.pool.role]
    return ["--model", placed.path, *vllm_arguments(placed), *mode]


def _sglang(placed: Placed) -> list[str]:
    moved = [] if placed.pool.role == "both" else ["--disaggregation-transfer-backend", "nixl"]
    return [*sglang_arguments(placed), *moved]


def _trtllm(placed: Placed) -> list[str]:
    plan, extra = placed.plan, options(placed)
    words = ["--model-path", placed.path, "--tensor-parallel-size", str(placed.stage)]
    words += ["--pipeline-parallel-size", str(plan.pp), "--expert-parallel-size", str(plan.ep)]
    words += ["--gpus-per-node", str(placed.where.devices), *limits(placed, "-")]
    words += ["--enable-attention-dp"] if extra.pop("enable_attention_dp") else []
    words += ["--override-engine-args", json.dumps(extra)]
    return words + ([] if placed.pool.role == "both" else ["--disaggregation-mode", placed.pool.role])


ARGUMENTS: Mapping[str, Callable[[Placed], list[str]]] = MappingProxyType(
    {"vllm": _vllm, "sglang": _sglang, "trtllm": _trtllm}
)
