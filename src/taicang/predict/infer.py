"""Serve a model on a machine: price every candidate plan over its batches, keep the best that meets the SLO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from taicang import __version__, catalog
from taicang.catalog.costing import cost_model
from taicang.catalog.models import model as load_model
from taicang.errors import InvalidInput, InvalidPlan, NotModelled, TaicangError
from taicang.hardware import Machine
from taicang.lower import lower
from taicang.models.count import kv_cache_bytes
from taicang.models.types import Model
from taicang.ops import Transfer
from taicang.plans import Batch, ServePlan, decode_batch, prefill_batch
from taicang.predict.prediction import Infeasible, PhasePrediction, Prediction
from taicang.predict.trust import assumptions, bands, sources
from taicang.search.choices import default_stack, quantisation
from taicang.search.space import usual
from taicang.serve.memory import MemoryUse, memory_use
from taicang.serve.setup import Setup, step
from taicang.timeline import Timeline
from taicang.units import show

SKEW = 1.01
"""Assumed exponent of expert popularity (the milder of the two that expert kernels were measured with)."""
BATCHES = np.unique(np.round(np.geomspace(1, 4096, 73)))
"""Sequences of one attention group that are tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of one phase."""

    input_tokens: int
    output_tokens: int
    limit_s: float
    """TPOT (decode) or TTFT (prefill) that must hold."""
    batch: int | None
    """Sequences per attention group, where the user fixed them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The best batch of one plan."""

    setup: Setup
    sequences: float
    tokens_per_s_per_chip: float
    step_s: float


def infer(
    model: str | Model,
    on: str | Machine,
    *,
    input_tokens: int,
    output_tokens: int,
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

    ``plan`` and ``prefill_plan`` fix the layout of decode and prefill; what is left open is chosen: the plan and batch
    with the most tokens per second per chip among those that meet ``tpot_s`` and ``ttft_s`` and fit the memory.
    Returns ``Infeasible`` (a value) if none does. Raises from ``taicang.errors`` for unknown names, missing figures,
    unmodelled features and illegal plans.
    """
    if input_tokens < 1 or output_tokens < 1:
        raise InvalidInput(f"input and output need at least one token, got {input_tokens} and {output_tokens}")
    net = load_model(model, approximate=approximate) if isinstance(model, str) else model
    machine = catalog.machine(on, sets) if isinstance(on, str) else on
    engine = catalog.stack(stack or default_stack(machine, net))
    forms = quantisation(quant, net, machine.chip)
    drafts = min(net.mtp_layers, 1) if drafts is None else drafts
    costs = cost_model(machine, engine)

    def setups(phase: str, given: ServePlan | None) -> list[Setup]:
        listed = [given] if given else usual(net, machine, engine, forms, phase, drafts)
        made = []
        for each in listed:
            full = replace(each, quant=forms, acceptance_ratio=acceptance_ratio)
            if full.ranks <= machine.ranks or given:
                made.append(
                    Setup(
                        model=net,
                        plan=full,
                        machine=machine,
                        stack=engine,
                        price=costs.price,
                        skew=0.0 if full.redundant else skew,  # a balancer with replicas evens out what skew makes
                    )
                )
        return made

    decode_ask = Request(input_tokens=input_tokens, output_tokens=output_tokens, limit_s=tpot_s or np.inf, batch=batch)
    prefill_ask = replace(decode_ask, limit_s=ttft_s or np.inf, batch=None)
    decoders = setups("decode", plan)
    prefillers = setups("prefill", prefill_plan)
    best_decode = _best(decoders, decode_ask, "decode", strict=plan is not None)
    if isinstance(best_decode, Infeasible):
        return best_decode
    best_prefill = _best(prefillers, prefill_ask, "prefill", strict=prefill_plan is not None)
    if isinstance(best_prefill, Infeasible):
        return best_prefill
    priced = sum(_batches(each, decode_ask, "decode").size for each in decoders)
    priced += sum(_batches(each, prefill_ask, "prefill").size for each in prefillers)
    return _compose(best_decode, best_prefill, decode_ask, candidates=priced, given=sets)


