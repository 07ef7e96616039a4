"""Published serving results: throughput, latency and power as vendors, MLPerf and projects report them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from taicang.catalog.trust import Ground, ground
from taicang.evidence.measured import attempt
from taicang.evidence.published import FILE, Published, read
from taicang.evidence.published_predict import average_power_w, predict
from taicang.evidence.published_setup import formats, setups, stack_of
from taicang.evidence.score import Outcome
from taicang.evidence.systems import machine_for

UNITS = {"ms": 1e-3, "s": 1.0}


def suite_of(row: Published) -> str:
    """The suite of a row; those given for context have one of their own, so that no headline counts them."""
    return f"{row.of_source['suite']}_context" if row.context else str(row.of_source["suite"])


def run_of(row: Published) -> Ground | None:
    """What is known of a row; one that leaves its layout to the submitter is an instance of a node."""
    use = "disaggregated" if row.phase in ("prefill", "decode", "pd-disagg", "1P1D") else "aggregated"
    if made := attempt(partial(setups, row))[0]:
        one = made[0]
        return ground(one.model, one.machine, one.stack, use=use, ranks=int(one.plan.ranks), quant=one.plan.quant)
    if "scenario" not in row.batch or attempt(lambda: row.machine)[0] is None:
        return None
    machine, stack = machine_for(row.machine, 1), stack_of(row)
    quant = formats(row, row.net, stack)
    return ground(row.net, machine, stack, use="saturated", ranks=min(row.count, machine.ranks), quant=quant)


def outcomes(folder: Path) -> Iterator[Outcome]:
    """One outcome per row, another for its power where the source states it; a refusal names its reason."""
    for row in read(folder / FILE):
        run = run_of(row)
        yield from (replace(each, run=run) for each in _of_row(row))


def _of_row(row: Published) -> Iterator[Outcome]:
    scale = UNITS.get(row.unit, 1.0)
    value, why = attempt(partial(predict, row))
    unit = "s" if row.unit in UNITS else "tokens/s"
    group = f"{row.source} {row.machine}"
    yield Outcome(
        id=row.id, suite=suite_of(row), group=group, measured=row.value * scale, predicted=value, unit=unit,
        held_out=row.held_out, refused=why, figure=_figure(row),
    )  # fmt: skip
    yield from _token_time(row, group)
    yield from _power(row, group)


def _figure(row: Published) -> str:
    """Which latency a row states, if one."""
    if row.unit not in UNITS:
        return ""
    return "ttft" if row.metric in ("prompt_time", "ttft") else "tpot"


def _token_time(row: Published, group: str) -> Iterator[Outcome]:
    if "token_time_ms" not in row.extra:
        return
    value, why = attempt(partial(predict, row, phase="decode"))
    yield Outcome(
        id=f"{row.id}-token", suite="published_splitwise", group=f"{group} token", predicted=value, unit="s",
        measured=float(row.extra["token_time_ms"]) * 1e-3, held_out=row.held_out, refused=why, figure="tpot",
    )  # fmt: skip


def measured_power_w(row: Published, tdp_w: float) -> float | None:
    """Average power of all of a row's chips, where the source states it."""
    if "avg_power_w_all_gpus" in row.extra:
        return float(row.extra["avg_power_w_all_gpus"])
    if "avg_power_x_tdp" in row.extra:
        return float(row.extra["avg_power_x_tdp"]) * tdp_w * row.count
    return None


def states_power(row: Published) -> bool:
    """Whether the source states an average power."""
    return bool({"avg_power_w_all_gpus", "avg_power_x_tdp"} & set(row.extra))


def _power(row: Published, group: str) -> Iterator[Outcome]:
    if not states_power(row):
        return
    suite = "published_mlenergy_power" if row.source.startswith("mlenergy") else "published_splitwise_power"
    power, why = attempt(partial(average_power_w, row))
    value, tdp_w = power or (None, 0.0)
    measured = float(row.extra.get("avg_power_w_all_gpus", 1.0)) if power is None else measured_power_w(row, tdp_w)
    yield Outcome(
        id=f"{row.id}-power", suite=suite, group=group, measured=measured or 0.0, predicted=value, unit="W",
        held_out=row.held_out, refused=why,
    )  # fmt: skip
