"""A collective on the links of a machine: how long, which links are hot, and what closed forms and libraries say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from taicang import __version__, catalog
from taicang.catalog import calibration
from taicang.catalog.resolve import is_path
from taicang.catalog.trust import Band
from taicang.cost.exchange import exchange
from taicang.errors import InvalidInput, NotModelled, UnknownName
from taicang.fabric import demand, graph
from taicang.fabric.collectives import ALGORITHMS, Phase, collective, contend, teams_of, uneven
from taicang.fabric.even import MOST_FLOWS, Net
from taicang.fabric.faults import cut_off, fail, parts
from taicang.fabric.links import VerbFit, message_s
from taicang.fabric.names import name
from taicang.fabric.routing import resources
from taicang.fabric.topology import Fabric, Floats, Ints, build
from taicang.fabric.wires import LinkRates
from taicang.hardware import Machine
from taicang.interop import graphs
from taicang.ops import Exchange
from taicang.search.collective import EXCHANGES, Ask, bands_of, closed_s, costs, operator, sources_of
from taicang.units import show

HOTTEST = 8
LIBRARY = ("ring", "tree", "in_switch", "hierarchical")
"""Algorithms of an all-reduce that libraries choose from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelLoad:
    """What one level carried."""

    level: str
    sent_bytes: float
    """On its busiest link or group of links."""
    busy_s: float
    """Of that one."""
    mean_ratio: float
    """Load of the mean link in use over that of the fullest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkLoad:
    """One of the hottest links."""

    link: str
    alike: int
    """Other links that are as busy."""
    carried_bytes: float
    busy_s: float
    used_ratio: float
    """Of its capacity, over the time on the wires."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """One of several collectives at once: alone on the links, and with the others on fair shares."""

    kind: str
    payload_bytes: float
    alone_s: float
    together_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A stretch of time, and how busy each level's links in use are in the mean."""

    phase: str
    begin_s: float
    end_s: float
    used_ratio: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Times of a collective and where its bytes went, of the first seed; times over all seeds."""

    machine: str
    ask: Ask
    ranks: int
    algorithm: str
    wire_s: float
    """Mean over seeds of the time that the links need."""
    least_s: float
    most_s: float
    latency_s: float
    """Messages that follow one another."""
    even_s: float
    """What the links need for the same bytes dealt evenly, on the idle whole fabric."""
    library_s: float | None
    """With a library's start-up and efficiency on these links; None where none was measured."""
    closed_s: float | None
    """The closed form, which knows neither faults nor collisions nor skew."""
    phases: tuple[Mapping[str, float | str], ...]
    levels: tuple[LevelLoad, ...]
    hottest: tuple[LinkLoad, ...]
    beside: tuple[Rival, ...]
    course: tuple[Moment, ...]
    """The links over time, all of ``beside`` at once where there are any."""
    lost_ranks: int
    assumptions: tuple[str, ...]
    sources: tuple[str, ...]
    bands: Mapping[str, Band]
    """How far ``library_s`` ("library") and ``closed_s`` ("closed form") may be off."""
    digest: str = field(default_factory=catalog.digest)
    """Of the catalogue that it was made from."""
    version: str = __version__


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A plane's parts and the bandwidth that its halves share."""

    machine: str
    plane: str
    ranks: int
    parts: Mapping[str, int]
    levels: tuple[Mapping[str, float | str], ...]
    bisection_bytes_per_s: float
    """One way, between the first half of the ranks and the second, under an even exchange."""
    assumptions: tuple[str, ...]


Place: TypeAlias = str | Machine | Fabric
"""A machine by name (or a file with a graph of a user's), a machine, or links."""


def opened(place: Place, sets: Sequence[str] = (), *, links: bool = True) -> Machine | Fabric:
    """What ``place`` means, whose ``links`` alone may matter. Raises as the catalogue and ``graphs.read`` do."""
    if not isinstance(place, str):
        return place
    if is_path(place) or place.endswith(".json"):
        path = Path(place)
        if graphs.is_one(path):
            if sets:
                raise InvalidInput("a graph has no figures to set; change its file", where="--set")
            return graph.build(graphs.read(path))
    return catalog.machine(place, sets, links=links)


def _fabric(place: Place, plane: str) -> tuple[Machine | None, Fabric]:
    on = opened(place)
    return (None, on) if isinstance(on, Fabric) else (on, build(on, plane))


