"""Operator prices per second on one core, and microseconds of one scalar call: python benchmarks/price_operators.py"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from taicang.catalog import calibration
from taicang.cost.gemm import GemmFit, gemm
from taicang.evidence.suite_gemm import chip_of
from taicang.ops import Gemm

SHAPES = 10_000


def best(call: Callable[[], object], repeats: int) -> float:
    """Shortest of ``repeats`` calls in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def gemm_calls() -> Mapping[str, tuple[Callable[[], object], Callable[[], object]]]:
    rng = np.random.default_rng(0)
    m, n, k = np.floor(16384 ** rng.random((3, SHAPES))) + 1
    chip = chip_of("h100-sxm")
    calls = {}
    for dtype, fit in calibration.fits("gemm", GemmFit)["hopper"].items():
        many, one = Gemm(m=m, n=n, k=k, dtype=dtype), Gemm(m=128.0, n=4096.0, k=7168.0, dtype=dtype)
        calls[f"gemm {dtype}"] = (
            lambda many=many, fit=fit: gemm(many, chip, fit),
            lambda one=one, fit=fit: gemm(one, chip, fit),
        )
    return calls


def main() -> None:
    for name, (many, one) in {**gemm_calls()}.items():
        print(f"{name:16} {SHAPES / best(many, 50) / 1e6:6.2f} M prices/s   {best(one, 2000) * 1e6:6.1f} us a call")


if __name__ == "__main__":
    main()
