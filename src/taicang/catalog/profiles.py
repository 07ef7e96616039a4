"""Profiles of public request traces: quantiles of lengths, rates, burstiness."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from taicang.errors import UnknownName

FOLDER = Path(__file__).parent / "data" / "profiles"


@cache
def profiles() -> Mapping[str, Mapping[str, Any]]:
    """All embedded profiles by name."""
    loaded: Mapping[str, Mapping[str, Any]] = json.loads((FOLDER / "profiles.json").read_text(encoding="utf-8"))
    return loaded


def profile(name: str, *, where: str = "--profile") -> Mapping[str, Any]:
    """One profile, by its name or by the beginning that it alone has; ``UnknownName`` suggests the nearest."""
    begun = [each for each in profiles() if each.startswith(f"{name}-")]
    if len(begun) == 1:
        name = begun[0]
    if name not in profiles():
        raise UnknownName("profile", name, profiles(), where=where)
    return profiles()[name]


def line(name: str, entry: Mapping[str, Any]) -> str:
    """One profile in a line: mean lengths, rate, burstiness."""
    rates = entry.get("rate_per_s_by_600s")
    rate = entry.get("mean_rate_per_s") or (sum(rates.values()) / len(rates) if rates else None)
    parts = [f"{name:<24} {entry['input_mean']:>8,.0f} in {entry['output_mean']:>6,.0f} out"]
    parts += [f"{rate:.3g}/s"] if rate else []
    parts += [f"CV {entry['interarrival_cv']:g}"] if "interarrival_cv" in entry else []
    parts += ["rate by the hour"] if rates else []
    return "  ".join(parts)


@cache
def downloads() -> Mapping[str, Mapping[str, Any]]:
    """Public traces that can be fetched, by name: address, checksum, licence, format."""
    loaded = json.loads((FOLDER / "download_catalog.json").read_text(encoding="utf-8"))
    return {entry["name"]: entry for entry in loaded["traces"]}
