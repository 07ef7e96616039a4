"""Weights and cache by tensor class, whatever quantisation a file states: bytes equal the sum over its tensors."""

import itertools
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.app.study_points import NAMES
from taicang.catalog.models import model, of_config
from taicang.errors import NotModelled, UnknownName
from taicang.formats import number_format
from taicang.models.count import kv_bytes_per_token, parameters
from taicang.models.types import Model
from taicang.plans import Quantisation, ServePlan
from taicang.predict import Infeasible, infer
from taicang.predict.system import System, pools
from taicang.search.choices import CACHES, NAMED_CACHES, NAMED_QUANTS, QUANTS, quantisation
from taicang.search.door import formats, prepare
from taicang.search.run import Ask, search
from taicang.search.space import NARROW
from taicang.serve.memory import memory_use

DENSE: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 16,
    "num_key_value_heads": 4, "intermediate_size": 4096, "vocab_size": 32000, "max_position_embeddings": 32768,
}  # fmt: skip
SPARSE = DENSE | {
    "model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 512, "head_dim": 64,
}  # fmt: skip
GROUPS = (32, 64, 128)


def scheme(weights: dict[str, Any], inputs: dict[str, Any] | None) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}


def float8(**more: Any) -> dict[str, Any]:
    return {"num_bits": 8, "type": "float", **more}


