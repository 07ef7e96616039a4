"""A fabric that breaks, is shared out, and carries a plan: draws with step times, logical machines, axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from taicang.errors import InvalidInput
from taicang.fabric.allocation import Logical, allocated_ratio, logical
from taicang.fabric.availability import CLASSES, down_ratio, draw
from taicang.fabric.even import Net
from taicang.fabric.faults import parts
from taicang.fabric.placement import Axis, place
from taicang.fabric.routing import resources
from taicang.fabric.topology import Fabric, build
from taicang.hardware import Links, Machine
from taicang.predict.prediction import Infeasible
from taicang.predict.serving import infer
from taicang.predict.train import train
from taicang.reliability import Component, components, with_mtbf
from taicang.train_plans import TrainPlan

QUANTILES = (0.5, 0.9, 0.99, 0.999)
GRAIN = 200
"""Draws whose bandwidth rounds to the same part in so many share a step time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One kind of part."""

    kind: str
    count: int
    failures_per_s: float
    """Of all of them."""
    down_ratio: float
    """Share of the time that one of them is broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakage:
    """A machine in its steady state, over many draws; quantiles are of the better draws: 99 % see at least this."""

    machine: str
    draws: int
    parts: tuple[Part, ...]
    whole_ratio: float
    """Draws in which nothing at all is broken."""
    fabric_whole_ratio: float
    """Draws in which the fabric gives all of its bandwidth."""
    nodes_left_ratio: float
    """Mean share of the nodes."""
    enough_nodes_ratio: float
    """Draws in which no more nodes are out than there are spares."""
    spares: int
    bandwidth: Mapping[str, float]
    """Share of an even exchange's bandwidth by quantile."""
    step: str
    """What ``step_s`` times."""
    step_s: Mapping[str, float]
    """Whole fabric, mean over draws and quantiles."""
    assumptions: tuple[str, ...]


