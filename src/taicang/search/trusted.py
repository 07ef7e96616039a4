"""What every answer says beside its figures: what it assumes, where it comes from, how far it may be off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

from taicang import __version__, catalog
from taicang.catalog.costing import cost_model
from taicang.catalog.grounds import Ground, ground
from taicang.catalog.rules import launch
from taicang.catalog.trust import REPLAYED, SERVED, Band, bands, unvalidated
from taicang.hardware import Machine
from taicang.lower import lower
from taicang.models.types import Model, routed
from taicang.ops import GroupedGemm
from taicang.plans import ServePlan, prefill_batch
from taicang.search.choices import remade
from taicang.search.handover import unlaunchable
from taicang.search.points import USUAL_TOKENS, Job
from taicang.search.result import Choice
from taicang.serve.layout import laid_out
from taicang.serve.memory import rank_model
from taicang.serve.setup import Setup
from taicang.stacks import Headroom, Stack
from taicang.units import show

GAPS = ("tpot", "itl")
"""Figures of what comes after a first token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What every door answers; what was asked adds its figures, what they are made of and what binds them."""

    model: str
    machine: str
    stack: str
    assumptions: tuple[str, ...]
    """Beyond the catalogue's figures, the most consequential first."""
    sources: tuple[str, ...]
    bands: Mapping[str, Band]
    """How far each figure may be off, by its name: "tpot", "ttft", "throughput", "step_time", "memory", "power"..."""
    digest: str = field(default_factory=catalog.digest)
    """Of the catalogue that it was made from."""
    version: str = __version__


def told(job: Job, choice: Choice, given: Sequence[str]) -> dict[str, Any]:
    """The fields of ``Prediction`` of one way to run ``job``; ``given`` are the figures that the user set."""
    feeding, serving = (job.setup(choice.pools[at].plan) for at in (0, -1))
    apart = choice.mode != "aggregated"
    load = cannot_run(job.model, job.machine, job.stack, ((pool.role, pool.plan) for pool in choice.pools))
    load += usual_lengths(job.input_tokens, job.output_tokens)
    load += () if job.goes_on else (one_token(job.tpot_s),)
    length = round(job.input_tokens + job.output_tokens * job.spread.output_ratio)
    return {
        "model": job.model.name,
        "machine": job.machine.name,
        "stack": f"{job.stack.name} ({job.stack.epoch})",
        "assumptions": (*load, *assumptions(serving, feeding, length=length, given=given, apart=apart)),
        "sources": sources(serving.model, serving.machine),
        "bands": choice.bands,
    }


def cannot_run(model: Model, machine: Machine, stack: Stack, pools: Iterable[tuple[str, ServePlan]]) -> tuple[str, ...]:
    """A warning for each plan by its role that the user gave and the engine cannot be told to run."""
    refused = unlaunchable(machine, model, stack)
    return tuple(f"warning: {why}" for role, plan in pools if (why := refused(role, plan)))


def usual_lengths(*tokens: float) -> tuple[str, ...]:
    """What is assumed where a question names no lengths."""
    said = (
        f"prompts of {USUAL_TOKENS[0]:,} tokens and answers of {USUAL_TOKENS[1]:,}, all equal, as where none are named"
    )
    return (said,) if tokens == USUAL_TOKENS else ()


def one_token(tpot_s: float) -> str:
    """What is assumed where no answer has a second token, under a limit of TPOT (inf: none)."""
    limit = f": its limit of {show(tpot_s, 's')} binds nothing" * (tpot_s < inf)
    return f"an answer of one token has no second, so no TPOT{limit}"


def ground_of(job: Job, mode: str, plan: ServePlan) -> Ground:
    """What is known of ``job`` on instances of ``plan`` (that decode, where others prefill)."""
    use = "aggregated" if mode == "aggregated" else "disaggregated"
    return ground(job.model, job.machine, job.stack, use=use, ranks=int(plan.ranks), quant=plan.quant, plan=plan)


