"""Hand a choice to a real engine: launch scripts and Kubernetes manifests that ask for the plan's ranks, no more.

An instance on one node is a pod of a Deployment; on several it is a group of a LeaderWorkerSet (a Kubernetes SIG
project, ``leaderworkerset.x-k8s.io/v1``), whose leader address and worker index the launch command reads.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import yaml

from taicang.hardware import Machine
from taicang.models.types import Model
from taicang.search.engines import LEADER, NODE, PORT, Launch, engine
from taicang.search.placement import Placement, place
from taicang.search.result import Choice, Pool

IMAGES: Mapping[str, str] = MappingProxyType(
    {
        "vllm": "vllm/vllm-openai:latest",
        "vllm-ascend": "vllm-ascend:latest",
        "sglang": "lmsysorg/sglang:latest",
        "trtllm": "tensorrt-llm-release:latest",
    }
)
"""Container images to start from; a site pins its own."""


def emit(choice: Choice, machine: Machine, net: Model, *, to: str, path: str) -> dict[str, str]:
    """Files by name: a launch script and a manifest per pool, and the configuration files that commands name.

    ``path`` is where the engine finds the weights. Raises ``UnknownName`` for an engine, ``NotModelled`` for a plan
    that it cannot express.
    """
    write = engine(to)
    files: dict[str, str] = {}
    for pool in choice.pools:
        where = place(pool.plan, machine)
        launch = write(pool, where, net, path)
        role = {"both": "serve"}.get(pool.role, pool.role)
        files[f"{role}.sh"] = script(pool, where, launch)
        manifest = manifests(f"{_label(net.name)}-{role}", pool, where, launch, machine, IMAGES[to])
        files[f"{role}.yaml"] = yaml.safe_dump_all(manifest, sort_keys=False, width=120)
        files |= launch.files
    return files


def script(pool: Pool, where: Placement, launch: Launch) -> str:
    """What to run on each node of one instance, for clusters without Kubernetes."""
    lines = [
        "#!/bin/sh",
        f"# Instances: {pool.instances}, each on {where.nodes} node(s) with {where.devices} device(s). Run on all",
        "# nodes with LEADER (address of the instance's first node) and NODE_RANK (0 on that node) set.",
        "set -eu",
    ]
    first = f"exec {quoted(launch.command)}"
    if launch.follower is None:
        lines.append(first)
    else:
        lines += [f'if [ "${{NODE_RANK}}" = 0 ]; then {first}; fi', f"exec {quoted(launch.follower)}"]
    return "\n".join(lines) + "\n"


def quoted(command: tuple[str, ...]) -> str:
    """A shell line; the variables of the launcher stay open."""
    return " ".join(word if LEADER in word or NODE in word else shlex.quote(word) for word in command)


def manifests(
    name: str, pool: Pool, where: Placement, launch: Launch, machine: Machine, image: str
) -> list[dict[str, Any]]:
    """Kubernetes objects of one pool: its configuration files, its workload and its service."""
    labels = {"app": name}
    found: list[dict[str, Any]] = []
    mounts: dict[str, Any] = {}
    volumes: dict[str, Any] = {}
    if launch.files:
        found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": dict(launch.files)})
        mounts = {"workingDir": "/config", "volumeMounts": [{"name": "config", "mountPath": "/config"}]}
        volumes = {"volumes": [{"name": "config", "configMap": {"name": name}}]}

    def pod(command: tuple[str, ...]) -> dict[str, Any]:
        prepare = "LEADER=${LWS_LEADER_ADDRESS:-localhost} NODE_RANK=${LWS_WORKER_INDEX:-0}; "
        container = {
            "name": "engine",
            "image": image,
            "command": ["/bin/sh", "-c", f"{prepare}exec {quoted(command)}"],
            "ports": [{"containerPort": PORT}],
            "resources": {"limits": {resource(machine): where.devices}},
            **mounts,
        }
        return {"metadata": {"labels": dict(labels)}, "spec": {"containers": [container], **volumes}}

    if where.nodes == 1:
        spec = {"replicas": pool.instances, "selector": {"matchLabels": dict(labels)}, "template": pod(launch.command)}
        found.append({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec})
    else:
        group = {
            "size": where.nodes,
            "leaderTemplate": pod(launch.command),
            "workerTemplate": pod(launch.follower or launch.command),
        }
        found.append(
            {
                "apiVersion": "leaderworkerset.x-k8s.io/v1",
                "kind": "LeaderWorkerSet",
                "metadata": {"name": name},
                "spec": {"replicas": pool.instances, "leaderWorkerTemplate": group},
            }
        )
    service = {"selector": dict(labels), "ports": [{"port": PORT, "targetPort": PORT}]}
    found.append({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": service})
    return found


def resource(machine: Machine) -> str:
    """Name under which a device plugin offers the machine's ranks."""
    vendor = machine.chip.vendor.lower()
    return {"huawei": "huawei.com/Ascend910", "amd": "amd.com/gpu"}.get(vendor, "nvidia.com/gpu")


def _label(name: str) -> str:
    """A name as Kubernetes labels allow."""
    return "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-")