def breakage(
    machine: Machine,
    *,
    draws: int = 1000,
    seed: int = 0,
    spares: int = 0,
    mtbf: Mapping[str, float] | None = None,
    serve: str = "",
    trained: str = "",
    options: Mapping[str, Any] | None = None,
) -> Breakage:
    """Draw the parts of ``machine``'s scale-up network; time a decode or training step on what is left of each."""
    known = with_mtbf(components(machine), mtbf or {})
    fabric = build(machine)
    found = draw(fabric, known, draws, seed, machine.chip.dies)
    counts = {kind: number for kind, number in parts(fabric).items() if kind in found.broken}
    counts["rank"] //= machine.chip.dies
    beside = _modules_beside(machine)
    rng = np.random.default_rng(seed + 1)
    broken = sum(found.broken.values(), np.zeros(draws, dtype=np.int64))
    listed = [
        _part("chip" if kind == "rank" else kind, number, known[CLASSES[kind]]) for kind, number in counts.items()
    ]
    for kind, number in beside.items():
        listed.append(_part(kind, number, known["optical module"]))
        broken = broken + rng.binomial(number, listed[-1].down_ratio, draws)
    steps, what = _steps(machine, found.bandwidth_ratio, serve, trained, options or {})
    low = np.quantile(found.bandwidth_ratio, [1.0 - q for q in QUANTILES], method="lower")
    notes = [
        "parts fail at published rates and are mended as `taicang train` assumes; a broken chip takes its node out"
    ]
    if beside:
        notes.append(f"a broken {' or '.join(beside)} leaves the scale-up network whole")
    if not any(part.kind == "module" for part in listed):
        notes.append("cables of copper are not counted: no rate is published")
    return Breakage(
        machine=machine.name, draws=draws, parts=tuple(listed), whole_ratio=float(np.mean(broken == 0)),
        fabric_whole_ratio=float(np.mean(found.bandwidth_ratio >= 1.0)),
        nodes_left_ratio=float(found.nodes_left.mean() * fabric.node_ranks / fabric.ranks),
        enough_nodes_ratio=float(np.mean(fabric.ranks // fabric.node_ranks - found.nodes_left <= spares)),
        spares=spares,
        bandwidth={f"{q:.1%}": float(value) for q, value in zip(QUANTILES, low, strict=True)},
        step=what, step_s=steps, assumptions=tuple(notes),
    )  # fmt: skip


def _part(kind: str, count: int, part: Component) -> Part:
    return Part(kind=kind, count=count, failures_per_s=count * part.failures_per_s, down_ratio=down_ratio(part))


def _modules_beside(machine: Machine) -> dict[str, int]:
    """Optical modules of the machine's other planes."""
    found = {}
    for plane, each in machine.planes.items():
        if plane != "scale_up" and any(level.links_per_module for level in each.levels):
            found[f"{plane} module"] = parts(build(machine, plane)).get("module", 0)
    return found


def _steps(
    machine: Machine, ratio: Any, serve: str, trained: str, options: Mapping[str, Any]
) -> tuple[Mapping[str, float], str]:
    """Step time of every draw, found once for draws that are alike."""
    if not serve and not trained:
        return {}, ""
    timed = _decode_s if serve else _training_s
    at = timed(serve or trained, machine, options)
    grains = np.floor(ratio * GRAIN + 1e-9) / GRAIN
    values, inverse = np.unique(grains, return_inverse=True)
    times = np.array([at(float(value)) for value in values])
    each = times[inverse]
    high = np.quantile(each, QUANTILES, method="higher")
    said = {"whole": at(1.0), "mean": float(each.mean())}
    what = f"decode step of {serve}" if serve else f"training step of {trained}"
    return said | {f"{q:.1%}": float(value) for q, value in zip(QUANTILES, high, strict=True)}, what


def _weaker(machine: Machine, share: float) -> Machine:
    return replace(machine, links=Links(stretch_ratio=1.0 / max(share, 1.0 / GRAIN)))


def _decode_s(model: str, machine: Machine, options: Mapping[str, Any]) -> Callable[[float], float]:
    load: dict[str, Any] = {"tpot_s": 0.05} | dict(options)
    best = infer(model, _weaker(machine, 1.0), **load)
    if isinstance(best, Infeasible):
        raise InvalidInput(f"{model} cannot be served so on {machine.name}", where="--serve")
    if best.tpot_s is None:
        raise InvalidInput("an answer of one token has no decode step", where="--output")
    apart = best.mode == "disaggregated"
    same = load | {
        "tpot_s": None,
        "batch": round(best.decode.sequences),
        "plan": best.decode.plan,
        "modes": (best.mode,),
    }
    same |= {"prefill_plan": best.prefill.plan} if apart else {}

    def worse_s(share: float) -> float:
        worse = infer(model, _weaker(machine, share), **same)
        return np.inf if isinstance(worse, Infeasible) or worse.tpot_s is None else worse.tpot_s

    return _remembered({1.0: best.tpot_s}, worse_s)


def _training_s(model: str, machine: Machine, options: Mapping[str, Any]) -> Callable[[float], float]:
    open_plan = TrainPlan(dp=0, global_batch=0)
    first = train(model, _weaker(machine, 1.0), open_plan, searched=True, pinned=("cp",), **options)
    if isinstance(first, Infeasible):
        raise InvalidInput(f"{model} cannot be trained so on {machine.name}", where="--train")

    def worse_s(share: float) -> float:
        worse = train(model, _weaker(machine, share), first.step.plan, **options)
        return np.inf if isinstance(worse, Infeasible) else worse.step.seconds

    return _remembered({1.0: first.step.seconds}, worse_s)


def _remembered(known: dict[float, float], find: Callable[[float], float]) -> Callable[[float], float]:
    def at(share: float) -> float:
        if share not in known:
            known[share] = find(share)
        return known[share]

    return at


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Logical machines, and what a backlog of jobs of these sizes keeps busy."""

    machine: str
    logical: tuple[Logical, ...]
    allocated_ratio: float | None


def share_out(machine: Machine, chips: Sequence[int], *, backlog: bool = False, seed: int = 0) -> Shares:
    """Logical machines of ``chips`` each; ``backlog``: and a stream of jobs of these sizes, equally often."""
    found = tuple(logical(machine, each) for each in chips)
    nodes = machine.chips // machine.chips_per_node
    busy = allocated_ratio(nodes, [each.nodes for each in found], seed=seed) if backlog else None
    return Shares(machine=machine.name, logical=found, allocated_ratio=busy)


def axes(machine: Machine | Fabric, order: Mapping[str, int], payload_bytes: float, seed: int = 0) -> tuple[Axis, ...]:
    """Where the axes of a plan lie on the links of ``machine``'s scale-up plane, or of a graph."""
    fabric, links = (build(machine), machine.links or Links()) if isinstance(machine, Machine) else (machine, Links())
    found = resources(fabric, "adaptive" if links.routing == "closed" else links.routing)
    return place(Net(fabric=fabric, found=found, seed=seed), order, payload_bytes, seed)
