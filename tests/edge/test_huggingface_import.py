"""The importer reads every key with an effect, or refuses it by name."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang.catalog.models import model, not_modelled, of_config, read_model
from taicang.errors import InvalidInput, NotModelled, TaicangError
from taicang.models.count import kv_cache_bytes, parameters
from taicang.models.types import Dense, Experts, GatedLinear, GroupedQuery, Latent, Model

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "models"
REFUSED = {
    "deepseek-v4.1-flash": "compress_ratios",
}
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "intermediate_size": 4096,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}
MOE = LLAMA | {"model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 512}
LATENT = LLAMA | {
    "model_type": "deepseek_v3",
    "q_lora_rank": 256,
    "kv_lora_rank": 128,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "v_head_dim": 64,
}


def load(config: dict[str, Any], **more: Any) -> Model:
    return of_config(config | more, "test", where="config.json")


SEARCHED = st.tuples(st.sampled_from((0, 1, 4, 16)), st.sampled_from((0.0, 0.5, 1.3125, 5.25)))


@given(st.lists(SEARCHED, min_size=1, max_size=12), st.sampled_from((256, 1024, 8192)))
def test_layers_that_a_search_chose_count_as_they_are(layers, hidden) -> None:
    """Nemotron-NAS: each layer has groups of heads and a width of its own, or lacks attention, feed-forward or both."""
    heads, vocab = 16, 3200
    layers = [(1, 1.0), *layers]
    config = {
        "model_type": "nemotron-nas", "hidden_size": hidden, "num_attention_heads": heads, "vocab_size": vocab,
        "num_hidden_layers": len(layers), "num_key_value_heads": None, "intermediate_size": None,
        "max_position_embeddings": 4096, "tie_word_embeddings": False,
        "block_configs": [
            {
                "attention": {"no_op": not group, "n_heads_in_group": group or None},
                "ffn": {"no_op": not times, "ffn_mult": times or None},
            }
            for group, times in layers
        ],
    }  # fmt: skip
    net = of_config(config, "test", where="config.json")
    kv = [heads // group for group, _ in layers if group]
    width = hidden // heads
    wide = [-(-int(2 * times * hidden / 3) // 256) * 256 for _, times in layers if times]
    by_hand = sum(2 * hidden * hidden + 2 * hidden * each * width for each in kv) + sum(
        3 * hidden * each for each in wide
    )
    assert parameters(net).total == by_hand + (len(kv) + len(wide) + 1) * hidden + 2 * vocab * hidden
    assert kv_cache_bytes(net, 1, "bf16") == sum(4 * each * width for each in kv)
    config["block_configs"][0]["ffn"] = {"replace_with_linear": True}
    with pytest.raises(NotModelled, match="replace_with_linear"):
        of_config(config, "test", where="config.json")


def test_all_shared_configs_import_as_the_catalogue_has_them_or_refuse() -> None:
    if not SHARED.is_dir():
        pytest.skip("the shared folder with the configurations is absent")
    refused = {}
    for file in sorted(SHARED.glob("*.json")):
        if file.stem == "normalized":
            continue
        try:
            imported = read_model(file)
        except NotModelled as error:
            refused[file.stem] = str(error)
            continue
        built_in = model(file.stem)
        named = ("tower_ratio", "tower_tokens", "tower_live", "tower_shared")
        tower = {key: getattr(imported if imported.tower_ratio else built_in, key) for key in named}
        mine, theirs = (replace(each, source="", name="", **tower) for each in (built_in, imported))
        assert mine == theirs, file.name  # some hold the text decoder alone
        assert not imported.tower_ratio or all(getattr(built_in, key) == tower[key] for key in named)
    assert set(refused) == set(REFUSED)
    assert set(refused) <= set(not_modelled())
    for name, key in REFUSED.items():
        assert key in refused[name]


def test_grouped_query_defaults() -> None:
    block = load(LLAMA).blocks[0]
    assert block.attention == GroupedQuery(heads=16, kv_heads=4, head_dim=64)
    assert block.ffn == Dense(inter=4096)
    without = {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"}
    assert load(without).blocks[0].attention == GroupedQuery(heads=16, kv_heads=16, head_dim=64)


@pytest.mark.parametrize(
    ("more", "kinds"),
    [
        ({"model_type": "mistral", "sliding_window": 1024}, "wwww"),
        ({"model_type": "mistral", "sliding_window": None}, "ffff"),
        ({"model_type": "mistral", "sliding_window": 8192}, "ffff"),
        ({"model_type": "qwen2", "sliding_window": 1024, "use_sliding_window": False, "max_window_layers": 2}, "ffff"),
        ({"model_type": "qwen2", "sliding_window": 1024, "use_sliding_window": True, "max_window_layers": 2}, "ffww"),
        ({"model_type": "gemma2", "sliding_window": 1024}, "wfwf"),
        ({"model_type": "gemma3_text", "sliding_window": 1024, "sliding_window_pattern": 2}, "wfwf"),
        ({"model_type": "gemma3_text", "sliding_window": 1024, "num_hidden_layers": 6}, "wwwwwf"),
        (
            {
                "model_type": "qwen3",
                "sliding_window": 1024,
                "layer_types": ["full_attention"] + ["sliding_attention"] * 3,
            },
            "fwww",
        ),
    ],
)
def test_windows(more: dict[str, Any], kinds: str) -> None:
    loaded = load(LLAMA, **more)
    found = {
        "w" if isinstance(b.attention, GroupedQuery) and b.attention.window else "f": b.count for b in loaded.blocks
    }
    assert found == {kind: kinds.count(kind) for kind in set(kinds)}
    last = loaded.blocks[-1].attention
    assert isinstance(last, GroupedQuery)
    assert bool(last.window) == (kinds[-1] == "w")


@pytest.mark.parametrize(
    ("more", "sparse"),
    [
        ({}, 4),
        ({"mlp_only_layers": [0, 1]}, 2),
        ({"decoder_sparse_step": 2}, 2),
        ({"model_type": "glm4_moe", "first_k_dense_replace": 3}, 1),
        ({"model_type": "glm4_moe", "moe_layer_freq": [0, 0, 1, 1]}, 2),
        ({"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]}, 3),
        ({"num_experts": 0, "model_type": "qwen3"}, 0),
    ],
)
def test_which_layers_hold_experts(more: dict[str, Any], sparse: int) -> None:
    assert sum(b.count for b in load(MOE, **more).blocks if isinstance(b.ffn, Experts)) == sparse


def test_latent_sparse_and_linear_layers() -> None:
    plain, sparse = load(LATENT), load(LATENT, index_topk=64, index_n_heads=4, index_head_dim=32)
    assert isinstance(plain.blocks[0].attention, Latent)
    assert plain.blocks[0].attention.indexer is None
    assert isinstance(sparse.blocks[0].attention, Latent)
    assert sparse.blocks[0].attention.indexer is not None
    linear = {f"linear_{k}": 4 for k in ("num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim")}
    hybrid = load(LLAMA, model_type="qwen3_next", linear_conv_kernel_dim=4, **linear)
    assert [(b.count, type(b.attention)) for b in hybrid.blocks] == [(3, GatedLinear), (1, GroupedQuery)]


def test_llama4_chunks_and_interleaved_experts() -> None:
    text = LLAMA | {
        "model_type": "llama4_text",
        "attention_chunk_size": 1024,
        "num_local_experts": 8,
        "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 2,
        "intermediate_size_mlp": 8192,
    }
    loaded = of_config({"model_type": "llama4", "text_config": text, "vision_config": {"x": 1}}, "test")
    full = [b for b in loaded.blocks if isinstance(b.attention, GroupedQuery) and b.attention.window is None]
    assert [(b.count, type(b.ffn)) for b in full] == [(1, Experts)]
    assert all(isinstance(b.attention, GroupedQuery) and b.attention.chunked for b in loaded.blocks if b not in full)
    assert {b.ffn.inter for b in loaded.blocks} == {4096, 8192}
    assert any("text decoder only" in line for line in loaded.assumptions)


@pytest.mark.parametrize(
    ("quantisation", "dtype", "experts_only"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block", False),
        ({"quant_method": "fp8"}, "fp8", False),
        ({"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}, "mxfp4_w4a16", True),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4", False),
        ({"quant_method": "awq", "bits": 4}, "w4a16", False),
        ({"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True}, "w4a16_g64z", False),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1, "sym": True}, "w8a16_g0", False),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True},
            "nf4_double",
            False,
        ),
        ({"quant_method": "fp8", "weight_block_size": [32, 32]}, "fp8_block_32x32", False),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"g": {"weights": {"num_bits": 4, "type": "int"}, "input_activations": None}},
                "ignore": ["re:.*self_attn.*"],
            },
            "w4a16",
            True,
        ),
        (None, "bf16", False),
    ],
)
def test_weight_formats(quantisation: Any, dtype: str, experts_only: bool) -> None:
    loaded = load(LLAMA, quantization_config=quantisation)
    assert (loaded.dtype, loaded.formats["attention"] == "bf16" != dtype) == (dtype, experts_only)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"model_type": "rwkv"}, "'rwkv'"),
        ({"kv_lora_rank": 64}, "kv_lora_rank"),
        ({"num_experts_shared_by_two": 3}, "num_experts_shared_by_two"),
        ({"sliding_window": 512}, "sliding_window"),
        ({"layer_types": ["full_attention"] * 3 + ["retention"]}, "'retention' layers"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "bitsandbytes"),
        ({"quantization_config": {"quant_method": "aqlm"}}, "aqlm"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 3}}, "3 bits"),
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [32]}}, r"\[32\]"),
        ({"torch_dtype": "float64"}, "float64"),
        ({"model_type": "minimax_m2", "attn_type_list": [0, 1, 1, 1]}, "lightning"),
    ],
)
def test_refusals_name_feature_and_place(more: dict[str, Any], named: str) -> None:
    with pytest.raises(NotModelled, match=named) as caught:
        load(LLAMA, **more)
    assert "config.json" in str(caught.value)


def test_approximation_is_recorded() -> None:
    config = LLAMA | {"num_experts_shared_by_two": 3}
    loaded = of_config(config, "test", approximate=True)
    assert any("num_experts_shared_by_two" in line for line in loaded.assumptions)
    assert not load(LLAMA).assumptions


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "model_type"])
def test_missing_keys_are_named(key: str) -> None:
    with pytest.raises(InvalidInput, match=f"config.json: {key}: this key is missing"):
        load({k: v for k, v in LLAMA.items() if k != key})


@pytest.mark.parametrize("bad", ["12", -1, 0, 1.5, True, [1], {"a": 1}])
@pytest.mark.parametrize("key", ["hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size"])
def test_wrong_types_are_named(key: str, bad: Any) -> None:
    each = key == "intermediate_size" and isinstance(bad, list)  # a width for each layer, but not so many
    expected = "4 entries" if each else "a whole number"
    with pytest.raises(InvalidInput, match=f"config.json: {key}: expected {expected}"):
        load(LLAMA | {key: bad})


def test_contradictions() -> None:
    with pytest.raises(InvalidInput, match="num_key_value_heads"):
        load(LLAMA, num_key_value_heads=3)
    with pytest.raises(InvalidInput, match="num_experts_per_tok"):
        load(MOE, num_experts_per_tok=9)
    with pytest.raises(InvalidInput, match="layer_types"):
        load(LLAMA, layer_types=["full_attention"])


def test_files_name_line_and_key(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{\n "model_type": "llama",\n oops}', encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"config.json:3: not JSON"):
        model(str(file))
    file.write_text(json.dumps(LLAMA | {"vocab_size": "many"}, indent=1), encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"config.json:8: vocab_size: expected a whole number"):
        model(str(tmp_path))
    file.write_text("[]", encoding="utf-8")
    with pytest.raises(InvalidInput, match="expected an object"):
        model(str(file))
    with pytest.raises(InvalidInput, match="cannot read"):
        model(str(tmp_path / "absent.json"))
    file.write_text(json.dumps(LLAMA), encoding="utf-8")
    assert model(str(tmp_path)).layers == 4


def test_own_schema_names_the_key(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    good = (
        "hidden: 64\nvocab: 100\ntied_embeddings: false\ndtype: bf16\nmax_context: 128\nblocks:\n- count: 2\n"
        "  attention: {kind: grouped, heads: 4, kv_heads: 4, head_dim: 16}\n  ffn: {kind: dense, inter: 128}\n"
    )
    file.write_text(good, encoding="utf-8")
    assert model(str(file)).layers == 2
    for old, new, named in (
        ("kind: dense", "kind: dence", "did you mean dense"),
        ("inter: 128", "inter: wide", "inter: expected int"),
        ("inter: 128", "inter: 128, gate: true", "gate"),
        ("hidden: 64\n", "", "hidden: this key is missing"),
        ("dtype: bf16", "dtype: bf61", "bf16"),
        ("- count: 2", "- count: [", "mine.yaml:9"),
    ):
        file.write_text(good.replace(old, new), encoding="utf-8")
        with pytest.raises(InvalidInput, match=named):
            model(str(file))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**6) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(key=st.sampled_from(sorted(set(MOE) | set(LATENT))), value=_JSON, base=st.sampled_from([LLAMA, MOE, LATENT]))
def test_any_value_imports_or_raises_from_the_one_tree(key: str, value: Any, base: dict[str, Any]) -> None:
    try:
        loaded = load(base, **{key: value})
    except TaicangError:
        return
    assert loaded.layers >= 1


@pytest.mark.parametrize("value", ["abc", -5, {"a": 1}])
def test_layers_without_experts_must_be_a_list(tmp_path, value):
    config = {
        "model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 4, "num_attention_heads": 32,
        "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 1000, "num_experts": 8, "num_experts_per_tok": 2,
        "moe_intermediate_size": 768, "intermediate_size": 6144, "mlp_only_layers": value,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidInput, match="mlp_only_layers: expected a list"):
        read_model(tmp_path)


@pytest.mark.parametrize("written", ["Infinity", "NaN", "[0.0, Infinity]", "true", '"a"'])
def test_an_unknown_key_is_told_as_the_file_writes_it(written: str) -> None:
    """Hugging Face's Mamba 2 states a ``time_step_limit`` of [0.0, Infinity]."""
    config = {**LLAMA, "odd_key": json.loads(written)}
    assert any(f"'odd_key' = {written} " in said for said in of_config(config, "test", approximate=True).assumptions)
