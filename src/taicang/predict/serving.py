"""Serve a model on a machine: price every candidate plan over its batches, keep the best that meets the SLO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from taicang import __version__, catalog
from taicang.cost.skew import SKEW
from taicang.errors import InvalidInput, NotModelled
from taicang.hardware import Machine
from taicang.lower import lower
from taicang.models.types import Model
from taicang.plans import Batch, ServePlan, describe
from taicang.predict.prediction import Infeasible, PhasePrediction, Prediction
from taicang.predict.trust import assumptions, bands, sources
from taicang.search.choices import quantisation
from taicang.search.door import prepare
from taicang.search.points import Job, Points, handover_s, prefill_points, serving_points
from taicang.search.space import NARROW, Space, usual
from taicang.serve.memory import MemoryUse, memory_use
from taicang.serve.setup import Setup, step
from taicang.serve.uneven import EVEN, Spread
from taicang.timeline import Timeline
from taicang.units import show


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The best batch of one phase's best plan."""

    setup: Setup
    sequences: float
    priced: int


def infer(
    model: str | Model,
    on: str | Machine,
    *,
    input_tokens: float,
    output_tokens: float,
    spread: Spread = EVEN,
    tpot_s: float | None = None,
    ttft_s: float | None = None,
    stack: str | None = None,
    quant: str = "auto",
    plan: ServePlan | None = None,
    prefill_plan: ServePlan | None = None,
    batch: int | None = None,
    drafts: int | None = None,
    acceptance_ratio: float = 0.7,
    skew: float = SKEW,
    approximate: bool = False,
    sets: Sequence[str] = (),
) -> Prediction | Infeasible:
    """Predict how ``model`` serves requests of ``input_tokens`` + ``output_tokens`` on the machine ``on``.

    Of unequal requests these are the means, and ``spread`` says how unequal they are.
    ``plan`` and ``prefill_plan`` fix the layout of decode and prefill; what is left open is chosen: the plan and batch
    with the most tokens per second per chip among those that meet ``tpot_s`` and ``ttft_s`` and fit the memory.
    Returns ``Infeasible`` (a value) if none does. Raises from ``taicang.errors`` for unknown names, missing figures,
    unmodelled features and illegal plans.
    """
    job = prepare(
        model,
        on,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        spread=spread,
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        stack=stack,
        acceptance_ratio=acceptance_ratio,
        skew=skew,
        approximate=approximate,
        sets=sets,
    )
    net = job.model
    forms = quantisation(quant, net, job.machine.chip, job.stack)
    drafts = min(net.mtp_layers, 1) if drafts is None else drafts
    space = replace(NARROW, chunks=(int(job.stack.chunk_tokens),))
    if batch is not None:
        space = replace(space, batches=(float(batch),))
    found: list[Found] = []
    for phase, given in (("decode", plan), ("prefill", prefill_plan)):
        if given is not None:
            _check(job, replace(given, quant=forms), phase, batch)
        plans = [given] if given else list(usual(net, job.machine, job.stack, forms, phase, drafts))
        deep = (int(given.draft_tokens) if given else drafts,)
        best = _best(
            [replace(each, quant=forms, draft_tokens=0) for each in plans], job, replace(space, drafts=deep), phase
        )
        if isinstance(best, Infeasible):
            return best
        found.append(best)
    return _compose(found[0], found[1], job, given=sets)


def _check(job: Job, plan: ServePlan, phase: str, batch: int | None) -> None:
    """Raise for a plan of the user's that breaks a rule or needs what is not modelled."""
    setup = job.setup(plan)
    one = _batch(job, phase, 1.0, plan.dp)
    lower(job.model, setup.plan, one, job.stack)
    step(setup, one)
    fill = plan.pp * plan.microbatches
    if phase == "decode" and batch is not None and batch < fill:
        raise InvalidInput(f"{batch} sequences do not fill {plan.pp} stages x {plan.microbatches} microbatches")


def _batch(job: Job, phase: str, sequences: Any, groups: int) -> Batch:
    return job.decoding(sequences, groups) if phase == "decode" else job.prompts(sequences, groups)


def _memory(setup: Setup, job: Job, phase: str, sequences: Any) -> MemoryUse:
    length = job.held_tokens if phase == "decode" else job.input_tokens
    tokens = sequences * (setup.plan.query_len if phase == "decode" else job.input_tokens)
    return memory_use(setup.model, setup.plan, setup.machine.chip, sequences=sequences, context=length, tokens=tokens)


def _rate(setup: Setup, job: Job, phase: str, sequences: Any, seconds: Any) -> Any:
    """Tokens per second of the instance: accepted output tokens in decode, prompt tokens in prefill."""
    gained = setup.plan.tokens_per_step if phase == "decode" else job.input_tokens
    return sequences * setup.plan.dp * gained / seconds


