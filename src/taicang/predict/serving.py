"""Serve a model on a machine: the search over the layouts that published runs mostly use, its best plan in detail."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any

import numpy as np

from taicang.catalog.stack_entry import with_memory
from taicang.errors import InvalidInput
from taicang.hardware import Machine
from taicang.lower import lower
from taicang.models.types import Model
from taicang.plans import Quantisation, ServePlan, describe
from taicang.predict.prediction import Infeasible, Loop, PhasePrediction, Served
from taicang.search.door import Run, forms_of, job_of, narrowed
from taicang.search.explain import binding
from taicang.search.points import Job, chunk_budget, handover_s
from taicang.search.result import Ask, Choice, Pool
from taicang.search.run import every, search
from taicang.search.space import NARROW, Space, default
from taicang.search.trusted import told
from taicang.serve.door import through_s
from taicang.serve.memory import MOST_RATIO, MemoryUse, cache_tokens, memory_use, room_tokens, state_room
from taicang.serve.setup import Setup, step
from taicang.serve.steady import Load, Steady, aggregated
from taicang.timeline import Timeline
from taicang.units import Count, show

USUAL = "the plan is the best of the usual layouts, which have no pipeline stages: taicang search prices all"


def infer(model: str | Model, on: str | Machine, **asked: Any) -> Served | Infeasible:
    """``answer`` to the question of serving ``model`` on the machine ``on``: its other fields are those of ``Run``."""
    return answer(Run(model=model, on=on, **asked))


def answer(run: Run) -> Served | Infeasible:
    """Predict how the model of ``run`` serves its load.

    What the run leaves open is chosen: the whole instances, in one of its modes, that give the machine the most tokens
    per second within the limits and the memory. Where no usual layout will do, the standard space of the search is
    tried. Returns ``Infeasible`` (a value) if nothing does. Raises from ``taicang.errors`` for unknown names, missing
    figures, unmodelled features and illegal plans.
    """
    job = job_of(run)
    forms = forms_of(run, job.model, job.machine, job.stack)
    plan, prefill_plan = (each and replace(each, quant=forms, draft_tokens=0) for each in (run.plan, run.prefill_plan))
    modes, drafts = run.modes, run.drafts
    if run.plan and plan:
        drafts = int(run.plan.draft_tokens) if drafts is None else drafts
        _check(job, plan, job.decoding(1.0, plan.dp), drafts=drafts, batch=run.batch)
    if prefill_plan:
        _check(job, prefill_plan, job.prompts(1.0, prefill_plan.dp))
        modes = [mode for mode in modes if mode == "disaggregated"]
        if not modes:
            raise InvalidInput("an aggregated instance prefills by its own plan", where="--prefill-plan")
    if run.clients is not None:
        if plan is None:
            raise InvalidInput("clients meet an instance: give its layout (--tp, --dp, --ep)", where="--clients")
        whole = room(job, plan) * job.context_tokens / job.held_tokens  # memory is kept for whole sequences
        batch = run.batch or max(int(min(-(-run.clients // plan.dp), whole)), 1)
        run, modes = replace(run, batch=batch), ["aggregated"]
    run = replace(run, drafts=drafts, chunk=run.chunk or int(job.stack.chunk_tokens))
    for space in (narrowed(NARROW, run), narrowed(default(job.model), run)):
        plans = _candidates(job, space, forms, plan, prefill_plan)
        if space.narrow and not plans["known"]:
            continue  # a layout beyond the usual ones was found, or thought of, in the wider space
        found = search(job, [(str(run.quant), forms)], space, Ask(modes=modes, top=1, front=False), only=plans)
        if found.best:
            made = _prediction(found.best[0], job, space, given=run.sets, candidates=found.counts.priced)
            if space.narrow and not plan:
                made = replace(made, assumptions=(*made.assumptions, USUAL))
            return made if run.clients is None else replace(made, loop=loop(job, made.decode.plan, run.clients))
    return _why(found.nearest, plans, job, space)


def _candidates(
    job: Job, space: Space, forms: Quantisation, plan: ServePlan | None, prefill: ServePlan | None
) -> Mapping[str, Sequence[ServePlan]]:
    """Layouts by role; "known" are those of the space among the given ones, or all that the engine can be told."""
    found = every(job, forms, space)
    listed = dict.fromkeys(plan for plans in found.values() for plan in plans)
    known = list(listed) if all(each in listed for each in (plan, prefill) if each) else []
    given = {"both": [plan], "decode": [plan]} if plan else {}
    feeding = [prefill] if prefill else [*found["prefill"], *([plan] if plan and plan not in found["prefill"] else [])]
    return {**found, **given, "prefill": feeding, "known": known}


def _check(job: Job, plan: ServePlan, one: Any, *, drafts: int = 0, batch: int | None = None) -> None:
    """Raise for a plan of the user's that breaks a rule or needs what is not modelled."""
    setup = job.setup(replace(plan, draft_tokens=drafts))
    lower(job.model, setup.plan, one, job.stack)
    step(setup, one)
    if batch is not None and batch < plan.pp * plan.microbatches:
        raise InvalidInput(f"{batch} sequences do not fill {plan.pp} stages x {plan.microbatches} microbatches")