def bands_of(job: Job, mode: str, plan: ServePlan, *, replay: bool = False) -> Mapping[str, Band]:
    """Bands of the closed form's figures, or of a ``replay``'s."""
    told = REPLAYED if replay else SERVED
    names = told if job.goes_on else [name for name in told if name not in GAPS]
    none = {} if job.goes_on or replay else {"step_time": unvalidated("no answer of one token takes a decode step")}
    return bands(ground_of(job, mode, plan), names, replay=replay) | none


def assumptions(
    setup: Setup, prefill: Setup, *, length: int, given: Sequence[str] = (), apart: bool = True, queued: bool = False
) -> tuple[str, ...]:
    """What was assumed beyond the catalogue's figures, most consequential first.

    ``length`` is the tokens of a whole sequence, ``given`` the figures that the user set ("KEY=VALUE"), ``apart``
    whether prefill and decode have instances of their own, ``queued`` whether requests are followed one by one.
    """
    chip, plan, stack, model = setup.machine.chip, setup.plan, setup.stack, setup.model
    said = [f"set by the user: {text}" for text in given]
    said += model.assumptions
    if length > model.max_context:
        beyond = length - model.max_context
        said.append(f"sequences of {length} tokens are {beyond} beyond {model.name}'s context of {model.max_context}")
    if not chip.measured:
        said.append(f"kernels of {chip.name} were not measured: constants of {chip.profile}, scaled to its own peaks")
    if "bf16" not in chip.peak_flop_per_s:
        said.append(f"{chip.name} has no bf16: what is in it runs in fp16, as fast")
    if setup.machine.status != "shipping":
        said.append(f"{setup.machine.name} is {setup.machine.status}, not shipping: vendor figures, no measurements")
    said += _drafted(setup, prefill, apart)
    if plan.redundant or prefill.plan.redundant:
        said.append(
            "with redundant experts a balancer (EPLB) evens out the ranks' loads, but for what the stack leaves"
        )
    if routed(setup.model) and (skew := setup.uneven or prefill.uneven):
        said.append(f"expert popularity follows a power law of exponent {skew:g}")
    said.append(f"number formats: {_formats(setup)}")
    if again := remade(setup.model, plan.quant):
        said.append(again)
    if launch(stack.engine, chip.name, model.name).get("kv") == plan.quant.kv:
        said.append(f"the cache is in {plan.quant.kv}, as published scripts launch {model.name} with {stack.engine}")
    said += list(filter(None, [_untuned(prefill)]))
    where = "on instances of their own" if apart else "share instances"
    order = "" if apart else f", prompts {'in' if stack.scheduler == 'mixed' else 'before'} decode steps"
    # a replay says its own order
    said.append(f"prefill and decode {where}" + ("" if queued else f"; no queueing in TTFT{order}"))
    said.append(_memory(stack))
    mine = rank_model(setup.model, plan)
    if layout := laid_out(setup.model, mine, plan, stack.memory):
        said.append(f"cache as {stack.engine} lays it out: {layout}")
    said.append(_host(stack))
    return tuple(said)


CHUNK_TOKENS = 8192
"""Of a prompt, in one step, as engines cut them by default on large devices."""


def _untuned(setup: Setup) -> str:
    """What it costs that the engine brings no tiles tuned for this shape of experts on this chip, and what to do."""
    costs = cost_model(setup.machine, setup.stack)
    if costs.tiles is None or routed(setup.model) is None:
        return ""
    program = lower(setup.model, setup.plan, prefill_batch(sequences=1, length=CHUNK_TOKENS), setup.stack)
    op = next(task.op for task in program if isinstance(task.op, GroupedGemm))
    tuned = replace(costs, tiles=replace(costs.tiles, every=True), known={})
    slower = costs.price(op).seconds / tuned.price(op).seconds
    if slower < 1.01:
        return ""
    high, across = costs.tiles.generic
    shape = f"{op.experts_local:g} experts of {op.inter:g} columns on {setup.machine.chip.name}"
    return (
        f"{setup.stack.name} has no tuned tiles for {shape}: by generic ones of {high} x {across}, experts of a step "
        f"of {CHUNK_TOKENS:,} tokens take {slower:.2f} times as long; {costs.tiles.tuner} finds "
        "better ones, a stack file with `tuned_experts: true` counts on them"
    )


