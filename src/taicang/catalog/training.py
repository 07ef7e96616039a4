"""Prices of operators in training: the calibrated cost model of a machine under sustained load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from taicang.catalog import calibration
from taicang.catalog.costing import ARCHITECTURE, cost_model
from taicang.cost.collective import Line
from taicang.cost.cost import Cost
from taicang.cost.sustained import AMPERE_PATH_RATIO, Sustained, under_load
from taicang.hardware import Chip, Machine
from taicang.ops import Attend, Operator
from taicang.stacks import Stack

FAMILY = "sustained"


def sustained(chip: Chip) -> Sustained:
    """The chip's own constant, else its maker's, else that of its kernel profile, else the median of all measured."""
    if not (calibration.FOLDER / f"{FAMILY}.yaml").is_file():
        return Sustained(clock_ratio=1.0)
    known: Mapping[str, Mapping[str, Sustained]] = calibration.fits(FAMILY, Sustained)
    if chip.name not in known and chip.sustained_ratio is not None:
        return Sustained(clock_ratio=chip.sustained_ratio)
    for name in (chip.name, chip.profile, "default"):
        if name in known:
            return known[name]["clock"]
    return Sustained(clock_ratio=1.0)


def default_stack(machine: Machine) -> str:
    """The training stack that published results on such machines used."""
    return {"huawei": "mindspeed", "amd": "primus"}.get(machine.chip.vendor.lower(), "nemo")


def training_price(
    machine: Machine, stack: Stack, found: Sustained | None = None
) -> Callable[[Operator, float, float], Cost]:
    """The price function of a training setup; ``found`` replaces the calibrated constant (for fitting)."""
    costs = cost_model(under_load(machine, found or sustained(machine.chip)), stack)
    older = ARCHITECTURE.get(machine.chip.profile, "ampere") != "ampere" and "ampere_attention" in stack.fused
    if not older:
        return costs.price

    def price(op: Operator, cube_ratio: float = 1.0, vector_ratio: float = 1.0) -> Cost:
        cost = costs.price(op, cube_ratio, vector_ratio)
        if isinstance(op, Attend):
            return replace(cost, seconds=cost.seconds / AMPERE_PATH_RATIO, compute_s=cost.compute_s / AMPERE_PATH_RATIO)
        return cost

    return price


def measured_levels(machine: Machine) -> frozenset[str]:
    """Levels of the machine's scale-up plane on whose network collectives were measured."""
    known = calibration.fits("collective", Line)
    return frozenset(level.name for level in machine.plane("scale_up").levels if level.profile in known)