def phase_memory(
    setup: Setup, job: Job, space: Space, phase: str, sequences: float, *, mixed: bool = False
) -> MemoryUse:
    """Memory of a rank in "decode" or "prefill" of so many sequences; ``mixed``: a decode step may hold prompts too."""
    length = job.held_tokens if phase == "decode" else job.input_tokens
    tokens = sequences * (setup.plan.query_len if phase == "decode" else job.input_tokens)
    if phase == "prefill":
        tokens = np.minimum(tokens, chunk_budget(setup.plan, job, space))
    elif mixed:
        tokens = np.maximum(tokens, min(space.chunks))
    head = setup.stack.memory
    return memory_use(
        setup.model, setup.plan, setup.machine.chip, head, sequences=sequences, context=length, tokens=tokens
    )


def _why(nearest: Sequence[str], plans: Mapping[str, Sequence[ServePlan]], job: Job, space: Space) -> Infeasible:
    """What came closest."""
    model, machine = job.model.name, job.machine.name
    full = [line.split(":")[0] for line in nearest if line.endswith("no layout fits the memory")]
    phase = "prefill" if full == ["prefill"] else "decode"
    if not plans[phase]:
        return Infeasible(model=model, machine=machine, reason=f"no legal {phase} plan", needed="one", available="none")
    if not full or (len(full) < len(nearest) and "decode" not in full):
        limits = [
            f"{name} <= {show(limit, 's')}"
            for name, limit in (("TPOT", job.tpot_s), ("TTFT", job.ttft_s))
            if np.isfinite(limit)
        ]
        return Infeasible(
            model=model,
            machine=machine,
            reason="no plan meets the limits" if limits else "no instances of both pools fit the machine",
            needed=" and ".join(limits) or "whole instances",
            available="; ".join(nearest),
            remedies=("raise --tpot or --ttft", "a lower-precision format (--quant)", "more MTP drafts (--mtp)"),
        )

    mixed = full == ["aggregated"]

    def lack(plan: ServePlan, job: Job = job) -> float:
        sequences = max(min(space.batches) if phase == "decode" else 1.0, float(plan.pp * plan.microbatches))
        use = phase_memory(job.setup(plan), job, space, phase, sequences, mixed=mixed)
        return -float(use.spare_bytes)

    drafts = min(space.drafts_of(job.model))
    short, plan = min(((lack(replace(each, draft_tokens=drafts)), each) for each in plans[phase]), key=itemgetter(0))
    fewer = ["no drafts, whose layers take memory (--mtp 0)"] if drafts and lack(plan) <= 0.0 else []
    if lack(plan, replace(job, stack=with_memory(job.stack, MOST_RATIO))) <= 0.0:
        fewer.append(f"a larger share of the device for the engine (--memory-fraction {MOST_RATIO:g} fits)")
    capacity = job.machine.chip.memory.capacity_bytes
    return Infeasible(
        model=model,
        machine=machine,
        reason=f"out of memory in {phase}: {describe(plan)} comes closest, {show(short, 'B')} short per rank",
        needed=show(capacity + short, "B") + " per rank",
        available=show(capacity, "B") + " per rank",
        remedies=(
            *fewer,
            "more ranks (a larger machine, or more nodes: 'NAME x N')",
            "a lower-precision format (--quant)",
        ),
    )


def _phase(pool: Pool, job: Job, space: Space, phase: str) -> PhasePrediction:
    """One phase of an instance, on its own: a decode step, or the step of a batch of prompts (or of its chunk)."""
    setup, groups, steps = job.setup(pool.plan), pool.plan.dp, 1.0
    sequences = 1.0 if phase == "prefill" and pool.role == "both" else pool.sequences
    if phase == "decode":
        timeline, gained = step(setup, job.decoding(sequences, groups)), pool.plan.tokens_per_step
    else:
        steps, gained = float(job.chunks(sequences, chunk_budget(pool.plan, job, space))), job.input_tokens
        timeline = step(setup, job.prompts(sequences, groups, steps))
    rate = float(sequences * groups * gained / (timeline.seconds * steps))
    name, share = binding(timeline)
    per_chip = rate / pool.chips
    power = setup.machine.chip_power_w
    use = phase_memory(setup, job, space, phase, sequences)
    room = np.floor(room_tokens(setup, tokens=float(job.stack.chunk_tokens), context=job.held_tokens))
    return PhasePrediction(
        phase=phase,
        plan=setup.plan,
        instances=pool.instances,
        chips=pool.chips,
        sequences=sequences,
        step=timeline,
        level_bytes=_level_bytes(setup.machine, timeline),
        expert_bytes=_level_bytes(setup.machine, timeline, EXCHANGES),
        step_s=float(timeline.seconds),
        tokens_per_s=rate,
        tokens_per_s_per_chip=per_chip,
        tokens_per_s_per_rank=rate / setup.plan.ranks,
        tokens_per_j=None if power is None else per_chip / power,
        memory=use,
        weights_bytes_per_rank=float(use.weights_bytes),
        cache_room_tokens=float(room),
        instance_cache_room_tokens=float(room) * groups,
        binds=name,
        binds_ratio=share,
    )


