"""Fit what training adds to kernels measured alone: a sustained clock per chip, one constant per stack and epoch.

Rows: calibrated-on rows on at most ``SMALL_RANKS`` ranks. The stack's constant is the time of the kernels that matured
last in it over the best known ones: expert kernels (NeMo), the attention core (stacks with Ampere's attention kernels),
else matrix products. It is drawn to one, so that it only speaks where several rows agree; a chip's clock is free up to
that of the kernel benchmarks.
Two constants are common to an engine's epochs: NeMo's host time per launched kernel (microbatches of few tokens wait
for the host), and how much computing slows beside the collectives of sharded data parallelism.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from taicang import catalog
from taicang.cost.sustained import Sustained
from taicang.errors import TaicangError
from taicang.evidence.fitting import write
from taicang.evidence.suite_training import predict, setup
from taicang.evidence.training_rows import FILE, Row, model_of, stack_of, training_rows
from taicang.models.types import routed

Floats = NDArray[np.float64]
PRIOR_RATIO = 0.05
"""Spread of stacks' constants around one that needs no evidence."""
NOISE_RATIO = 0.05
"""Errors beyond this count linearly (soft L1)."""
STEP = 0.01
BIASED = "/biased"
"""End of the name of a constant of experts with biases, whose kernels are others than those of the rest."""
HOST_BOUND = ("nemo", "megatron")
"""Engines (one library) whose expert layers wait for the host when microbatches are small."""
LAUNCH_S = 20e-6
"""Start of the search for the host's time per kernel."""
SHARDED = ("fsdp", "torchtitan")
"""Engines that gather and scatter in every microbatch."""
LIKEWISE = ("nemo", "nemo-mlperf", "megatron", "primus", "torchtune", "deepspeed")
"""Engines whose data-parallel collectives are kernels of the same library: they slow computing as much."""
TAX_RATIO = 0.15
"""Start of the search for the slowdown beside collectives."""


def fit_training(folder: Path) -> list[Path]:
    """Write ``sustained.yaml`` and ``stacks_training.yaml``."""
    path = folder / FILE
    rows = [row for row in training_rows(path) if _usable(row)]
    chips = sorted({setup(row).machine.chip.name for row in rows})
    stacks = sorted({constant_of(row) for row in rows})
    solved = _solve(rows, chips, stacks)
    clock = {name: {"clock": {"clock_ratio": float(np.exp(solved[i]))}} for i, name in enumerate(chips)}
    # chips that nobody trained on take the median of those whose kernels were measured
    measured = [clock[name]["clock"]["clock_ratio"] for name in chips if catalog.chip(name).measured]
    clock["default"] = {"clock": {"clock_ratio": float(np.median(measured))}}
    ratios: dict[str, Any] = {
        name: {"constants": {"kernel_ratio": {family(name): float(np.exp(solved[len(chips) + i]))}}}
        for i, name in enumerate(stacks)
    }
    for name in [name for name in ratios if name.endswith(BIASED)]:
        engine, ratio = name.removesuffix(BIASED), ratios.pop(name)["constants"]["kernel_ratio"]
        for of_version in [made for each, made in ratios.items() if each.startswith(f"{engine}@")]:
            of_version["constants"]["kernel_ratio"] |= ratio
    for engine in HOST_BOUND:
        ratios[engine] = {"constants": {"eager_kernel_s": float(np.exp(solved[-2])) * LAUNCH_S}}
    for engine in (*SHARDED, *LIKEWISE):
        made = ratios.setdefault(engine, {"constants": {}})["constants"]
        made["overlap_tax_ratio"] = float(np.exp(solved[-1])) * TAX_RATIO
    note = f"rows on at most 64 ranks; {len(rows)} rows; stacks drawn to one within {PRIOR_RATIO:.0%}"
    return [
        write("sustained", clock, evidence=path, rows=len(rows), note=note),
        write("stacks_training", ratios, evidence=path, rows=len(rows), note=note),
    ]


