"""A serving system that stands ready for traffic: layout chosen, models that share it, pools built, faults planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from taicang.catalog.costing import book_of, energy_fit, serving_clock
from taicang.catalog.models import model as load_model
from taicang.cost.gemm import fit_for as gemm_for
from taicang.errors import InvalidInput, TaicangError
from taicang.hardware import Machine
from taicang.models.types import Model
from taicang.predict.faults import Outage, striking
from taicang.predict.faults import plan as plan_faults
from taicang.predict.system import System, pools
from taicang.predict.system import pools as alone
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
class Tenant:
    """A model beside the main one."""

    model: str
    share_ratio: float
    """Of the sessions, those that ask for it."""
    instances: int | None = None
    """That hold it at first (None: by its share)."""


def shared(net: Model, machine: Machine, engine: Stack, system: System, tenants: Sequence[Tenant]) -> dict[str, Pool]:
    """Pools by model, the main one first: instances of one size, each of which can hold any of the models.

    Raises ``InvalidInput`` for shares that leave nothing to the main model, a model that does not fit an instance, and
    pools of one phase each.
    """
    if system.prefill or system.decode:
        raise InvalidInput("several models share instances that prefill and decode: drop --prefill, --decode",
                           where="--also")  # fmt: skip
    if system.tiers:
        raise InvalidInput("memory beside the instances keeps blocks of one model", where="--also")
    if sum(each.share_ratio for each in tenants) >= 1.0:
        raise InvalidInput(f"the shares leave nothing to {net.name}", where="--also")
    mains = pools(net, machine, engine, system)
    if len(mains) > 1:
        raise InvalidInput(f"{machine.name} serves in pools of one phase by default: say how many --instances prefill "
                           "and decode", where="--also")  # fmt: skip
    main = mains[0]
    ranks = main.setup.plan.ranks
    made = {net.name: main}
    for tenant in tenants:
        other = load_model(tenant.model, approximate=system.approximate)
        if other.name in made:
            raise InvalidInput(f"{other.name} is there already", where="--also")
        fitted = replace(system, plan=None, instances=main.instances, drafts=None)
        try:
            made[other.name] = pools(other, machine, engine, fitted, ranks=ranks)[0]
        except TaicangError as error:
            raise InvalidInput(f"{other.name}: {error}", where="--also") from None
    counts = _dealt(main.instances, tenants)
    return {name: replace(pool, instances=count) for (name, pool), count in zip(made.items(), counts, strict=True)}


def _dealt(instances: int, tenants: Sequence[Tenant]) -> list[int]:
    """Instances of the main model and of each tenant: as given, the others by largest remainders of their shares."""
    given = sum(each.instances or 0 for each in tenants)
    if given > instances:
        raise InvalidInput(f"{given} of {instances} instances are given away", where="--also")
    shares = [1.0 - sum(each.share_ratio for each in tenants)]
    shares += [0.0 if each.instances is not None else each.share_ratio for each in tenants]
    quotas = np.asarray(shares) / sum(shares) * (instances - given)
    counts = np.floor(quotas).astype(int)
    behind = np.argsort(counts - quotas, kind="stable")
    counts[behind[: instances - given - int(counts.sum())]] += 1
    dealt: list[int] = counts.tolist()
    return dealt[:1] + [n if t.instances is None else t.instances for n, t in zip(dealt[1:], tenants, strict=True)]


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
        chip = self.machine.chip
        known = chip.tdp_w is not None
        fit = energy_fit(chip.profile) if known else None
        always_w = None if known else self.machine.chip_power_w
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
    burst: bool = False,
    seed: int = 0,
) -> Standing:
    """Set up ``model`` (and ``also``: see ``replay``) on the machine ``on``, for sequences of about ``context`` tokens
    whose prompts share blocks of ``block_tokens`` (0: nothing) and come all at once (``burst``).

    Raises ``InvalidInput`` for a system that does not fit the machine.
    """
    net, machine, engine = settle(system, model, on)
    pools = shared(net, machine, engine, system, also) if also else _named(alone(net, machine, engine, system))
    if burst:
        pools = {name: _sustained(pool) for name, pool in pools.items()}
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


def _sustained(pool: Pool) -> Pool:
    """``pool`` under prompts that follow each other for seconds, so that the power limit holds the chips' clock down.

    Other loads mix prompts with answers, whose arithmetic rests while memory works: the limit averages over both.
    """
    chip = pool.setup.machine.chip
    if (clock := serving_clock(chip)) == 1.0:
        return pool
    dense = gemm_for(book_of(chip).gemm, "bf16").compute_efficiency_ratio
    return replace(pool, setup=replace(pool.setup, clock_ratio=clock, dense_ratio=dense), table=None)


def context_of(trace: Trace) -> float:
    """Mean length of a sequence of ``trace`` in tokens, half of its answer made."""
    return float(np.mean(trace.input_tokens) + np.mean(trace.output_tokens) / 2)


def _named(pools: Sequence[Pool]) -> dict[str, Pool]:
    return dict(zip(("both",) if len(pools) == 1 else ("prefill", "decode"), pools, strict=True))
