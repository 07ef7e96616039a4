"""What trains, how, on what, and who prices it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from taicang.cost.cost import Cost
from taicang.errors import InvalidPlan
from taicang.hardware import Machine
from taicang.models.types import Model, routed
from taicang.ops import Operator
from taicang.stacks import Stack
from taicang.train.schedule import Shape
from taicang.train_plans import TrainPlan, check


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """One training job; ``price`` is the cost model, whose choice decides the fidelity.

    Gradients, recompute and experts' sharding (0) that ``plan`` leaves open are as the stack has them. Raises
    ``InvalidPlan`` for a plan that cannot run.
    """

    model: Model
    plan: TrainPlan
    machine: Machine
    stack: Stack
    price: Callable[[Operator, float, float], Cost]
    clock_ratio: float = 1.0
    """Sustained over nominal clock, for the spread between chips (``price`` has its effect on kernels already)."""

    def __post_init__(self) -> None:
        if not self.plan.gradients:
            kept = "fp16" if self.plan.recipe.name == "fp16" else self.stack.keeps.gradients
            object.__setattr__(self, "plan", replace(self.plan, gradients=kept))
        if not self.plan.etp:
            wide = self.stack.experts_sharded and routed(self.model) is not None
            object.__setattr__(self, "plan", replace(self.plan, etp=self.plan.tp if wide else 1))
        if not self.plan.recompute:
            object.__setattr__(self, "plan", replace(self.plan, recompute=self.stack.keeps.recompute))  # type: ignore[arg-type]
        check(self.plan, self.model.layers)
        if self.plan.pp > 1 and self.plan.zero > 1 and self.stack.keeps.sharding == "deepspeed":
            raise InvalidPlan(f"DeepSpeed's pipelines shard the optimizer only: not zero {self.plan.zero} with pp > 1")
        if self.plan.ranks > self.machine.ranks:
            raise InvalidPlan(
                f"the plan needs {self.plan.ranks} ranks, {self.machine.name} has {self.machine.ranks}: "
                f"{self.plan.ranks - self.machine.ranks} too many"
            )

    @property
    def tax(self) -> float:
        """How much computing slows per second of tensor, context and expert communication beside it."""
        return self.machine.overlap_tax_ratio

    @property
    def data_tax(self) -> float:
        """The same of data parallelism, whose collectives are kernels among the others: the engine's own figure, but
        where they move registered buffers."""
        own = 0.0 if "registered" in self.stack.overlap else self.stack.overlap_tax_ratio
        return own or self.machine.overlap_tax_ratio

    @property
    def pairs(self) -> bool:
        """Whether one microbatch's exchanges run beside another's computing: 1F1B on request, DualPipe always."""
        exchanged = routed(self.model) is not None and self.plan.ep > 1
        asked = self.plan.schedule.startswith("dualpipe") or "expert_exchange" in self.stack.overlap
        return exchanged and asked and self.plan.schedule in ("1f1b", "dualpipe", "dualpipev")

    @property
    def shape(self) -> Shape:
        """The pipeline's schedule."""
        plan = self.plan
        return Shape(
            schedule=plan.schedule, pp=plan.pp, vpp=plan.vpp, micro=plan.microbatches // plan.runs,
            paired=self.pairs and plan.schedule == "1f1b",
        )  # fmt: skip
