"""How busy the instances were over time, and the power that they drew in each step, read off the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taicang.cost.energy import Activity, EnergyFit, chip_power_w
from taicang.errors import MissingFigure, NotModelled
from taicang.hardware import Chip, Machine
from taicang.plans import Batch
from taicang.serve.log import Log
from taicang.serve.record import STAMP
from taicang.serve.setup import Setup, step
from taicang.serve.steptable import GRAIN
from taicang.timeline import Timeline
from taicang.units import Num


def activity(timeline: Timeline, machine: Machine) -> Activity:
    """How busy arithmetic, memory and network of one rank are over the step.

    Arithmetic counts the time that its kernels alone would need (tiles that are padded burn energy all the same);
    memory and network count bytes at the peak rate.
    """
    compute = timeline.computing_s
    moved: Num = 0.0
    sent: Num = 0.0
    for piece in timeline.slices:
        moved = moved + piece.cost.moved_bytes * piece.repeat
        sent = sent + piece.cost.sent_bytes * piece.repeat
    link = machine.plane("scale_up").levels[0].bandwidth_bytes_per_s
    seconds = np.maximum(timeline.seconds, 1e-12)
    return Activity(
        compute_ratio=np.minimum(compute / seconds, 1.0),
        memory_ratio=np.minimum(moved / machine.chip.memory.bandwidth_bytes_per_s / seconds, 1.0),
        network_ratio=np.minimum(sent / link / seconds, 1.0),
    )


def step_power_w(timeline: Timeline, machine: Machine, fit: EnergyFit) -> Num:
    """Mean power of one chip (all dies) over the step, in W. Raises ``MissingFigure`` without a power limit."""
    chip: Chip = machine.chip
    return chip_power_w(activity(timeline, machine), chip, fit)


BINS = 240
"""Points in time of a run."""
CLASS_RATIO = 1.25
"""Steps whose batch differs by less are priced as one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Instances that are set up alike, and what they are called together."""

    name: str
    setup: Setup
    instances: Sequence[int]
    """Those that are set up so at the beginning."""
    pool: str
    """Their pool in the log."""
    fit: EnergyFit | None = None
    """Power constants of the chip."""
    standing_w: float | None = None
    """Power of a chip at all times, where its own limit is not public."""


def usage(
    log: Log, parts: Sequence[Part], raw: Mapping[str, NDArray[np.int64]], edges: NDArray[np.float64] | None = None
) -> dict[str, NDArray[Any]]:
    """One row for each bin of time (between ``edges``, in stamps; None: the whole run) and each part: busy share,
    sequences decoding, tokens, power and energy.

    ``waiting`` and ``running`` count requests of the whole system at the bin's end. Power is that of the chips that the
    instances hold, idle ones included; NaN where no public figure gives it.
    """
    if edges is None:
        ends = [log.of(name)["end"] for name in log.names]
        last = max((int(end[-1]) for end in ends if len(end)), default=0)
        edges = np.linspace(0.0, float(max(last, 1)), BINS + 1)
    width_s = (edges[1] - edges[0]) / STAMP
    columns: dict[str, list[NDArray[Any]]] = {}
    begun = raw["started"] >= 0
    left_queue = np.where(begun, raw["started"], raw["end"])  # turned away without a step
    standing = {
        "waiting": _upto(raw["arrival"], edges) - _upto(left_queue, edges),
        "running": _upto(raw["started"][begun], edges) - _upto(raw["end"][begun], edges),
    }
    for part in parts:
        worked = {name: rows for name in log.names if len((rows := log.of(name, part.pool))["start"])}
        row = _part(log, part, list(worked.values()), edges)
        found = {
            "time_s": edges[:-1] / STAMP,
            "pool": np.full(len(edges) - 1, part.name),
            "busy_ratio": row["busy"] / (width_s * max(len({*part.instances, *worked}), 1)),
            "decoding_sequences": row["sequences"] / width_s,
            "prompt_tokens_per_s": row["prompt"] / width_s,
            "decoded_tokens_per_s": row["decoded"] / width_s,
            "power_w": row["energy"] / width_s,
            "energy_j": row["energy"],
            **standing,
        }
        for name, values in found.items():
            columns.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in columns.items()}


def _upto(times: NDArray[np.int64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.searchsorted(np.sort(times), edges[1:], side="right")


def _part(
    log: Log, part: Part, rows: Sequence[Mapping[str, NDArray[np.int64]]], edges: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Sums by bin of what instances did as part of ``part`` (``rows``), and of the idle time of its own."""
    total = {name: np.zeros(len(edges) - 1) for name in ("busy", "sequences", "prompt", "decoded", "energy")}
    chip, chips = part.setup.machine.chip, part.setup.plan.ranks / part.setup.machine.chip.dies
    groups, per_step = part.setup.plan.dp, part.setup.plan.tokens_per_step
    span_s = (edges[1] - edges[0]) / STAMP
    idle_w = chip.idle_w or 0.0
    if part.standing_w is None:
        power = powers(rows, part.setup, groups, part.fit)
    else:
        power = [np.full(len(one["start"]), part.standing_w) for one in rows]
        idle_w = part.standing_w
    for one, watts in zip(rows, power, strict=True):
        seconds = (one["end"] - one["start"]) / STAMP
        each = {
            "busy": seconds,
            "sequences": one["sequences"] * seconds,
            "prompt": one["tokens"].astype(float),
            "decoded": one["sequences"] * one["steps"] * float(per_step),
            "energy": watts * seconds * chips,
        }
        for name, values in each.items():
            total[name] += _spread(one["start"], one["end"], values, edges)
    for place in part.instances:  # idle time counts where an instance began, whatever it is set up as later
        one = log.of(place)
        busy = _spread(one["start"], one["end"], (one["end"] - one["start"]) / STAMP, edges)
        total["energy"] += np.maximum(span_s - busy, 0.0) * idle_w * chips
    return total