def shape(machine: Place, plane: str = "scale_up", failed: Sequence[str] = (), seed: int = 0) -> Shape:
    """The topology of a plane in figures. Raises as ``build`` and ``fail`` do."""
    fabric = fail(_fabric(machine, plane)[1], failed, seed)
    net = Net(fabric=fabric, found=resources(fabric), seed=seed)
    half = fabric.ranks // 2
    width = 0.0
    if half:
        moved = collective(net, "all_to_all", teams_of(fabric.ranks), float(fabric.ranks))
        width = half * (fabric.ranks - half) / sum(phase.wire_s for phase in moved)
    levels: tuple[Mapping[str, float | str], ...] = tuple(
        {
            "level": level.name, "ranks": level.ranks, "topology": level.topology, "latency_s": level.latency_s,
            "bytes_per_s": level.bandwidth_bytes_per_s,
        }
        for level in fabric.levels
    )  # fmt: skip
    return Shape(
        machine=fabric.machine, plane=fabric.name, ranks=fabric.ranks, parts=parts(fabric), levels=levels,
        bisection_bytes_per_s=width, assumptions=fabric.notes,
    )  # fmt: skip


def run(machine: Place, ask: Ask) -> Answer:
    """Answer ``ask``. Raises from ``taicang.errors`` for names, sizes and routes that do not exist."""
    said, kind = ask.kind, ask.kind.replace("-", "_")
    on, fabric = _fabric(machine, ask.plane)
    broken = fail(fabric, ask.failed, ask.seed)
    lost = cut_off(broken)
    if len(lost) == fabric.ranks:
        raise InvalidInput("no two ranks are left that reach each other", where="--fail")
    count = ask.ranks or (fabric.ranks - len(lost)) // ask.stride
    if not 1 <= count * ask.stride <= fabric.ranks - len(lost) * (ask.stride == 1) + ask.stride - 1:
        raise InvalidInput(
            f"{count:,} ranks {ask.stride} apart do not fit the {fabric.ranks - len(lost):,} of {fabric.machine} left",
            where="--ranks",
        )
    bands = bands_of(on, ask, count)  # the algorithm that a library takes by itself is the one that was measured
    found = resources(broken, ask.routing)
    net, teams = Net(fabric=broken, found=found, seed=ask.seed), _teams(broken, lost, count, ask, ask.seed)
    asked = replace(ask, kind=kind)
    ask, phases = _chosen(net, asked, teams)
    times = [sum(phase.wire_s for phase in phases)]
    for seed in range(ask.seed + 1, ask.seed + ask.seeds):
        other = _chosen(replace(net, seed=seed), replace(asked, seed=seed), _teams(broken, lost, count, ask, seed))[1]
        times.append(sum(phase.wire_s for phase in other))
    whole = Net(fabric=fabric, found=resources(fabric))
    plain = not (ask.skew or ask.failed or ask.shuffled) and ask.routing == "adaptive" and ask.seeds == 1
    even = (
        times[0]
        if plain
        else sum(p.wire_s for p in _chosen(whole, replace(asked, skew=0.0, failed=()), teams_of(count, ask.stride))[1])
    )
    wire = float(np.mean(times))
    stretch = wire / even if even > 0 else 1.0
    library, closed = _prices(on, ask, kind, count, stretch) if on else (None, None)
    beside, course = _rivals(net, ask, kind, teams)
    return Answer(
        machine=fabric.machine, ask=replace(ask, kind=said), ranks=count,
        algorithm=ask.algorithm or ALGORITHMS.get(kind, ("direct",))[0],
        wire_s=wire, least_s=min(times), most_s=max(times), latency_s=sum(p.hops * p.hop_s for p in phases),
        even_s=even, library_s=library, closed_s=closed, phases=tuple(_row(each) for each in phases),
        levels=_levels(net, phases), hottest=_hottest(net, phases),
        beside=beside, course=course or _course(net, phases), lost_ranks=len(lost),
        assumptions=_notes(broken, ask, count), sources=sources_of(on, fabric.machine), bands=bands,
    )  # fmt: skip


def _teams(fabric: Fabric, lost: Ints, count: int, ask: Ask, seed: int) -> Ints:
    """The ranks that take part: those left, in order or at random."""
    left = np.setdiff1d(np.arange(fabric.ranks), lost)
    if ask.shuffled:
        left = np.random.default_rng(seed).permutation(left)[: count * ask.stride]
    return left[teams_of(count, ask.stride)]