def constant_of(row: Row) -> str:
    """The stack whose constant a row has; one for all releases of NeMo where experts have biases."""
    name, experts = stack_of(row), routed(model_of(row))
    return f"nemo{BIASED}" if name.startswith("nemo@") and experts and experts.bias else name


def family(stack: str) -> str:
    """Whose kernels the stack's constant is about."""
    if stack.endswith(BIASED):
        return f"experts{BIASED}"
    if stack.startswith("nemo@"):
        return "experts"
    return "attend" if "ampere_attention" in catalog.stack(stack).fused else "gemm"


def _usable(row: Row) -> bool:
    if row.held_out:
        return False
    try:
        setup(row)
    except TaicangError:
        return False
    return True


def _error(row: Row, clock: float, ratio: float, engine: float) -> float:
    constant = MappingProxyType({family(constant_of(row)): float(np.exp(ratio))})
    stack = replace(catalog.stack(stack_of(row)), kernel_ratio=constant)
    if stack.engine in HOST_BOUND:
        stack = replace(stack, eager_kernel_s=float(np.exp(engine)) * LAUNCH_S)
    if stack.engine in SHARDED:
        stack = replace(stack, overlap_tax_ratio=float(np.exp(engine)) * TAX_RATIO)
    seconds = predict(row, stack, Sustained(clock_ratio=float(np.exp(clock)))).seconds
    return float(np.log(seconds / row.step_s))


def _solve(rows: Sequence[Row], chips: list[str], stacks: list[str]) -> Floats:
    at = [
        (
            chips.index(setup(row).machine.chip.name),
            len(chips) + stacks.index(constant_of(row)),
            -1 if stack_of(row).partition("@")[0] in SHARDED else -2,
        )
        for row in rows
    ]
    count = len(chips) + len(stacks) + 2
    weights = np.sqrt(1.0 / np.array([_alike(row, rows) for row in rows]))
    pull = np.array([0.0] * len(chips) + [1.0] * len(stacks) + [0.0, 0.0])

    def residuals(x: Floats) -> Floats:
        errors = np.array([_error(row, x[c], x[s], x[e]) for row, (c, s, e) in zip(rows, at, strict=True)])
        return np.concatenate([weights * errors, pull * x * (NOISE_RATIO / PRIOR_RATIO)])

    def jacobian(x: Floats) -> Floats:
        made = np.zeros((len(rows) + count, count))
        for i, (row, (c, s, e)) in enumerate(zip(rows, at, strict=True)):
            here = _error(row, x[c], x[s], x[e])
            made[i, c] = weights[i] * (_error(row, x[c] + STEP, x[s], x[e]) - here) / STEP
            made[i, s] = weights[i] * (_error(row, x[c], x[s] + STEP, x[e]) - here) / STEP
            made[i, e] = weights[i] * (_error(row, x[c], x[s], x[e] + STEP) - here) / STEP
        made[len(rows) :] = np.diag(pull * (NOISE_RATIO / PRIOR_RATIO))
        return made

    low = np.array([np.log(0.2)] * count)
    high = np.array([0.0] * len(chips) + [np.log(3.0)] * len(stacks) + [np.log(6.0)] * 2)
    start = np.array([np.log(0.8)] * len(chips) + [0.0] * len(stacks) + [0.0, 0.0])
    found: Any = least_squares(
        residuals, start, jacobian, bounds=(low, high), loss="soft_l1", f_scale=NOISE_RATIO, max_nfev=30
    )
    solved: Floats = found.x
    return solved


def _alike(row: Row, rows: Sequence[Row]) -> float:
    """Rows of the same job on other epochs and by other submitters count together as a few."""
    job = attrgetter("model", "chip", "count", "batch", "seq", "source")
    return max(sum(job(each) == job(row) for each in rows) / 3.0, 1.0)
