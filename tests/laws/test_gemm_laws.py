"""Laws of the matrix product's price, on random shapes over the whole range that models reach."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang.catalog import calibration
from taicang.cost.gemm import GemmFit, fit_for, gemm
from taicang.cost.pointwise import PointwiseFit, lookup, pointwise
from taicang.formats import number_format
from taicang.hardware import Chip, Memory
from taicang.ops import Gemm, Lookup, Pointwise

FITS = calibration.fits("gemm", GemmFit)
CASES = [(profile, dtype) for profile, keyed in FITS.items() for dtype in keyed]
CHIP = Chip(
    name="law",
    vendor="",
    dies=1,
    peak_flop_per_s={"bf16": 1e15, "fp8": 2e15, "int8": 2e15, "fp4": 4e15},
    vector_flop_per_s=60e12,
    cores=132,
    memory=Memory(capacity_bytes=80e9, bandwidth_bytes_per_s=3.35e12),
    l2_bytes=50e6,
    profile="law",
    measured=False,
    tdp_w=None,
    idle_w=None,
)
LOG = st.floats(0.0, 1.0)
"""Position on a logarithmic axis."""
SHAPES = st.tuples(LOG, LOG, LOG, LOG)
CASE = st.sampled_from(CASES)


def size(u: float, top: float) -> float:
    return float(np.floor(top**u))


def shaped(u: tuple[float, float, float, float], dtype: str) -> Gemm:
    return Gemm(m=size(u[0], 65536), n=size(u[1], 65536), k=size(u[2], 65536), batch=size(u[3], 256), dtype=dtype)


@pytest.mark.parametrize(("profile", "dtype"), CASES)
@pytest.mark.parametrize("warm", [False, True])
def test_scalar_and_array_agree_bit_for_bit(profile: str, dtype: str, warm: bool) -> None:
    rng = np.random.default_rng(7)
    m, n, k = np.floor(65536 ** rng.random((3, 61)))
    batch = np.floor(256 ** rng.random(61))
    fit = FITS[profile][dtype]
    whole = gemm(Gemm(m=m, n=n, k=k, batch=batch, dtype=dtype), CHIP, fit, warm=warm)
    for i in range(m.size):
        one = gemm(
            Gemm(m=float(m[i]), n=float(n[i]), k=float(k[i]), batch=float(batch[i]), dtype=dtype), CHIP, fit, warm=warm
        )
        for name in ("seconds", "compute_s", "memory_s", "latency_s", "flop", "moved_bytes"):
            assert float(getattr(one, name)) == float(np.asarray(getattr(whole, name))[i]), name


@settings(max_examples=300, deadline=None)
@given(CASE, SHAPES, st.sampled_from(["m", "n", "k", "batch"]), st.floats(1e-4, 3.0), st.booleans())
def test_more_work_is_never_faster(
    case: tuple[str, str], u: tuple[float, float, float, float], side: str, growth: float, warm: bool
) -> None:
    op = shaped(u, case[1])
    larger = replace(op, **{side: np.ceil(getattr(op, side) * (1 + growth))})
    fit = FITS[case[0]][case[1]]
    before, after = (gemm(o, CHIP, fit, warm=warm).seconds for o in (op, larger))
    assert after >= before * (1 - 1e-12)


@settings(max_examples=200, deadline=None)
@given(CASE, SHAPES, st.floats(1.0, 4.0), st.booleans())
def test_a_better_chip_is_never_slower(
    case: tuple[str, str], u: tuple[float, float, float, float], gain: float, warm: bool
) -> None:
    op, fit = shaped(u, case[1]), FITS[case[0]][case[1]]
    base = gemm(op, CHIP, fit, warm=warm).seconds
    faster = replace(CHIP.memory, bandwidth_bytes_per_s=CHIP.memory.bandwidth_bytes_per_s * gain)
    peaks = {key: peak * gain for key, peak in CHIP.peak_flop_per_s.items()}
    for chip in (replace(CHIP, memory=faster), replace(CHIP, peak_flop_per_s=peaks)):
        assert gemm(op, chip, fit, warm=warm).seconds <= base * (1 + 1e-12)


@settings(max_examples=200, deadline=None)
@given(CASE, SHAPES)
def test_never_beats_the_roofline_and_parts_bound_the_whole(
    case: tuple[str, str], u: tuple[float, float, float, float]
) -> None:
    op, fit, form = shaped(u, case[1]), FITS[case[0]][case[1]], number_format(case[1])
    cost = gemm(op, CHIP, fit)
    flop = 2 * op.batch * op.m * op.n * op.k
    traffic = op.batch * (op.n * op.k * form.weight_bytes + op.m * op.k * form.activation_bytes + 2 * op.m * op.n)
    assert cost.flop == flop
    assert cost.seconds >= flop / CHIP.peak(form.peak)
    assert cost.seconds >= traffic / CHIP.memory.bandwidth_bytes_per_s
    assert cost.seconds > fit.launch_s > 0
    parts = (cost.compute_s, cost.memory_s, cost.latency_s)
    assert max(parts) * (1 - 1e-9) <= cost.seconds <= sum(parts) * (1 + 1e-9)


@pytest.mark.parametrize(("profile", "dtype"), CASES)
def test_an_empty_product_costs_its_launch(profile: str, dtype: str) -> None:
    cost = gemm(Gemm(m=0, n=4096, k=0, dtype=dtype), CHIP, FITS[profile][dtype])
    assert np.isfinite(cost.seconds)
    assert cost.seconds >= FITS[profile][dtype].launch_s > 0
    assert cost.flop == 0


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(calibration.fits("pointwise", PointwiseFit))), LOG, LOG, st.integers(1, 9))
def test_streaming_kernels(profile: str, u: float, v: float, launches: int) -> None:
    fit = calibration.fits("pointwise", PointwiseFit)[profile]["stream"]
    moved, flop = size(u, 1e10), size(v, 1e12)

    def price(moved_bytes: float, flop: float, launches: int = launches) -> float:
        op = Pointwise(kind="norm", elements=1, moved_bytes=moved_bytes, flop=flop, launches=launches)
        return float(pointwise(op, CHIP, fit).seconds)

    base = price(moved, flop)
    assert base >= max(moved / CHIP.memory.bandwidth_bytes_per_s, flop / CHIP.vector_flop_per_s)
    assert base >= launches * fit.launch_s
    assert price(moved * 1.3, flop) >= base * (1 - 1e-12)
    assert price(moved, flop * 1.3) >= base * (1 - 1e-12)
    assert price(moved, flop, launches + 1) > base
    both = Pointwise(
        kind="norm", elements=1, moved_bytes=np.array([moved, 2.0]), flop=np.array([flop, 3.0]), launches=launches
    )
    assert np.asarray(pointwise(both, CHIP, fit).seconds)[0] == base
    gathered = lookup(Lookup(rows=size(u, 1e5), row_bytes=4096.0), CHIP, fit)
    assert gathered.seconds >= fit.launch_s + 2 * size(u, 1e5) * 4096 / CHIP.memory.bandwidth_bytes_per_s


def test_a_share_of_the_cores_is_never_faster() -> None:
    fit = fit_for(FITS["ascend-910c"], "int8")
    op = Gemm(m=4096.0, n=7168.0, k=4096.0, dtype="int8")
    half = CHIP.partition(cube_ratio=0.5, vector_ratio=1.0)
    assert gemm(op, half, fit).seconds > gemm(op, CHIP, fit).seconds