# configuration, bytes of a quantised weight
SCHEMES: list[tuple[dict[str, Any], float]] = [
    ({"quant_method": "fp8"}, 1.0),
    ({"quant_method": "fbgemm_fp8"}, 1.0),
    *(({"quant_method": "fp8", "weight_block_size": [n, m]}, 1 + 4 / n / m) for n in GROUPS for m in GROUPS),
    (scheme(float8(strategy="channel"), float8(strategy="token", dynamic=True)), 1.0),
    (scheme(float8(strategy="block", block_structure=[128, 128]), float8()), 1 + 4 / 128**2),
    (scheme(float8(), None), 1.0),
    (scheme({"num_bits": 8, "type": "int"}, {"num_bits": 8, "type": "int"}), 1.0),
    *((scheme({"num_bits": 4, "type": "int", "group_size": g}, None), 0.5 + 2 / g) for g in GROUPS),
    (scheme({"num_bits": 4, "type": "float", "group_size": 16}, None), 0.5 + 1 / 16),
    *(({"quant_method": "awq", "bits": 4, "group_size": g, "zero_point": True}, 0.5 + 2.5 / g) for g in GROUPS),
    *(({"quant_method": "gptq", "bits": 4, "group_size": g, "sym": True}, 0.5 + 2 / g) for g in GROUPS),
    *(({"quant_method": "gptq", "bits": 8, "group_size": g, "sym": True}, 1 + 2 / g) for g in GROUPS),
    ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 1.0),
    ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 1.0),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 0.5 + 4 / 64),
    ({"quant_method": "modelopt", "quant_algo": "FP8"}, 1.0),
    ({"quant_method": "modelopt", "quant_algo": "W4A16_AWQ", "group_size": 64}, 0.5 + 2 / 64),
    (
        {
            "quant_method": "quark",
            "global_quant_config": {"weight": {"dtype": "fp8_e4m3"}, "input_tensors": {"dtype": "fp8_e4m3"}},
        },
        1.0,
    ),
]
SCHEMES += [
    *(({"quant_method": "torchao", "quant_type": kind, "quant_type_kwargs": {"group_size": g}}, 0.5 + 2.5 / g)
      for g in GROUPS for kind in ("int4_weight_only", {"default": {"_type": "Int4WeightOnlyConfig"}})),
    ({"quant_method": "torchao", "quant_type": "int8_weight_only"}, 1.0),
    ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8DynamicActivationInt8WeightConfig"}}}, 1.0),
    ({"quant_method": "torchao",
      "quant_type": {"default": {"_data": {}, "_type": "Float8DynamicActivationFloat8WeightConfig"}}}, 1.0),
    *(({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": b, "group_size": g, "axis": 1}}},
       b / 8 + (2 + b / 8) / g) for b in (4, 8) for g in GROUPS),
    ({"quant_method": "modelslim", "quantize": "w8a8_dynamic"}, 1.0),
]  # fmt: skip
LEFT = {
    "attention": ("re:.*self_attn.*", "model.layers.*.self_attn", "self_attn"),
    "dense": ("re:.*mlp\\.(gate|up|down)_proj$", "model.layers.*.mlp.gate_proj"),
}
OTHER = ("lm_head", "model.embed_tokens", "re:.*mlp.gate$", "model.layers.0.input_layernorm", "re:visual.*")


def weights(loaded: Model, plan: ServePlan) -> float:
    chip = catalog.machine("hgx-h100").chip
    head = catalog.stack("vllm").memory
    return float(memory_use(loaded, plan, chip, head, sequences=1.0, context=1.0, tokens=1.0).weights_bytes)


@settings(max_examples=80)
@given(
    base=st.sampled_from((DENSE, SPARSE)),
    drawn=st.sampled_from(SCHEMES),
    spared=st.sets(st.sampled_from(sorted(LEFT))),
    pick=st.integers(0, 5),
    single=st.sets(st.integers(0, 3)),
    noise=st.sets(st.sampled_from(OTHER)),
)
def test_weights_are_the_sum_over_the_tensors_of_the_file(
    base: dict[str, Any], drawn: Any, spared: set[str], pick: int, single: set[int], noise: set[str]
) -> None:
    config, width = drawn
    names = [LEFT[kind][pick % len(LEFT[kind])] for kind in sorted(spared)] + sorted(noise)
    names += [f"model.layers.{i}.self_attn.{p}_proj" for i in sorted(single) for p in "qkvo"]
    key = "ignore" if config["quant_method"] == "compressed-tensors" else "modules_to_not_convert"
    loaded = of_config(base | {"quantization_config": config | {key: names}}, "drawn")
    chip = catalog.machine("hgx-h100").chip
    quant = quantisation("auto", loaded, chip)
    counted = parameters(loaded)
    share = 1.0 if "attention" in spared else len(single) / 4
    attention = counted.attention * (2.0 * share + width * (1.0 - share))
    other = (counted.dense + counted.shared) * (2.0 if "dense" in spared else width)
    rest = 2.0 * (counted.norm + counted.embedding + counted.head) + 4.0 * counted.router
    angles = 2.0 * loaded.max_context * getattr(loaded.blocks[0].attention, "head_dim", 0)  # made when it is loaded
    expected = attention + other + counted.experts * width + rest + angles
    assert weights(loaded, ServePlan(quant=quant)) == pytest.approx(expected, rel=1e-9)


def test_engines_names_of_formats_are_asked_for_everywhere() -> None:
    """A command and a study's point take the same names."""
    job = prepare("llama-3.1-8b", "hgx-h100", input_tokens=512, output_tokens=64)
    for name, kv in itertools.product(NAMED_QUANTS, ("auto", "fp8_e4m3", "fp8_e5m2", "float16")):
        with suppress(NotModelled):  # of the chip
            found = quantisation(name, job.model, job.machine.chip, job.stack, kv)
            assert kv == "auto" or found.kv == ("bf16" if kv == "float16" else "fp8")
    for key, known in (("quant", NAMED_QUANTS), ("kv", NAMED_CACHES)):
        assert [NAMES[key].read(each) for each in known] == list(known)


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(("llama-3.1-8b", "qwen3-30b-a3b", "gpt-oss-20b", "deepseek-v2-lite")),
    machine=st.sampled_from(("hgx-h100", "hgx-a100", "hgx-b200", "atlas-800i-a3")),
    quant=st.sampled_from((*QUANTS, "w8a8", "awq")),
    kv=st.sampled_from(CACHES),
)
def test_infer_search_and_replay_take_the_same_formats(name: str, machine: str, quant: str, kv: str) -> None:
    job = prepare(name, machine, input_tokens=512, output_tokens=64)
    try:
        expected = quantisation(quant, job.model, job.machine.chip, job.stack, kv)
    except NotModelled:
        with pytest.raises(NotModelled):
            infer(name, machine, input_tokens=512, output_tokens=64, quant=quant, kv=kv)
        with pytest.raises(NotModelled):
            pools(job.model, job.machine, job.stack, System(quant=quant, kv=kv))
        return
    assert kv in ("auto", expected.kv)
    assert formats([quant], job, kv) == [(quant, expected)]
    try:
        found = infer(name, machine, input_tokens=512, output_tokens=64, quant=quant, kv=kv)
    except NotModelled:
        return  # no kernel of that format on that chip is calibrated
    best = search(job, formats([quant], job, kv), NARROW, Ask(top=1)).best
    if not isinstance(found, Infeasible):
        assert found.decode.plan.quant == expected
        assert best[0].pools[0].plan.quant == expected
    replayed = pools(job.model, job.machine, job.stack, System(quant=quant, kv=kv))
    assert {pool.setup.plan.quant for pool in replayed} == {expected}


@pytest.mark.parametrize(
    ("config", "kv"),
    [
        (scheme(float8(), float8()) | {"kv_cache_scheme": float8()}, "fp8"),
        (scheme(float8(), float8()) | {"kv_cache_scheme": None}, ""),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}, "fp8"),
        (
            {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}},
            "fp8",
        ),
        ({"quant_method": "fp8", "kv_cache_scheme": {"num_bits": 8, "type": "int"}}, "int8"),
    ],
)
def test_a_checkpoint_s_own_cache(config: dict[str, Any], kv: str) -> None:
    loaded = of_config(DENSE | {"quantization_config": config}, "cache")
    assert loaded.kv_dtype == kv
    chip = catalog.machine("hgx-h100").chip
    used = quantisation("auto", loaded, chip).kv
    assert used == (kv or "bf16")
    assert quantisation("auto", loaded, chip, kv="bf16").kv == "bf16"
    assert kv_bytes_per_token(loaded, used) == 4 * 4 * 2 * 64 * number_format(used).activation_bytes


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"quant_method": "vptq"}, "vptq"),
        ({"quant_method": "gptq", "bits": 3}, "3 bits"),
        ({"quant_method": "modelopt", "quant_algo": "W2A16"}, "W2A16"),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp6"}}}, "fp6"),
        (scheme({"num_bits": 2, "type": "int"}, None), r"\(2, 'int'"),
        ({"quant_method": "fp8", "kv_cache_scheme": {"num_bits": 2, "type": "int"}}, r"cache of \(2"),
        (scheme(float8(), float8()) | {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse weights"),
        (scheme(float8(), float8()) | {"format": "marlin-24"}, "sparse weights"),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, "without its layers"),
    ],
)
def test_what_is_unknown_is_refused_by_name(config: dict[str, Any], named: str) -> None:
    with pytest.raises(NotModelled, match=named):
        of_config(DENSE | {"quantization_config": config}, "odd")


