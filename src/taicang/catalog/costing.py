"""Calibrated constants of a machine, gathered into the book that its cost model prices with: serving, training, power.

Of a bin whose matrix peak alone was cut: what a kernel loses against the matrix peak it loses to the rest of the core:
issue slots, scaling of blocks, softmax, copies into shared memory, beside the matrix units (the root of the sum of
squares of both times, as elsewhere). A bin with slower matrix units and the same rest spends no more seconds on the
rest than the whole chip: per FLOP, and relative to its own peak, sqrt(1 / efficiency^2 - 1) x (its matrix over vector
rate, relative to the whole chip). The efficiency that follows is nearer to one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import cache
from types import MappingProxyType
from typing import Any, TypeVar

from taicang.catalog import calibration, files
from taicang.catalog.build import chip as chip_named
from taicang.catalog.calibration import fits
from taicang.catalog.schema import ARCHITECTURE
from taicang.catalog.stack_entry import order
from taicang.cost.attend_gqa import GqaDecodeFit, GqaPrefillFit
from taicang.cost.attend_mla import MlaDecodeFit, MlaPrefillFit
from taicang.cost.attend_pass import Pass
from taicang.cost.collective import Line
from taicang.cost.cost import Cost, faster
from taicang.cost.energy import EnergyFit
from taicang.cost.exchange import ExchangeFit
from taicang.cost.experts import WIDENED, ExpertsFit, Tiles, by_products
from taicang.cost.gemm import GemmFit
from taicang.cost.model import Book, CostModel
from taicang.cost.pointwise import PointwiseFit
from taicang.cost.sustained import AMPERE_PATH_RATIO, Sustained, under_load
from taicang.errors import NotModelled, UnknownName
from taicang.hardware import Chip, Machine
from taicang.ops import Attend, GroupedGemm, Operator
from taicang.stacks import Stack

T = TypeVar("T")


def of_profile(family: str, kind: type[T], profile: str) -> Mapping[str, T]:
    """Constants of ``family`` for a kernel profile, by key."""
    known: Mapping[str, Mapping[str, T]] = fits(family, kind)  # type: ignore[arg-type]  # a type is hashable
    if profile not in known:
        raise UnknownName(f"{family} profile", profile, known)
    return known[profile]


def backward(profile: str) -> Pass:
    """What kernels of attention's backward pass take over those of the forward one."""
    said = files.read(files.DATA / "backward.yaml")[ARCHITECTURE[profile]]
    return Pass(**{name: value for name, value in said.items() if name != "from"})


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
        backward=backward(profile),
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
    if part.vendor == "NVIDIA":
        known = replace(known, experts={**widening(known.experts, part.profile), **known.experts})
    if not part.measured and part.profile in ARCHITECTURE:
        known = for_bin(known, part, chip_named(part.profile))
    for family in part.kernels:
        if family not in BOOKED:
            raise UnknownName("kernels of", family, BOOKED, where=f"chip {part.name}")
    own: dict[str, Any] = {BOOKED[family]: _own(known, family, given) for family, given in part.kernels.items()}
    return replace(known, **own) if own else known


def widening(own: Mapping[str, ExpertsFit], profile: str) -> Mapping[str, ExpertsFit]:
    """Experts whose weights are widened in registers, by engine, where that is not the chip's own way to multiply.

    Such kernels (Marlin's) are written for Ampere's instructions: on later chips they reach of the matrix peak that
    path's share of what Ampere's kernels of 16 bits reach of theirs. Memory is read as by the chip's own.
    """
    if ARCHITECTURE.get(profile) in (None, "ampere", "ada"):
        return {}
    older = of_profile("experts", ExpertsFit, "a100")
    return {
        key.replace("bf16", WIDENED): replace(fit, compute_ratio=older[key].compute_ratio * AMPERE_PATH_RATIO)
        for key, fit in own.items()
        if key.partition("@")[0] == "bf16" and key in older
    }


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

    Where no kernel was measured on a chip, borrowed shares are of what its arithmetic sustains and its memory's
    bandwidth yields, as far as either is published.
    """
    machine = replace(machine, chip=_reaching(machine.chip))
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
    return CostModel(machine=machine, stack=stack, book=known, wires=wires, tiles=tiles_of(stack, machine.chip))


def tiles_of(stack: Stack, chip: Chip) -> Tiles | None:
    """How the engine's release cuts its kernels of experts on ``chip``; None where nobody says."""
    said = files.read(files.DATA / "tiles.yaml").get(stack.engine, {})
    release = order(stack.asked) or order(stack.version)
    tile = [tile for since, tile in said.get("generic", {}).items() if order(since) <= release]
    tables = said.get("tuned", {}).get(chip.name, {})
    known = ((held, width) for held, each in tables.items() for width, since in each.items() if order(since) <= release)
    if not tile:
        return None
    plain = {key: said[key] for key in ("tuned_as", "tuner") if key in said}
    return Tiles(generic=tuple(tile[-1]), tuned=frozenset(known), every=stack.tuned_experts, **plain)


