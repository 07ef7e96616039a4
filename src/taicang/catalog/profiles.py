"""What has a name: profiles of public request traces, and service-level objectives by model (``mlperf-server``)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from taicang.catalog import files
from taicang.catalog.entry import Source, sources
from taicang.errors import InvalidInput, UnknownName
from taicang.units import parse

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


SLO_FILE = files.DATA / "slo.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """``within_ratio`` of all requests must keep both limits."""

    name: str
    model: str
    """Model that the limits were set for."""
    ttft_s: float
    tpot_s: float
    within_ratio: float
    source: Source
    place: str


@cache
def slos() -> Mapping[str, Mapping[str, Slo]]:
    """All presets: name, then model."""
    made: dict[str, dict[str, Slo]] = {}
    for name, entry in files.read(SLO_FILE).items():
        made[name] = {
            model: Slo(
                name=name,
                model=model,
                ttft_s=parse(limits["ttft"], "s", where=f"slo.yaml: {name}.{model}"),
                tpot_s=parse(limits["tpot"], "s", where=f"slo.yaml: {name}.{model}"),
                within_ratio=float(entry["within"]),
                source=sources()[entry["source"]],
                place=entry["place"],
            )
            for model, limits in entry["models"].items()
        }
    return made


def slo(text: str, model: str) -> Slo:
    """The preset ``text`` for ``model`` (its name in the catalogue); "mlperf-server@llama-2-70b" borrows another's.

    ``UnknownName`` suggests the nearest preset; ``InvalidInput`` names the models that a preset has.
    """
    name, _, other = text.partition("@")
    if name not in slos():
        raise UnknownName("SLO", name, slos(), where="--slo")
    listed = slos()[name]
    wanted = other or model
    if wanted not in listed:
        known = ", ".join(listed)
        raise InvalidInput(
            f"{name} has no limits for {wanted}, only for {known}; give --ttft and --tpot, or {name}@MODEL to borrow",
            where="--slo",
        )
    return listed[wanted]
