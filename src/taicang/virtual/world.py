"""``torch.distributed`` as programs start it: every backend's name means groups of virtual ranks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d

from taicang.virtual.collectives import Operators
from taicang.virtual.groups import Groups
from taicang.virtual.kernels import DEVICE, Kernels
from taicang.virtual.spec import Job

PATIENCE = timedelta(seconds=600)


def install(kernels: Kernels, job: Job) -> tuple[Any, Groups]:
    """Process groups of every name over the fake one; the library is to be kept."""
    from torch.testing._internal.distributed import fake_pg

    del fake_pg  # it registers the backend
    groups = Groups(kernels, job)
    kept = Operators(groups).install()
    first = c10d.BackendConfig.__init__

    def config(self: Any, backend: Any) -> None:
        first(self, dist.Backend.FAKE)
        self.device_backend_map = {"cpu": dist.Backend.FAKE, DEVICE: dist.Backend.FAKE}

    c10d.BackendConfig.__init__ = config
    if hasattr(c10d, "_get_default_backend_type_for_backend_config"):  # 2.14: a group is asked by its default's kind
        for name, kind in dist.Backend.backend_type_map.items():
            if kind != dist.ProcessGroup.BackendType.UNDEFINED:
                dist.Backend.backend_type_map[name] = dist.ProcessGroup.BackendType.CUSTOM
    for name in ("hccl", "lccl"):
        if name not in dist.Backend.backend_list:
            dist.Backend.register_backend(name, fake_pg_of, extended_api=True, devices=["cpu", DEVICE])
    for module in (dist, c10d):
        module.is_nccl_available = lambda: True
        module.batch_isend_irecv = batched
    c10d._coalescing_manager = _together
    start = c10d.init_process_group

    def initialise(backend: Any = None, init_method: Any = None, timeout: Any = None, world_size: int = -1,
                   rank: int = -1, store: Any = None, *args: Any, **kwargs: Any) -> None:  # fmt: skip
        groups.store = store_of(job)
        kwargs.pop("device_id", None)
        start(backend or "nccl", timeout=timeout, world_size=job.world if world_size < 1 else world_size,
              rank=job.rank if rank < 0 else rank, store=dist.HashStore(), **kwargs)  # fmt: skip

    dist.init_process_group = c10d.init_process_group = initialise
    return kept, groups


def fake_pg_of(common: Any, options: Any) -> Any:
    """PyTorch's fake process group."""
    from torch._C._distributed_c10d import FakeProcessGroup

    return FakeProcessGroup._create_internal(common.group_rank, common.group_size, options)


def store_of(job: Job) -> Any:
    """Where executed ranks meet: the first of them serves it."""
    if len(job.executed) < 2:
        return None
    return dist.TCPStore(
        "127.0.0.1",
        int(os.environ["TAICANG_PORT"]),
        None,
        job.rank == job.executed[0],
        PATIENCE,
        wait_for_workers=False,
    )


def batched(ops: Sequence[Any]) -> list[Any]:
    """Sends and receives that are issued together, one after the other: none waits for another."""
    made: list[Any] = []
    for op in sorted(ops, key=lambda each: each.op not in (dist.isend, c10d.isend)):
        peer = op.peer if op.peer is not None else op.group_peer
        made.append(op.op(op.tensor, peer, op.group, op.tag))
    return [each for each in made if each is not None]


class _together:  # noqa: N801  # it stands for a function of PyTorch
    """Collectives that are issued together, each by itself."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.works: list[Any] = []

    def wait(self) -> None:
        """For all of them."""
        for each in self.works:
            each.wait()

    def append(self, work: Any) -> None:
        """Keep a work to wait for."""
        if work is not None:
            self.works.append(work)

    def __enter__(self) -> _together:
        return self

    def __exit__(self, *_: Any) -> None:
        return None
