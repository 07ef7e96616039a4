"""What a compiler makes of a captured program: kernels over memory that follow each other become one.

Kernels of one stream are joined where they share a tensor and nothing between them needs what the first ones make. The
joined kernel reads what was made outside it once, and writes what is read outside it; what lives only inside passes
through registers. What the backward pass reads of the forward one is written: a compiler may compute it again instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from taicang.ops import Pointwise
from taicang.virtual.capture import KERNEL, WAIT_DEVICE, WAIT_EVENT, WAIT_STREAM, Capture, Rank
from taicang.virtual.operators import Kernel

APART = ("_foreach", "_fused_adam", "_fused_sgd", "_amp", "_chunk_cat", "split_with_sizes_copy", "copy_to", "index")
"""Kernels of optimizers, of sharding and of tables: compilers leave them alone, or the program calls them outside."""
READS = (WAIT_EVENT, WAIT_STREAM, WAIT_DEVICE)


@dataclass(slots=True, kw_only=True)
class _Touch:
    """Bytes of each allocation that an entry of the log reads and writes."""

    read: dict[int, int] = field(default_factory=dict)
    written: dict[int, int] = field(default_factory=dict)


def fuse(capture: Capture) -> Capture:
    """``capture`` with fewer and larger kernels; its memory is that of the program as it ran."""
    return replace(capture, ranks=tuple(_fuse(rank) for rank in capture.ranks), fused=True)


def _fuse(rank: Rank) -> Rank:
    touched: dict[int, _Touch] = {}
    readers: dict[int, list[int]] = {}
    for place, number, size in rank.operands.tolist():
        mine = touched.setdefault(place, _Touch())
        into = mine.read if size >= 0 else mine.written
        into[number] = into.get(number, 0) + abs(size)
        if size >= 0:
            readers.setdefault(number, []).append(place)
    sizes = {number: size for _, number, size, _ in rank.changes.tolist() if size > 0}
    born: dict[int, int] = {}
    for place, each in sorted(touched.items()):
        for number in each.written:
            born.setdefault(number, place)
    table = list(rank.kernels)
    ids: dict[Kernel, int] = {}
    work, gone = rank.work.copy(), np.zeros(len(rank.work), bool)
    for group in _groups(rank, touched):
        inside = set(group)
        moved = 0
        for number in {n for place in group for n in (*touched[place].read, *touched[place].written)}:
            read, written = (
                min(sum(getattr(touched[place], what).get(number, 0) for place in group), sizes.get(number, 1 << 62))
                for what in ("read", "written")
            )
            fresh = born.get(number) in inside
            moved += 0 if fresh else read
            if not fresh or any(place not in inside for place in readers.get(number, ())):
                moved += written
        made = _one([table[work[place, 2]] for place in group], moved)
        if made not in ids:
            ids[made] = len(table)
            table.append(made)
        work[group[-1], 2] = ids[made]
        gone[group[:-1]] = True
    return replace(rank, kernels=tuple(table), work=work[~gone])


class _Open:
    """Kernels that are to be one: nothing between them needs what they make, or changes what they take."""

    def __init__(self, place: int, touch: _Touch) -> None:
        self.places, self.read, self.written = [place], set(touch.read), set(touch.written)

    def meets(self, other: _Open) -> bool:
        """Whether they share a tensor."""
        return not (self.read | self.written).isdisjoint(other.read | other.written)

    def holds_up(self, touch: _Touch) -> bool:
        """Whether a kernel that touches ``touch`` must come after these."""
        return not (self.written.isdisjoint((*touch.read, *touch.written)) and self.read.isdisjoint(touch.written))

    def take(self, other: _Open) -> None:
        """The other's kernels too."""
        self.places += other.places
        self.read |= other.read
        self.written |= other.written


def _groups(rank: Rank, touched: Mapping[int, _Touch]) -> Iterator[list[int]]:
    """Places of two and more kernels of a stream that can be one."""
    able = [isinstance(each.op, Pointwise) and each.op.kind not in ("route", "sample") and each.op.launches == 1
            and not each.name.startswith(APART) for each in rank.kernels]  # fmt: skip
    streams: dict[int, list[_Open]] = {}
    passes: dict[int, str] = {}
    done: list[_Open] = []
    for place, (what, stream, value) in enumerate(rank.work.tolist()):
        if what in READS:
            done += [each for groups in streams.values() for each in groups]
            streams.clear()
            continue
        if what != KERNEL or passes.get(stream) != (part := _pass(rank.kernels[value])):
            done += streams.pop(stream, [])
        if what != KERNEL:
            continue
        passes[stream] = part
        groups, touch = streams.setdefault(stream, []), touched.get(place, _Touch())
        fresh = _Open(place, touch)
        met = [each for each in groups if (each.meets(fresh) if able[value] else each.holds_up(touch))]
        streams[stream] = [each for each in groups if each not in met]
        if able[value]:
            for each in met:
                fresh.take(each)
            streams[stream].append(fresh)
        else:
            done += met
    done += [each for groups in streams.values() for each in groups]
    return (sorted(each.places) for each in done if len(each.places) > 1)


def _pass(kernel: Kernel) -> str:
    """Graphs of a compiler: forward, backward (with what it recomputes), optimizer."""
    return "backward" if kernel.phase == "recompute" else kernel.phase


def _one(kernels: Sequence[Kernel], moved: int) -> Kernel:
    """These kernels as one that moves ``moved`` bytes."""
    ops = [each.op for each in kernels if isinstance(each.op, Pointwise)]
    names = list(dict.fromkeys(each.name.strip("_") for each in kernels))
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return Kernel(
        name=f"{'+'.join(names[:3])}{more}",
        phase=kernels[0].phase,
        op=Pointwise(
            kind=next((op.kind for op in ops if op.kind == "norm"), ops[0].kind),
            elements=max(float(op.elements) for op in ops),
            moved_bytes=float(moved),
            flop=sum(float(op.flop) for op in ops),
        ),
    )
