"""Fit what an engine costs beside its kernels, and how its kernels compare with the best known ones.

Per engine, on calibrated-on rows of all machines and models together: host time per step and per sequence, idle gap per
layer, launch costs, how closed loops keep in step, and one ratio per family of kernels (per format where an engine
chose its kernels by format and enough rows tell). Schedulers are the engines' defaults, not fitted. The loss is the
logarithm of predicted over measured TPOT, rounded off beyond ten percent so that rows that contradict themselves do not
steer it; TTFT counts a tenth (it decides the burst ratio).
Constants are pulled weakly towards "no overhead, best kernels".
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from taicang.errors import TaicangError
from taicang.evidence.fitting import write
from taicang.evidence.served import Row
from taicang.evidence.split import held_out
from taicang.evidence.suite_served import FILE, predict, rows
from taicang.models.types import Experts
from taicang.stacks import Scheduler, Stack

SCHEDULERS: Mapping[str, Scheduler] = MappingProxyType(
    {"vllm": "mixed", "sglang": "prefill_first", "tensorrt-llm": "mixed"}
)
"""Default of each engine: prompt chunks join decode steps, or run in steps of their own."""
FAMILIES = ("gemm", "attend", "collective", "experts")
FORMATS = (
    "experts/mxfp4_w4a16", "experts/mxfp4_w4a8", "experts/nvfp4", "experts/fp8_block", "gemm/fp8", "gemm/nvfp4",
)  # fmt: skip
"""Formats whose kernels an engine chooses apart; a ratio of its own where enough rows run them."""
ENOUGH_ROWS = 20
HOST = ("step_host_s", "sequence_host_s", "layer_gap_s", "eager_kernel_s", "burst_ratio", "launch_ratio")
START = (5e-4, 2e-6, 1e-6, 2e-5, 0.4, 0.9)
LOW = (0.0, 0.0, 0.0, 0.0, 0.0, 0.3)
HIGH = (1e-2, 1e-4, 5e-5, 1e-4, 1.0, 1.5)
SCALE = (1e-3, 1e-5, 5e-6, 2e-5, 0.5, 0.2)
"""A constant this far from its neutral value is nothing unusual: widths of the prior."""
NEUTRAL = (0.0, 0.0, 0.0, 1e-5, 0.3, 1.0)
RATIO_LOW, RATIO_HIGH, RATIO_SCALE = 0.6, 1.6, 0.2
PRIOR = 0.3
"""Weight of the prior, in rows of ten percent error."""
MAX_STEPS = 8
TTFT_WEIGHT = 0.1
BEND = 0.1
"""Error at which a row's pull stops growing."""


def ratios_of(chosen: list[Row]) -> tuple[str, ...]:
    """Kernel ratios that these rows can tell."""
    seen = dict.fromkeys(FORMATS, 0)
    for row in chosen:
        quant = row.decode.plan.quant
        routed = any(isinstance(block.ffn, Experts) for block in row.net.blocks)
        for key in {f"experts/{quant.experts}" if routed else "", f"gemm/{quant.dense}"}:
            seen[key] = seen.get(key, 0) + 1
    return FAMILIES + tuple(key for key in FORMATS if seen[key] >= ENOUGH_ROWS)


def constants(engine: str, names: tuple[str, ...], values: NDArray[np.float64]) -> dict[str, Any]:
    """The vector of the fit as fields of ``Stack``; ``names`` are the kernel ratios at its end."""
    named = {name: float(value) for name, value in zip(HOST, values, strict=False)}
    ratios = {name: float(value) for name, value in zip(names, values[len(HOST) :], strict=True)}
    return {"scheduler": SCHEDULERS[engine], **named, "kernel_ratio": ratios}


def trial(engine: str, names: tuple[str, ...], values: NDArray[np.float64]) -> Stack:
    """A stack with the constants of the fit."""
    fields = constants(engine, names, values)
    fields["kernel_ratio"] = MappingProxyType(fields["kernel_ratio"])
    return Stack(name=engine, engine=engine, version="fit", epoch="", **fields)


def errors(chosen: list[Row], stack: Stack) -> NDArray[np.float64]:
    """Logarithms of predicted over measured TPOT, then of TTFT; zero where a row is refused."""
    found = np.zeros((2, len(chosen)))
    for index, row in enumerate(chosen):
        try:
            steady = predict(row, stack)
        except TaicangError:
            continue
        found[0, index] = np.log(steady.tpot_s / row.tpot_s)
        found[1, index] = np.log(steady.ttft_s / row.ttft_s)
    return found


def fit_engine(engine: str, chosen: list[Row]) -> NDArray[np.float64]:
    """Constants of one engine over its rows."""
    names = ratios_of(chosen)
    many = len(names)
    scale, neutral = np.array(SCALE + (RATIO_SCALE,) * many), np.array(NEUTRAL + (1.0,) * many)

    def residuals(values: NDArray[np.float64]) -> NDArray[np.float64]:
        tpot, ttft = errors(chosen, trial(engine, names, values * scale))
        prior = (values - neutral / scale) * PRIOR
        # pseudo-Huber by hand, so that the prior stays quadratic
        bent = [np.sign(e) * np.sqrt(2.0 * (np.sqrt(1.0 + np.square(e / BEND)) - 1.0)) for e in (tpot, ttft / 3.0)]
        return np.concatenate([bent[0], bent[1] * np.sqrt(TTFT_WEIGHT), prior])

    found = least_squares(
        residuals,
        np.array(START + (1.0,) * many) / scale,
        bounds=(np.array(LOW + (RATIO_LOW,) * many) / scale, np.array(HIGH + (RATIO_HIGH,) * many) / scale),
        diff_step=0.02,
        xtol=1e-3,
        ftol=1e-4,
        max_nfev=MAX_STEPS,
    )
    return np.asarray(found.x * scale)


def fit(folder: Path) -> Path:
    """Fit every engine on its calibrated-on rows and write ``calibration/stacks.yaml``."""
    known = [row for row in rows(folder) if not held_out("served", *row.key)]
    profiles = {}
    for engine in SCHEDULERS:
        chosen = [row for row in known if row.engine == engine]
        profiles[engine] = {"constants": constants(engine, ratios_of(chosen), fit_engine(engine, chosen))}
    note = "TPOT of served rows, TTFT at a tenth; pooled over machines, models and versions of an engine"
    return write("stacks", profiles, evidence=folder / FILE, rows=len(known), note=note)
