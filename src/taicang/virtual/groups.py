"""``torch.distributed`` without the other ranks: process groups of any size, collectives that are noted and priced.

Every backend's name (nccl, hccl, gloo, mpi) gets PyTorch's own fake process group; the operators below it are ours. A
collective runs on a stream of its group, as communicators do. What it delivers: of large tensors nothing; of small ones
whose values are known, what the executed ranks sent, and for ranks that do not run what this one has.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d as c10d

from taicang.virtual import values
from taicang.virtual.capture import BLOCK, COLLECTIVE, MEET
from taicang.virtual.kernels import DEVICE, Kernels, base, whole
from taicang.virtual.members import Members, label
from taicang.virtual.operators import Kernel
from taicang.virtual.spec import Job

KEPT = 256
"""Collectives whose ends are kept for those who wait late."""
PATIENCE = timedelta(seconds=600)


class Done(dist.Work):
    """A collective that was issued: waiting makes the current stream wait for the group's."""

    def __init__(self, kernels: Kernels, event: int | None, results: list[Tensor]) -> None:
        super().__init__()
        self.kernels, self.event, self.results = kernels, event, results

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
        """A future that is done; who takes its value waits."""
        results = self.results
        self.wait()
        devices = sorted({each.device for each in results if each.device.type == DEVICE}, key=str)
        future = torch.futures.Future(devices=devices)
        future.set_result(results)
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
        event = None
        if made is not None and any(each.device.type == DEVICE for each in tensors):
            device, recorder = self.kernels.device, self.kernels.recorder
            stream = self.streams.get(key)
            if stream is None:
                stream = self.streams[key] = device.new_stream()
            at = recorder.ids.get(made)
            if at is None:
                at = recorder.add(made, made)
            here = device.event_here()
            device.note_on(BLOCK, stream, here)
            device.note_on(COLLECTIVE, stream, at)
            event = device.event_on(stream)
        done = Done(self.kernels, event, results)
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
        self.store.set(f"{place}{self.job.rank}", b"1" + mine if mine is not None else b"0")
        found: dict[int, bytes | None] = {}
        for each in others:
            got = self.store.get(f"{place}{each}")
            found[each] = got[1:] if got[:1] == b"1" else None
        return found


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
        values.tell("what ranks that did not run send (the same as this one)")
    each = {rank: cooked(data, tensor) for rank, data in sent.items() if data is not None}
    return [each.get(rank, each[groups.job.rank]) for rank in members.ranks]


def reduced(parts: Sequence[Tensor], boxed: Any) -> Tensor:
    """The sum, or what the reduction says."""
    op = dist.ReduceOp.unbox(boxed).op if boxed is not None else dist.ReduceOp.RedOpType.SUM
    kinds = dist.ReduceOp.RedOpType
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


