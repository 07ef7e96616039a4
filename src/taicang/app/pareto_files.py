"""Files of Pareto fronts: CSV, JSON, and plots where matplotlib is installed."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from taicang.errors import InvalidInput
from taicang.predict.infer import describe
from taicang.records import plain
from taicang.search.result import Choice, Found

COLUMNS = (
    "machine",
    "mode",
    "user_tokens_per_s",
    "output_tokens_per_s_per_chip",
    "output_tokens_per_s_per_w",
    "output_tokens_per_s_per_usd",
    "output_tokens_per_s_per_cny",
    "ttft_s",
    "tpot_s",
    "chips",
    "plans",
)
PANELS = (
    ("output_tokens_per_s_per_chip", 1.0, "output tokens/s per chip"),
    ("output_tokens_per_s_per_w", 1e3, "output tokens/s per kW"),
    ("output_tokens_per_s_per_usd", 1e6, "output tokens/s per MUSD"),
)
"""At equal chips, power and money: figure, scale, title."""


def write(found: Sequence[Found], folder: str) -> list[Path]:
    """Write the fronts of ``found`` into ``folder``; returns the paths. Without matplotlib there are no plots."""
    place = _folder(folder)
    rows = [row(choice) for each in found for choice in each.front]
    table, data = place / "pareto.csv", place / "pareto.json"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    data.write_text(json.dumps([plain(choice) for each in found for choice in each.front], indent=1) + "\n")
    return [table, data, *_plot(found, place)]


def _folder(folder: str) -> Path:
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"cannot write files into {folder}: {error.strerror}", where="--pareto") from None
    return place


def row(choice: Choice) -> dict[str, Any]:
    """One line of the table."""
    plans = " + ".join(f"{pool.instances} x {pool.role} [{describe(pool.plan)}]" for pool in choice.pools)
    figures = {name: getattr(choice, name) for name in COLUMNS if name != "plans"}
    return figures | {"plans": plans}


def write_comparison(
    shown: Mapping[str, Any],
    bought: Mapping[str, Mapping[str, Any]],
    yuan: Mapping[str, float | None],
    folder: str,
) -> list[Path]:
    """Write predictions and infeasibilities by machine as comparison.csv and comparison.json; returns the paths.

    ``yuan`` are output tokens per second over the price in yuan.
    """
    place = _folder(folder)
    rows = []
    for name, each in shown.items():
        figures = {key: getattr(each, key, None) for key in COMPARED} | {"output_tokens_per_s_per_cny": yuan[name]}
        plans = {
            f"{p}_plan": describe(getattr(each, p).plan) if hasattr(each, p) else "" for p in ("decode", "prefill")
        }
        bounds = {f"{p}_binds": getattr(each, p).binds if hasattr(each, p) else "" for p in ("decode", "prefill")}
        rows.append({"machine": name, **figures, **plans, **bounds, "infeasible": getattr(each, "reason", "")})
    table, data = place / "comparison.csv", place / "comparison.json"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    whole = {
        name: plain(each) | {"output_tokens_per_s_per_cny": yuan[name], "budgets": plain(bought.get(name, {}))}
        for name, each in shown.items()
    }
    data.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return [table, data]


COMPARED = (
    "ttft_s",
    "tpot_s",
    "output_tokens_per_s_per_chip",
    "machine_output_tokens_per_s",
    "output_tokens_per_s_per_w",
    "output_tokens_per_s_per_usd",
    "prefill_chips_ratio",
)
"""Figures of a prediction in the table of a comparison."""


def _plot(found: Sequence[Found], place: Path) -> list[Path]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        click.echo("no plots: they need matplotlib, pip install 'taicang[plot]'", err=True)
        return []
    known = [p for p in PANELS if any(getattr(c, p[0]) is not None for each in found for c in each.front)]
    known = known or [PANELS[0]]
    figure = Figure(figsize=(1 + 5 * len(known), 5), layout="constrained")
    for number, (name, scale, title) in enumerate(known, 1):
        axes = figure.add_subplot(1, len(known), number)
        for each in found:
            line = [(c.user_tokens_per_s, getattr(c, name)) for c in each.front if getattr(c, name) is not None]
            if line:
                speed, rate = zip(*line, strict=True)
                axes.step(speed, [value * scale for value in rate], where="pre", label=each.machine)
        axes.set(xlabel="tokens/s per user", ylabel=title, xscale="log", yscale="log")
        axes.grid(which="both", alpha=0.3)
        axes.legend()
    paths = [place / "pareto.png", place / "pareto.svg"]
    for path in paths:
        figure.savefig(path)
    return paths