def _drafted(setup: Setup, prefill: Setup, apart: bool) -> list[str]:
    """What is assumed of drafted tokens."""
    plan, stack, model = setup.plan, setup.stack, setup.model
    if not plan.draft_tokens:
        return []
    said = []
    gained = f" after those before it: {plan.tokens_per_step:.2f} tokens a step" * (plan.draft_tokens > 1)
    accepted = f"accepted with chance {plan.acceptance_ratio:.2f}{gained}"
    said.append(f"each of {plan.draft_tokens} drafted tokens is {accepted}")
    if apart and prefill.plan.pp > 1 and not stack.staged_drafts:
        said.append(f"{stack.engine} runs no draft head over the stages that prefill: fewer drafts may be accepted")
    if not model.mtp_layers:
        said.append(f"{model.name} has no draft head: one as costly as its last layer is assumed")
    return said


def _memory(stack: Stack) -> str:
    head = stack.memory
    if head == Headroom():
        kept = 1.0 - (head.usable_ratio or 1.0)
        return f"what {stack.engine} keeps of device memory is not known: {kept:.0%} is assumed"
    share = "its reserve by default" if head.usable_ratio is None else f"{head.usable_ratio:.0%}"
    of = {"device": "of the device", "static": "for weights and cache", "free": "of what the rest leaves, for cache"}
    return f"device memory as {stack.engine} counts it: {share} {of[head.base]}"


def _host(stack: Stack) -> str:
    """What is known of the host's share of a step."""
    name = f"{stack.name} ({stack.epoch})"
    known = stack.step_host_s or stack.sequence_host_s or stack.graph_launch_s or stack.layer_gap_s
    outside = f"{show(stack.eager_kernel_s, 's')} a kernel launched outside graphs (prefill)" * (
        stack.eager_kernel_s > 0
    )
    if stack.graph == "eager" and stack.eager_kernel_s:
        kernel = show(stack.eager_kernel_s, "s")
        return f"{kernel} of the host for each kernel of every step: {name} captures none (--graph)"
    if known and stack.graph != "piecewise":
        door = f", whose door a request passes in {show(stack.door_s, 's')}" * (stack.door_s > 0)
        return f"host and launch costs of {name}{door}"
    piece = stack.piece_s or 2.0 * stack.eager_kernel_s
    if each := piece if stack.graph == "piecewise" else stack.lengths_s:
        parts = "in pieces" if stack.graph == "piecewise" else "as one graph"
        pieces = f"{show(each, 's')} of the host for each attention of a step that {name} captures {parts} (--graph)"
        return f"{pieces}; {outside}" if outside else pieces
    steps = f"no host cost of {name} is known for steps that replay graphs (decode): none is counted"
    return f"{steps}; {outside}" if outside else steps


def _formats(setup: Setup) -> str:
    quant = setup.plan.quant
    said = f"attention {quant.attention}, feed-forward {quant.dense}, cache {quant.kv}"
    if routed(setup.model):
        said += f", experts {quant.experts}, dispatch {quant.dispatch}, combine {quant.combine}"
    return said


def sources(model: Model, machine: Machine) -> tuple[str, ...]:
    """Where the figures come from."""
    chip = machine.chip
    return (
        f"model {model.name}: {model.source}",
        f"machine {machine.name}, chip {chip.name}: `taicang catalog show` lists each figure with its source",
        f"kernel constants: calibration profile {chip.profile} (`taicang score` gives their held-out errors)",
    )