def _reaching(chip: Chip) -> Chip:
    """``chip`` with its memory as fast as kernels find it that were measured on the chip whose constants it borrows."""
    own = chip.memory.reach_ratio
    if chip.measured or own is None or (lender := chip_named(chip.profile).memory.reach_ratio) is None:
        return chip
    rate = chip.memory.bandwidth_bytes_per_s * own / lender
    return replace(chip, memory=replace(chip.memory, bandwidth_bytes_per_s=rate, reach_ratio=None))


def energy_fit(profile: str) -> EnergyFit:
    """Power constants for a kernel profile.

    Architectures whose power was never measured (Ascend, Ada) take the mean of those that were ("default"): an
    assumption, since the constants are relative to the chip's own limit. ``NotModelled`` before the first fit.
    """
    known: Mapping[str, Mapping[str, EnergyFit]] = fits("energy", EnergyFit)
    for name in (ARCHITECTURE.get(profile, profile), "default"):
        if name in known:
            return known[name]["step"]
    raise NotModelled(f"no power constants for {profile}")


EFFICIENCIES = ("compute_efficiency_ratio", "matrix_efficiency_ratio", "compute_ratio")
"""Fields that hold a share of the matrix peak."""
CUT_RATIO = 0.75
"""Matrix over vector rate, relative to the measured chip's, below which a bin counts as cut: makers halve it or more,
while boards of other clocks (SXM to PCIe) stay within a sixth."""


def cut_ratio(chip: Chip, reference: Chip) -> float:
    """Matrix peak over vector rate of ``chip``, relative to ``reference``; 1 for chips of other vendors.

    A bin has no more vector units than the whole chip: of one that has, a later design, only the matrix peaks are told.
    """
    if chip.vendor != reference.vendor or not reference.vector_flop_per_s or not chip.vector_flop_per_s:
        return 1.0
    form = "bf16" if "bf16" in chip.peak_flop_per_s else "fp16"
    own = chip.peak(form) / min(chip.vector_flop_per_s, reference.vector_flop_per_s)
    return own / (reference.peak(form) / reference.vector_flop_per_s)


def for_bin(book: Book, chip: Chip, reference: Chip) -> Book:
    """``book``, fitted on ``reference``, for ``chip``; itself where the matrix peak was not cut."""
    cut = cut_ratio(chip, reference)
    if cut >= CUT_RATIO:
        return book
    changed: dict[str, Any] = {}
    for name in ("gemm", "gqa_prefill", "mla_prefill", "mla_decode", "experts"):
        fits: Mapping[str, Any] = getattr(book, name)
        changed[name] = {key: _nearer(fit, cut) for key, fit in fits.items()}
    return replace(book, **changed)


def _nearer(fit: T, cut: float) -> T:
    for field in fields(fit):  # type: ignore[arg-type]
        if field.name in EFFICIENCIES:
            share = getattr(fit, field.name)
            return replace(fit, **{field.name: 1.0 / math.sqrt(1.0 + (1.0 / share**2 - 1.0) * cut * cut)})  # type: ignore[type-var]
    return fit


