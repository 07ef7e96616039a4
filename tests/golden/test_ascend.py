"""Errors reached on Ascend, from operators to serving; the package carries every row."""

from __future__ import annotations

from functools import cache

import pytest

from taicang import catalog
from taicang.catalog.costing import cost_model
from taicang.evidence.score import Outcome
from taicang.evidence.suites import sources
from taicang.ops import Attend


@cache
def _rows() -> dict[str, Outcome]:
    return {o.id: o for source in sources().values() if source.carried for o in source.told()}


def _error(name: str) -> float:
    error = _rows()[name].error_ratio
    assert error is not None
    return error


def test_published_operators_within_seven_percent() -> None:
    chosen = [n for n in _rows() if n.startswith(("ascend-910c/", "cm_v2/t7/"))]
    assert len(chosen) == 2 + 6 + 12
    assert {n: _error(n) for n in chosen if abs(_error(n)) > 0.07} == {}


@pytest.mark.parametrize("name", ["cm_v2/5.4.2/layer/mtp", "cm_v2/5.4.2/layer"])
def test_decode_layer_within_six_percent(name: str) -> None:
    assert abs(_error(name)) < 0.06


@pytest.mark.parametrize(
    "name",
    [
        "cm_v2/t5/50ms/tpot",
        "cm_v2/t5/50ms/rate",
        "cm_v2/t5/15ms/tpot",
        "cm_v2/t5/15ms/rate",
        "cm_v2/t3/prefill",
        "xds_v6/s6/iteration",
        "xds_v6/s6/tpot",
        "xds_v6/s6/rate",
    ],
)
def test_held_out_serving_within_eight_percent(name: str) -> None:
    assert _rows()[name].held_out
    assert abs(_error(name)) < 0.08


@pytest.mark.parametrize(
    ("name", "within"),
    [
        ("cm_v2/5.4.3/reuse", 0.15),
        ("cm_v2/5.4.3/ttft/half", 0.15),
        ("xds_v6/s6/replay/tpot", 0.12),
        ("xds_v6/s6/replay/rate", 0.12),
    ],
)
def test_the_simulator_reaches_the_published_figures_of_a_full_system(name: str, within: float) -> None:
    assert _rows()[name].held_out
    assert abs(_error(name)) < within


def test_fetching_over_ub_is_faster_than_through_vpc_though_less_than_published() -> None:
    assert -0.30 < _error("cm_v2/5.4.3/planes") < 0.15


def test_each_constant_of_serving_reproduces_the_row_that_it_was_fixed_on() -> None:
    for name in ("cm_v2/5.4.1/prefill pipeline", "cm_v2/5.2/balance", "xds_v6/s6/exchange"):
        assert not _rows()[name].held_out
        assert abs(_error(name)) < 0.005


def test_mean_error_of_forward_steps() -> None:
    fitted = {name: o for name, o in _rows().items() if o.suite == "ascend_steps" and not o.held_out}
    assert len(fitted) == 9
    small = fitted.pop("msm_qwen3-30b-a3b-prefill")
    sizes = [abs(o.error_ratio or 0.0) for o in fitted.values()]
    assert sum(sizes) / len(sizes) < 0.05
    assert max(sizes) < 0.15
    # launches are counted in the engine's code, no longer fitted on this row: its prompts and its decode steps (held
    # out) are alike too fast, so what is missing is the model's, not one phase's
    together = [small.error_ratio, _error("msm_qwen3-30b-a3b-decode")]
    assert max(together) < 0.0
    assert abs(together[0] - together[1]) < 0.1
    assert min(together) > -0.32


def test_an_image_is_refused_not_guessed() -> None:
    row = _rows()["msm_kimi-k2.5-1080p-prefill"]
    assert row.predicted is None
    assert "encoder of an image" in row.refused


def test_scores_pass_through_the_vector_units_however_wide_a_head_is() -> None:
    """Another 4,096 keys of 2,048 queries of one head take a fused kernel 35.05 us on the 16 of a 910B2's 24 cores that
    have a tile (pto-isa, demos/torch_jit/flash_atten, 50 runs): 184 TFLOP/s on all."""
    price = cost_model(catalog.machine("atlas-800-a2-376t"), catalog.stack("mindspeed"))

    def rate(width: float, heads: float) -> float:
        sizes = {"heads": heads, "kv_heads": heads, "qk_dim": width, "v_dim": width, "sequences": 1.0}
        seconds = [
            float(price.price(Attend(kind="gqa", phase="prefill", queries=2048.0, context=keys, pairs=2048.0 * keys,
                                     dtype="bf16", kv_dtype="bf16", **sizes)).seconds)
            for keys in (4096.0, 8192.0)
        ]  # fmt: skip
        return 4.0 * 2048.0 * 4096.0 * width * heads / (seconds[1] - seconds[0])

    assert rate(128.0, 24.0) == pytest.approx(184e12, rel=0.12)
    assert rate(64.0, 48.0) < 0.75 * rate(128.0, 24.0)
