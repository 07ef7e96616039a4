"""How far a figure can be trusted: a band chosen by what is known of the run, from rows that were left out whole.

``data/bands.json`` (written by ``taicang fit bands``) holds, for each metric and way of use on one vendor's chips, what
was measured there by engine, and how far predictions were off: where the like of a run was among the rows of the fits
("seen"), and where its model, kind of model, number format, chip, engine, version or size was left out of them. A run
gets the errors of what is new about it, times what makes such bands hold nine in ten of the rows left out ("scale").
Each end of a band is its own: a queue only adds to a first token's time, so measurements lie further above than below.
Where nobody measured anything near, it is unvalidated: no number is borrowed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from taicang.catalog.grounds import Ground, feed, size

FILE = Path(__file__).parent / "data" / "scoreboard.yaml"
BANDS = Path(__file__).parent / "data" / "bands.json"
UNVALIDATED = "unvalidated"
NINE_IN_TEN = "nine in ten"
AXES = ("source", "engine", "version", "kind", "model", "form", "sibling", "foreign", "size", "layout")
"""What may be new about a run, and with that what was left out of the fits."""
WORDS = {
    "source": "publisher", "engine": "engine", "version": "version of the engine", "kind": "kind of model",
    "model": "model", "form": "number format", "sibling": "chip (of a measured generation)",
    "foreign": "generation of chips", "size": "size", "layout": "layout",
}  # fmt: skip
"""An axis as it is told."""
FURTHER = 2.0
"""Times the largest measured instance that a run may have ranks before nothing is near it (and the smallest)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """How far one figure may be off: nine measurements in ten lie within it, or nobody measured anything near."""

    verdict: str
    """``NINE_IN_TEN`` or ``UNVALIDATED``."""
    low_ratio: float | None
    """Times the figure: the lower end."""
    high_ratio: float | None
    typical_ratio: float | None
    """Half of the measurements are closer than this."""
    rows: int
    """Measurements that it comes from."""
    basis: str
    """What was measured near, and what is new about the run; or why nothing is near."""

    @property
    def wide_ratio(self) -> float:
        """Half its width as a ratio: of ends as far below as above, how much more the upper one is; 0: unvalidated."""
        known = self.low_ratio is not None and self.high_ratio is not None
        return math.sqrt(self.high_ratio / self.low_ratio) - 1.0 if known else 0.0  # type: ignore[operator]

    @property
    def said(self) -> str:
        """In a few words: "-14 % to +16 %"."""
        if self.low_ratio is None or self.high_ratio is None:
            return UNVALIDATED
        return f"{self.low_ratio - 1.0:+.0%} to {self.high_ratio - 1.0:+.0%}"


SERVED = ("tpot", "ttft", "throughput", "memory", "power")
"""Figures of a way to serve."""
REPLAYED = ("tpot", "itl", "ttft", "e2e", "queue", "throughput", "power")
"""Figures of a replay."""
TRAINED = ("step_time", "throughput", "mfu", "memory", "power")
"""Figures of a training step."""
RUN = ("days", "energy")
"""Those that a whole run adds."""
STATED = "stated"
"""Figures of the catalogue, which are not predicted: see ``Ground.power``."""
_SAME: Mapping[str, Mapping[str, str]] = {
    "itl": {"": "tpot"},
    "ttft": {"replay": "replayed_ttft"},
    "throughput": {"training": "step_time", "adapters": "step_time"},
    "mfu": {"": "step_time"},
    "days": {"": "step_time"},
    "energy": {"": STATED},
    "power": {"": STATED, "replay": "power"},
}
"""Figure -> where ("": anywhere) -> the metric that says how far it is off."""
_RATES = ("throughput", "mfu")
"""Figures that are low where a step takes long."""


def bands(run: Ground, figures: Sequence[str], *, replay: bool = False) -> dict[str, Band]:
    """The bands of all ``figures`` of a run; a replayed TTFT holds the queue, so it has a band of its own."""
    where = "replay" if replay else run.use
    made = {}
    for name in figures:
        same = _SAME.get(name, {})
        metric = same.get(where) or same.get("") or name
        found = unvalidated(run.power) if metric == STATED else _nearest(metric, run)
        made[name] = _inverse(found) if metric == "step_time" and name in _RATES else found
    return made


def _inverse(band: Band) -> Band:
    """The band of what is done per time, of that of the time."""
    low, high = (None if each is None else 1.0 / each for each in (band.high_ratio, band.low_ratio))
    return replace(band, low_ratio=low, high_ratio=high)


def _nearest(metric: str, run: Ground) -> Band:
    """The band of the user's own rows where they are near, else of the package's."""
    mine = band(metric, run, run.own) if run.own else None
    if mine is not None and mine.verdict == NINE_IN_TEN:
        return replace(mine, basis=f"your rows, {mine.basis}")
    return band(metric, run)


def table() -> Mapping[str, Any]:
    """Metric -> pool -> what was measured and how far off it was; empty before the first fit."""
    return recorded().get("metrics", {})  # type: ignore[no-any-return]


def left_out() -> Mapping[str, Any]:
    """Suite -> what was left out of the fits -> rows, mean error, share in the others' bands, as the fit recorded."""
    return recorded().get("left_out", {})  # type: ignore[no-any-return]


@cache
def recorded() -> Mapping[str, Any]:
    """What the fit wrote; empty before the first."""
    if not BANDS.exists():
        return {}
    loaded: Mapping[str, Any] = json.loads(BANDS.read_text(encoding="utf-8"))
    return loaded