EXCHANGES = frozenset({"dispatch", "combine"})


def _level_bytes(machine: Machine, timeline: Timeline, labels: Collection[str] = ()) -> dict[str, float]:
    levels = [level.name for level in machine.plane("scale_up").levels]
    total = dict.fromkeys(levels, 0.0)
    for piece in timeline.slices:
        if len(piece.cost.level_bytes) == len(levels) and (not labels or piece.label in labels):
            for name, sent in zip(levels, piece.cost.level_bytes, strict=True):
                total[name] += float(sent) * float(piece.repeat)
    return total


def _lone_s(pool: Pool, job: Job, space: Space) -> float:
    """Seconds until the first token of one prompt that nothing delays (with attention groups: one in each)."""
    setup = job.setup(pool.plan)
    steps = job.chunks(1.0, chunk_budget(pool.plan, job, space))
    before = handover_s(setup, job) if pool.role == "prefill" else through_s(job.stack, job.input_tokens)
    return float(steps * step(setup, job.prompts(1.0, pool.plan.dp, steps)).seconds + before)


def _prediction(choice: Choice, job: Job, space: Space, *, given: Sequence[str], candidates: int) -> Served:
    feeding, serving = choice.pools[0], choice.pools[-1]
    apart = choice.mode == "disaggregated"
    return Served(
        input_tokens=round(job.input_tokens),
        output_tokens=round(job.output_tokens),
        mode=choice.mode,
        ttft_s=_lone_s(feeding, job, space),
        loaded_ttft_s=choice.ttft_s,
        tpot_s=choice.tpot_s,
        requests_per_s=choice.requests_per_s,
        users=choice.users,
        user_tokens_per_s=choice.user_tokens_per_s,
        decode=_phase(serving, job, space, "decode"),
        prefill=_phase(feeding, job, space, "prefill"),
        prefill_chips_ratio=feeding.instances * feeding.chips / choice.chips if apart else 0.0,
        chips=choice.chips,
        machine_chips=choice.machine_chips,
        output_tokens_per_s_per_chip=choice.output_tokens_per_s_per_chip,
        machine_output_tokens_per_s=choice.output_tokens_per_s,
        power_w_per_chip=job.machine.chip_power_w,
        output_tokens_per_s_per_w=choice.output_tokens_per_s_per_w,
        output_tokens_per_s_per_usd=choice.output_tokens_per_s_per_usd,
        output_tokens_per_s_per_cny=choice.output_tokens_per_s_per_cny,
        candidates=candidates,
        **told(job, choice, given),
    )


def room(job: Job, plan: ServePlan) -> float:
    """Sequences of an attention group that fit the memory at once. Raises ``InvalidInput`` where not even one does."""
    setup, mean = job.setup(plan), job.context_tokens
    tokens = float(setup.stack.chunk_tokens)
    return min(cache_tokens(setup, tokens=tokens, context=mean, whole=mean) / mean, state_room(setup, tokens=tokens))


def closed_loop(job: Job, plan: ServePlan, clients: Count) -> Steady:
    """What ``clients`` see who send their next request when an answer has come; those without room wait."""
    load = Load(
        concurrency=clients, input_tokens=job.input_tokens, output_tokens=job.output_tokens, room=room(job, plan),
        spread=job.spread,
    )  # fmt: skip
    return aggregated(job.setup(plan), load)


def loop(job: Job, plan: ServePlan, clients: Count) -> Loop:
    """``closed_loop`` as a prediction tells it."""
    steady, chips = closed_loop(job, plan, clients), -(-plan.ranks // job.machine.chip.dies)
    rate = float(steady.output_tokens_per_s)
    return Loop(
        clients=float(clients), ttft_s=float(steady.ttft_s), tpot_s=float(steady.tpot_s) if job.goes_on else None,
        output_tokens_per_s=rate,
        output_tokens_per_s_per_chip=rate / chips,
    )  # fmt: skip
