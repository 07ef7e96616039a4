"""Prices of a capture's kernels on a machine: each operator through the one waist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from taicang import catalog
from taicang.catalog.training import training_price
from taicang.cost.cost import Cost
from taicang.errors import NotModelled
from taicang.hardware import Machine
from taicang.ops import Attend, Gemm, Operator, Pointwise, Transfer
from taicang.predict.train import default_stack
from taicang.stacks import Stack
from taicang.virtual.operators import Kernel

ISSUE = ("vllm-ascend", "nemo")
"""Stacks whose fitted launch cost stands for the host of Ascend and of other chips where the own stack has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """What kernels cost on one machine."""

    machine: Machine
    stack: Stack
    seconds: tuple[float, ...]
    costs: tuple[Cost, ...]
    issue_s: float
    assumptions: tuple[str, ...]


def price(kernels: Sequence[Kernel], machine: Machine, stack: str | None, issue_s: float | None) -> Priced:
    """Price every kernel; what the machine has no figure for is approximated by name, and said."""
    engine = catalog.stack(stack or default_stack(machine))
    tell: dict[str, None] = {}
    on = training_price(machine, engine)
    costs = tuple(_one(each.op, on, machine, tell) for each in kernels)
    seconds = tuple(float(np.asarray(c.seconds)) * each.times for c, each in zip(costs, kernels, strict=True))
    if issue_s is None:
        own = engine.eager_kernel_s
        lender = catalog.stack(ISSUE[0] if machine.chip.ascend else ISSUE[1])
        issue_s = own or lender.eager_kernel_s
        tell[
            f"the host issues a kernel every {issue_s * 1e6:.0f} us, fitted for {engine.name if own else lender.name} "
            "(--host-issue changes it)"
        ] = None
    if not machine.chip.measured:
        tell[f"kernels of {machine.chip.name} were not measured: constants of {machine.chip.profile}"] = None
    return Priced(machine=machine, stack=engine, seconds=seconds, costs=costs, issue_s=issue_s, assumptions=tuple(tell))


def _one(op: Operator, on: object, machine: Machine, tell: dict[str, None]) -> Cost:
    """The price, or that of the nearest operator that the machine has."""
    assert callable(on)
    try:
        cost: Cost = on(op, 1.0, 1.0)
    except NotModelled as error:
        near = _nearest(op)
        if near is None:
            raise
        tell[f"{_words(op)} as {_words(near)}: {error}"] = None
        return _one(near, on, machine, tell)
    return cost


def _nearest(op: Operator) -> Operator | None:
    if isinstance(op, Transfer):
        return Pointwise(kind="copy", elements=op.payload_bytes, moved_bytes=op.payload_bytes)
    if isinstance(op, Gemm) and op.dtype not in ("bf16", "fp32"):
        return replace(op, dtype="bf16")
    if isinstance(op, Gemm) and op.dtype == "fp32":  # by the vector units
        elements = op.batch * (op.m * op.k + op.k * op.n + op.m * op.n)
        return Pointwise(
            kind="activation", elements=elements, moved_bytes=4.0 * elements, flop=2.0 * op.batch * op.m * op.n * op.k
        )
    if isinstance(op, Attend) and op.dtype != "bf16":
        return replace(op, dtype="bf16", kv_dtype="bf16")
    return None


def _words(op: Operator) -> str:
    if isinstance(op, Transfer):
        return "copies to and from the host"
    if isinstance(op, Pointwise):
        return "traffic of the device's memory" if op.kind == "copy" else "arithmetic of the vector units"
    return f"{type(op).__name__} in {getattr(op, 'dtype', '')}"
