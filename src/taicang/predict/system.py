"""What serves in a replay: options of the command, and the pools of instances that they stand for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Literal

from taicang.catalog.costing import cost_model
from taicang.errors import InvalidInput, NotModelled, TaicangError
from taicang.hardware import Machine
from taicang.models.types import Model
from taicang.plans import ServePlan, decode_batch, prefill_batch
from taicang.predict.faults import Faults
from taicang.search.door import Serving, forms_of
from taicang.search.space import usual
from taicang.serve.build import Pool, Tier, swap_tokens
from taicang.serve.cache import Eviction
from taicang.serve.memory import memory_use, state_room
from taicang.serve.scheduler import Limits, Order, preset, reserving
from taicang.serve.setup import Setup, step
from taicang.stacks import Stack

ROOM_RATIO = 0.2
"""Share of device memory that a layout chosen here leaves to the cache, at least."""
REFERENCE = ("6x16", "1x160")
"""Prefill and decode pools of CloudMatrix-Infer's reference deployment (arXiv 2506.12708, section 5)."""
REFERENCE_CHIPS = 256
MANY = Limits().sequences
"""Sequences that an attention group runs where neither the engine nor its memory says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System(Serving):
    """What serves in a replay: beside what all questions say, its instances, scheduler, caches and faults."""

    instances: int | None = None
    prefill: str = ""
    decode: str = ""
    """Pools as INSTANCESxCHIPS."""
    pools: tuple[Pool, ...] = ()
    """One that does both, or prefill and decode, as they are to be: nothing is left to choose."""
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
    keep_answers: bool = False
    """Instances of a decode pool write to ``tiers`` too."""
    faults: Faults = field(default_factory=Faults)


def pools(net: Model, machine: Machine, engine: Stack, system: System, *, ranks: int | None = None) -> list[Pool]:
    """One pool, or prefill and decode. ``ranks``: of each instance that is laid out here.

    Raises ``InvalidInput`` for a system that the machine cannot hold.
    """
    if system.pools:
        return list(system.pools)
    forms = forms_of(system, net, machine, engine)
    drafts = min(net.mtp_layers, 1) if system.drafts is None else system.drafts
    costs = cost_model(machine, engine)
    prefill, decode = system.prefill, system.decode
    open_choice = not (prefill or decode or system.plan or system.instances)
    if open_choice and ranks is None and engine.scheduler == "disaggregated" and machine.chips >= REFERENCE_CHIPS:
        prefill, decode = REFERENCE
    if bool(prefill) != bool(decode):
        raise InvalidInput("give both pools or neither", where="--prefill, --decode")

    def setup(plan: ServePlan) -> Setup:
        full = replace(plan, quant=forms, acceptance_ratio=system.chance_ratio)
        return Setup(model=net, plan=full, machine=machine, stack=engine, price=costs.price, skew=system.skew)

    def best(phase: str, ranks: int | None) -> Setup:
        listed = usual(net, machine, engine, forms, phase, drafts)
        fitting = [setup(plan) for plan in listed if ranks in (None, plan.ranks)]
        return _choose(fitting, phase, f"{net.name} on {ranks or 'any number of'} ranks of {machine.name}")

    made: list[Pool] = []
    if prefill:
        for phase, text in (("prefill", prefill), ("decode", decode)):
            count, chips = _pool(text, phase)
            setting = best(phase, chips * machine.chip.dies)
            limits = preset(engine, policy="mixed", tokens=system.tokens, sequences=running(system, setting))
            if phase == "prefill" or setting.plan.draft_tokens:
                limits = replace(reserving(limits), reserve=phase == "decode")
            if phase == "prefill" and setting.plan.sp:
                limits = replace(limits, tokens=limits.tokens * setting.plan.tp)
            made.append(Pool(setup=setting, instances=count, limits=limits))
    else:
        setting = setup(replace(system.plan, draft_tokens=drafts)) if system.plan else best("decode", ranks)
        count = system.instances or max(machine.ranks // setting.plan.ranks, 1)
        limits = preset(engine, policy=system.policy, tokens=system.tokens, sequences=running(system, setting))
        if setting.plan.draft_tokens:
            limits = reserving(limits)
        made.append(Pool(setup=setting, instances=count, limits=limits))
    made = [_ordered(pool, system) for pool in made]
    need = sum(pool.instances * pool.setup.plan.ranks for pool in made)
    if need > machine.ranks:
        raise InvalidInput(f"the pools need {need} ranks, {machine.name} has {machine.ranks}")
    return made


def running(system: System, setting: Setup) -> int:
    """Sequences that each attention group runs at most: as told, else as the engine has it."""
    stack, plan = setting.stack, setting.plan
    if system.sequences is not None:
        return system.sequences
    drafting = (
        max(stack.drafting_sequences // int(plan.dp), 1) if stack.drafting_sequences and plan.draft_tokens else MANY
    )
    usual = stack.running_sequences or MANY
    return int(min(drafting, usual, state_room(setting, tokens=float(system.tokens or stack.chunk_tokens))))


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
        head = setting.stack.memory
        use = memory_use(setting.model, setting.plan, chip, head, sequences=0.0, context=4096.0, tokens=8192.0)
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
