"""Operator prices per second on one core, and microseconds of one scalar call: python benchmarks/price_operators.py"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from taicang import catalog
from taicang.catalog import calibration
from taicang.cost.attend_gqa import GqaDecodeFit, GqaPrefillFit, attend_gqa
from taicang.cost.gemm import GemmFit, gemm
from taicang.evidence.systems import chip_of
from taicang.ops import Attend, Gemm

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
    for dtype, fit in calibration.fits("gemm", GemmFit)["h100"].items():
        many, one = Gemm(m=m, n=n, k=k, dtype=dtype), Gemm(m=128.0, n=4096.0, k=7168.0, dtype=dtype)
        calls[f"gemm {dtype}"] = (
            lambda many=many, fit=fit: gemm(many, chip, fit),
            lambda one=one, fit=fit: gemm(one, chip, fit),
        )
    return calls


def gqa_calls() -> Mapping[str, tuple[Callable[[], object], Callable[[], object]]]:
    chip, tokens = catalog.chip("h100"), np.floor(16384 ** np.random.default_rng(0).random(SHAPES)) + 1

    def operator(phase, length):
        new = length if phase == "prefill" else 0.0 * length + 1.0
        return Attend(
            kind="gqa",
            phase=phase,
            sequences=8.0 + 0.0 * length,
            queries=8.0 * new,
            pairs=8.0 * new * (length + 1.0) / 2.0 if phase == "prefill" else 8.0 * length,
            context=8.0 * length,
            heads=32,
            kv_heads=8,
            qk_dim=128,
            v_dim=128,
            dtype="bf16",
            kv_dtype="bf16",
        )

    calls = {}
    for phase, kind in (("prefill", GqaPrefillFit), ("decode", GqaDecodeFit)):
        fit = calibration.fits(f"attend_{phase}", kind)["h100"]["bf16/bf16"]
        many, one = operator(phase, tokens), operator(phase, 4096.0)
        calls[f"gqa {phase}"] = (
            lambda many=many, fit=fit: attend_gqa(many, chip, fit),
            lambda one=one, fit=fit: attend_gqa(one, chip, fit),
        )
    return calls


def main() -> None:
    for name, (many, one) in {**gemm_calls(), **gqa_calls()}.items():
        print(f"{name:16} {SHAPES / best(many, 50) / 1e6:6.2f} M prices/s   {best(one, 2000) * 1e6:6.1f} us a call")


if __name__ == "__main__":
    main()
