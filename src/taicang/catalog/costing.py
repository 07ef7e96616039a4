"""Calibrated constants of a machine, gathered into the book that its cost model prices with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from types import MappingProxyType
from typing import Any, TypeVar

from taicang.catalog.bins import for_bin
from taicang.catalog.build import chip
from taicang.catalog.calibration import fits
from taicang.cost.attend_gqa import GqaDecodeFit, GqaPrefillFit
from taicang.cost.attend_mla import MlaDecodeFit, MlaPrefillFit
from taicang.cost.collective import Line
from taicang.cost.exchange import ExchangeFit
from taicang.cost.experts import ExpertsFit
from taicang.cost.gemm import GemmFit
from taicang.cost.model import Book, CostModel
from taicang.cost.pointwise import PointwiseFit
from taicang.cost.sustained import Sustained, under_load
from taicang.errors import UnknownName
from taicang.hardware import Chip, Machine
from taicang.stacks import Stack

T = TypeVar("T")

ARCHITECTURE: Mapping[str, str] = MappingProxyType(
    {
        "a100": "ampere",
        "l40s": "ada",
        "h100": "hopper",
        "h200": "hopper",
        "b200": "blackwell",
        "b300": "blackwell",
        "gb200": "blackwell",
        "gb300": "blackwell",
        "ascend-910c": "ascend",
    }
)
"""Architecture of each kernel profile, for constants that are pooled over an architecture."""


def of_profile(family: str, kind: type[T], profile: str) -> Mapping[str, T]:
    """Constants of ``family`` for a kernel profile, by key."""
    known: Mapping[str, Mapping[str, T]] = fits(family, kind)  # type: ignore[arg-type]  # a type is hashable
    if profile not in known:
        raise UnknownName(f"{family} profile", profile, known)
    return known[profile]


@cache
def book(profile: str) -> Book:
    """All constants that price operators on chips of this kernel profile."""
    return Book(
        gemm=of_profile("gemm", GemmFit, profile),
        pointwise=of_profile("pointwise", PointwiseFit, profile)["stream"],
        gqa_prefill=of_profile("attend_prefill", GqaPrefillFit, profile),
        gqa_decode=of_profile("attend_decode", GqaDecodeFit, profile),
        mla_prefill=of_profile("mla_prefill", MlaPrefillFit, profile),
        mla_decode=of_profile("mla_decode", MlaDecodeFit, profile),
        experts=of_profile("experts", ExpertsFit, profile),
        collective=fits("collective", Line),
        exchange=fits("exchange", ExchangeFit),
    )


BOOKED: Mapping[str, str] = MappingProxyType(
    {"attend_prefill": "gqa_prefill", "attend_decode": "gqa_decode", "collective": "collective_ratio"}
    | {name: name for name in ("gemm", "mla_prefill", "mla_decode", "experts")}
)
"""Family of a chip's own constants -> field of ``Book``."""


def book_of(part: Chip) -> Book:
    """The constants of a chip: its profile's, what follows for a bin of it, and over them what its user measured."""
    known = book(part.profile)
    if not part.measured and part.profile in ARCHITECTURE:
        known = for_bin(known, part, chip(part.profile))
    own: dict[str, Any] = {BOOKED[family]: _own(known, family, given) for family, given in _checked(part).items()}
    return replace(known, **own) if own else known


def _checked(part: Chip) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
    for family in part.kernels:
        if family not in BOOKED:
            raise UnknownName("kernels of", family, BOOKED, where=f"chip {part.name}")
    return part.kernels


def _own(known: Book, family: str, given: Mapping[str, Mapping[str, float]]) -> Mapping[str, Any]:
    if family == "collective":
        return {kind: constants["ratio"] for kind, constants in given.items()}
    fits = dict(getattr(known, BOOKED[family]))
    for key, constants in given.items():
        if key not in fits:
            raise UnknownName(f"{family} kernels in", key, fits)
        names = {each.name for each in fields(fits[key])}
        for name in constants:
            if name not in names:
                raise UnknownName(f"constant of {family}", name, names)
        fits[key] = replace(fits[key], **constants)
    return fits


def cost_model(machine: Machine, stack: Stack) -> CostModel:
    """The calibrated cost model of ``machine`` under ``stack``.

    Where no kernel was measured on a chip, and what its arithmetic sustains is published, borrowed shares are of that.
    """
    clock = machine.chip.sustained_ratio
    if clock is not None and not machine.chip.measured:
        machine = under_load(machine, Sustained(clock_ratio=clock))
    known = book_of(machine.chip)
    wires = None
    if (links := machine.links) is not None and links.routing != "closed":
        from taicang.fabric.wires import LinkRates  # noqa: PLC0415 - few machines are priced by links

        wires = LinkRates(
            machine=machine,
            routing=links.routing,
            seed=links.seed,
            failed=links.failed,
            stretch_ratio=links.stretch_ratio,
            placed=links.placed,
        )
    return CostModel(machine=machine, stack=stack, book=known, wires=wires)
