"""What makes a plan that is out of memory fit, the fastest first: each remedy is priced, not guessed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from taicang.errors import TaicangError
from taicang.train.setup import Setup
from taicang.train.step import train_step

MOST = 3
"""Changes that are combined at most."""
SHOWN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """Options that make the job fit, what they cost and what they leave free."""

    options: str
    seconds: float
    """Of the step with them."""
    spare_bytes: float


def remedies(setup: Setup) -> tuple[Remedy, ...]:
    """The fastest plans that fit with as few changes as any needs; empty where ``MOST`` changes do not suffice."""
    changes = list(_changes(setup))
    for count in range(1, MOST + 1):
        found = []
        for chosen in combinations(changes, count):
            fields: dict[str, Any] = {}
            for _, more in chosen:
                fields |= more
            if len(fields) < sum(len(more) for _, more in chosen):
                continue  # two values of one field
            remedy = _tried(setup, " ".join(text for text, _ in chosen), fields)
            found += [remedy] if remedy is not None else []
        if found:
            return tuple(sorted(found, key=lambda one: one.seconds)[:SHOWN])
    return ()


def _tried(setup: Setup, text: str, fields: dict[str, Any]) -> Remedy | None:
    plan = replace(setup.plan, **fields)
    inner = plan.tp * plan.cp * plan.pp
    if setup.plan.ranks % inner:
        return None
    try:
        step = train_step(replace(setup, plan=replace(plan, dp=setup.plan.ranks // inner)))
    except TaicangError:
        return None
    spare = float(step.memory.spare_bytes)
    return Remedy(options=text, seconds=step.seconds, spare_bytes=spare) if spare >= 0 else None


def _changes(setup: Setup) -> Iterator[tuple[str, dict[str, Any]]]:
    """One step further along every knob that trades memory for something else."""
    plan = setup.plan
    if plan.recompute == "none":
        yield "--recompute selective", {"recompute": "selective"}
    if plan.recompute != "full":
        for share in (0.5, 1.0):
            text = "--recompute full" + ("" if share == 1.0 else f" --recompute-share {share}")
            yield text, {"recompute": "full", "recompute_ratio": share}
    if plan.zero < 1:
        yield "--zero 1", {"zero": 1}
    if plan.zero < 3 and plan.pp == 1:
        yield "--zero 3", {"zero": 3}
    if plan.offload == "none" and plan.zero and plan.pp == 1 and "host" in setup.machine.planes:
        yield "--offload optimizer", {"offload": "optimizer"}
    if not plan.activations_away_ratio and "host" in setup.machine.planes:
        yield "--offload-activations 0.5", {"activations_away_ratio": 0.5}
    if plan.micro_batch > 1:
        yield f"--micro-batch {plan.micro_batch // 2}", {"micro_batch": plan.micro_batch // 2}
    if plan.moments == "fp32":
        yield "--moments bf16", {"moments": "bf16"}
    for axis in ("tp", "cp", "pp", "ep"):
        for wide in (2, 4):
            degree = getattr(plan, axis) * wide
            yield f"--{axis} {degree}", {axis: degree}
