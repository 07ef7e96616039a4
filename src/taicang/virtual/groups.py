"""``torch.distributed`` without the other ranks: process groups of any size, collectives that are noted and priced.

Every backend's name (nccl, hccl, gloo, mpi) gets PyTorch's own fake process group; the operators below it are ours. A
collective runs on a stream of its group, as communicators do. What it delivers: of large tensors nothing; of small ones
whose values are known, what the executed ranks sent, and for ranks that do not run what this one has.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d as c10d

from taicang.virtual import values
from taicang.virtual.capture import BLOCK, COLLECTIVE
from taicang.virtual.kernels import DEVICE, Kernels, base, whole
from taicang.virtual.members import Members, label
from taicang.virtual.operators import Kernel
from taicang.virtual.spec import Job

KEPT = 256
"""Collectives whose ends are kept for those who wait late."""
MESSAGE = 1 << 22
"""Bytes that the store carries itself."""
ABSENT = "what ranks that did not run send (the same as this one)"
"""What is told of their values."""
LEAVE_S = 60.0
"""For the other ranks to end, at most."""


class Done(dist.Work):
    """A collective that was issued: waiting makes the current stream wait for the group's."""

    def __init__(self, kernels: Kernels, event: int | None, stream: int, results: list[Tensor]) -> None:
        super().__init__()
        self.kernels, self.event, self.stream, self.results = kernels, event, stream, results

    def wait(self, timeout: Any = None) -> bool:
        """The current stream goes on when the collective is done."""
        if self.event is not None:
            self.kernels.device.note(BLOCK, self.event)
        self.results = []  # who waited has them; they are not kept alive from here
        return True

    def synchronize(self) -> None:
        """As waiting."""
        self.wait()

    def is_completed(self) -> bool:
        """Always: the host need not wait."""
        return True

    def is_success(self) -> bool:
        """Always."""
        return True

    def result(self) -> list[Tensor]:
        """The tensors."""
        return self.results

    def get_future(self) -> Any:
        """A future that is done on the group's stream; who takes its value waits."""
        results, self.results = self.results, []
        devices = sorted({each.device for each in results if each.device.type == DEVICE}, key=str)
        future = torch.futures.Future(devices=devices)
        if self.event is None or not devices:
            future.set_result(results)
            return future
        here = torch.accelerator.current_stream(devices[0])
        torch.accelerator.set_stream(
            torch.Stream(stream_id=self.stream, device_index=here.device_index, device_type=here.device_type)
        )
        future.set_result(results)
        torch.accelerator.set_stream(here)
        return future


