# ruff: noqa: T201
"""How well constants carry over: price other chips' kernels with H100's constants, scaled to each chip's own peaks.

Usage: python examples/transfer.py EVIDENCE (a folder of measured rows). Each line: rows, mean error with the chip's own
constants, mean error with those of the donor.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

from taicang.catalog import calibration
from taicang.evidence import board

DONOR = "h100"
CHIPS = ("a100", "h200", "b200", "b300", "gb200", "gb300")
SUITES = ("gemm", "attend_prefill", "attend_decode", "mla_prefill", "mla_decode", "experts")
own_fits = calibration.fits


def lent_fits(family: str, kind: type[Any]) -> Mapping[str, Any]:
    """The constants of ``family``, with the donor's under every profile where it has some (networks are not chips)."""
    own = own_fits(family, kind)
    return dict.fromkeys(own, own[DONOR]) if DONOR in own else own


def errors(folder: Path) -> dict[tuple[str, str], dict[str, float]]:
    """Absolute errors of the rows that could be predicted, by suite and chip, then by row."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for each in board.suite_outcomes(folder, SUITES):
        chip = each.group.split()[0].replace("_", "-").removesuffix("-sxm")
        if chip in CHIPS and each.error_ratio is not None and "fp4" not in each.group:
            found.setdefault((each.suite, chip), {})[each.id] = abs(each.error_ratio)
    return found


def table(folder: Path) -> None:
    """Print mean errors of the rows that both sets of constants can predict."""
    own = errors(folder)
    with patch.object(calibration, "fits", lent_fits):
        lent = errors(folder)
    print(f"{'suite':16s}{'chip':8s}{'rows':>6s}{'own':>8s}{DONOR:>8s}")
    for (suite, chip), rows in sorted(own.items()):
        both = sorted(rows.keys() & lent.get((suite, chip), {}).keys())
        if both:
            means = [sum(each[suite, chip][row] for row in both) / len(both) for each in (own, lent)]
            print(f"{suite:16s}{chip:8s}{len(both):6d}{means[0]:8.1%}{means[1]:8.1%}")


if __name__ == "__main__":
    table(Path(sys.argv[1]))
