"""Traffic through a serving system on a machine: choose the layout, build the pools, run, summarise."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from taicang import __version__, catalog
from taicang.catalog.costing import cost_model
from taicang.catalog.energy import energy_fit
from taicang.catalog.models import model as load_model
from taicang.cost.skew import SKEW
from taicang.errors import InvalidInput, NotModelled, TaicangError
from taicang.hardware import Machine
from taicang.models.types import Model
from taicang.plans import ServePlan, decode_batch, describe, prefill_batch
from taicang.predict.faults import Faults
from taicang.predict.faults import plan as plan_faults
from taicang.search.choices import default_stack, quantisation
from taicang.search.space import usual
from taicang.serve import gaps
from taicang.serve.build import Keeping, Pool, Tier, cluster, swap_tokens
from taicang.serve.clients import ClosedLoop, OpenLoop
from taicang.serve.cluster import Cluster
from taicang.serve.evict import Eviction
from taicang.serve.log import Log
from taicang.serve.memory import memory_use
from taicang.serve.record import Record
from taicang.serve.request import SECOND
from taicang.serve.scheduler import Order, preset
from taicang.serve.setup import Setup, step
from taicang.serve.simulate import serve
from taicang.serve.summary import Limits, Summary, summarise
from taicang.serve.usage import Part, usage
from taicang.stacks import Stack
from taicang.traffic.trace import Trace
from taicang.units import Count

ROOM_RATIO = 0.2
"""Share of device memory that a layout chosen here leaves to the cache, at least."""
REFERENCE = ("6x16", "1x160")
"""Prefill and decode pools of CloudMatrix-Infer's reference deployment (arXiv 2506.12708, section 5)."""
REFERENCE_CHIPS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """One run: what it was, what came of it, and the finished requests as columns."""

    trace: str
    model: str
    machine: str
    stack: str
    pools: tuple[str, ...]
    scheduler: str
    router: str
    seed: int
    limits: Limits
    summary: Summary
    notes: tuple[str, ...]
    """What the traffic's reader left out or assumed, and what is not known."""
    outages: tuple[Down, ...]
    table: dict[str, Any]
    """A row per finished request (see docs/reference/results.md)."""
    usage: dict[str, Any]
    """A row per bin of time and pool."""
    log: Log
    """A row per step of each instance."""
    digest: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Down:
    """A time in which an instance did not serve (``until_s`` None: to the end)."""

    instance: int
    from_s: float
    until_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """What serves: options of the command with their defaults."""

    instances: int | None = None
    prefill: str = ""
    decode: str = ""
    """Pools as INSTANCESxCHIPS."""
    plan: ServePlan | None = None
    stack: str | None = None
    quant: str = "auto"
    drafts: int | None = None
    acceptance_ratio: float = 0.7
    skew: Count = SKEW
    policy: str | None = None
    tokens: int | None = None
    sequences: int | None = None
    router: str = "least-loaded"
    order: Order = "arrival"
    late: Literal["serve", "turn_away"] = "serve"
    """See ``scheduler.Limits``."""
    swap_bytes: float = 0.0
    """Host memory of each instance for sequences that leave when its pages run out (0: they start over)."""
    tiers: tuple[Tier, ...] = ()
    """Memory beside the instances for prompt blocks, the nearest first."""
    eviction: Eviction = "lru"
    ttl_s: float | None = None
    """Blocks in ``tiers`` go when unused for so long (None: never)."""
    faults: Faults = field(default_factory=Faults)
    approximate: bool = False
    sets: Sequence[str] = ()


