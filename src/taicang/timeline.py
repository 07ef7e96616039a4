"""Spend a program's costs on streams: one after the other, or two microbatches side by side.

``sequential``: every operator waits for the one before. ``two_streams``: the layer's attention and expert parts run on
their own shares of the cores (CloudMatrix-Infer's decode); while one microbatch is in one part, the other is in the
other, so a layer takes twice the longer part. ``hidden_network``: two microbatches alternate between computing and
communicating, so a layer takes the longer of all computing and all communicating (two-batch overlap).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import compress
from operator import not_

import numpy as np

from taicang.cost.cost import Cost
from taicang.formats import number_format
from taicang.hardware import Chip
from taicang.lower.program import Part, Program, Stream, some
from taicang.ops import Attend, Collective, Gemm, GroupedGemm, Operator
from taicang.stacks import Stack
from taicang.units import Count, Num

Pricer = Callable[[Operator, Stream], Cost]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One line of the waterfall: all runs of one operator in the step."""

    label: str
    part: Part
    stream: Stream
    block: int
    repeat: Count
    cost: Cost
    op: Operator | None = field(default=None, repr=False, compare=False, metadata={"plain": False})
    """What ran, for traces; None where nothing does."""

    @property
    def seconds(self) -> Num:
        """Busy time of all runs."""
        return self.cost.seconds * self.repeat


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """A priced step: ``seconds`` elapse, the slices sum to ``busy_s``, ``hidden_s`` is the difference."""

    slices: tuple[Slice, ...]
    seconds: Num
    busy_s: Num
    schedule: str
    launches_s: Num = 0.0
    """What the host's launches alone take: no step is shorter."""
    launch_wait_s: Num = 0.0
    """Of ``seconds``, those in which the device waits for them."""

    @property
    def hidden_s(self) -> Num:
        """Busy time that overlap hides."""
        return self.busy_s - self.seconds

    @property
    def computing_s(self) -> Num:
        """Busy seconds that arithmetic alone would take (tiles that are padded included)."""
        seconds: Num = 0.0
        for piece in self.slices:
            seconds = seconds + np.minimum(piece.cost.compute_s, piece.cost.seconds) * piece.repeat
        return seconds

    def of_part(self, part: Part) -> Num:
        """Busy seconds of one part of the model."""
        return total(tuple(piece for piece in self.slices if piece.part == part))

    def by_part(self) -> Mapping[Part, Num]:
        """Busy seconds of each part of the model that takes any."""
        total: dict[Part, Num] = {}
        for piece in self.slices:
            if some(piece.cost.seconds):
                total[piece.part] = total.get(piece.part, 0.0) + piece.seconds
        return total

    def by_resource(self) -> Mapping[str, Num]:
        """Seconds attributed to the resources, each slice's time in proportion to what its resources need alone."""
        total: dict[str, Num] = {"compute": 0.0, "memory": 0.0, "network": 0.0, "latency": 0.0}
        for piece in self.slices:
            cost = piece.cost
            needs = cost.compute_s + cost.memory_s + cost.network_s + cost.latency_s
            scale = piece.seconds / np.maximum(needs, 1e-30)
            for name, need in (
                ("compute", cost.compute_s),
                ("memory", cost.memory_s),
                ("network", cost.network_s),
                ("latency", cost.latency_s),
            ):
                total[name] = total[name] + need * scale
        return total


def price(program: Program, pricer: Pricer) -> tuple[Slice, ...]:
    """Price every task of ``program``."""
    return tuple(
        Slice(
            label=task.label,
            part=task.part,
            stream=task.stream,
            block=task.block,
            repeat=task.repeat,
            cost=pricer(task.op, task.stream),
            op=task.op,
        )
        for task in program
    )


def total(slices: tuple[Slice, ...]) -> Num:
    """Sum of the slices' seconds, in their order (so that arrays and floats round alike)."""
    seconds: Num = 0.0
    for piece in slices:
        seconds = seconds + piece.seconds
    return seconds


def sequential(program: Program, pricer: Pricer) -> Timeline:
    """Every operator after the one before."""
    slices = price(program, pricer)
    busy = total(slices)
    return Timeline(slices=slices, seconds=busy, busy_s=busy, schedule="sequential")


def behind_products(program: Program, slices: tuple[Slice, ...]) -> Num:
    """Seconds that all-reduces take which run tile by tile beside the products whose outputs they sum."""
    hidden: Num = 0.0
    for i in range(1, len(slices)):
        before, op = program.tasks[i - 1].op, program.tasks[i].op
        if isinstance(op, Collective) and op.kind == "all_reduce" and isinstance(before, Gemm):
            hidden = hidden + np.minimum(slices[i - 1].seconds, slices[i].seconds)
    return hidden


