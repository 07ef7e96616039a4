"""What recipes of training turn on, recompute and deal: ``data/training.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from taicang.catalog import files
from taicang.evidence.tables import CARRIED

ON_REQUEST = ("captured", "fused", "overlap")
"""Fields of ``Stack`` that a recipe adds to."""


@cache
def declared() -> Mapping[str, Any]:
    """The tables of ``data/training.yaml``."""
    return files.read(CARRIED / "training.yaml")


def recipe_of(table: str, model: str, chip: str, dtype: str, release: str = "") -> Mapping[str, Any]:
    """The first row of ``table`` ("recomputed", "tuned", "plain") for this job and release; empty where none is."""
    for row in declared()[table]:
        fits = model.startswith(row["model"]) and chip in row["chips"] and dtype in row.get("formats", [dtype])
        if fits and release >= row.get("since", ""):
            return dict(row)
    return {}


def submitted(source: str, system: str, model: str, chip: str, count: int) -> Mapping[str, Any]:
    """What the scripts of a submission to MLPerf do beyond its row; empty where nothing is known."""
    for row in declared()["submitted"]:
        named = source in row["sources"] and model == row["model"] and chip in row["chips"]
        if named and row.get("system", system) == system and count in row.get("counts", [count]):
            return dict(row)
    return {}


def stages(model: str, layers: int, chunks: int) -> str:
    """Layers of each chunk where the recipe deals them unevenly (``TrainPlan.stages``); empty where it deals evenly.

    Embedding, MTP and head of DeepSeek-V3 and Kimi-K2 weigh as three layers: all chunks but the last are full
    ("Et*4|(t*4|)*14tmL" for 16 chunks, "Et|(tt|)*30mL" for 32).
    """
    if chunks == 1 or layers != 61 or not model.startswith(("DeepSeekV3", "DeepSeek-V3", "Kimi")):
        return ""
    each = -(-(layers + 3) // chunks)
    last = layers - each * (chunks - 1)
    return ",".join([f"E{each + min(last, 0)}", *[str(each)] * (chunks - 2), f"{max(last, 0)}ML"])
