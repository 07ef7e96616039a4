"""Measurements that lie nearest to a run: the same model, the same chip, of the rows that the package carries."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any

from taicang import catalog
from taicang.errors import TaicangError
from taicang.units import show

MOST = 8
"""Rows that are shown."""
NEAR = {3: "same model and chip", 2: "same model", 1: "same chip"}


def grounded(result: Any) -> Any:
    """``result`` with rows "near" wherever it says which model ran on which machine."""
    if isinstance(result, list):
        return [grounded(each) for each in result]
    if not isinstance(result, dict):
        return result
    if {"model", "machine", "bands"} <= set(result) or {"model", "machine", "chosen"} <= set(result):
        return result | {"near": _near(result)}
    return {key: grounded(each) if isinstance(each, dict) else each for key, each in result.items()}


def _near(result: dict[str, Any]) -> list[dict[str, str]]:
    try:
        chip = catalog.machine(result["machine"]).chip.name
    except TaicangError:  # a machine of the user's own
        return []
    return near(str(result["model"]), chip, training="step" in result)


def near(model: str, chip: str, *, training: bool = False) -> list[dict[str, str]]:
    """The nearest rows, nearest first: what was run, on what, how, what was measured, who says so."""
    wanted, where = _plain(model), _plain(chip)
    found = [
        (2 * _plain(row["run"]).endswith(wanted) + _plain(row["on"]).startswith(where), row)
        for row in _rows("training" if training else "serving")
    ]
    best = {  # of rows that differ in what was measured alone, one
        (row["run"], row["on"], row["how"]): {"near": NEAR[score], **row}
        for score, row in sorted((each for each in reversed(found) if each[0]), key=lambda each: each[0])
    }
    return list(best.values())[::-1][:MOST]


@cache
def _rows(kind: str) -> tuple[dict[str, str], ...]:
    rows = [_published(row) for row in _read(f"board/published_{kind}.csv")]
    if kind == "serving":
        rows = [_ascend(row) for row in _read("ascend_serving.csv")] + rows
        rows += [_served(row) for row in _read("board/served_e2e.csv")]
    return tuple(rows)


def _read(name: str) -> Iterator[dict[str, str]]:
    path = resources.files("taicang.evidence") / "data" / name
    yield from csv.DictReader(path.read_text(encoding="utf-8").splitlines())


def _published(row: Mapping[str, str]) -> dict[str, str]:
    count = f"{row['count']} chips" if row["count"] else ""
    layout = row["par"].strip("{}").replace('"', "").replace(": ", " ")
    how = ", ".join(each for each in (count, row["dtype"], row["sw"], layout) if each)
    return {
        "run": row["model"], "on": row["chip"], "how": how,
        "measured": f"{row['metric'].replace('_', ' ')} {row['value']} {row['unit']}", "source": row["src"],
    }  # fmt: skip


def _ascend(row: Mapping[str, str]) -> dict[str, str]:
    """Both papers serve the same model on the same chip."""
    how = f"{row['stack']}, {row['phase']}, {row['dies']} dies, {row['input_tokens']} + {row['output_tokens']} tokens"
    return {
        "run": "deepseek-r1", "on": "ascend-910c", "how": f"{how}, batch {row['batch_per_die']} a die",
        "measured": f"{row['metric'].replace('_', ' ')} {row['value']} {row['unit']}",
        "source": f"{row['source']}, {row['place']}",
    }  # fmt: skip


def _served(row: Mapping[str, str]) -> dict[str, str]:
    how = (
        f"{row['backend']} {row['backend_version']}, {row['precision']}, {row['mode']}, {row['isl']}/{row['osl']}, "
        f"{row['concurrency']} at once"
    )
    seen = [
        f"{name} {show(float(row[key]) / 1e3, 's')}"
        for name, key in (("TTFT", "silicon_ttft_ms"), ("TPOT", "silicon_tpot_ms"))
        if row[key]
    ]
    return {
        "run": row["model_path"], "on": row["system"], "how": how, "measured": ", ".join(seen),
        "source": f"{row['source']} {row['measured']}",
    }  # fmt: skip


def _plain(name: str) -> str:
    return "".join(each for each in name.lower() if each.isalnum())