def test_classes_in_formats_of_their_own() -> None:
    groups = {
        "attention": {"targets": ["re:.*self_attn.*"], "weights": float8(), "input_activations": float8()},
        "experts": {"targets": ["re:.*experts.*"], "weights": {"num_bits": 4, "type": "int", "group_size": 32}},
    }
    config = {"quant_method": "compressed-tensors", "config_groups": groups}
    loaded = of_config(SPARSE | {"quantization_config": config}, "mixed")
    assert dict(loaded.formats) == {"attention": "fp8", "dense": "bf16", "experts": "w4a16_g32"}
    quant = quantisation("auto", loaded, catalog.machine("hgx-h100").chip)
    assert (quant.attention, quant.dense, quant.experts) == ("fp8", "bf16", "w4a16_g32")


def test_named_formats_leave_no_layer_behind() -> None:
    """What the checkpoint leaves in bf16 counts only where its own formats are served."""
    loaded = model("meta-llama/Llama-3.1-405B-Instruct-FP8")
    chip = catalog.machine("hgx-h100").chip
    own, named = quantisation("auto", loaded, chip), quantisation("int8", loaded, chip)
    assert own.attention == "bf16"
    assert own.spares
    assert named == Quantisation(attention="int8", dense="int8", experts="int8", dispatch="int8")
    plan = ServePlan(tp=8, quant=own)
    assert weights(loaded, plan) / 2**30 == pytest.approx(57.7, rel=0.003)
    assert weights(loaded, replace(plan, quant=named)) < weights(loaded, plan)


def test_unknown_words_suggest_the_nearest() -> None:
    chip = catalog.machine("hgx-h100").chip
    with pytest.raises(UnknownName, match="w8a8"):
        quantisation("w8a9", model("llama-3.1-8b"), chip)
    with pytest.raises(UnknownName, match="fp8"):
        quantisation("auto", model("llama-3.1-8b"), chip, kv="fp9")


def test_a_checkpoint_that_must_be_converted_says_so() -> None:
    found = infer("deepseek-v3", "hgx-a100 x 2", input_tokens=1024, output_tokens=64)
    assert not isinstance(found, Infeasible)
    assert any("converted to int8" in line for line in found.assumptions)


NARROW_FLOATS = {"fp8": 1.0, "nvfp4": 0.5 + 1 / 16}


CHIPS = (
    "v100-32g", "t4", "a100-80g", "a10", "rtx-3090", "l40s", "rtx-4090", "h100", "b200", "mi300x", "ascend-910c"
)  # fmt: skip


@pytest.mark.parametrize("name", CHIPS)
@pytest.mark.parametrize("form", NARROW_FLOATS)
def test_floats_without_arithmetic_are_widened_where_the_engine_has_the_kernels(name: str, form: str) -> None:
    """vLLM on NVIDIA's chips from bf16 on, by Marlin; nowhere else, and never where the chip has the arithmetic."""
    chip, net = catalog.chip(name), of_config(DENSE, "dense")
    peaks = chip.peak_flop_per_s
    lacks = number_format(form).peak not in peaks
    able = lacks and chip.vendor == "NVIDIA" and "bf16" in peaks
    for engine in ("vllm", "sglang", "tensorrt-llm"):
        stack = catalog.stack(engine)
        if lacks and not (able and engine == "vllm"):
            with pytest.raises(NotModelled):
                quantisation(form, net, chip, stack)
            continue
        dense = number_format(quantisation(form, net, chip, stack).dense)
        assert (dense.peak == "bf16") is able
        assert dense.weight_bytes == NARROW_FLOATS[form]


def test_a_checkpoint_in_blocks_of_fp8_is_widened_from_the_release_on_that_can() -> None:
    chip, blocks = catalog.chip("a100-80g"), {"quant_method": "fp8", "weight_block_size": [128, 128]}
    net = of_config(DENSE | {"quantization_config": blocks}, "blocks")
    for version, dense in (("0.8.5", "int8"), ("0.9.0", "fp8_w8a16")):
        assert quantisation("auto", net, chip, catalog.stack(f"vllm@{version}")).dense == dense
