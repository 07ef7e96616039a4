"""Which levels of the machine each parallel axis of a plan crosses, and with how many bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from taicang.cost.collective_bound import members
from taicang.cost.cost import Cost
from taicang.hardware import Machine
from taicang.lower.training import lower_layer
from taicang.ops import Operator, Transfer
from taicang.train.setup import Setup
from taicang.train.step import TrainStep, train_step
from taicang.train_plans import TrainPlan, expert_groups, stride
from taicang.units import Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """``ranks`` ranks of ``axis`` that lie ``stride`` apart: how many of them meet inside a unit of each level."""

    axis: str
    ranks: Count
    stride: Count
    together: tuple[tuple[str, float], ...]
    """Level and members of the group in one of its units, for the levels that the axis crosses."""


def placed(plan: TrainPlan, machine: Machine) -> tuple[Placed, ...]:
    """Every axis with more than one rank, from the innermost out; "edp" replicates experts."""
    (replicas,) = expert_groups(plan).shards[:1]
    sizes = {"tp": plan.tp, "cp": plan.cp, "dp": plan.dp, "pp": plan.pp}
    if plan.ep * plan.etp > 1:
        sizes |= {"etp": plan.etp, "ep": plan.ep, "edp": int(replicas.ranks * (replicas_copies(plan)))}
    found = [_placed(axis, ranks, stride(plan, axis), machine) for axis, ranks in sizes.items() if ranks > 1]  # type: ignore[arg-type]
    return tuple(sorted(found, key=lambda one: (one.stride, one.axis)))


def replicas_copies(plan: TrainPlan) -> int:
    """Shard groups of experts that hold copies of each other."""
    count = 1
    for group in expert_groups(plan).copies:
        count *= int(group.ranks)
    return count


def _placed(axis: str, ranks: Count, apart: Count, machine: Machine) -> Placed:
    levels = machine.plane("scale_up").levels
    held = members(levels, ranks, apart)
    crossed = [
        (level.name, float(outer)) for level, inner, outer in zip(levels, held, held[1:], strict=False) if outer > inner
    ]
    return Placed(axis=axis, ranks=ranks, stride=apart, together=tuple(crossed))


AXIS_LINES: Mapping[str, tuple[str, ...]] = {
    "tp": ("tensor",),
    "cp": ("context",),
    "ep": ("expert",),
    "dp": ("data", "gradient reduction", "parameter gather"),
    "pp": ("pipeline sends",),
}
"""Lines of ``TrainStep.spent`` that each axis accounts for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What one axis puts on the network in a step."""

    axis: str
    level_bytes: Mapping[str, float]
    """Sent by one rank (of the mean stage) to partners that it meets at each level."""
    inside_ratio: Mapping[str, float]
    """Share of these bytes that stay within a unit of each level: the node, the supernode."""
    exposed_s: float


def traffic(setup: Setup, step: TrainStep) -> tuple[Traffic, ...]:
    """Bytes by axis and level of ``setup``, whose price is ``step``."""
    levels = [level.name for level in setup.machine.plane("scale_up").levels]
    bare = replace(setup.stack, overlap=frozenset({"tensor"}))  # without it backward passes hide some by themselves
    # the step's own sums, in bytes: what a collective sends at a level stands for its seconds, all of it exposed
    counted = [train_step(replace(setup, stack=bare, price=_bytes_at(setup, at))).spent for at in range(len(levels))]
    again = _again(setup, len(levels))
    found = []
    for axis, lines in AXIS_LINES.items():
        sent = [sum(spent.get(line, 0.0) for line in lines) for spent in counted]
        sent = _sends(setup, len(levels)) if axis == "pp" else [a + b for a, b in zip(sent, again[axis], strict=True)]
        whole = sum(sent)
        if whole < 1.0:
            continue
        found.append(
            Traffic(
                axis=axis, level_bytes=dict(zip(levels, sent, strict=True)),
                inside_ratio={name: sum(sent[: at + 1]) / whole for at, name in enumerate(levels)},
                exposed_s=sum(step.spent.get(line, 0.0) for line in lines),
            )
        )  # fmt: skip
    return tuple(found)


def _bytes_at(setup: Setup, at: int) -> Callable[[Operator, float, float], Cost]:
    def price(op: Operator, cube_ratio: float = 1.0, vector_ratio: float = 1.0) -> Cost:
        cost = setup.price(op, cube_ratio, vector_ratio)
        sent = cost.level_bytes[at] if cost.level_bytes and not isinstance(op, Transfer) else 0.0
        return Cost(seconds=max(float(sent), TINY))

    return price


def _again(setup: Setup, levels: int) -> dict[str, list[float]]:
    """What recompute repeats of the forward passes' messages, by axis: the step has it in a line of its own."""
    plan, found = setup.plan, {axis: [0.0] * levels for axis in AXIS_LINES}
    if plan.recompute == "none":
        return found
    for block in setup.model.blocks:
        layers = block.count + (setup.model.mtp_layers if block is setup.model.blocks[-1] else 0)
        runs = float(layers * plan.microbatches) / plan.pp * (plan.recompute_ratio if plan.recompute == "full" else 1.0)
        layer = lower_layer(setup.model, block, plan, setup.stack)
        for each in layer.again if plan.recompute == "full" else layer.forward:
            if each.axis in found and (plan.recompute == "full" or each.module in plan.recompute_modules):
                sent = setup.price(each.op, 1.0, 1.0).level_bytes
                found[each.axis] = [
                    before + float(more) * float(each.repeat) * runs
                    for before, more in zip(found[each.axis], sent, strict=True)
                ]
    return found


TINY = 1e-12
"""Of an operator that sends nothing, so that nothing is divided by nothing."""


def _sends(setup: Setup, levels: int) -> list[float]:
    """What a pipeline rank passes on, forward and backward, in all microbatches."""
    plan = setup.plan
    if plan.pp == 1:
        return [0.0] * levels
    size = plan.micro_batch * plan.seq / plan.cp * setup.model.hidden * 2.0 / plan.tp
    cost = setup.price(Transfer(payload_bytes=size, plane="scale_up", distance=stride(plan, "pp")), 1.0, 1.0)
    shape = setup.shape  # where a rank holds both chunks, at the bottom of a V, nothing is sent
    ahead = [chunk for chunk in range(shape.chunks) if chunk not in shape.lasts]
    passes = 2.0 * shape.streams * sum(shape.rank(chunk) != shape.rank(chunk + 1) for chunk in ahead) / plan.pp
    return [float(each) * passes for each in cost.level_bytes]
