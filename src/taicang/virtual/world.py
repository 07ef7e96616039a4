"""``torch.distributed`` as programs start it: every backend's name means groups of virtual ranks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from inspect import signature
from multiprocessing import context
from multiprocessing.util import Finalize
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d

from taicang.virtual.collectives import Operators
from taicang.virtual.groups import Groups
from taicang.virtual.kernels import DEVICE, Kernels
from taicang.virtual.later import changed
from taicang.virtual.spec import Job, NeedsDevice

PATIENCE = timedelta(seconds=600)
STORE = dist.TCPStore
CONTEXTS: dict[str, Any] = vars(context)["_concrete_contexts"]
SERVED: list[Any] = []
"""Stores of the program: they live as long as a rank that may ask them."""
NOTES: dict[str, None] = {}
"""What the program started otherwise, told at the end of the run."""


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
    start, owner = c10d.init_process_group, os.getpid()

    def initialise(backend: Any = None, init_method: Any = None, timeout: Any = None, world_size: int = -1,
                   rank: int = -1, store: Any = None, *args: Any, **kwargs: Any) -> None:  # fmt: skip
        mine = rank if rank >= 0 else int(os.environ.get("RANK", job.rank))
        if os.getpid() != owner:
            adopted(mine, job)
        groups.store = store_of(job)
        kwargs.pop("device_id", None)
        shared = dist.HashStore() if groups.store is None else dist.PrefixStore("program", groups.store)
        start(backend or "nccl", timeout=timeout, world_size=job.world if world_size < 1 else world_size,
              rank=mine, store=shared, **kwargs)  # fmt: skip

    for name, function in (
        ("broadcast_object_list", rooted("broadcast_object_list", job)),
        ("scatter_object_list", rooted("scatter_object_list", job)),
        ("is_nccl_available", lambda: True), ("batch_isend_irecv", batched), ("_coalescing_manager", _together),
        ("init_process_group", initialise),
    ):  # fmt: skip
        replaced(name, function)
    dist.TCPStore = met_of(job)
    changed("torch.distributed._symmetric_memory", _symmetric)
    changed("torch.distributed.launcher.api", lambda module: setattr(module, "launch_agent", launched))
    torch.multiprocessing.spawn = torch.multiprocessing.start_processes = spawned
    for name in ("spawn", "forkserver"):  # a process from nothing would have no virtual device
        CONTEXTS[name] = CONTEXTS["fork"]
    return kept, groups


ENDS: list[Callable[[str], None]] = []
"""What writes down what this process did."""


def adopted(rank: int, job: Job) -> None:
    """In a process that the program started itself: the rank that runs goes on, and is written down at its end."""
    NOTES["ranks that the program starts itself: those that run do so in processes of each rank that was started"] = (
        None
    )
    if rank != job.rank:
        sys.stdout.flush()
        os._exit(0)
    Finalize(None, ENDS[0], args=("",), exitpriority=0)


def met_of(job: Job) -> type:
    """``TCPStore`` among the ranks that run: nobody waits for the others to come."""

    class Store(dist.TCPStore):
        """PyTorch's, served by the first rank that runs where the one that should does not."""

        def __init__(self, host_name: str, port: int, world_size: int | None = None, is_master: bool = False,
                     *args: Any, **kwargs: Any) -> None:  # fmt: skip
            among = world_size if world_size is None else min(world_size, len(job.executed))
            serves = is_master or (0 not in job.executed and job.rank == job.executed[0])
            super().__init__(host_name, port, among, serves, *args, **kwargs)
            SERVED.append(self)

    return Store


def rooted(name: str, job: Job) -> Any:
    """A function that sends objects of one rank to all: that one has to run."""
    real = getattr(c10d, name)
    form = signature(real)

    def share(*args: Any, **kwargs: Any) -> Any:
        given = form.bind(*args, **kwargs).arguments
        root = given.get("src") or 0
        if given.get("group_src") is not None:
            root = c10d.get_global_rank(given.get("group") or dist.group.WORLD, given["group_src"])
        if root not in job.executed:
            job.missing(root)
        return real(*args, **kwargs)

    return share


def spawned(fn: Any, args: Any = (), nprocs: int = 1, join: bool = True, *_: Any, **__: Any) -> Any:
    """``torch.multiprocessing.spawn``: ranks are processes already, so each runs its own part in itself."""
    at = int(os.environ.get("LOCAL_RANK", "0"))
    NOTES[f"torch.multiprocessing.spawn: rank {at} runs its part of {nprocs} in its own process"] = None
    if at < nprocs:
        fn(at, *args)
    return None if join else SimpleNamespace(join=lambda *_, **__: True, processes=[])


def launched(config: Any, entrypoint: Any, args: list[Any]) -> Any:
    """``torchrun`` inside a program: a function is run, a script is to be given to the command itself."""
    if callable(entrypoint):
        return {int(os.environ.get("RANK", "0")): entrypoint(*args)}
    script = next((each for each in args if str(each).endswith(".py")), "SCRIPT")
    raise NeedsDevice(f"a launcher cannot start ranks here, taicang run does: taicang run --on MACHINE {script}")


def _symmetric(module: Any) -> None:
    """Memory that other devices write into: what PyTorch composes of collectives instead, and a refusal."""
    module._is_test_mode, module.enable_symm_mem_for_group, module.empty = True, lambda *_: None, torch.empty
    module.rendezvous = module._SymmetricMemory.rendezvous = _reached


def _reached(*_: Any, **__: Any) -> Any:
    raise NeedsDevice("symmetric memory: nothing can tell what kernels of other devices do in this one's memory; "
                      "use the collectives of torch.distributed")  # fmt: skip


def replaced(name: str, function: Any) -> None:
    """A function of ``torch.distributed`` in place of PyTorch's, in every module that already took that one."""
    before = getattr(c10d, name)
    for module in list(sys.modules.values()):
        if getattr(module, "__dict__", {}).get(name) is before:
            setattr(module, name, function)


def fake_pg_of(common: Any, options: Any) -> Any:
    """PyTorch's fake process group."""
    from torch._C._distributed_c10d import FakeProcessGroup

    return FakeProcessGroup._create_internal(common.group_rank, common.group_size, options)


def store_of(job: Job) -> Any:
    """Where executed ranks meet: the first of them serves it."""
    if len(job.executed) < 2:
        return None
    return STORE(
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
