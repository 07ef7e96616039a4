"""Units at the door, plain SI floats inside.

``parse`` turns "392 GB/s" into 392e9 for the dimension that the caller expects; bare numbers are refused for
dimensional quantities. ``count`` turns "32k" into 32,000. Prefixes are decimal (GB = 1e9 bytes, k = 1000) unless
written binary (GiB = 2**30, Ki = 1024). Options, YAML files and studies all read their numbers here.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
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
    "cny_per_h": {"CNY/h": 1.0},
    "cny_per_usd": {"CNY/USD": 1.0},
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

_RATES = ("usd_per_h", "usd_per_kwh", "cny_per_kwh", "cny_per_h", "cny_per_usd", "per_s")
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
} | {name: next(iter(_FIXED[name])) for name in _RATES}
"""The unit that a message suggests."""

LONGEST_S = 1e12
"""Longest time that any door takes, some 30,000 years."""
_MOST = 1e24
_BOUNDS: dict[str, tuple[float, float]] = {
    "s": (1e-15, LONGEST_S),
    "per_s": (1e-9, 1e9),
    **dict.fromkeys(("w", "j", "usd", "cny", *_RATES[:-1]), (1e-9, 1e18)),
    **dict.fromkeys(("bytes", "bytes_per_s", "flop", "flop_per_s", "hz"), (1.0, _MOST)),
}
"""Least and largest size of a quantity that is not nothing: beyond lies a slip of the pen, and sums overflow."""

_DIGITS = 40
"""Characters of the longest number."""
_NUMBER = re.compile(r"\s*([-+]?(?:\d[\d_,.]*|\.\d[\d_]*)(?:[eE][-+]?\d+)?)\s*(.*?)\s*", re.ASCII | re.DOTALL)
_PLAIN = re.compile(r"[-+]?(?:\d+(?:_\d+)*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def split(text: str, *, where: str = "") -> tuple[str, str] | None:
    """Number (plain digits) and unit of ``text``, None where it does not begin with a number.

    Raises ``UnitError`` for a comma, which some read as a point and others as nothing, and for endless digits.
    """
    if len(text) <= 4 * _DIGITS:
        return _parted(text, where)
    if re.match(r"\s*[-+]?[\d.]", text):
        raise UnitError(f"a number of {len(text):,} characters, at most {_DIGITS} are read", where=where)
    return None


@lru_cache(maxsize=4096)  # a machine is made anew for each that asks
def _parted(text: str, where: str) -> tuple[str, str] | None:
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    number, unit = match[1], match[2]
    if len(number) > _DIGITS:
        raise UnitError(f"a number of {len(number):,} characters, at most {_DIGITS} are read", where=where)
    if "," in number:
        whole = f"{number.replace(',', '')} {unit}".strip()
        point = f"{number.replace('.', '').replace(',', '.')} {unit}".strip()
        readings = f"{point!r} or {whole!r}" if number.count(",") == 1 else f"{whole!r}"
        raise UnitError(f"the comma in {text.strip()!r} can be read in two ways: write {readings}", where=where)
    if re.match(r"[-+]?0\d", number):
        plain = number.lstrip("+-0") or "0"
        raise UnitError(f"{number!r} begins with 0, which some read as octal: write {plain}", where=where)
    return (number.replace("_", ""), unit) if _PLAIN.fullmatch(number) else None


def digits(text: str) -> bool:
    """Whether ``text`` is a whole number in plain digits: "²" is a digit too, but no number, and 5,000 are no end."""
    return text.isascii() and text.isdigit() and len(text) <= _DIGITS


def count(text: object, low: int, high: int, *, what: str = "a whole number", where: str = "") -> int:
    """Parse ``text`` (4096, "32k", "2T", "32Ki") as a whole number from ``low`` to ``high``.

    Raises ``UnitError`` for anything else.
    """
    found: int | float = math.nan
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        found = text
    elif isinstance(text, str) and (pair := split(text, where=where)) and pair[1].lower() in _COUNTS:
        scale = _COUNTS[pair[1].lower()]
        found = int(pair[0]) * scale if pair[0].lstrip("+-").isdigit() else float(pair[0]) * scale
    whole = found if isinstance(found, int) else round(found) if math.isfinite(found) else high + 1
    if (isinstance(found, float) and not abs(found - whole) <= 1e-12 * abs(found)) or not low <= whole <= high:
        beyond = f" and at most {high:,}" if found > high else ""
        said = f"from {low} to {high}" if high < 10**6 else f"of at least {low}{beyond}"
        raise UnitError(f"expected {what} {said}, got {shorten(text)}", where=where)
    return whole


def share(value: object, *, where: str = "") -> float:
    """Parse a share above nothing and below all: 0.95 or "95%". Raises ``UnitError`` for anything else."""
    text = str(value).strip()
    pair = split(text.removesuffix("%"), where=where)
    found = math.nan if pair is None or pair[1] else float(pair[0]) / (100.0 if text.endswith("%") else 1.0)
    if isinstance(value, bool) or not 0.0 < found < 1.0:
        raise UnitError(
            f"expected a share between nothing and all such as 95% or 0.95, got {shorten(value)}", where=where
        )
    return found


def shorten(value: object) -> str:
    """``value`` as messages show it: a line at most."""
    try:
        shown = repr(value)
    except ValueError:  # an integer of thousands of digits
        shown = "a number without end"
    return shown if len(shown) <= 80 else f"{shown[:60]}... ({len(shown):,} characters)"


def parse(text: object, dimension: str, *, where: str = "") -> float:
    """Parse ``text`` ("1.6 TB/s") as a quantity of ``dimension`` and return it in SI base units.

    Raises ``UnitError`` for a bare number, an unknown unit or a unit of another dimension.
    """
    table = DIMENSIONS[dimension]
    example = _EXAMPLE[dimension]
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise UnitError(f"expected a quantity such as '50 {example}', got {shorten(text)}", where=where)
    if not isinstance(text, str):
        raise UnitError(f"{shorten(text)} has no unit; write for example '{shorten(text)} {example}'", where=where)
    pair = split(text, where=where)
    if pair is None:
        raise UnitError(f"cannot read {shorten(text)} as a quantity such as '50 {example}'", where=where)
    number, unit = pair
    if not unit:
        raise UnitError(f"{text!r} has no unit; write for example '{number} {example}'", where=where)
    if unit not in table:
        other = next((d for d, units in DIMENSIONS.items() if unit in units), None)
        why = f"is a unit of {other}, expected one of {dimension}" if other else f"is not a unit of {dimension}"
        raise UnitError(f"{unit!r} {why} (for example {example})", where=where)
    found = float(number) * table[unit]
    least, most = _BOUNDS[dimension]
    if re.search("[1-9]", number.lower().partition("e")[0]) and not least <= abs(found) <= most:
        base = next(iter(table))
        raise UnitError(f"{text!r} lies beyond {least:g} to {most:g} {base}", where=where)
    return found


_SHOW = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def show(value: float | None, unit: str) -> str:
    """Write ``value`` (SI) with a decimal prefix, three significant digits: ``show(3.92e11, "B/s")`` -> "392 GB/s".

    What is not there is "-".
    """
    if value is None:
        return "-"
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