def chips(setup: Setup) -> int:
    """Whole chips that the instance occupies."""
    return -(-setup.plan.ranks // setup.machine.chip.dies)


def _best(plans: Sequence[ServePlan], job: Job, space: Space, phase: str) -> Found | Infeasible:
    """The batch and plan with the most requests per second and chip within the phase's limit."""
    if phase == "decode":
        points = serving_points(plans, job, space, roles=["decode"])["decode"]
        latency, limit = points.tpot_s, job.tpot_s
    else:
        points = prefill_points(plans, job, space)
        latency, limit = points.ttft_s, job.ttft_s
    if not points.size and points.refused and len(points.refused) == len(plans):
        raise NotModelled(points.refused[0])
    rates = np.where(latency <= limit, points.requests_per_s / points.chips, 0.0)
    if not rates.any():
        return _why(points, job, space, phase, latency)
    row = int(np.lexsort((points.sequences, points.layout, -rates))[0])
    return Found(setup=_setup(points, row, job), sequences=float(points.sequences[row]), priced=points.considered)


def _setup(points: Points, row: int, job: Job) -> Setup:
    return job.setup(replace(points.plans[points.layout[row]], draft_tokens=int(points.drafts[row])))


def _why(points: Points, job: Job, space: Space, phase: str, latency: Any) -> Infeasible:
    """What came closest."""
    model, machine = job.model.name, job.machine.name
    if points.size:
        row, name = int(np.argmin(latency)), "TPOT" if phase == "decode" else "TTFT"
        return Infeasible(
            model=model,
            machine=machine,
            reason=f"no plan meets the {name} limit in {phase}",
            needed=f"{name} <= {show(job.tpot_s if phase == 'decode' else job.ttft_s, 's')}",
            available=f"{show(float(latency[row]), 's')} at best ({describe(_setup(points, row, job).plan)})",
            remedies=(f"raise --{name.lower()}", "a lower-precision format (--quant)", "more MTP drafts (--mtp)"),
        )
    if not points.plans:
        return Infeasible(model=model, machine=machine, reason=f"no legal {phase} plan", needed="one", available="none")
    least = min(space.batches) if phase == "decode" else 1.0
    short, plan = min(
        (
            (-float(_memory(setup, job, phase, max(least, float(each.pp * each.microbatches))).spare_bytes), each)
            for each in (replace(p, draft_tokens=space.drafts[0] if phase == "decode" else 0) for p in points.plans)
            for setup in (job.setup(each),)
        ),
        key=lambda pair: pair[0],
    )
    capacity = job.machine.chip.memory.capacity_bytes
    return Infeasible(
        model=model,
        machine=machine,
        reason=f"out of memory in {phase}: {describe(plan)} comes closest, {show(short, 'B')} short per rank",
        needed=show(capacity + short, "B") + " per rank",
        available=show(capacity, "B") + " per rank",
        remedies=("more ranks (a larger machine, or more nodes: 'NAME x N')", "a lower-precision format (--quant)"),
    )


def _phase(found: Found, job: Job, phase: str) -> PhasePrediction:
    setup = found.setup
    timeline = step(setup, _batch(job, phase, found.sequences, setup.plan.dp))
    rate = float(_rate(setup, job, phase, found.sequences, timeline.seconds))
    name, share = binding(timeline)
    per_chip = rate / chips(setup)
    power = power_w_per_chip(setup.machine)
    return PhasePrediction(
        phase=phase,
        plan=setup.plan,
        chips=chips(setup),
        sequences=found.sequences,
        step=timeline,
        step_s=float(timeline.seconds),
        tokens_per_s=rate,
        tokens_per_s_per_chip=per_chip,
        tokens_per_s_per_rank=rate / setup.plan.ranks,
        tokens_per_j=None if power is None else per_chip / power,
        memory=_memory(setup, job, phase, found.sequences),
        binds=name,
        binds_ratio=share,
    )


def binding(timeline: Timeline) -> tuple[str, float]:
    """The resource that most of the busy time is spent on, and its share."""
    shares = {name: float(seconds) for name, seconds in timeline.by_resource().items()}
    name = max(shares, key=lambda key: shares[key])
    return name, shares[name] / max(sum(shares.values()), 1e-30)


def power_w_per_chip(machine: Machine) -> float | None:
    """One chip's share of the machine's IT power under load."""
    return None if machine.power_w is None else machine.power_w / machine.chips


def _compose(decode: Found, prefill: Found, job: Job, *, given: Sequence[str]) -> Prediction:
    first, second = _phase(decode, job, "decode"), _phase(prefill, job, "prefill")
    setup = decode.setup
    machine, model = setup.machine, setup.model
    # chips per request per second in each phase; prefill's share keeps both phases in step
    need_decode = job.output_tokens / first.tokens_per_s_per_chip
    need_prefill = job.input_tokens / second.tokens_per_s_per_chip
    share = need_prefill / (need_prefill + need_decode)
    per_chip = job.output_tokens / (need_prefill + need_decode)
    power = power_w_per_chip(machine)
    return Prediction(
        model=model.name,
        machine=machine.name,
        stack=f"{setup.stack.name} ({setup.stack.epoch})",
        input_tokens=round(job.input_tokens),
        output_tokens=round(job.output_tokens),
        mode="disaggregated",
        ttft_s=second.step_s + float(handover_s(prefill.setup, job)),
        tpot_s=first.step_s / setup.plan.tokens_per_step,
        decode=first,
        prefill=second,
        prefill_chips_ratio=share,
        output_tokens_per_s_per_chip=per_chip,
        machine_output_tokens_per_s=per_chip * machine.chips,
        power_w_per_chip=power,
        output_tokens_per_s_per_w=None if power is None else per_chip / power,
        output_tokens_per_s_per_usd=None if machine.price_usd is None else per_chip * machine.chips / machine.price_usd,
        output_tokens_per_s_per_cny=None if machine.price_cny is None else per_chip * machine.chips / machine.price_cny,
        candidates=decode.priced + prefill.priced,
        assumptions=assumptions(setup, prefill.setup, length=round(job.held_tokens), given=given),
        sources=sources(setup),
        bands=bands(setup),
        digest=catalog.digest(),
        version=__version__,
    )
