"""The answer of a run on one machine: step time, use of the peak, memory, what takes the time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from taicang import __version__, catalog
from taicang.catalog.costing import sustained
from taicang.cost.sustained import straggling_ratio
from taicang.errors import InvalidInput
from taicang.hardware import Machine
from taicang.virtual.capture import COLLECTIVE, GRAPHED, KERNEL, MARK, Capture, Rank
from taicang.virtual.members import members_of
from taicang.virtual.memory import Peak, peak
from taicang.virtual.price import Priced, price
from taicang.virtual.schedule import Clock, Floats, covered, together

BAND = "unvalidated: no measured run of a program of this kind was compared"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """All launches of one operator in a step."""

    name: str
    phase: str
    launches: int
    seconds: float
    flop: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RankReport:
    """One executed rank in its last step."""

    rank: int
    step_s: float
    steps_s: tuple[float, ...]
    """Of every step as scheduled, the first (with its set-up) too."""
    whole_s: float
    flop: float
    mfu_ratio: float
    compute_s: float
    """In which a kernel of the rank runs."""
    exposed_s: Mapping[str, float]
    """In which only communication runs, by group."""
    slowed_s: float
    """By which kernels take longer beside collectives: these take cores and memory bandwidth."""
    host_s: float
    """In which the device waits for the host."""
    lines: tuple[Line, ...]
    collective_bytes: Mapping[str, float]
    memory: Peak
    fits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A run on one machine."""

    program: str
    machine: str
    stack: str
    world: int
    capacity_bytes: float
    peak_flop_per_s: float
    step_s: float | None
    """Of the slowest executed rank, and of waiting for the slowest chip; none where the program made no step."""
    straggler_ratio: float
    """What waiting for the slowest of all chips adds, as in every synchronous step."""
    ranks: tuple[RankReport, ...]
    failure: str
    invented: Mapping[str, int]
    notes: tuple[str, ...]
    assumptions: tuple[str, ...]
    band: str
    digest: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """A capture with the times of its entries, for reports and traces."""

    priced: Mapping[int, Priced]
    clocks: Mapping[int, Clock]