def _batches(setup: Setup, ask: Request, phase: str) -> Any:
    if ask.batch is not None:
        return np.array([float(ask.batch)])
    if phase == "decode":
        return BATCHES
    most = max(1.0, setup.stack.chunk_tokens * max(1, setup.plan.tp if setup.plan.sp else 1) / ask.input_tokens)
    return np.unique(np.round(np.geomspace(1, most, 8)))


def _batch(ask: Request, phase: str, sequences: Any) -> Batch:
    if phase == "decode":
        return decode_batch(sequences=sequences, context=ask.input_tokens + ask.output_tokens / 2)
    return prefill_batch(sequences=sequences, length=float(ask.input_tokens))


def _memory(setup: Setup, ask: Request, phase: str, sequences: Any) -> MemoryUse:
    length = ask.input_tokens + (ask.output_tokens if phase == "decode" else 0)
    tokens = sequences * (setup.plan.query_len if phase == "decode" else ask.input_tokens)
    return memory_use(setup.model, setup.plan, setup.machine.chip, sequences=sequences, context=length, tokens=tokens)


def _rate(setup: Setup, ask: Request, phase: str, sequences: Any, seconds: Any) -> Any:
    """Tokens per second of the instance: accepted output tokens in decode, prompt tokens in prefill."""
    gained = setup.plan.tokens_per_step if phase == "decode" else float(ask.input_tokens)
    return sequences * setup.plan.dp * gained / seconds


def _move_s(prefill: Setup, ask: Request) -> float:
    """Time of one prompt's cache from the prefill instance to the decode instance."""
    cache = float(kv_cache_bytes(prefill.model, float(ask.input_tokens), prefill.plan.quant.kv))
    plane = "rdma" if "rdma" in prefill.machine.planes else "scale_up"
    move = Transfer(payload_bytes=cache / prefill.plan.tp, plane=plane, distance=prefill.plan.ranks)
    return float(prefill.price(move, 1.0, 1.0).seconds)


