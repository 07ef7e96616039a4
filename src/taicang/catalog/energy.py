"""Power constants by kernel profile: those of its architecture, which chips of one generation share."""

from __future__ import annotations

from collections.abc import Mapping

from taicang.catalog.calibration import fits
from taicang.catalog.costing import ARCHITECTURE
from taicang.cost.energy import EnergyFit
from taicang.errors import NotModelled


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
