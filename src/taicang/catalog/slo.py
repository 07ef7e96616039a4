"""Service-level objectives with a name, by model: ``mlperf-server``, ``mlperf-interactive``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from taicang.catalog import files
from taicang.catalog.entry import Source, sources
from taicang.errors import InvalidInput, UnknownName
from taicang.units import parse

FILE = files.DATA / "slo.yaml"


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
    for name, entry in files.read(FILE).items():
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
