"""The operators below every method of a process group: what they deliver, and the line that they leave in the log."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from taicang.virtual import values
from taicang.virtual.capture import MEET
from taicang.virtual.groups import ABSENT, Groups, cooked, pieces, put, raw, reduced, size
from taicang.virtual.members import Members
from taicang.virtual.operators import Kernel


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
        width = int(size(given)) // max(given.shape[0], 1) if given.dim() else given.itemsize
        cuts = [each * width for each in ins] or [int(size(given)) // len(members.ranks)] * len(members.ranks)
        filled = self._sent(members, at, raw(self.kernels, given), cuts, given)
        put(self.kernels, output, filled if filled is not None and filled.numel() == output.numel() else None)
        made = self.groups.kernel("all_to_all", members, max(size(given), size(output)))
        peers = [rank for rank, cut in zip(members.ranks, cuts, strict=True) if cut]
        if len(peers) == 1 and len(members.ranks) > 2:  # one step of a ring: a message to a neighbour
            made = replace(made, op=Members.hop(size(given), abs(peers[0] - self.groups.job.rank)))
        return self.groups.issue("all_to_all", [given, output], made, [output], members.name)

    def _sent(self, members: Members, at: int, data: bytes | None, cuts: list[int], like: Tensor) -> Tensor | None:
        """This rank's parts of what all sent; each tells how many bytes it cut for whom."""
        head = torch.tensor(cuts, dtype=torch.int64).numpy().tobytes()
        sent = self.groups.swap(members, None if data is None else head + data)
        parts = []
        for rank in members.ranks:
            got = sent.get(rank, sent[self.groups.job.rank])
            if got is None:
                return None
            lengths = torch.frombuffer(bytearray(got[: len(head)]), dtype=torch.int64).tolist()
            begin = len(head) + sum(lengths[:at])
            parts.append(got[begin : begin + lengths[at]])
        return cooked(b"".join(parts), like)

    def alltoall(self, outputs: list[Tensor], inputs: list[Tensor], group: Any, *_: Any) -> Any:
        """From lists."""
        members, at = self.groups.of(group)
        found = self._sent(members, at, self._joined(inputs), [int(size(each)) for each in inputs], inputs[0])
        many = [each.numel() for each in outputs]
        parts = [None] * len(many) if found is None or found.numel() != sum(many) else found.split(many)
        for target, part in zip(outputs, parts, strict=True):
            put(self.kernels, target, part)
        made = self.groups.kernel("all_to_all", members, sum(size(t) for t in inputs))
        return outputs, self.groups.issue("all_to_all", [*inputs, *outputs], made, outputs, members.name)

    def _joined(self, tensors: list[Tensor]) -> bytes | None:
        """Their values behind each other, where all are known."""
        found = [raw(self.kernels, each) for each in tensors]
        return None if None in found else b"".join(each for each in found if each is not None)

    def broadcast(self, tensors: list[Tensor], group: Any, root: int, *_: Any) -> Any:
        """From one rank to all."""
        members, _at = self.groups.of(group)
        for tensor in tensors:
            sent = self.groups.swap(members, raw(self.kernels, tensor))
            source = members.ranks[root]
            if source not in sent:
                values.tell(ABSENT)
            data = sent.get(source, sent[self.groups.job.rank])
            put(self.kernels, tensor, None if data is None else cooked(data, tensor))
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

    def scatter(self, outputs: list[Tensor], inputs: list[list[Tensor]], group: Any, root: int, *_: Any) -> Any:
        """A part to each rank, from one."""
        members, at = self.groups.of(group)
        for i, target in enumerate(outputs):
            many = int(size(target))
            got = self.groups.swap(members, self._joined(inputs[i] if inputs else [])).get(members.ranks[root])
            put(self.kernels, target, cooked(got[at * many : (at + 1) * many], target) if got else None)
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
        self._need(other, members.ranks)
        pair = f"{mine}>{other}"
        count = self.groups.counts[pair] = self.groups.counts.get(pair, 0) + 1
        if other in self.groups.job.executed:
            self.groups.post(f"{pair}/{tag}/{count}", raw(self.kernels, tensors[0]))
        return self._pair("send", tensors, pair, abs(other - mine))

    def recv(self, tensors: list[Tensor], group: Any, source: int, tag: int, *_: Any) -> Any:
        """From one rank."""
        members, _at = self.groups.of(group)
        other, mine = members.ranks[source], self.groups.job.rank
        self._need(other, members.ranks)
        pair = f"{other}>{mine}"
        count = self.groups.counts[pair] = self.groups.counts.get(pair, 0) + 1
        found = None
        if other in self.groups.job.executed:
            data = self.groups.take(f"{pair}/{tag}/{count}")
            bytes_here = int(size(tensors[0]))  # both ends need not agree on types: bytes are sent
            found = None if data is None or len(data) < bytes_here else cooked(data[:bytes_here], tensors[0])
        put(self.kernels, tensors[0], found)
        return self._pair("recv", tensors, pair, abs(other - mine))

    def _need(self, other: int, peers: tuple[int, ...]) -> None:
        if other not in self.groups.job.executed:
            self.groups.job.missing(other, peers)

    def _pair(self, name: str, tensors: list[Tensor], pair: str, distance: int) -> Any:
        payload = sum(size(t) for t in tensors)
        made = Kernel(
            name=name, phase=self.kernels.recorder.phase(), op=Members.hop(payload, distance), group=f"{MEET}:{pair}"
        )
        return self.groups.issue(name, tensors, made, tensors, (pair, name))
