"""What a page is made of: sections of tables, charts and lists, with their words in both languages."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from taicang.units import show

Words: TypeAlias = tuple[str, str]
"""English and Chinese."""
Unit: TypeAlias = Literal["s", "B", "", "ratio", "W", "tokens/s"]


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
class Tiers:
    """Links of a fabric, a row for each tier, and in it a line of cells for each way."""

    title: Words
    rows: tuple[Mapping[str, Any], ...]
    """{"label": text, "lines": [{"busy": ratios of cells, "dead": cells that failed, "count": links}]}, from above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """One of several at a time, which the reader chooses: here, or as a point of the chart ``of`` (by its title)."""

    title: Words
    names: tuple[str, ...]
    choices: tuple[tuple[Part, ...], ...]
    of: str = ""


Part: TypeAlias = Table | Chart | Lines | Spans | Tiers | Pick


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