def _split(program: Program, inside: bool) -> Program:
    tasks = tuple(task for task in program if (task.stream != "outside") == inside)
    return Program(tasks=tasks, layers=program.layers)


def _doubled(slices: tuple[Slice, ...]) -> tuple[Slice, ...]:
    return tuple(replace(piece, repeat=2 * piece.repeat) for piece in slices)


def two_streams(half: Program, whole: Program, pricer: Pricer) -> Timeline:
    """Attention and expert parts side by side; ``half`` is one microbatch's program, ``whole`` the full batch's."""
    once = price(_split(half, inside=True), pricer)
    outside = price(_split(whole, inside=False), pricer)
    seconds = total(outside)
    fill: Num = 0.0
    for block in sorted({piece.block for piece in once}):
        mine = tuple(piece for piece in once if piece.block == block)
        first = total(tuple(piece for piece in mine if piece.stream == "attention"))
        second = total(tuple(piece for piece in mine if piece.stream == "experts"))
        seconds = seconds + 2 * np.maximum(first, second)
        fill = np.maximum(fill, np.minimum(first, second) / np.maximum(_layers(mine), 1.0))
    slices = _doubled(once) + outside
    return Timeline(slices=slices, seconds=seconds + fill, busy_s=total(slices), schedule="two streams")


def hidden_network(half: Program, whole: Program, pricer: Pricer, stack: Stack) -> Timeline:
    """Computing and communicating side by side; computing slows by ``stack.overlap_tax_ratio`` while both run."""
    once = price(_split(half, inside=True), pricer)
    outside = price(_split(whole, inside=False), pricer)
    seconds = total(outside)
    for block in sorted({piece.block for piece in once}):
        mine = tuple(piece for piece in once if piece.block == block)
        sent = [is_network(piece) for piece in mine]
        network = total(tuple(compress(mine, sent)))
        compute = total(tuple(compress(mine, map(not_, sent))))
        taxed = compute + stack.overlap_tax_ratio * np.minimum(network, compute)
        seconds = seconds + 2 * np.maximum(taxed, network)
    slices = _doubled(once) + outside
    return Timeline(slices=slices, seconds=seconds, busy_s=total(slices), schedule="two-batch overlap")


def at_peak_s(timeline: Timeline, chip: Chip) -> Num:
    """Seconds that the arithmetic of all slices would take at the peaks of its formats."""
    seconds: Num = 0.0
    for piece in timeline.slices:
        if isinstance(piece.op, (Attend, Gemm, GroupedGemm)):
            seconds = seconds + piece.cost.flop * piece.repeat / chip.peak(number_format(piece.op.dtype).peak)
    return seconds


def throttled(timeline: Timeline, clock_ratio: float, full_s: Num) -> Timeline:
    """``timeline`` at the clock that the power limit leaves: ``clock_ratio`` where large dense products never rest, of
    which its arithmetic would take ``full_s``.

    Kernels are benchmarked on cool chips for microseconds; limits hold within milliseconds, over whole steps. Dynamic
    power is activity times C V^2 f, and voltage follows frequency, so that the clock under a limit falls with the cube
    root of activity, and below its cube there is no need for it: a step of dense prompts runs at nearly the lowest
    clock, one whose kernels use a fifth of the peak, or that decodes, at its own. What the clock drives takes longer,
    memory does not. Above a ratio of a half no more work makes a step shorter.
    """
    if clock_ratio == 1.0:
        return timeline
    activity = np.minimum(full_s / np.maximum(timeline.seconds, 1e-30), 1.0)
    more = np.maximum(np.cbrt(activity) / clock_ratio, 1.0) - 1.0
    slices = tuple(replace(piece, cost=_at_clock(piece.cost, more)) for piece in timeline.slices)
    total_s = total(slices)
    seconds = timeline.seconds * (total_s / np.maximum(timeline.busy_s, 1e-30))
    return replace(timeline, slices=slices, seconds=seconds, busy_s=total_s)


def _at_clock(cost: Cost, more: Num) -> Cost:
    added = np.minimum(cost.compute_s, cost.seconds) * more
    return replace(cost, seconds=cost.seconds + added, compute_s=cost.compute_s * (1.0 + more))


def is_network(piece: Slice) -> bool:
    """Whether a slice is communication."""
    return some(piece.cost.network_s)


def _layers(slices: tuple[Slice, ...]) -> Count:
    most: Count = 1
    for piece in slices:
        most = np.maximum(most, piece.repeat)
    return most
