"""What of a centre is broken: its parts drawn at the rates that the fabric's own draws use, and repaired by a crew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from taicang.errors import InvalidInput
from taicang.fabric.availability import CLASSES, down_ratio, draw
from taicang.fabric.faults import parts
from taicang.fabric.topology import Floats, build
from taicang.hardware import Machine
from taicang.reliability import Component, components, rates_per_s, with_mtbf

DRAWS = (1000, 10_000)
"""At least and at most: the fewer, the larger the machine."""
RANKS_DRAWN = 10**7


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A centre's steady state, one entry per draw."""

    failures_per_s: float
    chips_away: Floats
    """Without a spare to stand in for them."""
    bandwidth_ratio: Floats
    """Of a machine's network between the chips that are left."""
    repair_wait_s: float
    """In which a broken part waits for the crew."""


def broken(
    machine: Machine, count: int, *, mtbf_s: Mapping[str, float], spare_chips: int = 0, crew: int = 0, seed: int = 0
) -> Broken:
    """``count`` machines in their steady state. ``crew``: repairs at a time, as many as there are by default.

    Raises ``InvalidInput`` for a crew that never catches up.
    """
    known = with_mtbf(components(machine), mtbf_s)
    fabric = build(machine)
    counts = parts(fabric)
    rates = rates_per_s(known, machine.chips)
    for each in {CLASSES[kind] for kind in counts if CLASSES.get(kind) in known}:
        of_class = sum(number for kind, number in counts.items() if CLASSES.get(kind) == each)
        of_class //= machine.chip.dies if each == "chip" else 1
        rates[each] = of_class * known[each].failures_per_s
    rates = {name: rate * count for name, rate in rates.items()}
    wait = _wait_s(known, rates, crew) if crew else 0.0
    known = {name: replace(part, repair_s=part.repair_s + wait * (part.repair_s > 0)) for name, part in known.items()}
    draws = min(max(RANKS_DRAWN // fabric.ranks, DRAWS[0]), DRAWS[1])
    found = draw(fabric, known, draws, seed, machine.chip.dies)
    nodes = -(-fabric.ranks // fabric.node_ranks)
    away = (nodes - found.nodes_left).astype(float) * machine.chips / nodes
    rng = np.random.default_rng([seed, 1])
    if "rack" in known:
        chips = float(known["rack"].blast_chips)
        racks = rng.binomial(round(machine.chips / float(known["rack"].chips_each)), down_ratio(known["rack"]), draws)
        away = np.minimum(away + racks * chips, machine.chips)
    values, often = np.unique(away, return_counts=True)
    every = rng.multinomial(count, often / draws, draws) @ values  # machines fail apart
    return Broken(
        failures_per_s=sum(rates.values()), chips_away=np.maximum(every - spare_chips, 0.0),
        bandwidth_ratio=found.bandwidth_ratio, repair_wait_s=wait,
    )  # fmt: skip


def _wait_s(known: Mapping[str, Component], rates: Mapping[str, float], crew: int) -> float:
    """Mean wait for one of ``crew`` repairers: Erlang's C, failures and repairs at random."""
    failing = sum(rate for name, rate in rates.items() if known[name].repair_s > 0)
    load = sum(rate * known[name].repair_s for name, rate in rates.items())
    if load >= crew:
        raise InvalidInput(f"a crew of {crew} never catches up: {load:.3g} repairs go on in the mean", where="--crew")
    blocked = 1.0  # Erlang's B, from no repairer up
    for busy in range(1, crew + 1):
        blocked = load * blocked / (busy + load * blocked)
    waits = blocked / (1.0 - load / crew * (1.0 - blocked))
    return waits * load / failing / (crew - load) if load else 0.0
