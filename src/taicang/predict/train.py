"""Train a model on a machine: from names to a priced step with its reasons, or to why it does not fit."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from taicang import catalog
from taicang.catalog.costing import measured_levels
from taicang.catalog.grounds import trained
from taicang.catalog.trust import RUN, TRAINED, bands, table
from taicang.formats import number_format
from taicang.hardware import Machine
from taicang.models.types import Model, routed
from taicang.predict.prediction import Infeasible
from taicang.predict.train_explain import Explained, explain, waterfall
from taicang.reliability import PUBLISHED
from taicang.search.training import FUSIONS, Training, settle
from taicang.search.trusted import Prediction, sources
from taicang.train import memory, sync
from taicang.train.flops import CONVENTION, recomputed_flop
from taicang.train.placement import Placed, placed
from taicang.train.remedies import remedies
from taicang.train.run import OFTEN_S, Run, train_run
from taicang.train.search import Found, Progress, fixed_fields, search
from taicang.train.setup import Setup
from taicang.train.step import TrainStep, train_step
from taicang.train_plans import TrainPlan, describe
from taicang.units import show


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPrediction(Prediction):
    """One training step on a machine, with what it is made of."""

    step: TrainStep
    overlap: tuple[str, ...]
    """What runs beside computing."""
    chips: int
    tokens_per_s_per_chip: float
    mfu_ratio: float
    """Against ``peak_flop_per_s``; the convention is in ``assumptions``."""
    hfu_ratio: float
    """Recomputed FLOPs counted too."""
    peak: str
    peak_flop_per_s: float
    waterfall: Mapping[str, float]
    """Shares of the time, from that at peak to what is lost to each cause, failures of the run included; they sum to
    one."""
    placement: tuple[Placed, ...]
    """Which levels of the machine each axis crosses."""
    power_w_per_chip: float | None
    run: Run | None
    """The whole run, where tokens were given."""
    found: Found | None
    """What the search saw, where there was one."""
    explained: Explained | None = None
    """Sensitivity and timeline, where asked for."""


BROADCAST_LEAST, BROADCAST_RANKS = 0.1, 64
"""Share of a step, and data-parallel ranks, from which on it is said what broadcasts of whole tensors would cost."""


def train(model: str | Model, on: str | Machine, plan: TrainPlan, **asked: Any) -> TrainPrediction | Infeasible:
    """``answer`` to the question of training ``model`` on the machine ``on``: its fields are those of ``Training``."""
    return answer(Training(model=model, on=on, plan=plan, **asked))


def answer(asked: Training, progress: Progress | None = None) -> TrainPrediction | Infeasible:
    """Predict one step of a training job, and its run where there is one.

    Returns ``Infeasible`` (a value) with the cheapest remedies where the plan runs out of memory. Raises from
    ``taicang.errors`` for unknown names, illegal plans and unmodelled features.
    """
    setup = settle(asked)
    net, machine = setup.model, setup.machine
    found = search(setup, fixed_fields(asked.plan, asked.pinned), progress) if asked.searched else None
    if found is not None and not found.best:
        return Infeasible(
            model=net.name,
            machine=machine.name,
            reason=f"out of memory: none of {found.candidates:,} legal plans fits",
            needed=show(found.least_bytes, "B") + " per rank at least",
            available=show(machine.chip.memory.capacity_bytes, "B") + " per rank",
            remedies=("more ranks ('NAME x N')", "a lower-precision recipe (--dtype)", "adapters only (--lora)"),
        )
    if found is not None:
        setup = replace(setup, plan=found.best[0].plan)
    step = found.best[0] if found else train_step(setup)
    if float(step.memory.spare_bytes) < 0:
        return Infeasible(
            model=net.name,
            machine=machine.name,
            reason=f"out of memory: {describe(setup.plan)} is "
            f"{show(-float(step.memory.spare_bytes), 'B')} short per rank",
            needed=_breakdown(step.memory),
            available=show(step.memory.capacity_bytes, "B") + " per rank",
            remedies=_remedies(setup, step),
        )
    if short := _host_short(setup, step):
        return short
    run = train_run(step, machine, asked.tokens, asked.policy) if asked.tokens else None
    made = compose(setup, step, run, found, asked.sets)
    return replace(made, explained=explain(setup)) if asked.explained else made


def _host_short(setup: Setup, step: TrainStep) -> Infeasible | None:
    """The refusal of a plan that offloads more than the hosts' memory."""
    machine, plan = setup.machine, setup.plan
    held, there = float(step.memory.host_bytes), machine.host_memory_bytes / machine.ranks
    if plan.nvme_bytes_per_s or not there or held <= there:
        return None
    return Infeasible(
        model=setup.model.name,
        machine=machine.name,
        reason=f"out of host memory: {describe(plan)}",
        needed=show(held, "B") + " of host memory per rank",
        available=show(there, "B") + " per rank",
        remedies=("drives for it: --nvme BANDWIDTH", "more ranks ('NAME x N')", "--moments bf16"),
    )