def _chosen(net: Net, ask: Ask, teams: Ints) -> tuple[Ask, list[Phase]]:
    """``ask`` with what a library takes where no algorithm is asked for, the fastest on these links; its phases."""
    tried: dict[str, list[Phase]] = {}
    for way in LIBRARY if ask.kind == "all_reduce" and not (ask.algorithm or ask.skew) else ():
        with suppress(InvalidInput, NotModelled):  # trees that a cut graph does not hold, switches that do not add
            tried[way] = collective(net, "all_reduce", teams, ask.payload_bytes, way)
    if not tried:
        return ask, _phases(net, ask, teams, ask.seed)
    best = min(tried, key=lambda way: sum(phase.seconds for phase in tried[way]))
    return replace(ask, algorithm=best), tried[best]


def _phases(net: Net, ask: Ask, teams: Ints, seed: int) -> list[Phase]:
    rng = np.random.default_rng(seed)
    ranks = teams.shape[1]
    if ask.kind in EXCHANGES:
        copies = demand.dispatched(
            ranks=ranks, tokens=ask.tokens, topk=ask.topk, experts=ask.experts, exponent=float(ask.skew), rng=rng
        )
        sizes: Floats = copies * ask.payload_bytes
        return [uneven(net, ask.kind, teams[0], sizes.T if ask.kind == "combine" else sizes)]
    if ask.skew and ask.kind == "all_to_all":
        return [uneven(net, ask.kind, teams[0], demand.skewed(ranks, ask.payload_bytes, float(ask.skew), rng))]
    if ask.skew:
        raise NotModelled(f"skew of {ask.kind}: its parts are equal by definition")
    return collective(net, ask.kind, teams, ask.payload_bytes, ask.algorithm)


def drawn(machine: Place, ask: Ask) -> tuple[Net, Floats, float, str]:
    """Links, what they carry, for how long, and what to call it."""
    broken = fail(_fabric(machine, ask.plane)[1], ask.failed, ask.seed)
    net = Net(fabric=broken, found=resources(broken, ask.routing), seed=ask.seed)
    if not ask.kind:
        return net, np.zeros(len(net.found.capacity_bytes_per_s)), 1.0, f"{broken.machine}, {broken.name}"
    lost = cut_off(broken)
    count = ask.ranks or (broken.ranks - len(lost)) // ask.stride
    kind, teams = ask.kind.replace("-", "_"), _teams(broken, lost, count, ask, ask.seed)
    phases = _chosen(net, replace(ask, kind=kind), teams)[1]
    wire = sum(phase.wire_s for phase in phases)
    where = f"{count:,} ranks of {broken.machine}"
    title = f"{ask.kind} of {show(ask.payload_bytes, 'B')} on {where}: {show(wire, 's')} on the links"
    return net, _total(net, phases), wire, title


def _course(net: Net, phases: Sequence[Phase]) -> tuple[Moment, ...]:
    """One phase after the other, latencies between them."""
    names = [level.name for level in net.fabric.levels]
    found, begin = list[Moment](), 0.0
    for phase in phases:
        start = begin
        for end, busy in phase.course:
            used = {name: float(each) for name, each in zip(names, busy, strict=False)}
            found.append(Moment(phase=phase.name, begin_s=start, end_s=begin + end, used_ratio=used))
            start = begin + end
        begin += phase.seconds
    return tuple(found)


def _rivals(net: Net, ask: Ask, kind: str, teams: Ints) -> tuple[tuple[Rival, ...], tuple[Moment, ...]]:
    if not ask.beside:
        return (), ()
    if ask.skew or kind in EXCHANGES:
        raise NotModelled("others beside a skewed exchange, a dispatch or a combine")
    jobs = [(each.replace("-", "_"), teams, size) for each, size in ((kind, ask.payload_bytes), *ask.beside)]
    together, course = contend(net, jobs)
    at_once = Phase(name="at once", carried_bytes=np.zeros(0), wire_s=max(together), hops=0, hop_s=0.0, course=course)
    return tuple(
        Rival(kind=job[0], payload_bytes=job[2], alone_s=contend(net, [job])[0][0], together_s=seconds)
        for job, seconds in zip(jobs, together, strict=True)
    ), _course(net, [at_once])


