"""Names that measured tables give to machines, as entries of the catalogue."""

from __future__ import annotations

from functools import cache

from taicang import catalog
from taicang.hardware import Chip


@cache
def chip_of(system: str) -> Chip:
    """The chip that rows of ``system`` ("h100_sxm", "gb200") were measured on; ``UnknownName`` for others."""
    return catalog.chip(system.replace("-", "_").removesuffix("_sxm").replace("_", "-"))
