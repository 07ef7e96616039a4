"""Units at the door, plain SI floats inside.

``parse`` turns "392 GB/s" into 392e9 for the dimension that the caller expects; bare numbers are refused for
dimensional quantities. Prefixes are decimal (GB = 1e9 bytes) unless written binary (GiB = 2**30).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeAlias

from taicang.errors import UnitError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray  # imported for types alone: the command line starts without NumPy

Num: TypeAlias = "float | NDArray[np.floating[Any]]"
"""A quantity of one candidate, or of many at once (one element each)."""
Count: TypeAlias = "int | float | NDArray[np.floating[Any]]"
"""A pure number (tokens, ranks, rows of a matrix), of one candidate or of many at once."""

_DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}

# dimension -> unit -> factor to the SI base
_FIXED: dict[str, dict[str, float]] = {
    "s": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0, "d": 86400.0},
    "w": {"W": 1.0, "kW": 1e3, "MW": 1e6},
    "j": {"J": 1.0, "kJ": 1e3, "MJ": 1e6, "Wh": 3600.0, "kWh": 3.6e6},
    "usd": {"USD": 1.0, "kUSD": 1e3, "MUSD": 1e6},
    "cny": {"CNY": 1.0, "kCNY": 1e3, "MCNY": 1e6},
    "usd_per_h": {"USD/h": 1.0},
    "usd_per_kwh": {"USD/kWh": 1.0},
    "cny_per_kwh": {"CNY/kWh": 1.0},
    "per_s": {"/s": 1.0, "/min": 1 / 60.0, "/h": 1 / 3600.0},
}


def _prefixed(stem: str, factor: float = 1.0, *, binary: bool = False) -> dict[str, float]:
    table = {prefix + stem: scale * factor for prefix, scale in _DECIMAL.items()}
    if binary:
        table |= {prefix + stem: scale * factor for prefix, scale in _BINARY.items()}
    return table


DIMENSIONS: dict[str, dict[str, float]] = _FIXED | {
    "bytes": _prefixed("B", binary=True),
    "bytes_per_s": _prefixed("B/s", binary=True) | _prefixed("b/s", 1 / 8) | _prefixed("bps", 1 / 8),
    "flop": _prefixed("FLOP"),
    "flop_per_s": _prefixed("FLOPS") | _prefixed("FLOP/s") | _prefixed("OPS"),
    "hz": _prefixed("Hz"),
}

_EXAMPLE = {
    "s": "ms",
    "w": "kW",
    "j": "kWh",
    "usd": "MUSD",
    "cny": "MCNY",
    "bytes": "GB",
    "bytes_per_s": "GB/s",
    "flop": "TFLOP",
    "flop_per_s": "TFLOPS",
    "hz": "GHz",
} | {name: next(iter(_FIXED[name])) for name in ("usd_per_h", "usd_per_kwh", "cny_per_kwh", "per_s")}
"""The unit that a message suggests."""

_QUANTITY = re.compile(r"^\s*([-+]?(?:\d[\d_,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([A-Za-zµ/]*[A-Za-z/µ]*)\s*$")


def parse(text: object, dimension: str, *, where: str = "") -> float:
    """Parse ``text`` ("1.6 TB/s") as a quantity of ``dimension`` and return it in SI base units.

    Raises ``UnitError`` for a bare number, an unknown unit or a unit of another dimension.
    """
    table = DIMENSIONS[dimension]
    example = _EXAMPLE[dimension]
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise UnitError(f"expected a quantity such as '50 {example}', got {text!r}", where=where)
    match = _QUANTITY.match(text) if isinstance(text, str) else None
    if match is None:
        if isinstance(text, (int, float)):
            raise UnitError(f"{text!r} has no unit; write for example '{text} {example}'", where=where)
        raise UnitError(f"cannot read {text!r} as a quantity such as '50 {example}'", where=where)
    number, unit = float(match[1].replace("_", "").replace(",", "")), match[2]
    if not unit:
        raise UnitError(f"{text!r} has no unit; write for example '{match[1]} {example}'", where=where)
    if unit not in table:
        other = next((d for d, units in DIMENSIONS.items() if unit in units), None)
        why = f"is a unit of {other}, expected one of {dimension}" if other else f"is not a unit of {dimension}"
        raise UnitError(f"{unit!r} {why} (for example {example})", where=where)
    return number * table[unit]


_SHOW = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def show(value: float, unit: str) -> str:
    """Write ``value`` (SI) with a decimal prefix, three significant digits: ``show(3.92e11, "B/s")`` -> "392 GB/s"."""
    if unit == "s":
        for scale, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if abs(value) >= scale:
                return f"{value / scale:.3g} {name}"
        return f"{value * 1e9:.3g} ns"
    for scale, prefix in _SHOW:
        if abs(value) >= scale:
            shown = value / scale
            return f"{shown:.0f} {prefix}{unit}" if shown >= 100 else f"{shown:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"