def chips(setup: Setup) -> int:
    """Whole chips that the instance occupies."""
    return -(-setup.plan.ranks // setup.machine.chip.dies)


def _best(setups: list[Setup], ask: Request, phase: str, *, strict: bool) -> Found | Infeasible:
    best: Found | None = None
    closest: tuple[float, Setup] | None = None
    fastest: tuple[float, Setup] | None = None
    refused: TaicangError | None = None
    for setup in setups:
        sequences = _batches(setup, ask, phase)
        try:
            use = _memory(setup, ask, phase, sequences)
            fits = np.broadcast_to(use.spare_bytes >= 0, sequences.shape)
            if not fits.any():
                lower(setup.model, setup.plan, _batch(ask, phase, 1.0), setup.stack)  # rules before sizes
                short = -float(np.max(use.spare_bytes))
                closest = min(filter(None, (closest, (short, setup))), key=lambda pair: pair[0])
                continue
            sequences = sequences[fits]
            seconds: Any = step(setup, _batch(ask, phase, sequences)).seconds
        except (InvalidPlan, NotModelled) as error:
            if strict:
                raise
            refused = error
            continue
        latency = seconds / setup.plan.tokens_per_step if phase == "decode" else seconds + _move_s(setup, ask)
        if fastest is None or float(latency.min()) < fastest[0]:
            fastest = (float(latency.min()), setup)
        meets = latency <= ask.limit_s
        if not meets.any():
            continue
        rates = np.where(meets, _rate(setup, ask, phase, sequences, seconds) / chips(setup), 0.0)
        at = int(np.argmax(rates))
        if best is None or rates[at] > best.tokens_per_s_per_chip:
            best = Found(
                setup=setup,
                sequences=float(sequences[at]),
                tokens_per_s_per_chip=float(rates[at]),
                step_s=float(seconds[at]),
            )
    if best is None and fastest is None and isinstance(refused, NotModelled):
        raise refused
    return best or _why(setups, ask, phase, closest, fastest)


def _why(
    setups: list[Setup],
    ask: Request,
    phase: str,
    closest: tuple[float, Setup] | None,
    fastest: tuple[float, Setup] | None,
) -> Infeasible:
    model, machine = (setups[0].model.name, setups[0].machine.name) if setups else ("", "")
    if fastest is not None:
        name = "TPOT" if phase == "decode" else "TTFT"
        return Infeasible(
            model=model,
            machine=machine,
            reason=f"no plan meets the {name} limit in {phase}",
            needed=f"{name} <= {show(ask.limit_s, 's')}",
            available=f"{show(fastest[0], 's')} at best ({describe(fastest[1].plan)})",
            remedies=(f"raise --{name.lower()}", "a lower-precision format (--quant)", "more MTP drafts (--mtp)"),
        )
    if closest is not None:
        short, setup = closest
        capacity = setup.machine.chip.memory.capacity_bytes
        return Infeasible(
            model=model,
            machine=machine,
            reason=f"out of memory in {phase}: {describe(setup.plan)} comes closest, {show(short, 'B')} short per rank",
            needed=show(capacity + short, "B") + " per rank",
            available=show(capacity, "B") + " per rank",
            remedies=("more ranks (a larger machine, or more nodes: 'NAME x N')", "a lower-precision format (--quant)"),
        )
    return Infeasible(model=model, machine=machine, reason=f"no legal {phase} plan", needed="one", available="none")


def describe(plan: ServePlan) -> str:
    """A plan in the field's short form; R redundant experts, S ranks of the shared expert, x2 microbatches."""
    attention = f"SP-TP-SP{plan.tp}" if plan.sp else f"TP{plan.tp}"
    parts = [attention] if plan.sp or plan.tp > 1 or plan.dp == 1 else []
    parts += [f"DP{plan.dp}"] if plan.dp > 1 else []
    parts += [f"PP{plan.pp}"] if plan.pp > 1 else []
    parts += [f"EP{plan.ep}"] if plan.ep > 1 else []
    parts += [f"ETP{plan.moe_tp}"] if plan.moe_tp > 1 and plan.ep > 1 else []
    parts += [f"R{plan.redundant}"] if plan.redundant else []
    parts += [f"S{plan.shared_ranks}"] if plan.shared_ranks else []
    parts += [f"MTP{plan.draft_tokens}"] if plan.draft_tokens else []
    parts += [f"x{plan.microbatches}"] if plan.microbatches > 1 else []
    return " ".join(parts)


def _phase(found: Found, ask: Request, phase: str) -> PhasePrediction:
    setup = found.setup
    timeline = step(setup, _batch(ask, phase, found.sequences))
    rate = float(_rate(setup, ask, phase, found.sequences, timeline.seconds))
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
        memory=_memory(setup, ask, phase, found.sequences),
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


def _compose(decode: Found, prefill: Found, ask: Request, *, candidates: int, given: Sequence[str]) -> Prediction:
    first, second = _phase(decode, ask, "decode"), _phase(prefill, ask, "prefill")
    setup = decode.setup
    machine, model = setup.machine, setup.model
    # chips per request per second in each phase; prefill's share keeps both phases in step
    need_decode = ask.output_tokens / first.tokens_per_s_per_chip
    need_prefill = ask.input_tokens / second.tokens_per_s_per_chip
    share = need_prefill / (need_prefill + need_decode)
    per_chip = ask.output_tokens / (need_prefill + need_decode)
    power = power_w_per_chip(machine)
    return Prediction(
        model=model.name,
        machine=machine.name,
        stack=f"{setup.stack.name} ({setup.stack.epoch})",
        input_tokens=ask.input_tokens,
        output_tokens=ask.output_tokens,
        mode="disaggregated",
        ttft_s=second.step_s + _move_s(prefill.setup, ask),
        tpot_s=first.step_s / setup.plan.tokens_per_step,
        decode=first,
        prefill=second,
        prefill_chips_ratio=share,
        output_tokens_per_s_per_chip=per_chip,
        machine_output_tokens_per_s=per_chip * machine.chips,
        power_w_per_chip=power,
        output_tokens_per_s_per_w=None if power is None else per_chip / power,
        candidates=candidates,
        assumptions=assumptions(setup, prefill.setup, length=ask.input_tokens + ask.output_tokens, given=given),
        sources=sources(setup),
        bands=bands(setup),
        digest=catalog.digest(),
        version=__version__,
    )