def band(metric: str, run: Ground, known: Mapping[str, Any] | None = None) -> Band:
    """The band of a run's ``metric`` ("tpot", "ttft", "replayed_ttft", "throughput", "step_time", "memory", "power").

    ``known`` stands in for the fitted table.
    """
    pool = (table() if known is None else known).get(metric, {}).get(run.pool)
    if pool is None:
        return unvalidated(f"no measured {metric.replace('_', ' ')} of {run.use} runs on chips of {run.vendor}")
    new, why = novelty(run, pool)
    if why:
        return unvalidated(why)
    # where all is of one publisher, what its own rows are off by stands
    alone = "source" in new and _error(pool, run, "source") is None
    new = tuple(axis for axis in new if not (alone and axis == "source"))
    errors = [_error(pool, run, axis) for axis in ("seen", *new)]
    if any(each is None for each in errors):
        lacking = [WORDS[axis] for axis, each in zip(("seen", *new), errors, strict=True) if axis in WORDS and not each]
        return unvalidated(f"new {' and '.join(lacking) or 'rows'}: too few were measured to leave any out")
    seen, *others = [each for each in errors if each is not None]
    reach = [_together(seen[i], {axis: each[i] for axis, each in zip(new, others, strict=True)}) for i in range(3)]
    scales = pool.get("scale", {}).get(run.feed, {})
    scale, own = max(scales.get(axis, 1.0) for axis in new or ("seen",)), scales.get("seen", 1.0)
    # what is new never narrows
    half, below, above = (max(each * scale, least * own) for each, least in zip(reach, seen, strict=True))
    named = [WORDS[axis] for axis in new if axis != "source"]  # of users' runs that is always so
    told = f"new {', '.join(named)}" if named else f"{run.engine} on {run.chip}"
    return Band(
        verdict=NINE_IN_TEN,
        low_ratio=math.exp(-below),
        high_ratio=math.exp(above),
        typical_ratio=math.expm1(half),
        rows=pool["rows"],
        basis=f"{run.pool}: {told}" + ", of one publisher" * alone,
    )


def _together(seen: float, others: Mapping[str, float]) -> float:
    """An error where several things are new. A chip, whose kernels are fitted apart, adds its own excess over what all
    rows have in common; what else is new is left out with a publisher or an engine anyway, so the dearest counts."""
    excess = [0.0, 0.0]
    for axis, error in others.items():
        chip = axis in ("sibling", "foreign")
        excess[chip] = max(excess[chip], error**2 - seen**2)
    return math.sqrt(seen**2 + sum(excess))


def unvalidated(why: str) -> Band:
    """The band of a figure that nothing near was measured of."""
    return Band(verdict=UNVALIDATED, low_ratio=None, high_ratio=None, typical_ratio=None, rows=0, basis=why)


def _error(pool: Mapping[str, Any], run: Ground, axis: str) -> Sequence[float] | None:
    """(Median, how far below, how far above nine in ten lie) of ``axis`` in the nearest cell; None where none could be
    left out. Profiles of earlier versions have the same below and above."""
    found = [pool["cells"][name][axis] for name in run.cells if axis in pool["cells"].get(name, {})]
    if not found and axis == "source":  # who leaves out an engine leaves out all that its publishers said
        return _error(pool, run, "engine")
    return (*found[-1], found[-1][-1])[:3] if found else None


def novelty(run: Ground, pool: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    """What is new about ``run`` against the rows of its pool, or why nothing there is near."""
    engines = pool["engines"]
    new: list[str] = []
    near = engines.get(run.engine)
    if near is None:
        new += ["engine", "source"]  # nobody who measured others ran it
        near = {
            axis: sorted({each for one in engines.values() for each in one[axis]})
            for axis in next(iter(engines.values()))
        }
    else:
        new += ["source"] * (run.source not in near.get("source", [run.source]))
        new += ["version"] * (run.version not in near["version"])
    if run.feed not in {feed(each) for one in engines.values() for each in one["kind"]}:
        return (), f"{run.feed}: no {run.use} runs of such models on chips of {run.vendor} were measured"
    if lacking := _lacking(run, engines):
        return (), f"no measured {run.use} run has {' and '.join(lacking)}"
    if run.kind not in near["kind"]:
        new.append("kind")
    elif run.model not in near["model"]:
        new.append("model")
    if run.form not in near["form"]:
        new.append("form")
    if run.chip not in near["chip"]:
        new.append("sibling" if run.generation in near["generation"] else "foreign")
    if run.layout not in near.get("layout", [run.layout]):
        new.append("layout")
    sizes = near["size"]
    if size(run) not in sizes:
        spans = [int(each.rpartition(" ")[2]) for each in sizes if each.startswith(run.span)]
        if not spans:
            return (), f"{run.ranks} ranks over a {run.span}: only instances on others were measured"
        if not min(spans) / FURTHER <= run.ranks <= max(spans) * FURTHER:
            return (), f"{run.ranks} ranks: {min(spans)} to {max(spans)} were measured"
        new.append("size")
    return tuple(new), ""


def _lacking(run: Ground, engines: Mapping[str, Any]) -> list[str]:
    """Ways of a run that no measured one of its pool has; profiles of earlier versions do not say theirs."""
    layouts = [each for one in engines.values() for each in one.get("layout", [run.layout])]
    return [way for way in run.layout.split("+") if way and not any(way in each.split("+") for each in layouts)]
