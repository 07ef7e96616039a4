"""Prices of a capture's kernels on a machine: each operator through the one waist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from taicang import catalog
from taicang.catalog import porting
from taicang.catalog.costing import default_stack, training_price
from taicang.cost.cost import Cost
from taicang.errors import NotModelled
from taicang.hardware import Machine
from taicang.ops import Attend, Collective, Gemm, GroupedGemm, Operator, Pointwise, Transfer
from taicang.reliability import STORAGE_BYTES_PER_S
from taicang.stacks import Stack
from taicang.train.overlap import busy_ratio
from taicang.virtual.operators import Kernel
from taicang.virtual.spec import STORAGE
from taicang.virtual.translation import unsupported

ISSUE = ("vllm-ascend", "nemo")
"""Stacks whose fitted launch cost stands for the host of Ascend and of other chips where the own stack has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """What kernels cost on one machine."""

    machine: Machine
    stack: Stack
    seconds: tuple[float, ...]
    issue_s: float
    fallen: frozenset[int]
    """Kernels that fall back to the host."""
    busy_s: tuple[float, ...]
    """For how long of it a collective keeps the cores that copy for it busy; 0 of what is none."""
    assumptions: tuple[str, ...]


class Pricer:
    """The price of kernels on one machine; what it has no figure for is approximated by name, and told."""

    def __init__(self, machine: Machine, stack: str | None, issue_s: float | None) -> None:
        self.machine = machine
        self.stack = catalog.fit_for(catalog.stack(stack or default_stack(machine)), "", machine.chip)
        self.told: dict[str, None] = {}
        self._on = training_price(machine, self.stack)
        own = self.stack.eager_kernel_s
        if issue_s is None:
            lender = self.stack if own else catalog.stack(ISSUE[0] if machine.chip.ascend else ISSUE[1])
            issue_s = lender.eager_kernel_s
            self.told[
                f"the host issues a kernel every {issue_s * 1e6:.0f} us, as for {lender.name} (--host-issue changes it)"
            ] = None
        self.issue_s = issue_s
        self._rules = porting.rules("ascend") if machine.chip.ascend else None
        if not machine.chip.measured:
            self.told[f"kernels of {machine.chip.name} were not measured: constants of {machine.chip.profile}"] = None

    def seconds(self, kernel: Kernel) -> float:
        """What one launch takes."""
        if self.falls(kernel):
            return self._fallen_s(kernel)
        return float(np.asarray(self.cost(kernel.op).seconds)) * kernel.repeats

    def cost(self, op: Operator) -> Cost:
        """The price, or that of the nearest operator that the machine has."""
        if isinstance(op, Transfer) and op.plane == "host":
            return self._copied(op)
        if isinstance(op, Transfer) and op.plane == STORAGE:
            wire = op.payload_bytes / STORAGE_BYTES_PER_S
            return Cost(seconds=wire, network_s=wire, moved_bytes=op.payload_bytes)
        try:
            return self._on(op, 1.0, 1.0)
        except NotModelled as error:
            near = _nearest(op)
            if near is None:
                raise
            self.told[f"{_words(op)} as {_words(near)}: {error}"] = None
            return self.cost(near)

    def falls(self, kernel: Kernel) -> bool:
        """Whether the vendor's library has no kernel for it, so that the host runs it."""
        return self._rules is not None and unsupported(kernel.name, self._rules) is not None

    def _fallen_s(self, kernel: Kernel) -> float:
        """Operands to the host, its pass over them (as fast as the link brings them), results back."""
        moved = float(np.asarray(self.cost(kernel.op).moved_bytes))
        copied = self._copied(Transfer(payload_bytes=moved, plane="host"))
        self.told[
            "what falls back to the host waits for two copies, and for the host's pass over the same bytes at the rate "
            "of its link: the catalogue has no figure of its processors"
        ] = None
        return float(np.asarray(2.0 * copied.seconds)) * kernel.repeats

    def busy_s(self, kernel: Kernel, seconds: float) -> float:
        """How much of a collective's ``seconds`` its copies keep their cores busy, as ``taicang train`` has it."""
        if not isinstance(kernel.op, Collective):
            return 0.0
        moved = kernel.op.payload_bytes * kernel.repeats * (2.0 if kernel.op.kind == "all_reduce" else 1.0)
        return seconds * float(busy_ratio(moved, seconds, lambda op: self._on(op, 1.0, 1.0)))

    def _copied(self, op: Transfer) -> Cost:
        """A copy to or from the host: a launch, and the bytes at the rate of the link."""
        launch = self._on(Pointwise(kind="copy", elements=0.0, moved_bytes=0.0), 1.0, 1.0)
        plane = self.machine.planes.get("host")
        if plane is None:
            rate = self.machine.chip.memory.bandwidth_bytes_per_s
            self.told["copies to and from the host at the rate of device memory: the machine has no figure"] = None
        else:
            rate = plane.levels[0].bandwidth_bytes_per_s
        wire = op.payload_bytes / rate
        return replace(launch, seconds=launch.seconds + wire, network_s=wire)


def price(kernels: Sequence[Kernel], machine: Machine, stack: str | None, issue_s: float | None) -> Priced:
    """Price every kernel of a table."""
    pricer = Pricer(machine, stack, issue_s)
    seconds = tuple(pricer.seconds(each) for each in kernels)
    return Priced(
        machine=machine,
        stack=pricer.stack,
        seconds=seconds,
        issue_s=pricer.issue_s,
        fallen=frozenset(at for at, each in enumerate(kernels) if pricer.falls(each)),
        busy_s=tuple(pricer.busy_s(each, spent) for each, spent in zip(kernels, seconds, strict=True)),
        assumptions=tuple(pricer.told),
    )


def _nearest(op: Operator) -> Operator | None:
    if isinstance(op, Gemm) and op.dtype not in ("bf16", "fp32"):
        return replace(op, dtype="bf16")
    if isinstance(op, Gemm) and op.dtype == "fp32":  # by the vector units
        elements = op.batch * (op.m * op.k + op.k * op.n + op.m * op.n)
        return Pointwise(
            kind="activation", elements=elements, moved_bytes=4.0 * elements, flop=2.0 * op.batch * op.m * op.n * op.k
        )
    if isinstance(op, GroupedGemm):  # each group's two products, by kernels for equal ones
        m, many = op.tokens * op.topk / op.experts, 2.0 * op.experts_local
        return Gemm(m=m, n=op.inter, k=op.hidden, batch=many, dtype=op.dtype)
    if isinstance(op, Attend) and op.dtype != "bf16":
        return replace(op, dtype="bf16", kv_dtype="bf16")
    return None


def _words(op: Operator) -> str:
    if isinstance(op, Pointwise):
        return "arithmetic of the vector units"
    return f"{type(op).__name__} in {getattr(op, 'dtype', '')}"
