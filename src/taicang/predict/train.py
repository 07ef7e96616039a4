"""Train a model on a machine: from names to a priced step with its reasons, or to why it does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from taicang import __version__, catalog
from taicang.catalog.models import model as load_model
from taicang.catalog.training import training_price
from taicang.catalog.trust import frozen_bands
from taicang.errors import InvalidInput
from taicang.formats import number_format
from taicang.hardware import Machine
from taicang.models.types import Experts, Model
from taicang.predict.prediction import Band, Infeasible
from taicang.train import memory
from taicang.train.flops import CONVENTION
from taicang.train.run import Policy, Run, train_run
from taicang.train.search import Found, search
from taicang.train.step import Setup, TrainStep, train_step
from taicang.train_plans import TrainPlan, describe
from taicang.units import show


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPrediction:
    """One training step on a machine, with what it is made of and how far it can be trusted."""

    model: str
    machine: str
    stack: str
    step: TrainStep
    chips: int
    tokens_per_s_per_chip: float
    mfu_ratio: float
    """Against ``peak_flop_per_s``; the convention is in ``assumptions``."""
    hfu_ratio: float
    """Recomputed FLOPs counted too."""
    peak: str
    peak_flop_per_s: float
    waterfall: Mapping[str, float]
    """Shares of the step, from the time at peak to what is lost to each cause; they sum to one."""
    power_w_per_chip: float | None
    run: Run | None
    """The whole run, where tokens were given."""
    found: Found | None
    """What the search saw, where there was one."""
    assumptions: tuple[str, ...]
    bands: tuple[Band, ...]
    digest: str
    version: str


def default_stack(machine: Machine) -> str:
    """The training stack that published results on such machines used."""
    return {"huawei": "mindspeed", "amd": "primus"}.get(machine.chip.vendor.lower(), "nemo")


def train(
    model: str | Model,
    on: str | Machine,
    plan: TrainPlan,
    *,
    stack: str | None = None,
    sets: Sequence[str] = (),
    tokens: float | None = None,
    policy: Policy | None = None,
    searched: bool = False,
) -> TrainPrediction | Infeasible:
    """Predict one step of ``plan``, and a run of ``tokens`` tokens under ``policy``. ``plan.dp`` 0 fills the machine.

    ``searched`` replaces the layout of ``plan`` by the fastest one on all ranks of the machine.

    Returns ``Infeasible`` (a value) with the cheapest remedies where the plan runs out of memory. Raises from
    ``taicang.errors`` for unknown names, illegal plans and unmodelled features.
    """
    net = load_model(model) if isinstance(model, str) else model
    machine = catalog.machine(on, sets) if isinstance(on, str) else on
    engine = catalog.stack(stack or default_stack(machine))
    plan = replace(plan, tp=1, cp=1, pp=1, vpp=1, ep=1, etp=1, dp=1, micro_batch=1, zero=1) if searched else plan
    plan = filled(plan, machine)
    setup = Setup(model=net, plan=plan, machine=machine, stack=engine, price=training_price(machine, engine))
    found = search(setup) if searched else None
    if found is not None:
        setup = replace(setup, plan=found.best[0].plan)
    step = found.best[0] if found else train_step(setup)
    if float(step.memory.spare_bytes) < 0:
        return Infeasible(
            model=net.name,
            machine=machine.name,
            reason=f"out of memory: {describe(plan)} is {show(-float(step.memory.spare_bytes), 'B')} short per rank",
            needed=_breakdown(step.memory),
            available=show(step.memory.capacity_bytes, "B") + " per rank",
            remedies=memory.remedies(plan, step.memory),
        )
    run = train_run(step, machine, tokens, policy or Policy()) if tokens else None
    return compose(setup, step, run, found)


def filled(plan: TrainPlan, machine: Machine) -> TrainPlan:
    """``plan`` with data parallelism over all ranks of the machine where it is left open (0)."""
    if plan.dp:
        return plan
    inner = plan.tp * plan.cp * plan.pp
    if machine.ranks % inner:
        raise InvalidInput(f"tp x cp x pp = {inner} does not divide the {machine.ranks} ranks of {machine.name}")
    return replace(plan, dp=machine.ranks // inner)


def _breakdown(use: memory.MemoryUse) -> str:
    fields = ("weights", "gradients", "optimizer", "activations", "working", "runtime")
    parts = ", ".join(f"{name} {show(float(getattr(use, f'{name}_bytes')), 'B')}" for name in fields)
    return f"{show(float(use.total_bytes), 'B')} per rank ({parts})"


def compose(setup: Setup, step: TrainStep, run: Run | None, found: Found | None) -> TrainPrediction:
    """Everything that a priced step says."""
    machine, plan, net = setup.machine, setup.plan, setup.model
    chips = -(-plan.ranks // machine.chip.dies)
    peak = number_format(plan.recipe.products).peak
    peak_rate = machine.chip.peak(peak)
    once = step.flop / (2.0 + plan.trained_ratio)
    again = {"full": once * plan.recompute_ratio}.get(plan.recompute, 0.0)
    mfu = step.mfu_ratio(peak_rate)
    return TrainPrediction(
        model=net.name,
        machine=machine.name,
        stack=f"{setup.stack.name} ({setup.stack.epoch})",
        step=step,
        chips=chips,
        tokens_per_s_per_chip=step.tokens_per_s / chips,
        mfu_ratio=mfu,
        hfu_ratio=mfu * (1.0 + again / step.flop),
        peak=peak,
        peak_flop_per_s=peak_rate,
        waterfall=waterfall(step, mfu),
        power_w_per_chip=None if machine.power_w is None else machine.power_w / machine.chips,
        run=run,
        found=found,
        assumptions=_assumptions(setup),
        bands=_bands(any(isinstance(block.ffn, Experts) for block in net.blocks)),
        digest=catalog.digest(),
        version=__version__,
    )


def waterfall(step: TrainStep, mfu_ratio: float) -> dict[str, float]:
    """Shares of the step: time at peak, then what each cause adds to it."""
    spent = step.spent
    kernels = spent["products"] + spent["attention"]
    shares = {"at peak": mfu_ratio, "kernels below peak": kernels / step.seconds - mfu_ratio}
    names = {line: line for line in spent if line not in ("products", "attention")}
    return shares | {name: spent[line] / step.seconds for line, name in names.items() if spent[line] > 0}


def _assumptions(setup: Setup) -> tuple[str, ...]:
    chip, plan = setup.machine.chip, setup.plan
    said = list(setup.model.assumptions)
    said.append(CONVENTION)
    if not chip.measured:
        said.append(f"kernels of {chip.name} were not measured: constants of {chip.profile}, scaled to its own peaks")
    if any(isinstance(block.ffn, Experts) for block in setup.model.blocks):
        said.append("the router is balanced (as benchmarks force it)")
    if plan.cp > 1:
        said.append(f"context parallelism by {plan.context}, causal work balanced between ranks")
    said.append(f"ranks are laid out tp, cp, dp, pp from the innermost level out; overlap: {_words(setup)}")
    said.append(f"memory allows {memory.RUNTIME_RATIO:.0%} for runtime and fragmentation")
    return tuple(said)


def _words(setup: Setup) -> str:
    return ", ".join(sorted(setup.stack.overlap)) or "none"


def _bands(routed: bool) -> tuple[Band, ...]:
    wanted = "training_moe" if routed else "training_dense"
    return tuple(
        Band(suite=name, title=row["title"], mape_ratio=row["mape_ratio"], p90_ratio=row["p90_ratio"], rows=row["rows"])
        for name, row in frozen_bands().items()
        if name == wanted
    )