def _prices(machine: Machine, ask: Ask, kind: str, count: int, stretch: float) -> tuple[float | None, float | None]:
    """With a library's constants on these links, and in closed form; none where another plane or kind was asked for."""
    if kind == "send" and ask.verb:
        return _verb_s(machine, ask, count, stretch), None
    op, plain = operator(ask, count), costs(machine, ask)
    closed = closed_s(machine, ask, count)
    if isinstance(op, Exchange):
        cost = exchange(op, machine, plain.book.exchange, hot_ratio=max(stretch, 1.0))
        return float(cost.seconds), closed
    linked = replace(plain, wires=LinkRates(machine=machine, stretch_ratio=max(stretch, 1.0)))
    return float(linked.price(op).seconds), closed


def _verb_s(machine: Machine, ask: Ask, count: int, stretch: float) -> float:
    """A read or write of one message, as the level's links were measured."""
    levels = machine.plane(ask.plane).levels
    distance = (count - 1) * ask.stride
    met = next(index for index, level in enumerate(levels) if distance < level.ranks)
    fits = calibration.fits("links", VerbFit).get(levels[met].profile)
    if fits is None:
        raise NotModelled(f"nobody has measured reads and writes over {machine.name}'s {levels[met].name}")
    if ask.verb not in fits:
        raise UnknownName("verb", ask.verb, fits, where="--verb")
    first = next((index for index, level in enumerate(levels) if level.topology != "mesh"), 0)
    rate = levels[met].bandwidth_bytes_per_s / max(stretch, 1.0)
    return float(message_s(fits[ask.verb], ask.payload_bytes, rate, met - first + 1))


def _row(phase: Phase) -> Mapping[str, float | str]:
    return {"phase": phase.name, "wire_s": phase.wire_s, "messages": phase.hops, "latency_s": phase.hops * phase.hop_s}


def _total(net: Net, phases: Sequence[Phase]) -> Floats:
    return sum((phase.carried_bytes for phase in phases), np.zeros(len(net.found.capacity_bytes_per_s)))


def _busy(net: Net, phases: Sequence[Phase]) -> Floats:
    return _total(net, phases) / np.maximum(net.found.capacity_bytes_per_s, 1e-30)


def _levels(net: Net, phases: Sequence[Phase]) -> tuple[LevelLoad, ...]:
    carried, busy = _total(net, phases), _busy(net, phases)
    found = []
    for index, level in enumerate(net.fabric.levels):
        mine = np.flatnonzero((net.found.level == index) & (carried > 0))
        top = mine[np.argmax(busy[mine])] if len(mine) else None
        found.append(
            LevelLoad(
                level=level.name, sent_bytes=0.0 if top is None else float(carried[top]),
                busy_s=0.0 if top is None else float(busy[top]),
                mean_ratio=0.0 if top is None else float(busy[mine].mean() / busy[top]),
            )
        )  # fmt: skip
    return tuple(found)


def _hottest(net: Net, phases: Sequence[Phase]) -> tuple[LinkLoad, ...]:
    carried, busy = _total(net, phases), _busy(net, phases)
    wire = sum(phase.wire_s for phase in phases)
    order = np.argsort(-busy, kind="stable")
    order = order[busy[order] > 0]
    # links that carry the same are one line
    level = np.cumsum(np.concatenate([[0], np.diff(busy[order]) < -1e-6 * busy[order][:-1]]))[: len(order)]
    _, first, alike = np.unique(level, return_index=True, return_counts=True)
    return tuple(
        LinkLoad(
            link=name(net, int(order[at])), alike=int(number) - 1, carried_bytes=float(carried[order[at]]),
            busy_s=float(busy[order[at]]), used_ratio=float(busy[order[at]] / wire),
        )
        for at, number in zip(first[:HOTTEST].tolist(), alike[:HOTTEST].tolist(), strict=True)
    )  # fmt: skip


def _notes(fabric: Fabric, ask: Ask, count: int) -> tuple[str, ...]:
    notes = list(fabric.notes)
    if count**2 > MOST_FLOWS and (ask.skew or ask.kind in EXCHANGES):
        notes.append(f"of more than {MOST_FLOWS:,} flows: as long as the fullest link is busy")
    if ask.beside:
        notes.append("at once, each pair of ranks that talk has a fair share: who talks to many gets the most")
    if ask.kind in EXCHANGES:
        notes.append("a token goes once to a rank that holds several of its experts")
    return tuple(notes)