def replay(
    model: str,
    on: str,
    trace: Trace,
    system: System,
    *,
    clients: int = 0,
    think_s: float = 0.0,
    random_think: bool = False,
    limits: Limits | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Replay:
    """Serve ``trace`` (in its own time, or by ``clients`` in a closed loop) and say what users saw.

    Raises ``InvalidInput`` for a system that does not fit the machine or a request that fits no instance.
    """
    net = load_model(model, approximate=system.approximate)
    machine = catalog.machine(on, system.sets)
    engine = catalog.stack(system.stack or default_stack(machine, net))
    pools = _pools(net, machine, engine, system)
    if (system.order == "deadline" or system.late != "serve") and trace.deadline_s is None:
        raise InvalidInput(f"{trace.name} has no deadlines", where="--order, --late")
    if system.order == "priority" and trace.priority is None:
        raise InvalidInput(f"{trace.name} has no priorities", where="--order")
    context = float(np.mean(trace.input_tokens) + np.mean(trace.output_tokens) / 2)
    made = cluster(
        pools[0], pools[1] if len(pools) > 1 else None,
        context=context, keeping=_keeping(trace, system), router=system.router, seed=seed,
        jitter_s=system.faults.jitter_s,
    )  # fmt: skip
    plan_faults(made, pools, system.faults, seed=seed)
    finished, made.log = Record(), Log()
    if clients:
        loop: OpenLoop | ClosedLoop = ClosedLoop(trace, clients, think_s=think_s, random_think=random_think, seed=seed)
        whole = serve(made, loop.arrivals(), finished, after=loop.after, progress=progress)
    else:
        if not len(trace.arrival_s):
            raise InvalidInput(f"{trace.name} has no times: give --rate or --closed-loop")
        loop = OpenLoop(trace)
        whole = serve(made, loop.arrivals(), finished, after=loop.after if loop.waits else None, progress=progress)
    limits = limits or Limits()
    table = finished.columns() | gaps.by_request(made.log, finished.ticks())
    if trace.session is not None:
        table["session"] = trace.session[table["id"]]
    busy = usage(made.log, _parts(pools), finished.ticks())
    energy_j = float(busy["energy_j"].sum())
    return Replay(
        trace=trace.name,
        model=net.name,
        machine=machine.name,
        stack=f"{engine.name} ({engine.epoch})",
        pools=tuple(f"{p.instances} x {describe(p.setup.plan)}" for p in pools),
        scheduler=pools[-1].limits.policy,
        router=system.router,
        seed=seed,
        limits=limits,
        summary=summarise(
            table,
            made,
            requests=len(trace),
            limits=limits,
            energy_j=None if np.isnan(energy_j) else energy_j,
            partial=not whole,
        ),
        notes=(*trace.notes, *_unknown(machine), *_switched(made)),
        outages=tuple(
            Down(instance=name, from_s=begun / SECOND, until_s=back / SECOND if back >= 0 else None)
            for name, begun, back in made.outages
        ),
        table=table,
        usage=busy,
        log=made.log,
        digest=catalog.digest(),
        version=__version__,
    )


def _parts(pools: Sequence[Pool]) -> list[Part]:
    """Names of the instances as ``cluster`` numbers them."""
    machine = pools[0].setup.machine
    chip, known = machine.chip, machine.chip.tdp_w is not None
    fit = energy_fit(chip.profile) if known else None
    standing = None if known or machine.power_w is None else machine.power_w / machine.chips
    made: list[Part] = []
    first = 0
    for name, pool in zip(("prefill", "decode") if len(pools) > 1 else ("all",), pools, strict=True):
        place = range(first, first + pool.instances)
        made.append(Part(name=name, setup=pool.setup, instances=place, fit=fit, standing_w=standing))
        first += pool.instances
    return made


def _keeping(trace: Trace, system: System) -> Keeping:
    ttl_s = float("inf") if system.ttl_s is None else system.ttl_s
    return Keeping(block_tokens=trace.block, tiers=system.tiers, eviction=system.eviction, ttl_s=ttl_s)


def _switched(made: Cluster) -> tuple[str, ...]:
    if not made.switches:
        return ()
    return ("an instance that changed its pool counts, in load and power over time, to the one where it began",)


def _unknown(machine: Machine) -> tuple[str, ...]:
    if machine.chip.tdp_w is not None:
        return ()
    if machine.power_w is None:
        return (f"{machine.chip.name}: no public power limit, so no power and energy",)
    return (
        f"{machine.chip.name}: no public power limit; each chip's share of the machine's published power under load "
        "stands for it at all times",
    )


def _pools(net: Model, machine: Machine, engine: Stack, system: System) -> list[Pool]:
    forms = quantisation(system.quant, net, machine.chip)
    drafts = min(net.mtp_layers, 1) if system.drafts is None else system.drafts
    costs = cost_model(machine, engine)
    prefill, decode = system.prefill, system.decode
    open_choice = not (prefill or decode or system.plan or system.instances)
    if open_choice and engine.scheduler == "disaggregated" and machine.chips >= REFERENCE_CHIPS:
        prefill, decode = REFERENCE
    if bool(prefill) != bool(decode):
        raise InvalidInput("give both pools or neither", where="--prefill, --decode")

    def setup(plan: ServePlan) -> Setup:
        full = replace(plan, quant=forms, acceptance_ratio=system.acceptance_ratio)
        return Setup(model=net, plan=full, machine=machine, stack=engine, price=costs.price, skew=system.skew)

    def best(phase: str, ranks: int | None) -> Setup:
        listed = usual(net, machine, engine, forms, phase, drafts)
        fitting = [setup(plan) for plan in listed if ranks in (None, plan.ranks)]
        return _choose(fitting, phase, f"{net.name} on {ranks or 'any number of'} ranks of {machine.name}")

    made: list[Pool] = []
    if prefill:
        for phase, text in (("prefill", prefill), ("decode", decode)):
            count, chips = _pool(text, phase)
            limits = preset(engine, policy="mixed", tokens=system.tokens, sequences=system.sequences)
            setting = best(phase, chips * machine.chip.dies)
            if phase == "prefill" or setting.plan.draft_tokens:
                ratio = 1.0 if limits.reserve else 0.5
                limits = replace(limits, reserve=phase == "decode", reserve_ratio=ratio)
            if phase == "prefill" and setting.plan.sp:
                limits = replace(limits, tokens=limits.tokens * setting.plan.tp)
            made.append(Pool(setup=setting, instances=count, limits=limits))
    else:
        setting = setup(replace(system.plan, draft_tokens=drafts)) if system.plan else best("decode", None)
        count = system.instances or max(machine.ranks // setting.plan.ranks, 1)
        limits = preset(engine, policy=system.policy, tokens=system.tokens, sequences=system.sequences)
        if setting.plan.draft_tokens:
            limits = replace(limits, reserve=True, reserve_ratio=1.0 if limits.reserve else 0.5)
        made.append(Pool(setup=setting, instances=count, limits=limits))
    made = [_ordered(pool, system) for pool in made]
    need = sum(pool.instances * pool.setup.plan.ranks for pool in made)
    if need > machine.ranks:
        raise InvalidInput(f"the pools need {need} ranks, {machine.name} has {machine.ranks}")
    return made


def _ordered(pool: Pool, system: System) -> Pool:
    tokens = swap_tokens(pool.setup, system.swap_bytes) if system.swap_bytes else 0
    return replace(pool, limits=replace(pool.limits, order=system.order, late=system.late, swap_tokens=tokens))


def _pool(text: str, phase: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match or not int(match[1]) or not int(match[2]):
        raise InvalidInput(f"{text!r} is not INSTANCESxCHIPS such as 6x16", where=f"--{phase}")
    return int(match[1]), int(match[2])


def _choose(setups: list[Setup], phase: str, what: str) -> Setup:
    """The layout with the most tokens per second and rank at a middling load, if it leaves room for the cache."""
    best: tuple[float, Setup] | None = None
    # prompts of unequal lengths leave attention groups waiting for the longest; sequence-parallel attention does not
    spread = [setting for setting in setups if setting.plan.sp] if phase == "prefill" else []
    for setting in spread or setups:
        chip, groups = setting.machine.chip, setting.plan.dp
        use = memory_use(setting.model, setting.plan, chip, sequences=0.0, context=4096.0, tokens=8192.0)
        if float(use.spare_bytes) < ROOM_RATIO * chip.memory.capacity_bytes:
            continue
        batch = (
            decode_batch(sequences=16.0, context=4096.0)
            if phase == "decode"
            else prefill_batch(sequences=float(setting.plan.tp if setting.plan.sp else 1) * 2.0, length=4096.0)
        )
        try:
            seconds = float(step(setting, batch).seconds)
        except (NotModelled, TaicangError):
            continue
        work = batch.prefill_tokens + batch.decode_sequences * setting.plan.tokens_per_step
        rate = float(work) * groups / seconds / setting.plan.ranks
        if best is None or rate > best[0] * 1.0001:
            best = (rate, setting)
    if best is None:
        raise InvalidInput(f"no layout of {what} fits; give --tp, --dp, --ep")
    return best[1]
