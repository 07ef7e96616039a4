"""What published rows alone tell, of those that calibrate: constants of stacks, and the power of chips.

CloudMatrix-Infer and xDeepServe: three constants, each fixed by one published ratio or kernel time, none by an
end-to-end result. ``straggle_ratio``: mean dispatch and combine inside xDeepServe over the price of the bare kernels.
``imbalance_ratio`` and ``overlap_tax_ratio``: what perfect expert balance and what the microbatch pipeline would change
of CloudMatrix-Infer's prefill, solved together.

vLLM Ascend: the launch of a kernel outside graphs is a dense model's time per token over the operators of its step,
where one request decodes (Qwen3-32B on four NPUs). One ratio of its kernels' time to the best known ones, and the
launches of an expert layer, follow by least squares on the logarithm of the reference steps (soft-L1). Huawei's own
tool assumes 0.7 of the peak and 0.6 of the bandwidth for the same engine, where the best known kernels reach 0.87 and
0.84. A gap per layer was tried; cross-validation inside the calibrated-on rows gained nothing and the fit left it at 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taicang import catalog
from taicang.catalog.grounds import ground
from taicang.catalog.models import model
from taicang.catalog.schema import ARCHITECTURE
from taicang.cost.energy import Activity, EnergyFit, chip_power_w
from taicang.evidence import ascend_serving, ascend_steps
from taicang.evidence.fitting import Constants, Fitted, Group, declared_fits
from taicang.evidence.published import FILE, Published, read
from taicang.evidence.score import Outcome
from taicang.evidence.suite_published import mean_activity, predict
from taicang.evidence.tables import CARRIED, Array, lines
from taicang.hardware import Machine
from taicang.plans import ServePlan, decode_batch
from taicang.search.door import Run, job_of
from taicang.serve.setup import step
from taicang.stacks import Stack

KERNEL = "kernel_ratio:"
"""Prefix of a constant that is a ratio of kernel times."""


def _calibrating(folder: Path) -> list[Published]:
    return [row for row in read(folder / FILE) if not row.held_out and not row.context]


def stacks(folder: Path, family: str) -> Iterator[Group]:
    """Rows of each declared stack, of the phases that they tell of."""
    rows = _calibrating(folder)
    for name, said in declared_fits()[family]["stacks"].items():
        mine = [row for row in rows if row.source.startswith(said["source"])]
        pairs = [(row, phase) for row in mine for phase in said["phases"]]
        errors = partial(_stack_errors, pairs, catalog.stack(name))
        yield Group(places=[(name, "constants")], rows=len(mine), errors=errors, bounds=said["bounds"], made=_parted)


def _stack_errors(pairs: Sequence[tuple[Published, str]], stack: Stack, constants: Constants) -> Array:
    trial = replace(stack, **_parted(constants))
    measured = np.array([(row.token_s or 0.0) if phase == "decode" else row.stated for row, phase in pairs])
    return np.asarray(np.log(np.array([predict(row, phase, trial) for row, phase in pairs])) - np.log(measured))


def _parted(constants: Constants) -> dict[str, Any]:
    """Fields of a stack: ratios of kernel times apart from what is plain."""
    plain: dict[str, Any] = {key: value for key, value in constants.items() if not key.startswith(KERNEL)}
    return plain | {"kernel_ratio": {k.removeprefix(KERNEL): v for k, v in constants.items() if k.startswith(KERNEL)}}


def power(folder: Path, family: str) -> Iterator[Group]:
    """Rows that state an average power, by architecture."""
    found: dict[str, list[Published]] = {}
    for row in _calibrating(folder):
        if row.power_w is not None:
            found.setdefault(ARCHITECTURE[mean_activity(row)[1].chip.profile], []).append(row)
    for name, rows in sorted(found.items()):
        said, errors = declared_fits()[family], partial(_power_errors, rows, [mean_activity(row) for row in rows])
        yield Group(
            places=[(name, "step")], rows=len(rows), errors=errors, bounds=said["bounds"], prior_ratio=said["prior"]
        )


def _power_errors(rows: Sequence[Published], seen: Sequence[tuple[Activity, Machine]], constants: Constants) -> Array:
    trial = EnergyFit(**constants)
    said = np.array([float(chip_power_w(activity, machine.chip, trial)) for activity, machine in seen])
    return np.asarray(np.log(said / np.array([(row.power_w or 0.0) / row.count for row in rows])))


ASCEND: Mapping[str, Any] = declared_fits()["stacks_ascend"]
FAMILIES: tuple[str, ...] = tuple(ASCEND["families"])
LAUNCH_TABLE = CARRIED / "ascend_launch.csv"
"""Decoding of one request by a dense model, twice as slow as its kernels: bound by launches."""
SOFT = 0.1
"""Relative error beyond which a row's pull grows only linearly."""