def _remedies(setup: Setup, step: TrainStep) -> tuple[str, ...]:
    """The fastest ways out, each with what it costs."""
    found = remedies(setup)
    if not found:
        return ("more ranks ('NAME x N') or --search", "a lower-precision recipe (--dtype)", "adapters only (--lora)")
    return tuple(
        f"{one.options}: {show(one.seconds, 's')} a step ({one.seconds / step.seconds - 1.0:+.0%}), "
        f"{show(one.spare_bytes, 'B')} to spare"
        for one in found
    )


def _breakdown(use: memory.MemoryUse) -> str:
    fields = ("weights", "gradients", "optimizer", "activations", "working", "runtime")
    parts = ", ".join(f"{name} {show(float(getattr(use, f'{name}_bytes')), 'B')}" for name in fields)
    apart = f", never at once -{show(float(use.apart_bytes), 'B')}" if use.apart_bytes else ""
    return f"{show(float(use.total_bytes), 'B')} per rank ({parts}{apart})"


def compose(
    setup: Setup, step: TrainStep, run: Run | None, found: Found | None, given: Sequence[str]
) -> TrainPrediction:
    """Everything that a priced step says."""
    machine, plan, net = setup.machine, setup.plan, setup.model
    chips = -(-plan.ranks // machine.chip.dies)
    peak = "fp16" if plan.recipe.name == "fp16" else number_format(plan.recipe.products).peak
    peak_rate = machine.chip.peak(peak)
    again = recomputed_flop(net, plan, setup.stack)
    mfu = step.mfu_ratio(peak_rate)
    return TrainPrediction(
        model=net.name,
        machine=machine.name,
        stack=f"{setup.stack.name} ({setup.stack.epoch})",
        step=step,
        overlap=tuple(sorted(setup.stack.overlap)),
        chips=chips,
        tokens_per_s_per_chip=step.tokens_per_s / chips,
        mfu_ratio=mfu,
        hfu_ratio=mfu * (1.0 + again / step.flop),
        peak=peak,
        peak_flop_per_s=peak_rate,
        waterfall=waterfall(step, mfu, run),
        placement=placed(plan, machine),
        power_w_per_chip=machine.chip_power_w,
        run=run,
        found=found,
        assumptions=_assumptions(setup, step, given) + (() if run is None else _run_assumptions(run, chips)),
        sources=sources(net, machine),
        bands=bands(trained(net, machine, setup.stack, plan), TRAINED if run is None else TRAINED + RUN),
    )


def _assumptions(setup: Setup, step: TrainStep, given: Sequence[str]) -> tuple[str, ...]:
    chip, plan = setup.machine.chip, setup.plan
    said = [*(f"set by the user: {text}" for text in given), *setup.model.assumptions]
    said.append(CONVENTION)
    if not chip.measured:
        said.append(f"kernels of {chip.name} were not measured: constants of {chip.profile}, scaled to its own peaks")
    crossed = {level for one in placed(plan, setup.machine) for level, _ in one.together}
    if unknown := crossed - measured_levels(setup.machine):
        said.append(f"collectives were never measured on {_words(unknown)}: constants assumed for any network")
    if plan.tp > 1:
        other = train_step(replace(setup, stack=replace(setup.stack, overlap=setup.stack.overlap ^ {"tensor"})))
        more = f"has {other.tokens_per_s / step.tokens_per_s - 1.0:+.0%} tokens/s"
        said.append(
            "tensor-parallel collectives run in pieces beside products (MC2, user buffers); a script that does not "
            f"ask for it {more} (--overlap=-mc2)"
            if "tensor" in setup.stack.overlap
            else f"tensor-parallel collectives wait for products; a script that asks for user buffers {more} "
            "(--overlap=+tensor)"
        )
    if plan.offload != "none":
        there = setup.machine.host_memory_bytes / setup.machine.ranks
        where = "NVMe" if plan.nvme_bytes_per_s else "host memory"
        said.append(
            f"{show(float(step.memory.host_bytes), 'B')} a rank lie in {where} (of host memory there "
            f"{'are ' + show(there, 'B') if there else 'is nothing known'}); Adam runs on the host at "
            f"{show(sync.HOST_BYTES_PER_S, 'B/s')} of its memory a rank (assumed), as in DeepSpeed"
        )
    if plan.activations_away_ratio:
        said.append("activations leave and come back over the host's link beside the layers' own passes")
    if lost := _broadcast_ratio(setup, step):
        said.append(
            f"parameters come back by all-gathers; an engine whose {plan.dp * plan.cp:,} ranks own whole tensors and "
            f"broadcast them in turn takes {lost:+.0%} a step (--stack internevo), more with every rank"
        )
    if not setup.stack.grouped_experts and routed(setup.model):
        each = ", and each looks its tokens up" if setup.stack.looks_up else ""
        said.append(
            f"experts run one after the other{each}; how long the host waits for their token counts is not known"
        )
    if routed(setup.model):
        uneven = f"expert popularity follows a power law of exponent {plan.skew:g}: the busiest rank sets the pace"
        dealt = {"consecutive": ": a token's experts follow each other and share ranks"}.get(
            setup.stack.forced_balance, ""
        )
        even = f"the router is balanced (as benchmarks force it{dealt}); real ones are not (--skew)"
        said.append(uneven if plan.skew else even)
    if plan.cp > 1:
        said.append(f"context parallelism by {plan.context}, causal work balanced between ranks")
    said.append(f"ranks are laid out {plan.order} from the innermost level out; overlap: {_words(setup.stack.overlap)}")
    if setup.stack.captured:
        said.append(f"replayed from graphs: {_words(setup.stack.captured)}")
    if chosen := setup.stack.fused & set(FUSIONS[1:]):
        said.append(f"fused kernels: {_words(chosen)}")
    slowed = {"tensor, context and expert": setup.tax, "data-parallel": setup.data_tax}
    said += [
        f"computing slows by {tax:.0%} of the time of {of} communication beside it" for of, tax in slowed.items() if tax
    ]
    return (*said, *_memory_assumptions(setup, step))


def _memory_assumptions(setup: Setup, step: TrainStep) -> list[str]:
    said = [
        f"memory as {setup.stack.engine} keeps it ({setup.plan.gradients} gradients), {memory.RUNTIME_RATIO:.0%} for "
        f"runtime and fragmentation; {_elsewhere(setup)}"
    ]
    if _tight(step.memory):
        said.append(
            f"it may not fit: nine in ten measured jobs lay within {_memory_error():.0%} of the memory predicted"
        )
    return said


def _memory_error() -> float:
    """How far off nine in ten predictions of memory were, wherever the jobs ran."""
    return math.expm1(max((pool["cells"][""]["seen"][1] for pool in table().get("memory", {}).values()), default=0.0))


def _tight(use: memory.MemoryUse) -> bool:
    """Whether less is to spare than that, so that the job may not fit, near to what was measured or not."""
    return float(use.spare_bytes) < _memory_error() * float(use.total_bytes)


def _elsewhere(setup: Setup) -> str:
    """What the job would have to spare as Hugging Face's trainer with DeepSpeed keeps it, where that could run it."""
    other, plan = "deepspeed", setup.plan
    if setup.stack.engine == other or not plan.zero or plan.tp * plan.cp * plan.pp * plan.ep > 1:
        return "other frameworks keep other copies (--stack)"
    there = replace(setup, stack=catalog.stack(other), plan=replace(plan, gradients=""))
    use = train_step(there).memory
    spare = float(use.spare_bytes)
    left = (
        f"leave {show(spare, 'B')}{' and so may not fit' * _tight(use)}"
        if spare >= 0
        else f"be {show(-spare, 'B')} short"
    )
    return f"Hugging Face's trainer with DeepSpeed would {left} (--stack {other})"


def _broadcast_ratio(setup: Setup, step: TrainStep) -> float:
    """What broadcasts of whole tensors would add to a step whose optimizer is sharded; 0 where it is little."""
    stack = setup.stack
    few = setup.plan.dp * setup.plan.cp < BROADCAST_RANKS
    if few or setup.plan.zero not in (1, 2) or stack.keeps.sharding == "tensors":
        return 0.0
    other = replace(stack, keeps=replace(stack.keeps, sharding="tensors"), overlap=stack.overlap - {"parameters"})
    added = train_step(replace(setup, stack=other)).seconds / step.seconds - 1.0
    return added if added > BROADCAST_LEAST else 0.0


def _run_assumptions(run: Run, chips: float) -> tuple[str, ...]:
    days = [rate * chips for rate in PUBLISHED.values()]
    said = [
        f"parts fail as in one run of 2024; published clusters of {chips:,} chips would fail {min(days):.2g} to "
        f"{max(days):.2g} times a day ({len(days)} of them), which the band of days spans"
    ]
    if run.interval_s < OFTEN_S:
        said.append(
            f"a checkpoint every {show(run.interval_s, 's')} loses least, and asks storage for "
            f"{show(run.checkpoint_bytes / run.interval_s, 'B/s')} all the time: where it is shared, set --interval"
        )
    return tuple(said)


def _words(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none"