class Operators:
    """The operators below every process group's methods, by their names in the dispatcher."""

    def __init__(self, groups: Groups) -> None:
        self.groups, self.kernels = groups, groups.kernels

    def install(self) -> torch.library.Library:
        """For tensors of the device and of the host; the library is to be kept."""
        library = torch.library.Library("c10d", "IMPL")
        for name in (
            "allreduce_", "allreduce_coalesced_", "allgather_", "_allgather_base_", "allgather_into_tensor_coalesced_",
            "reduce_scatter_", "_reduce_scatter_base_", "reduce_scatter_tensor_coalesced_", "alltoall_",
            "alltoall_base_", "broadcast_", "reduce_", "gather_", "scatter_", "barrier", "send", "recv_",
        ):  # fmt: skip
            for key in ("PrivateUse1", "CPU"):
                library.impl(name, getattr(self, name.strip("_")), key, allow_override=True)
        return library

    def allreduce(self, tensors: list[Tensor], group: Any, op: Any, *_: Any) -> Any:
        """Each tensor summed over the group."""
        members, _at = self.groups.of(group)
        for tensor in tensors:
            found = pieces(self.groups, members, tensor)
            put(self.kernels, tensor, None if found is None else reduced(found, op))
        made = self.groups.kernel("all_reduce", members, sum(size(t) for t in tensors))
        return tensors, self.groups.issue("all_reduce", tensors, made, tensors, members.name)

    def allreduce_coalesced(self, tensors: list[Tensor], group: Any, op: Any, *_: Any) -> Any:
        """The same in one call."""
        return self.allreduce(tensors, group, op)[1]

    def allgather_base(self, output: Tensor, given: Tensor, group: Any, *_: Any) -> Any:
        """All inputs behind each other."""
        members, _at = self.groups.of(group)
        found = pieces(self.groups, members, given)
        put(self.kernels, output, None if found is None else torch.cat(found))
        made = self.groups.kernel("all_gather", members, size(output))
        return output, self.groups.issue("all_gather", [given, output], made, [output], members.name)

    def allgather(self, outputs: list[list[Tensor]], inputs: list[Tensor], group: Any, *_: Any) -> Any:
        """All inputs, each into a tensor of its own."""
        members, _at = self.groups.of(group)
        for row, given in zip(outputs, inputs, strict=True):
            found = pieces(self.groups, members, given)
            for i, target in enumerate(row):
                put(self.kernels, target, None if found is None else found[i][: target.numel()])
        flat = [each for row in outputs for each in row]
        made = self.groups.kernel("all_gather", members, sum(size(t) for t in flat))
        return outputs, self.groups.issue("all_gather", [*inputs, *flat], made, flat, members.name)

    def allgather_into_tensor_coalesced(self, outputs: list[Tensor], inputs: list[Tensor], group: Any, *_: Any) -> Any:
        """Several all-gathers in one call."""
        return [self.allgather_base(out, given, group) for out, given in zip(outputs, inputs, strict=True)][-1][1]

    def reduce_scatter_base(self, output: Tensor, given: Tensor, group: Any, op: Any, *_: Any) -> Any:
        """The sum of all inputs, this rank's part of it."""
        members, at = self.groups.of(group)
        found = pieces(self.groups, members, given)
        many = output.numel()
        put(self.kernels, output, None if found is None else reduced(found, op)[at * many : (at + 1) * many])
        made = self.groups.kernel("reduce_scatter", members, size(given))
        return output, self.groups.issue("reduce_scatter", [given, output], made, [output], members.name)

    def reduce_scatter(self, outputs: list[Tensor], inputs: list[list[Tensor]], group: Any, op: Any, *_: Any) -> Any:
        """The same from lists."""
        members, at = self.groups.of(group)
        for target, row in zip(outputs, inputs, strict=True):
            found = [pieces(self.groups, members, each) for each in row]
            mine = found[at]
            put(self.kernels, target, None if mine is None else reduced(mine, op))
        flat = [each for row in inputs for each in row]
        made = self.groups.kernel("reduce_scatter", members, sum(size(t) for t in flat))
        return outputs, self.groups.issue("reduce_scatter", [*outputs, *flat], made, outputs, members.name)

    def reduce_scatter_tensor_coalesced(self, outputs: Any, inputs: Any, group: Any, op: Any, *_: Any) -> Any:
        """Several in one call."""
        return [self.reduce_scatter_base(o, i, group, op) for o, i in zip(outputs, inputs, strict=True)][-1][1]

    def alltoall_base(self, output: Tensor, given: Tensor, group: Any, outs: Any, ins: Any, *_: Any) -> Any:
        """To each rank its part of the input; lengths are in rows, or equal."""
        members, at = self.groups.of(group)
        found = pieces(self.groups, members, given)
        filled = None
        if found is not None:
            filled = self._sent(found, members, at, given, list(ins))
            filled = filled if filled is not None and filled.numel() == output.numel() else None
        put(self.kernels, output, filled)
        made = self.groups.kernel("all_to_all", members, max(size(given), size(output)))
        return self.groups.issue("all_to_all", [given, output], made, [output], members.name)

    def _sent(self, found: list[Tensor], members: Members, at: int, given: Tensor, ins: list[int]) -> Tensor | None:
        """This rank's parts of what all sent, where all cut theirs as this one does."""
        ranks = len(members.ranks)
        width = given.numel() // max(given.shape[0], 1) if given.dim() else 1
        cuts = [each * width for each in ins] if ins else [given.numel() // ranks] * ranks
        begin = sum(cuts[:at])
        return torch.cat([each[begin : begin + cuts[at]] for each in found])

    def alltoall(self, outputs: list[Tensor], inputs: list[Tensor], group: Any, *_: Any) -> Any:
        """From lists."""
        members, _at = self.groups.of(group)
        for target, given in zip(outputs, inputs, strict=True):
            known = raw(self.kernels, given) if target.numel() == given.numel() else None
            put(self.kernels, target, None if known is None else cooked(known, given))
        made = self.groups.kernel("all_to_all", members, sum(size(t) for t in inputs))
        return outputs, self.groups.issue("all_to_all", [*inputs, *outputs], made, outputs, members.name)

    def broadcast(self, tensors: list[Tensor], group: Any, root: int, *_: Any) -> Any:
        """From one rank to all."""
        members, _at = self.groups.of(group)
        for tensor in tensors:
            found = pieces(self.groups, members, tensor)
            put(self.kernels, tensor, None if found is None else found[root])
        made = self.groups.kernel("broadcast", members, sum(size(t) for t in tensors))
        return tensors, self.groups.issue("broadcast", tensors, made, tensors, members.name)

    def reduce(self, tensors: list[Tensor], group: Any, op: Any, *_: Any) -> Any:
        """Summed on one rank (here on all)."""
        members, _at = self.groups.of(group)
        for tensor in tensors:
            found = pieces(self.groups, members, tensor)
            put(self.kernels, tensor, None if found is None else reduced(found, op))
        made = self.groups.kernel("reduce", members, sum(size(t) for t in tensors))
        return self.groups.issue("reduce", tensors, made, tensors, members.name)

    def gather(self, outputs: list[list[Tensor]], inputs: list[Tensor], group: Any, *_: Any) -> Any:
        """All inputs on one rank."""
        members, _at = self.groups.of(group)
        found = [pieces(self.groups, members, each) for each in inputs]
        for row, parts in zip(outputs, found, strict=False):
            for i, target in enumerate(row):
                put(self.kernels, target, None if parts is None else parts[i])
        made = self.groups.kernel("gather", members, sum(size(t) for t in inputs) * len(members.ranks))
        return self.groups.issue("gather", inputs, made, [t for row in outputs for t in row], members.name)

    def scatter(self, outputs: list[Tensor], inputs: list[list[Tensor]], group: Any, *_: Any) -> Any:
        """A part to each rank, from one."""
        members, at = self.groups.of(group)
        for target, row in zip(outputs, inputs, strict=False):
            known = raw(self.kernels, row[at])
            put(self.kernels, target, None if known is None else cooked(known, row[at]))
        made = self.groups.kernel("scatter", members, sum(size(t) for t in outputs) * len(members.ranks))
        return outputs, self.groups.issue("scatter", outputs, made, outputs, members.name)

    def barrier(self, tensor: Tensor, group: Any, *_: Any) -> Any:
        """All wait for all: an all-reduce of one number."""
        members, _at = self.groups.of(group)
        made = self.groups.kernel("barrier", members, 4.0)
        return self.groups.issue("barrier", [tensor], made, [], members.name)

    def send(self, tensors: list[Tensor], group: Any, to: int, tag: int, *_: Any) -> Any:
        """To one rank, which need not wait there."""
        members, _at = self.groups.of(group)
        other = members.ranks[to]
        mine = self.groups.job.rank
        self._need(other)
        pair = f"{mine}>{other}"
        count = self.groups.counts[pair] = self.groups.counts.get(pair, 0) + 1
        if other in self.groups.job.executed:
            data = raw(self.kernels, tensors[0])
            self.groups.store.set(f"{pair}/{tag}/{count}", b"1" + data if data is not None else b"0")
        return self._pair("send", tensors, pair, abs(other - mine))

    def recv(self, tensors: list[Tensor], group: Any, source: int, tag: int, *_: Any) -> Any:
        """From one rank."""
        members, _at = self.groups.of(group)
        other, mine = members.ranks[source], self.groups.job.rank
        self._need(other)
        pair = f"{other}>{mine}"
        count = self.groups.counts[pair] = self.groups.counts.get(pair, 0) + 1
        found = None
        if other in self.groups.job.executed:
            got = self.groups.store.get(f"{pair}/{tag}/{count}")
            found = cooked(got[1:], tensors[0]) if got[:1] == b"1" else None
        put(self.kernels, tensors[0], found)
        return self._pair("recv", tensors, pair, abs(other - mine))

    def _need(self, other: int) -> None:
        if other not in self.groups.job.executed:
            self.groups.job.missing(other)

    def _pair(self, name: str, tensors: list[Tensor], pair: str, distance: int) -> Any:
        payload = sum(size(t) for t in tensors)
        made = Kernel(
            name=name, phase=self.kernels.recorder.phase(), op=Members.hop(payload, distance), group=f"{MEET}:{pair}"
        )
        return self.groups.issue(name, tensors, made, tensors, (pair, name))


def install(kernels: Kernels, job: Job) -> list[Any]:
    """Process groups of every name over the fake one; what is returned is to be kept."""
    from torch.testing._internal.distributed import fake_pg

    del fake_pg  # it registers the backend
    groups = Groups(kernels, job)
    kept = Operators(groups).install()
    first = c10d.BackendConfig.__init__

    def config(self: Any, backend: Any) -> None:
        first(self, dist.Backend.FAKE)
        self.device_backend_map = {"cpu": dist.Backend.FAKE, DEVICE: dist.Backend.FAKE}

    c10d.BackendConfig.__init__ = config
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
    return [kept, groups]


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
