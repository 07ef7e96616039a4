"""Cache and FLOPs of every kind of model: arrays as scalars, monotone, and consistent with each other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang.catalog.models import model
from taicang.models.count import decode_flop, kv_cache_bytes, parameters, prefill_flop

KINDS = [
    "llama-3.1-8b",
    "deepseek-r1",
    "deepseek-v3.2",
    "glm-5.2",
    "gpt-oss-120b",
    "qwen3.5-397b-a17b",
    "llama-4-scout",
]
LENGTH = st.floats(0, 20).map(lambda x: float(round(2.0**x)))


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(LENGTH, min_size=2, max_size=6), cached=LENGTH)
def test_arrays_are_scalars_bit_for_bit_and_more_is_never_less(name: str, lengths: list[float], cached: float) -> None:
    loaded, array = model(name), np.sort(np.array(lengths))
    for count in (
        lambda n: kv_cache_bytes(loaded, n),
        lambda n: decode_flop(loaded, n),
        lambda n: prefill_flop(loaded, n, cached),
    ):
        together = np.asarray(count(array))
        assert [float(count(float(n))) for n in array] == together.tolist()
        assert np.all(np.diff(together) >= 0)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "gpt-oss-120b", "qwen3.5-397b-a17b"])
def test_a_prompt_costs_what_its_tokens_cost_one_by_one(name: str) -> None:
    loaded = model(name)
    logits = 2.0 * loaded.vocab * loaded.hidden
    one_by_one = sum(float(decode_flop(loaded, n)) - logits for n in range(300))
    assert float(prefill_flop(loaded, 300)) - logits == pytest.approx(one_by_one, rel=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_decode_needs_two_flop_per_active_weight(name: str) -> None:
    counted = parameters(loaded := model(name))
    assert decode_flop(loaded, 1) == pytest.approx(2.0 * (counted.active - counted.embedding), rel=0.015)