def fit_ascend(folder: Path) -> Fitted:
    """Constants of all three stacks; the rows are carried, ``folder`` is not read."""
    del folder
    late = straggle_ratio()
    balance = prefill_ratios(replace(bare("cloudmatrix-infer"), straggle_ratio=late))
    chosen = [row for row in ascend_steps.rows() if not row.held and not row.image]
    values = step_constants(chosen)
    profiles: dict[str, Any] = {
        "xdeepserve": {"constants": {"straggle_ratio": late}},
        "cloudmatrix-infer": {"constants": {"straggle_ratio": late, **balance}},
        "vllm-ascend": {"constants": values | {"kernel_ratio": dict.fromkeys(FAMILIES, values["kernel_ratio"])}},
    }
    return Fitted(files={"stacks_ascend": profiles}, rows=len(chosen))


def bare(name: str) -> Stack:
    """The stack without the constants that are fitted here."""
    return replace(
        catalog.stack(name),
        straggle_ratio=1.0,
        imbalance_ratio=1.0,
        overlap_tax_ratio=0.0,
        kernel_ratio={},
        layer_gap_s=0.0,
    )


def launch_outcomes() -> Iterator[Outcome]:
    """TPOT of the rows that fix what a step in pieces of graphs takes the host."""
    for number, row in enumerate(lines(LAUNCH_TABLE)):
        ranks, net = int(row["tp"]), model(row["model"])
        machine, stack = catalog.machine(f"{row['hardware']}-376t"), catalog.stack(ascend_steps.STACK)
        plan = ServePlan(tp=ranks, moe_tp=ranks)
        setup = job_of(Run(model=net, on=machine, stack=stack, graph="piecewise", skew=0.0)).setup(plan)
        context = float(row["input_tokens"]) + float(row["output_tokens"]) / 2
        seconds = float(step(setup, decode_batch(sequences=float(row["concurrency"]), context=context)).seconds)
        yield Outcome(
            id=f"ascend_launch/{number}", suite="ascend_launch", group=row["dataset"], unit="s", predicted=seconds,
            measured=float(row["tpot_ms"]) * 1e-3, held_out=False, figure="tpot",
            run=ground(net, machine, stack, use="aggregated", ranks=ranks, quant=setup.plan.quant, plan=plan),
        )  # fmt: skip


def straggle_ratio() -> float:
    """In-service time of xDeepServe's exchanges over that of the bare kernels."""
    row = next(row for row in ascend_serving.rows() if row.metric == "exchange_time" and not row.held)
    return float(row.measured / ascend_serving.figure(row, bare(row.stack)))


def prefill_ratios(stack: Stack) -> dict[str, float]:
    """Imbalance and overlap tax that give both published gains of ``stack``'s prefill."""
    from scipy.optimize import least_squares  # noqa: PLC0415 - fitting only

    rows = [row for row in ascend_serving.rows() if row.phase == "prefill" and not row.held]

    def errors(x: NDArray[np.float64]) -> list[float]:
        trial = replace(stack, imbalance_ratio=float(x[0]), overlap_tax_ratio=float(x[1]))
        return [float(np.log(ascend_serving.figure(row, trial) / row.measured)) for row in rows]

    found = least_squares(errors, [1.3, 0.5], bounds=([1.0, 0.0], [3.0, 1.0]), diff_step=1e-3).x
    return {"imbalance_ratio": float(found[0]), "overlap_tax_ratio": float(found[1])}


def with_constants(stack: Stack, values: Mapping[str, float]) -> Stack:
    """``stack`` with the fitted constants of vLLM Ascend."""
    rest = {name: value for name, value in values.items() if name != "kernel_ratio"}
    return replace(stack, kernel_ratio=MappingProxyType(dict.fromkeys(FAMILIES, values["kernel_ratio"])), **rest)  # type: ignore[arg-type]


def step_constants(rows: Sequence[ascend_steps.Row]) -> dict[str, float]:
    """Constants that bring predicted steps nearest to the reference."""
    from scipy.optimize import least_squares  # noqa: PLC0415 - fitting only

    stack = bare(ascend_steps.STACK)
    names = tuple(ASCEND["constants"])
    scale, *ends = np.array([*ASCEND["constants"].values()]).T

    def values(x: NDArray[np.float64]) -> dict[str, float]:
        return {name: float(v) for name, v in zip(names, x * scale, strict=True)}

    def errors(x: NDArray[np.float64]) -> list[float]:
        trial = with_constants(stack, values(x))
        return [float(np.log(ascend_steps.predict_s(row, trial) / row.measured_s)) for row in rows]

    low, high = (end / scale for end in ends)
    found = least_squares(errors, np.ones(len(names)), bounds=(low, high), loss="soft_l1", f_scale=SOFT, diff_step=1e-3)
    return values(found.x)
