"""A serving system that stands ready for traffic: the layout chosen, the pools built, what is to go wrong planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from taicang.catalog.costing import energy_fit
from taicang.hardware import Machine
from taicang.models.types import Model
from taicang.predict.faults import Outage, striking
from taicang.predict.faults import plan as plan_faults
from taicang.predict.system import System
from taicang.predict.system import pools as alone
from taicang.predict.tenants import Tenant, shared
from taicang.reliability import rack_chips
from taicang.search.door import settle
from taicang.serve.breakage import Breakage
from taicang.serve.build import Keeping, Pool, cluster, fleet
from taicang.serve.cluster import Cluster
from taicang.serve.log import Log
from taicang.serve.usage import Part
from taicang.stacks import Stack
from taicang.traffic.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """``cluster`` is the system itself, which serves; the rest says what it is made of."""

    net: Model
    machine: Machine
    engine: Stack
    pools: Mapping[str, Pool]
    """By role, or by model where there are several."""
    cluster: Cluster
    breakage: Breakage
    """Which instance holds which ranks, and what becomes of it when they fail."""
    seed: int
    given: Sequence[str] = ()
    """Figures of the machine that the user set."""

    @property
    def models(self) -> tuple[str, ...]:
        """Names of those that it serves, by the number that requests ask for them with."""
        return (self.net.name,) if self.cluster.fleet is None else self.cluster.fleet.models

    @property
    def layout(self) -> dict[str, Any]:
        """Chips of the machine by node and rack, and those that each instance holds (first, and the one behind)."""
        machine, dies = self.machine, self.machine.chip.dies
        return {
            "machine": machine.name,
            "chips": machine.chips,
            "chips_per_node": machine.chips_per_node,
            "chips_per_rack": rack_chips(machine),
            "instances": {
                str(each.name): [span.start // dies, -(-span.stop // dies)]
                for each, span in self.breakage.spans.items()
            },
        }

    @property
    def parts(self) -> list[Part]:
        """The instances by pool, as ``cluster`` and ``fleet`` number them, with what their chips draw."""
        chip, machine = self.machine.chip, self.machine
        known = chip.tdp_w is not None
        fit = energy_fit(chip.profile) if known else None
        always_w = None if known or machine.power_w is None else machine.power_w / machine.chips
        made: list[Part] = []
        first = 0
        for name, pool in self.pools.items():
            place = range(first, first + pool.instances)
            shown = "all" if name == "both" else name
            made.append(
                Part(name=shown, pool=name, setup=pool.setup, instances=place, fit=fit, standing_w=always_w)
            )  # fmt: skip
            first += pool.instances
        return made

    def strike(self, part: str, number: int, down_s: float | None) -> tuple[Any, ...]:
        """That a part of the machine fails, as ``Cluster.later`` takes it. Raises ``InvalidInput`` for one that it
        does not have."""
        outage = Outage(part=part, number=number, at_s=0.0, down_s=down_s)
        return striking(outage, self.machine, self.breakage, self.cluster)


def stand(
    model: str | Model,
    on: str | Machine,
    system: System,
    *,
    also: Sequence[Tenant] = (),
    model_cache_bytes: float = 0.0,
    crowd: int = 0,
    context: float,
    block_tokens: int,
    seed: int = 0,
) -> Standing:
    """Set up ``model`` (and ``also``: see ``replay``) on the machine ``on``, for sequences of about ``context`` tokens
    whose prompts share blocks of ``block_tokens`` (0: nothing).

    Raises ``InvalidInput`` for a system that does not fit the machine.
    """
    net, machine, engine = settle(system, model, on)
    pools = shared(net, machine, engine, system, also) if also else _named(alone(net, machine, engine, system))
    ttl_s = float("inf") if system.ttl_s is None else system.ttl_s
    keeping = Keeping(block_tokens=block_tokens, tiers=system.tiers, eviction=system.eviction, ttl_s=ttl_s,
                      answers=system.keep_answers)  # fmt: skip
    jitter_s = system.faults.jitter_s
    if also:
        made = fleet(
            pools, context=context, keeping=keeping, router=system.router, seed=seed, jitter_s=jitter_s,
            cache_bytes=model_cache_bytes, crowd=crowd,
        )  # fmt: skip
    else:
        made = cluster(
            *pools.values(), context=context, keeping=keeping, router=system.router, seed=seed, jitter_s=jitter_s,
        )  # fmt: skip
    breakage = plan_faults(made, list(pools.values()), system.faults, seed=seed)
    made.log = Log(made.pools)
    return Standing(
        net=net, machine=machine, engine=engine, pools=pools, cluster=made, breakage=breakage, seed=seed,
        given=system.sets,
    )  # fmt: skip


def context_of(trace: Trace) -> float:
    """Mean length of a sequence of ``trace`` in tokens, half of its answer made."""
    return float(np.mean(trace.input_tokens) + np.mean(trace.output_tokens) / 2)


def _named(pools: Sequence[Pool]) -> dict[str, Pool]:
    return dict(zip(("both",) if len(pools) == 1 else ("prefill", "decode"), pools, strict=True))
