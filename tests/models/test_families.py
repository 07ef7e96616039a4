"""Every family of the transformers library that is built of known parts comes out with the library's own count."""

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from library import SAMPLES, TOLERANCE, Sample, draws, error, main

from taicang.catalog.models import families, of_config
from taicang.errors import NotModelled, TaicangError
from taicang.models.count import decode_flop, kv_cache_bytes, parameters, prefill_flop

FAMILIES = 201
"""Families with a sample: fewer than the library has, never fewer than were right before."""


@cache
def samples() -> tuple[Sample, ...]:
    return tuple(Sample(*json.loads(line)) for line in SAMPLES.read_text(encoding="utf-8").splitlines())


def test_samples_of_all_families_have_the_library_s_own_count() -> None:
    wrong = {each.family: why for each in samples() if not abs(why := error(each)) <= TOLERANCE}  # type: ignore[arg-type]
    assert not wrong
    assert len({each.family for each in samples()}) >= FAMILIES


def test_layers_are_found_by_their_number_however_wide_it_is_written() -> None:
    """The library writes indices as wide as that of the last layer: '05' of 30."""

    def padded(config: dict[str, Any]) -> dict[str, Any]:
        own = {key: padded(value) if key == "text_config" else value for key, value in config.items()}
        table = own.get("per_layer_config")
        return own | ({"per_layer_config": {key.zfill(3): row for key, row in table.items()}} if table else {})

    apart = [each for each in samples() if padded(each.config) != each.config]
    assert apart
    for each in apart:
        assert error(each._replace(config=padded(each.config))) == error(each), each.family


@settings(max_examples=60)
@given(sample=st.sampled_from(samples()), key=st.text("abcdefghij_", min_size=4, max_size=12))
def test_a_key_that_nobody_reads_is_refused_in_every_family(sample: Sample, key: str) -> None:
    inner = "text_config" in sample.config
    config = json.loads(json.dumps(sample.config))
    (config["text_config"] if inner else config)[f"zz_{key}"] = 3
    with pytest.raises(NotModelled, match=f"zz_{key}"):
        of_config(config, sample.family)
    loaded = of_config(config, sample.family, approximate=True)
    assert parameters(loaded).total == parameters(of_config(sample.config, sample.family)).total
    assert any(f"zz_{key}" in line for line in loaded.assumptions)


@settings(max_examples=60)
@given(sample=st.sampled_from(samples()), context=st.floats(1, 1e6))
def test_every_family_has_work_and_a_cache(sample: Sample, context: float) -> None:
    loaded = of_config(sample.config, sample.family)
    counted = parameters(loaded)
    assert 0 < counted.active <= counted.total
    assert decode_flop(loaded, context) > 0
    assert prefill_flop(loaded, context) > 0
    assert kv_cache_bytes(loaded, context) > 0


@settings(max_examples=40)
@given(sample=st.sampled_from(samples()), word=st.text("abcdefghijk", min_size=3, max_size=8))
def test_an_unknown_family_is_read_as_the_nearest_by_structure(sample: Sample, word: str) -> None:
    config = json.loads(json.dumps(sample.config))
    inner = config.get("text_config", config)
    inner["model_type"] = f"zz{word}"
    with pytest.raises(NotModelled, match="by structure nearest to"):
        of_config(config, "test")
    if "kv_lora_rank" not in inner and "num_experts" not in inner:
        return
    try:
        loaded = of_config(config, "test", approximate=True)
    except TaicangError:
        return
    assert any("read as" in line for line in loaded.assumptions)


def test_each_family_says_only_what_a_family_can() -> None:
    table = families()
    assert not table.known.keys() & table.refused.keys()
    assert len(table.known) > 150


@pytest.mark.slow
def test_random_configurations_of_the_library_have_its_own_count(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("torch", reason="torch is not installed")
    main(["4"])
    right = int(capsys.readouterr().out.splitlines()[-1].split()[0])
    assert right >= FAMILIES - 10
    assert dict(draws(1, ["llama"]))["llama"][0].count > 0


def test_older_files_of_wrappers_hold_the_decoder_s_keys_beside_the_encoders() -> None:
    """transformers 4 wrote Qwen2-VL on one level."""
    sample = next(each for each in samples() if each.family == "qwen2_vl")
    inner = dict(sample.config["text_config"])
    flat = inner | {"model_type": "qwen2_vl", "vision_config": {"depth": 32, "hidden_size": 1280}}
    flat |= {"tie_word_embeddings": sample.config["tie_word_embeddings"]}
    loaded = of_config(flat, "flat")
    assert parameters(loaded).total == pytest.approx(sample.count, rel=TOLERANCE)
    assert any("text decoder only" in line for line in loaded.assumptions)


@settings(max_examples=60)
@given(context=st.floats(1, 1e6), more=st.floats(1.0, 4.0))
def test_a_compressed_context_grows_by_its_ratio_and_is_read_up_to_its_choice(context: float, more: float) -> None:
    loaded = of_config(next(each for each in samples() if each.family == "deepseek_v4").config, "v4")
    sparse = [block for block in loaded.blocks if getattr(block.attention, "indexer", None)]
    assert sparse
    assert all(block.streams > 1 for block in loaded.blocks)
    ends = [context, context * more]
    held = [float(kv_cache_bytes(loaded, end)) for end in ends]
    work = [float(decode_flop(loaded, end)) for end in ends]
    assert held[0] <= held[1]
    assert work[0] <= work[1]
    heads = sum(block.count * block.attention.head_dim for block in loaded.blocks)  # type: ignore[union-attr]
    window = max(block.attention.window for block in loaded.blocks)  # type: ignore[union-attr]
    assert held[1] <= heads * 2.0 * (window + 2.0 * ends[1])  # no more than a key per token and layer, index included
