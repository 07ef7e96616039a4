"""Kubernetes objects for the instances of a pool, asking for the plan's devices and nodes, no more.

An instance on one node is a pod of a StatefulSet; on several it is a group of a LeaderWorkerSet (a Kubernetes SIG
project, ``leaderworkerset.x-k8s.io/v1``), or an MPIJob (Kubeflow, ``kubeflow.org/v2beta1``) for an engine that MPI
starts. All instances answer under ``{name}-http``; instance ``i`` under ``{name}-{i}.{name}`` where it is one pod, and
under a service of its own, ``{name}-{i}-http``, where it is several (those operators keep the names ``{name}`` and
``{name}-{i}`` for services of theirs).
"""

from __future__ import annotations

from typing import Any

from taicang.hardware import Machine
from taicang.search.handover.launch import Launch, Placed, quoted, shell

GROUPS = "leaderworkerset.x-k8s.io/v1"
LWS, MPI = "leaderworkerset.sigs.k8s.io", "training.kubeflow.org"
"""Prefixes of the labels that the two operators put on pods."""


def resource(machine: Machine) -> str:
    """Name under which a device plugin offers the machine's ranks."""
    vendor = machine.chip.vendor.lower()
    return {"huawei": "huawei.com/Ascend910", "amd": "amd.com/gpu"}.get(vendor, "nvidia.com/gpu")


def label(name: str) -> str:
    """A name as Kubernetes allows it."""
    return "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-")


def addresses(placed: Placed) -> list[str]:
    """Where the instances of a pool answer."""
    own = "{name}-{i}.{name}" if placed.where.nodes == 1 else "{name}-{i}-http"
    return [f"{own.format(name=placed.name, i=i)}:{placed.port}" for i in range(placed.pool.instances)]


def container(placed: Placed, launch: Launch, image: str, body: str) -> dict[str, Any]:
    """One node's share of an instance; ``body`` is what its shell runs."""
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}]
    if placed.path.startswith("/"):
        mounts += [{"name": "weights", "mountPath": placed.path}]
    if launch.files:
        mounts += [{"name": "config", "mountPath": "/config"}]
    devices = {resource(placed.machine): placed.where.devices}
    return {
        "name": "engine",
        "image": image,
        "command": ["/bin/sh", "-c", body],
        "ports": [{"containerPort": placed.port}],
        "resources": {"limits": devices},
        "volumeMounts": mounts,
        **({"workingDir": "/config"} if launch.files else {}),
    }


def pod(placed: Placed, launch: Launch, image: str, body: str) -> dict[str, Any]:
    """Template of one node's pod."""
    volumes: list[dict[str, Any]] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    if placed.path.startswith("/"):
        volumes += [{"name": "weights", "hostPath": {"path": placed.path, "type": "Directory"}}]
    if launch.files:
        volumes += [{"name": "config", "configMap": {"name": placed.name}}]
    spec = {"containers": [container(placed, launch, image, body)], "volumes": volumes}
    return {"metadata": {"labels": {"app": placed.name}}, "spec": spec}


def manifests(placed: Placed, launch: Launch, image: str) -> list[dict[str, Any]]:
    """Objects of one pool: its configuration files, its workload and its service."""
    name, labels = placed.name, {"app": placed.name}
    found: list[dict[str, Any]] = []
    if launch.files:
        found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": dict(launch.files)})
    serving, instance = dict(labels), dict[str, str]()
    if launch.mpi:
        found += [_mpi(placed, launch, image, i) for i in range(placed.pool.instances)]
        # the first rank serves, and mpirun starts it on the first worker: the launcher has no rank
        serving |= {f"{MPI}/job-role": "worker", f"{MPI}/replica-index": "0"}
        instance = {f"{MPI}/job-name": f"{name}-{{i}}"}
    elif placed.where.nodes == 1:
        template = pod(placed, launch, image, _prepared("localhost", "0", launch))
        spec = {"replicas": placed.pool.instances, "serviceName": name, "selector": {"matchLabels": labels}}
        spec |= {"podManagementPolicy": "Parallel", "template": template}
        found.append({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name}, "spec": spec})
        found.append(_service(name, labels, placed.port))
        found[-1]["spec"]["clusterIP"] = "None"
    else:
        body = _prepared("$LWS_LEADER_ADDRESS", "$LWS_WORKER_INDEX", launch)
        group = {"size": placed.where.nodes, "workerTemplate": pod(placed, launch, image, body)}
        spec = {"replicas": placed.pool.instances, "leaderWorkerTemplate": group}
        found.append({"apiVersion": GROUPS, "kind": "LeaderWorkerSet", "metadata": {"name": name}, "spec": spec})
        serving |= {f"{LWS}/worker-index": "0"}
        instance = {f"{LWS}/group-index": "{i}"}
    for i in range(placed.pool.instances if instance else 0):
        one = {key: value.format(i=i) for key, value in instance.items()}
        found.append(_service(f"{name}-{i}-http", serving | one, placed.port))
    return [*found, _service(f"{name}-http", serving, placed.port)]


def _prepared(leader: str, node: str, launch: Launch) -> str:
    return f"export LEADER={leader} NODE_RANK={node}\n{shell(launch)}"


def _service(name: str, selector: dict[str, str], port: int) -> dict[str, Any]:
    spec = {"selector": selector, "ports": [{"port": port, "targetPort": port}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def _mpi(placed: Placed, launch: Launch, image: str, instance: int) -> dict[str, Any]:
    """One instance: workers wait for the launcher, which starts a process per rank."""
    ranks, devices = placed.plan.ranks, placed.where.devices
    start = f"exec mpirun -n {ranks} --npernode {devices} {quoted(launch.command)}"
    worker = pod(placed, launch, image, "exec /usr/sbin/sshd -De")
    launcher = pod(placed, launch, image, start)
    del launcher["spec"]["containers"][0]["resources"]
    replicas = {
        "Launcher": {"replicas": 1, "template": launcher},
        "Worker": {"replicas": placed.where.nodes, "template": worker},
    }
    spec = {"slotsPerWorker": devices, "mpiReplicaSpecs": replicas}
    name = f"{placed.name}-{instance}"
    return {"apiVersion": "kubeflow.org/v2beta1", "kind": "MPIJob", "metadata": {"name": name}, "spec": spec}
