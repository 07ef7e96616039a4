"""Files of Pareto fronts: CSV, JSON, and plots where matplotlib is installed."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taicang.errors import NotModelled
from taicang.predict.infer import describe
from taicang.records import plain
from taicang.search.result import Choice, Found

COLUMNS = ("machine", "mode", "user_tokens_per_s", "output_tokens_per_s_per_chip", "ttft_s", "tpot_s", "chips", "plans")


def write(found: Sequence[Found], folder: str) -> list[Path]:
    """Write the fronts of ``found`` into ``folder``; returns the paths. Raises ``NotModelled`` without matplotlib.

    The tables are written first, so that they are there even where the plot cannot be made.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    rows = [row(choice) for each in found for choice in each.front]
    table, data = place / "pareto.csv", place / "pareto.json"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    data.write_text(json.dumps([plain(choice) for each in found for choice in each.front], indent=1) + "\n")
    return [table, data, *_plot(found, place)]


def row(choice: Choice) -> dict[str, Any]:
    """One line of the table."""
    plans = " + ".join(f"{pool.instances} x {pool.role} [{describe(pool.plan)}]" for pool in choice.pools)
    figures = {name: getattr(choice, name) for name in COLUMNS if name != "plans"}
    return figures | {"plans": plans}


def _plot(found: Sequence[Found], place: Path) -> list[Path]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise NotModelled(
            "plots need matplotlib: pip install 'taicang[plot]' (pareto.csv and pareto.json are written)"
        ) from None
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for each in found:
        speed = [choice.user_tokens_per_s for choice in each.front]
        axes.step(
            speed, [choice.output_tokens_per_s_per_chip for choice in each.front], where="pre", label=each.machine
        )
    axes.set(xlabel="tokens/s per user", ylabel="output tokens/s per chip", xscale="log", yscale="log")
    axes.grid(which="both", alpha=0.3)
    axes.legend()
    paths = [place / "pareto.png", place / "pareto.svg"]
    for path in paths:
        figure.savefig(path)
    return paths
