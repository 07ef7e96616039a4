"""Measurements that lie nearest to a run: the same model, the same chip, of the rows that the package carries."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources

from taicang.units import show

MOST = 8
"""Rows that are shown."""
NEAR = {3: "same model and chip", 2: "same model", 1: "same chip"}


def near(model: str, chip: str, *, training: bool = False) -> list[dict[str, str]]:
    """The nearest rows, nearest first: what was run, on what, how, what was measured, who says so."""
    wanted, where = _plain(model), _plain(chip)
    found = [
        (2 * _plain(row["run"]).endswith(wanted) + _plain(row["on"]).startswith(where), row)
        for row in _rows("training" if training else "serving")
    ]
    best = sorted((each for each in found if each[0]), key=lambda each: -each[0])[:MOST]
    return [{"near": NEAR[score], **row} for score, row in best]


@cache
def _rows(kind: str) -> tuple[dict[str, str], ...]:
    rows = [_published(row) for row in _read(f"board/published_{kind}.csv")]
    if kind == "serving":
        rows += [_served(row) for row in _read("board/served_e2e.csv")]
    return tuple(rows)


def _read(name: str) -> Iterator[dict[str, str]]:
    path = resources.files("taicang.evidence") / "data" / name
    yield from csv.DictReader(path.read_text(encoding="utf-8").splitlines())


def _published(row: Mapping[str, str]) -> dict[str, str]:
    how = ", ".join(each for each in (f"{row['count']} chips", row["dtype"], row["sw"], _pairs(row["par"])) if each)
    return {
        "run": row["model"], "on": row["chip"], "how": how,
        "measured": f"{row['metric'].replace('_', ' ')} {row['value']} {row['unit']}", "source": row["src"],
    }  # fmt: skip


def _pairs(text: str) -> str:
    return text.strip("{}").replace('"', "").replace(": ", " ")


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