def schedule(capture: Capture, machine: Machine, stack: str | None = None, issue_s: float | None = None) -> Scheduled:
    """Price and schedule every executed rank together; ``InvalidInput`` where the machine is too small."""
    if capture.world > machine.ranks:
        units = -(-capture.world // machine.ranks)
        raise InvalidInput(
            f"{machine.name} has {machine.ranks} ranks, the program runs among {capture.world}: name {units} of them, "
            f'"{machine.name} x {units}"',
            where="--on",
        )
    priced = {each.rank: price(each.kernels, machine, stack, issue_s) for each in capture.ranks}
    clocks = {
        each.rank: Clock(
            seconds=priced[each.rank].seconds,
            groups=[kernel.group for kernel in each.kernels],
            issue_s=priced[each.rank].issue_s,
            fallen=priced[each.rank].fallen,
        )
        for each in capture.ranks
    }
    members = {
        kernel.group: members_of(kernel.group) for each in capture.ranks for kernel in each.kernels if kernel.group
    }
    together(clocks, {each.rank: each.work for each in capture.ranks}, members)
    return Scheduled(priced=priced, clocks=clocks)


def report(
    capture: Capture, machine: Machine, stack: str | None = None, issue_s: float | None = None,
    scheduled: Scheduled | None = None,
) -> Report:  # fmt: skip
    """What a capture comes to on ``machine``."""
    done = scheduled or schedule(capture, machine, stack, issue_s)
    found = tuple(_rank(each, done.priced[each.rank], done.clocks[each.rank]) for each in capture.ranks)
    first = next(iter(done.priced.values()))
    said = dict.fromkeys(text for priced in done.priced.values() for text in priced.assumptions)
    if len(capture.ranks) < capture.world:
        said[f"{len(capture.ranks)} of {capture.world} ranks ran; the others do as they do, at the same time"] = None
    if capture.fused:
        said["kernels over memory joined as a compiler would; memory is that of the program as it ran"] = None
    else:
        said["kernels as the program launches them: no fusion beyond its own (--fuse)"] = None
    steps = [each.step_s for each in found if each.steps_s]
    slower = straggling_ratio(capture.world, sustained(machine.chip).clock_ratio)
    return Report(
        program=" ".join(capture.command),
        machine=machine.name,
        stack=f"{first.stack.name} ({first.stack.epoch})",
        world=capture.world,
        capacity_bytes=machine.chip.memory.capacity_bytes,
        peak_flop_per_s=machine.chip.peak("bf16"),
        step_s=max(steps) * (1.0 + slower) if steps else None,
        straggler_ratio=slower,
        ranks=found,
        failure=next((each.failure for each in capture.ranks if each.failure), ""),
        invented={k: v for each in capture.ranks for k, v in each.invented.items()},
        notes=tuple(dict.fromkeys(note for each in capture.ranks for note in each.notes)),
        assumptions=tuple(said),
        band=BAND,
        digest=catalog.digest(),
        version=__version__,
    )


def last_step(rank: Rank) -> slice:
    """Entries of the log between the last two ends of a step; all, where there are none."""
    marks = np.flatnonzero(rank.work[:, 0] == MARK).tolist()
    return slice(marks[-2] + 1 if len(marks) > 1 else 0, marks[-1] if marks else len(rank.work))


def _rank(rank: Rank, priced: Priced, clock: Clock) -> RankReport:
    begin, end = np.asarray(clock.begin), np.asarray(clock.end)
    what, value = rank.work[:, 0], rank.work[:, 2]
    marks = np.flatnonzero(what == MARK)
    times = end[marks]
    steps = np.diff(np.concatenate([[0.0], times])) if len(times) else np.empty(0)
    inside = np.zeros(len(rank.work), bool)
    inside[last_step(rank)] = True
    whole = clock.latest()
    scheduled = float(steps[-1]) if len(steps) else whole
    kernels, collectives = inside & np.isin(what, (KERNEL, GRAPHED)), inside & (what == COLLECTIVE)
    compute = covered(begin[kernels], end[kernels])
    busy = covered(begin[kernels | collectives], end[kernels | collectives])
    hidden = compute + covered(begin[collectives], end[collectives]) - busy
    moving = value[collectives].tolist()
    busy_ratio = sum(priced.busy_s[v] for v in moving) / max(sum(priced.seconds[v] for v in moving), 1e-12)
    slowed = hidden * busy_ratio * (priced.stack.overlap_tax_ratio or priced.machine.overlap_tax_ratio)
    step = scheduled + slowed
    flop = sum(rank.kernels[v].flop for v in value[kernels].tolist() if rank.kernels[v].phase != "recompute")
    top = peak(rank)
    capacity = priced.machine.chip.memory.capacity_bytes
    return RankReport(
        rank=rank.rank,
        step_s=step,
        steps_s=tuple(float(each) for each in steps),
        whole_s=whole,
        flop=flop,
        mfu_ratio=flop / step / priced.machine.chip.peak("bf16") if step else 0.0,
        compute_s=compute,
        exposed_s=_exposed(rank, begin, end, kernels, collectives, value),
        slowed_s=slowed,
        host_s=max(scheduled - busy, 0.0),
        lines=_lines(rank, priced, value[kernels | collectives].tolist()),
        collective_bytes=_bytes(rank, value[collectives].tolist()),
        memory=top,
        fits=top.reserved_bytes <= capacity,
    )


def _exposed(rank: Rank, begin: Floats, end: Floats, kernels: Any, collectives: Any, value: Any) -> dict[str, float]:
    """Seconds that a group's communication adds to what computing covers."""
    groups: dict[str, list[int]] = {}
    for at in np.flatnonzero(collectives).tolist():
        groups.setdefault(rank.kernels[int(value[at])].group.partition(":")[0] or "all", []).append(at)
    base = covered(begin[kernels], end[kernels])
    picked = np.flatnonzero(kernels)
    found = {}
    for name, places in groups.items():
        both = np.concatenate([picked, np.asarray(places)])
        found[name] = covered(begin[both], end[both]) - base
    return found


def _bytes(rank: Rank, values: list[int]) -> dict[str, float]:
    found: dict[str, float] = {}
    for value in values:
        kernel = rank.kernels[value]
        key = f"{kernel.name} {kernel.group.partition(':')[0]}".strip()
        found[key] = found.get(key, 0.0) + float(getattr(kernel.op, "payload_bytes", 0.0))
    return found


def _lines(rank: Rank, priced: Priced, values: list[int]) -> tuple[Line, ...]:
    sums: dict[tuple[str, str], list[float]] = {}
    for value in values:
        kernel = rank.kernels[value]
        entry = sums.setdefault((kernel.name, kernel.phase), [0, 0.0, 0.0])
        entry[0] += 1
        entry[1] += priced.seconds[value]
        entry[2] += kernel.flop
    lines = [
        Line(name=name, phase=phase, launches=int(n), seconds=seconds, flop=flop)
        for (name, phase), (n, seconds, flop) in sums.items()
    ]
    return tuple(sorted(lines, key=lambda line: -line.seconds))