FAMILY = "sustained"
ALIKE_RATIO = 0.02
"""By how much the watts of boards of one class differ, per FLOP/s."""


def sustained(chip: Chip) -> Sustained:
    """The chip's own constant, else its maker's, else that of its kin, else the median of all measured."""
    clocks = _clocks()
    found = clocks.get(chip.name) or chip.sustained_ratio or kin_clock(chip, clocks) or clocks.get("default", 1.0)
    return Sustained(clock_ratio=found)


def serving_clock(chip: Chip) -> float:
    """What ``sustained`` says of a chip that serves, where it or its kin was measured and ``cost_model`` has none."""
    if chip.sustained_ratio is not None and not chip.measured:
        return 1.0
    clocks = _clocks()
    return clocks.get(chip.name) or kin_clock(chip, clocks) or 1.0


def _clocks() -> dict[str, float]:
    """Measured clocks by chip, "default" their median; none before they are fitted."""
    if not (calibration.FOLDER / f"{FAMILY}.yaml").is_file():
        return {}
    known: Mapping[str, Mapping[str, Sustained]] = calibration.fits(FAMILY, Sustained)
    return {name: each["clock"].clock_ratio for name, each in known.items()}


def kin_clock(chip: Chip, clocks: Mapping[str, float]) -> float | None:
    """The clock that ``chip`` sustains by that of its nearest relative among ``clocks``; None without one.

    Relatives are the chip whose kernels it borrows, and those of its architecture with as many watts for each FLOP/s.
    What more of them it has than the former (a bin whose cores were cut, under a limit of its own) lets it run faster
    by their cube root, up to its whole clock: dynamic power is C V^2 f, and voltage follows frequency.
    """
    ranked = []
    for name, clock in clocks.items():
        if name == "default":
            continue
        other = chip_named(name)
        if name == chip.name or ARCHITECTURE.get(other.profile) != ARCHITECTURE.get(chip.profile):
            continue
        budget = _watts_per_flop(chip) / _watts_per_flop(other)
        if name == chip.profile or abs(budget - 1.0) <= ALIKE_RATIO:
            ranked.append((name != chip.profile, abs(budget - 1.0), budget, clock))
    if not ranked:
        return None
    *_, budget, clock = min(ranked)
    return float(min(clock * budget ** (1.0 / 3.0), 1.0))


def _watts_per_flop(chip: Chip) -> float:
    return (chip.tdp_w or math.nan) / (chip.dies * chip.peak("bf16"))


def default_stack(machine: Machine) -> str:
    """The training stack that published results on such machines used."""
    return {"huawei": "mindspeed", "amd": "primus"}.get(machine.chip.vendor.lower(), "nemo")


def training_price(
    machine: Machine, stack: Stack, found: Sustained | None = None
) -> Callable[[Operator, float, float], Cost]:
    """The price function of a training setup; ``found`` replaces the calibrated constant (for fitting)."""
    costs = cost_model(under_load(machine, found or sustained(machine.chip)), stack)
    older = ARCHITECTURE.get(machine.chip.profile, "ampere") != "ampere" and "ampere_attention" in stack.fused
    slower = stack.kernel_ratio.get("experts", 1.0)

    def price(op: Operator, cube_ratio: float = 1.0, vector_ratio: float = 1.0) -> Cost:
        cost = costs.price(op, cube_ratio, vector_ratio)
        if isinstance(op, GroupedGemm) and not op.biased:  # kernels that serve are made for few rows of an expert
            apart = by_products(op, lambda each: costs.price(each, cube_ratio, vector_ratio))
            return faster(cost, replace(apart, seconds=apart.seconds * slower))
        if isinstance(op, Attend) and older:
            return replace(cost, seconds=cost.seconds / AMPERE_PATH_RATIO, compute_s=cost.compute_s / AMPERE_PATH_RATIO)
        return cost

    return price


def measured_levels(machine: Machine) -> frozenset[str]:
    """Levels of the machine's scale-up plane on whose network collectives were measured."""
    known = calibration.fits("collective", Line)
    return frozenset(level.name for level in machine.plane("scale_up").levels if level.profile in known)
