"""Files of Pareto fronts: CSV, JSON, and plots where matplotlib is installed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

from taicang.output import Content
from taicang.plans import describe
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


def fronts(found: Sequence[Found]) -> dict[str, Content]:
    """The fronts of ``found`` as files. Without matplotlib there are no plots."""
    rows = [row(choice) for each in found for choice in each.front]
    data = json.dumps([plain(choice) for each in found for choice in each.front], indent=1) + "\n"
    return {"pareto.csv": _csv(COLUMNS, rows), "pareto.json": data, **_plot(found)}


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def row(choice: Choice) -> dict[str, Any]:
    """One line of the table."""
    plans = " + ".join(f"{pool.instances} x {pool.role} [{describe(pool.plan)}]" for pool in choice.pools)
    figures = {name: getattr(choice, name) for name in COLUMNS if name != "plans"}
    return figures | {"plans": plans}


def comparison(shown: Mapping[str, Any], bought: Mapping[str, Mapping[str, Any]]) -> dict[str, Content]:
    """Predictions and infeasibilities by machine as comparison.csv and comparison.json."""
    rows = []
    for name, each in shown.items():
        figures = {key: getattr(each, key, None) for key in COMPARED}
        plans = {
            f"{p}_plan": describe(getattr(each, p).plan) if hasattr(each, p) else "" for p in ("decode", "prefill")
        }
        bounds = {f"{p}_binds": getattr(each, p).binds if hasattr(each, p) else "" for p in ("decode", "prefill")}
        rows.append({"machine": name, **figures, **plans, **bounds, "infeasible": getattr(each, "reason", "")})
    whole = {name: plain(each) | {"budgets": plain(bought.get(name, {}))} for name, each in shown.items()}
    data = json.dumps(whole, indent=1) + "\n"
    return {"comparison.csv": _csv(list(rows[0]), rows), "comparison.json": data}


COMPARED = (
    "ttft_s",
    "tpot_s",
    "output_tokens_per_s_per_chip",
    "machine_output_tokens_per_s",
    "output_tokens_per_s_per_w",
    "output_tokens_per_s_per_usd",
    "prefill_chips_ratio",
    "output_tokens_per_s_per_cny",
)
"""Figures of a prediction in the table of a comparison."""


def _plot(found: Sequence[Found]) -> dict[str, bytes]:
    """The same bytes for the same fronts: no date, and the ids in the SVG come from a salt, not from chance."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        click.echo("no plots: they need matplotlib, pip install 'taicang[plot]'", err=True)
        return {}
    speeds = [c.user_tokens_per_s for each in found for c in each.front]
    if speeds and not any(speeds):
        click.echo("no plots: an answer of one token has no speed", err=True)
        return {}
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
    files = {}
    for kind in ("png", "svg"):
        drawn = io.BytesIO()
        with rc_context({"svg.hashsalt": "taicang"}):
            figure.savefig(drawn, format=kind, metadata={"Date": None} if kind == "svg" else None)
        files[f"pareto.{kind}"] = drawn.getvalue()
    return files