class Groups:
    """The collectives of one rank."""

    def __init__(self, kernels: Kernels, job: Job) -> None:
        self.kernels, self.job = kernels, job
        self.streams: dict[Any, int] = {}
        self.kept: list[Done] = []
        self.store: Any = None
        self.members: dict[str, Members] = {}
        self.counts: dict[Any, int] = {}

    def of(self, boxed: Any) -> tuple[Members, int]:
        """Ranks of a group, and this rank's place among them."""
        group = dist.ProcessGroup.unbox(boxed)
        found = self.members.get(group.group_name)
        if found is None:
            ranks = tuple(c10d.get_process_group_ranks(group))
            name = label(group.group_desc if group.group_desc != "undefined" else "", ranks, self.job.world)
            found = self.members[group.group_name] = Members(name=name, ranks=ranks)
        return found, found.ranks.index(self.job.rank) if self.job.rank in found.ranks else 0

    def issue(self, name: str, tensors: Sequence[Tensor], made: Kernel | None, results: list[Tensor], key: Any) -> Any:
        """Note a collective on its group's stream and return the work to wait for."""
        event, stream = None, 0
        if made is not None and any(each.device.type == DEVICE for each in tensors):
            device, recorder = self.kernels.device, self.kernels.recorder
            stream = self.streams.get(key) or device.new_stream()
            self.streams[key] = stream
            at = recorder.ids.get(made)
            if at is None:
                at = recorder.add(made, made)
            here = device.event_here()
            device.note_on(BLOCK, stream, here)
            recorder.carry(device.note_on(COLLECTIVE, stream, at), tensors)
            event = device.event_on(stream)
        done = Done(self.kernels, event, stream, results)
        self.kept.append(done)  # C++ holds no reference to what Python overrides
        if len(self.kept) > KEPT:
            del self.kept[: KEPT // 2]
        return done.boxed()

    def kernel(self, name: str, members: Members, payload: float) -> Kernel:
        """A collective as a line of the table."""
        return Kernel(
            name=name, phase=self.kernels.recorder.phase(), op=members.operator(name, payload), group=members.name
        )

    def swap(self, members: Members, mine: bytes | None) -> dict[int, bytes | None]:
        """What every executed rank of the group sends; this rank alone where nobody else runs."""
        others = [each for each in members.ranks if each in self.job.executed]
        if len(others) < 2:
            return {self.job.rank: mine}
        count = self.counts[members.name] = self.counts.get(members.name, 0) + 1
        place = f"{members.name}/{count}/"
        self.post(f"{place}{self.job.rank}", mine)
        return {each: self.take(f"{place}{each}") for each in others}

    def post(self, key: str, data: bytes | None) -> None:
        """Leave values for other executed ranks: in the store, or where they are many in a file that it names."""
        if data is None:
            self.store.set(key, b"0")
        elif len(data) <= MESSAGE:
            self.store.set(key, b"1" + data)
        else:
            path = Path(self.job.out, f"sent-{key.replace('/', '_').replace('>', '-')}")
            path.write_bytes(data)
            self.store.set(key, b"2" + str(path).encode())

    def take(self, key: str) -> bytes | None:
        """What another rank left; waits for it."""
        got: bytes = self.store.get(key)
        if got[:1] == b"2":
            return Path(got[1:].decode()).read_bytes()
        return got[1:] if got[:1] == b"1" else None

    def finish(self) -> None:
        """The rank that serves the store is the last to leave."""
        if self.store is None:
            return
        with contextlib.suppress(RuntimeError):
            self.store.add("left", 1)
            begun = time.monotonic()
            while self.job.rank == self.job.executed[0] and time.monotonic() - begun < LEAVE_S:
                if self.store.add("left", 0) >= len(self.job.executed):
                    break
                threading.Event().wait(0.02)


def raw(kernels: Kernels, tensor: Tensor) -> bytes | None:
    """The values of a small tensor, where they are known."""
    if tensor.device.type == DEVICE:
        if not kernels.device.known(base(tensor)) or not kernels.small(tensor):
            return None
        tensor = kernels.host(tensor)
    elif not kernels.recorder.real and tensor.numel() * tensor.itemsize > 1 << 22:
        return None
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def cooked(data: bytes, like: Tensor) -> Tensor:
    """The values again, as a tensor of the host."""
    flat = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
    return flat.view(like.dtype)


def put(kernels: Kernels, target: Tensor, found: Tensor | None) -> None:
    """Values into a tensor, or none known."""
    if target.device.type == DEVICE:
        keep = found is not None and kernels.small(target) and (whole(target) or kernels.device.known(base(target)))
        if keep and found is not None and target.numel():
            kernels.host(target).copy_(found.reshape(target.shape))
        kernels.device.know(base(target), int(keep))
    elif found is not None and target.numel():
        target.copy_(found.reshape(target.shape))


def pieces(groups: Groups, members: Members, tensor: Tensor) -> list[Tensor] | None:
    """What each rank of the group sent, flat; of ranks that do not run, what this one did. None: unknown."""
    sent = groups.swap(members, raw(groups.kernels, tensor))
    mine = sent[groups.job.rank]
    if any(each is None for each in sent.values()) or mine is None:
        return None
    if len(sent) < len(members.ranks) and len(members.ranks) > 1:
        values.tell(ABSENT)
    each = {rank: cooked(data, tensor) for rank, data in sent.items() if data is not None}
    return [each.get(rank, each[groups.job.rank]) for rank in members.ranks]


def reduced(parts: Sequence[Tensor], boxed: Any) -> Tensor:
    """The sum, or what the reduction says."""
    kinds = dist.ReduceOp.RedOpType
    op = kinds(torch.ops.taicang.reduction(boxed))
    stack = torch.stack(list(parts))
    if op == kinds.MAX:
        return stack.amax(0)
    if op == kinds.MIN:
        return stack.amin(0)
    if op == kinds.PRODUCT:
        return stack.prod(0)
    total = stack.sum(0, dtype=stack.dtype) if stack.dtype != torch.bool else stack.any(0)
    return total / len(parts) if op == kinds.AVG else total


def size(tensor: Tensor) -> float:
    """Bytes of its elements."""
    return float(tensor.numel() * tensor.itemsize)
