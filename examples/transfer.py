# ruff: noqa: T201
"""How well constants carry over: price other chips' kernels with H100's constants, scaled to each chip's own peaks.

Usage: python examples/transfer.py EVIDENCE (a folder of measured rows). Each line: rows, mean error with the chip's own
constants, mean error with those of the donor.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from taicang.catalog import calibration
from taicang.cost.attend_mla import attend_mla
from taicang.cost.gemm import GemmFit, gemm, select
from taicang.errors import NotModelled
from taicang.evidence import suite_attend, suite_gemm, suite_mla

DONOR = "h100"
CHIPS = ("a100", "h200", "b200", "b300", "gb200", "gb300")


def priced(folder: Path) -> Iterator[tuple[str, str, Any, Any]]:
    """Kernel, chip, measured seconds, and a function from a profile to predicted seconds."""
    fits = calibration.fits("gemm", GemmFit)
    for rows in suite_gemm.read(folder):
        chip = suite_gemm.chip_of(rows.system)

        def product(profile: str, rows: Any = rows, chip: Any = chip) -> Any:
            other = replace(chip, profile=profile)
            return gemm(rows.op, chip, select(fits, other, rows.dtype), warm=rows.warm).seconds

        yield f"product {rows.dtype}", chip.profile, rows.measured_s, product
    for phase in ("prefill", "decode"):
        for found in suite_attend.rows(folder / "kernels" / f"attention_{phase}_gqa.csv", phase):
            chip = suite_attend.measured_chip(found.system)

            def attention(profile: str, found: Any = found, chip: Any = chip) -> Any:
                return suite_attend._seconds(found, replace(chip, profile=profile))

            yield f"attention {phase}", chip.profile, found.measured_s, attention
        for latent in suite_mla.rows(folder / "kernels" / f"mla_{phase}.csv", phase):
            chip = suite_mla.chip_of(latent.system)

            def latents(profile: str, latent: Any = latent, chip: Any = chip) -> Any:
                return attend_mla(latent.op, chip, suite_mla.calibrated(profile, latent.op)).seconds

            yield f"latent attention {phase}", chip.profile, latent.measured_s, latents


def table(folder: Path) -> None:
    """Print the errors by kernel and chip."""
    found: dict[tuple[str, str], list[Any]] = {}
    for kernel, chip, measured, price in priced(folder):
        if chip not in CHIPS or "fp4" in kernel:
            continue
        try:
            errors = [np.abs(np.asarray(price(profile)) / measured - 1.0) for profile in (chip, DONOR)]
        except NotModelled:
            continue
        found.setdefault((kernel, chip), []).append(errors)
    print(f"{'kernel':26s}{'chip':8s}{'rows':>6s}{'own':>8s}{DONOR + chr(39) + 's':>8s}")
    for (kernel, chip), parts in sorted(found.items()):
        own, lent = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        print(f"{kernel:26s}{chip:8s}{own.size:6d}{own.mean():8.1%}{lent.mean():8.1%}")


if __name__ == "__main__":
    table(Path(sys.argv[1]))