def _spread(start: Any, end: Any, values: Any, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """``values`` that accrue evenly from each start to its end, by bin."""
    if not len(start):
        return np.zeros(len(edges) - 1)
    times = np.ravel(np.stack([start, end], axis=1)).astype(float)
    upto = np.cumsum(values)
    before = np.concatenate([[0.0], upto[:-1]])  # what accrues never falls, not by rounding either
    reached = np.ravel(np.stack([before, upto], axis=1))
    made: NDArray[np.float64] = np.diff(np.interp(edges, times, reached))
    return made


def powers(
    rows: Sequence[Mapping[str, NDArray[np.int64]]], setup: Setup, groups: int, fit: EnergyFit | None
) -> list[NDArray[np.float64]]:
    """W of one chip in each step of each instance; NaN without ``fit`` or where the chip's limit is not public.

    Steps are sorted into classes by their sequences, context, prompt tokens and what those attend to; each class is
    priced once, all in one array call.
    """
    sizes = [len(one["start"]) for one in rows]
    if fit is None or not sum(sizes):
        return [np.full(size, np.nan) for size in sizes]
    joined = {name: np.concatenate([one[name] for one in rows]).astype(float) for name in rows[0]}
    decoding = np.where(joined["steps"] > 0, joined["sequences"], 0.0)
    grains = np.where(joined["steps"] > 0, joined["grains"], 0.0)
    stats = np.stack(
        [
            decoding / groups,
            grains / GRAIN / np.maximum(decoding, 1.0),
            joined["tokens"] / groups,
            joined["pairs"] / np.maximum(joined["tokens"], 1.0),
            joined["keys"] / np.maximum(joined["tokens"], 1.0),
            joined["prompts"] / groups,
        ]
    )
    classes = np.where(stats > 0, np.round(np.log(np.maximum(stats, 1e-3)) / np.log(CLASS_RATIO)), -99)
    unique, inverse = np.unique(classes.T.astype(np.int64), axis=0, return_inverse=True)
    middle = np.where(unique > -99, np.power(CLASS_RATIO, unique.astype(float)), 0.0).T
    watts = np.empty(len(unique))
    plain = middle[2] == 0.0
    for at in (np.flatnonzero(plain), np.flatnonzero(~plain)):
        if len(at):
            watts[at] = _priced(middle[:, at], setup, fit, prompts=not plain[at[0]])
    return np.split(watts[inverse.ravel()], np.cumsum(sizes)[:-1])


def _priced(middle: NDArray[np.float64], setup: Setup, fit: EnergyFit, *, prompts: bool) -> Any:
    sequences, context, tokens, past, keys, count = middle
    batch = Batch(decode_sequences=sequences, decode_context=sequences * context)
    if prompts:
        batch = Batch(
            prefill_tokens=tokens, prefill_sequences=count, prefill_pairs=tokens * past, prefill_context=tokens * keys,
            decode_sequences=sequences, decode_context=sequences * context,
        )  # fmt: skip
    try:
        return np.broadcast_to(step_power_w(step(setup, batch), setup.machine, fit), tokens.shape)
    except (MissingFigure, NotModelled):
        return np.full(tokens.shape, np.nan)
