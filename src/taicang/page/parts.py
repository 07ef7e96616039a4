"""What a page is made of: sections of tables, charts and lists, with their words in both languages.

And what every result has: its figures as a table, the memory of a rank, and how far it can be trusted.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal, TypeAlias

import numpy as np
import yaml

from taicang.units import show

Words: TypeAlias = tuple[str, str]
"""English and Chinese."""
Unit: TypeAlias = Literal["s", "B", "", "ratio", "W", "tokens/s"]


@cache
def _written() -> dict[str, Any]:
    text = (resources.files("taicang.page") / "static" / "words.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def words(name: str) -> Any:
    """A table of ``static/words.yaml``."""
    return _written()[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells that are already text; the first column names the row."""

    title: Words
    columns: tuple[Words, ...]
    rows: tuple[tuple[str | Words, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Bars side by side, that stack, or that begin where the one above ends; points or lines. ``unit`` says how values
    are written."""

    title: Words
    kind: Literal["bars", "stack", "waterfall", "points", "lines"]
    series: tuple[Mapping[str, Any], ...]
    """{"name": text, "data": values, or [x, y] of points and lines, "marked": whether it stands out}."""
    categories: tuple[str, ...] = ()
    """Of bars, from top to bottom."""
    x: Words = ("", "")
    y: Words = ("", "")
    unit: Unit = ""
    limits: tuple[tuple[str, float], ...] = ()
    """Lines across, by name (limits of an SLO)."""
    wide: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """A list of sentences."""

    title: Words
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """Requests over time in lanes (instances): each waits, has its prompt read, and is answered."""

    title: Words
    lanes: tuple[str, ...]
    data: str
    """``packed`` rows of (first step, first token, end, lane), in order of their ends; times in seconds."""
    legend: Words = (
        "Half height: the prompt is read; full height: the answer is made.",
        "半高：处理输入；全高：生成输出。",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Something drawn: its SVG, whole, with a name for whatever it shows."""

    title: Words
    svg: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """One of several at a time, which the reader chooses: here, or as a point of the chart ``of`` (by its title)."""

    title: Words
    names: tuple[str, ...]
    choices: tuple[tuple[Part, ...], ...]
    of: str = ""


Part: TypeAlias = Table | Chart | Lines | Spans | Picture | Pick


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One view of the page."""

    key: str
    title: Words
    parts: tuple[Part, ...] = field(default=())


def packed(rows: Sequence[Sequence[float]]) -> str:
    """Rows of numbers, as the page unpacks them."""
    return b64encode(np.asarray(rows, dtype="<f8").tobytes()).decode()


def cell(value: Any, unit: Unit = "") -> str:
    """A value as it stands in a table."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if unit == "ratio":
        return f"{float(value):.1%}"
    if unit in ("s", "B", "W"):
        return show(float(value), unit) if value else f"0 {unit}"
    return f"{float(value):,.4g}" if abs(float(value)) < 1000 else f"{float(value):,.0f}"


def bars(title: Words, values: Mapping[str, float], unit: Unit, kind: Literal["bars", "waterfall"] = "bars") -> Chart:
    """One bar for each of ``values``, those that are nothing left out."""
    kept = {name: float(value) for name, value in values.items() if value}
    return Chart(
        title=title, kind=kind, categories=tuple(kept), series=({"name": title[0], "data": list(kept.values())},),
        unit=unit,
    )  # fmt: skip


def stacked(title: Words, rows: Sequence[str], parts: Mapping[str, Sequence[float]], unit: Unit) -> Chart:
    """For each of ``rows`` a bar of ``parts``."""
    return Chart(
        title=title, kind="stack", categories=tuple(rows), unit=unit,
        series=tuple({"name": name, "data": [float(each) for each in values]} for name, values in parts.items()
                     if any(values)),
    )  # fmt: skip


Result: TypeAlias = Mapping[str, Any]
MEMORY = words("memory")
FIGURE = ("figure", "指标")
VALUE = ("value", "数值")
BANDS = words("bands")
NEAREST = words("nearest")
VALUES = words("values")
UNITS = words("units")


def table(title: Words, rows: Sequence[tuple[str | Words, ...]]) -> Table:
    """Figures and their values."""
    return Table(title=title, columns=(FIGURE, VALUE), rows=tuple(rows))


def trust(result: Result) -> Section:
    """Each figure with its band and what that rests on, the nearest measurements, assumptions and sources."""
    known = result.get("bands") or {}
    parts: list[Part] = []
    if isinstance(known, Mapping) and known:
        rows = tuple(_banded(name, band, _value(name, result)) for name, band in known.items())
        parts.append(Table(title=("figures and their error bands", "各项数值与误差带"), columns=BANDS, rows=rows))
    if near := result.get("near"):
        rows = tuple(tuple(str(each[key]) for key in NEAREST) for each in near)
        columns = tuple(NEAREST.values())
        parts.append(Table(title=("the nearest measurements", "最接近的实测"), columns=columns, rows=rows))
    parts += [
        Lines(title=("assumptions", "假设"), lines=tuple(result.get("assumptions") or ())),
        Lines(title=("sources", "来源"), lines=tuple(result.get("sources") or ())),
        Lines(
            title=("made by", "生成"),
            lines=(f"catalogue {str(result.get('digest'))[:12]}, taicang {result.get('version')}",),
        ),
    ]
    return Section(key="trust", title=("Trust", "可信度"), parts=tuple(parts))


def _banded(name: str, band: Result, value: float | None) -> tuple[str | Words, ...]:
    unit: Unit = UNITS.get(name, "")
    low, high = band["low_ratio"], band["high_ratio"]
    ratios = "–" if low is None else f"{low - 1.0:+.0%} … {high - 1.0:+.0%}"
    ends = "–" if low is None or value is None else f"{cell(value * low, unit)} … {cell(value * high, unit)}"
    typical = "–" if band["typical_ratio"] is None else f"{band['typical_ratio']:.0%}"
    return (
        name.replace("_", " ").upper() if len(name) < 5 else name.replace("_", " "),
        "–" if value is None else cell(value, unit), ends, ratios, typical, cell(band["rows"]),
        f"{band['verdict']}: {band['basis']}",
    )  # fmt: skip


def _value(name: str, result: Result) -> float | None:
    """The figure that a band is of, where the result has it."""
    for path in VALUES.get(name, ()):
        found: Any = result
        for key in path.split("."):
            found = found.get(key) if isinstance(found, Mapping) else None
        if isinstance(found, int | float):
            return float(found)
    return None


def memory(uses: Mapping[str, Result]) -> Chart:
    """Of a rank, a bar for each of ``uses``."""
    parts: dict[str, list[float]] = {}
    for key, name in MEMORY.items():
        if any(key in use for use in uses.values()):
            less = "apart_bytes" if key == "activations_bytes" else ""  # gone before the gradients beside them come
            parts[name] = [float(use.get(key) or 0.0) - float(use.get(less) or 0.0) for use in uses.values()]
    free = [
        max(float(use["capacity_bytes"]) - sum(part[i] for part in parts.values()), 0.0)
        for i, use in enumerate(uses.values())
    ]
    return stacked(("memory of a rank", "单卡（die）显存"), list(uses), parts | {"free": free}, "B")
