"""Cache and FLOPs of every kind of model: arrays as scalars, monotone, and consistent with each other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang.catalog.models import model, of_config
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


def described(**keys):
    plain = {"model_type": "llama", "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 8,
             "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000}  # fmt: skip
    return of_config(plain | keys, "described")


@given(st.integers(2, 6))
def test_layers_that_run_again_keep_their_weights_and_cache_anew(times):
    """A loop stores its layers once; every pass computes, reads them and has a cache of its own (Ouro)."""
    once, more = (described(model_type="ouro", total_ut_steps=steps) for steps in (1, times))
    assert parameters(more).total == parameters(once).total
    assert kv_cache_bytes(more, 1000) == times * kv_cache_bytes(once, 1000)
    inside = decode_flop(once, 1000) - 2.0 * once.vocab * once.hidden
    assert decode_flop(more, 1000) - 2.0 * once.vocab * once.hidden == pytest.approx(times * inside)


@given(st.sampled_from((1, 2, 4)))
def test_layers_that_reuse_keys_and_values_cache_none_and_make_none(every):
    """One layer of ``every`` caches (Hunyuan-Large); the others compute queries, and read as much as before."""
    keys = {"model_type": "hunyuan", "num_experts": 4, "moe_topk": 1, "num_shared_expert": 1}
    plain, shared = (described(**keys, use_cla=use, cla_share_factor=every) for use in (False, True))
    assert kv_cache_bytes(plain, 1000) == every * kv_cache_bytes(shared, 1000)
    fewer = (8 - 8 // every) * (2 * 128 * 512 + 64)  # two heads of 64 for keys, as many for values, and the keys' norm
    assert parameters(plain).total - parameters(shared).total == fewer


def test_published_models_of_recurring_layers_have_the_parameters_that_their_builders_state():
    """Ouro-1.4B (arXiv 2510.25741), Hunyuan-Large of 389 billion, 52 of them active (2411.02265), Zamba2-7B."""
    ouro = described(model_type="ouro", hidden_size=2048, intermediate_size=5632, num_hidden_layers=24,
                     num_attention_heads=16, num_key_value_heads=16, vocab_size=49152, total_ut_steps=4)  # fmt: skip
    large = described(model_type="hunyuan", hidden_size=6400, intermediate_size=18304, num_hidden_layers=64,
                      num_attention_heads=80, num_key_value_heads=8, vocab_size=128512, tie_word_embeddings=True,
                      num_experts=16, moe_topk=1, num_shared_expert=1, use_cla=True, cla_share_factor=2)  # fmt: skip
    kinds = ["hybrid" if i == 6 or (i % 6 == 5 and 11 <= i <= 77) else "mamba" for i in range(81)]
    zamba = described(model_type="zamba2", hidden_size=3584, intermediate_size=14336, num_hidden_layers=81,
                      num_attention_heads=32, num_key_value_heads=32, vocab_size=32000, mamba_d_state=64,
                      n_mamba_heads=112, mamba_headdim=64, mamba_ngroups=2, num_mem_blocks=2, adapter_rank=128,
                      layers_block_type=kinds, tie_word_embeddings=True)  # fmt: skip
    found = [parameters(model).total / 1e9 for model in (ouro, large, zamba)]
    assert found == pytest.approx([1.43, 389, 7.36], rel=0.005)
    assert parameters(large).active / 1e9 == pytest.approx(52, rel=0.02)
