"""Parameters, active parameters and cache bytes against published figures."""

from dataclasses import replace
from pathlib import Path

import pytest

from taicang.catalog.models import model, model_names, not_modelled
from taicang.models.count import attention_parameters, kv_bytes_per_token, kv_cache_bytes, parameters
from taicang.models.types import GatedLinear, Latent

SHARED = Path(__file__).resolve().parents[2].parent / "shared"

# name -> parameters in all and per token, in 1e9: technical reports and model cards
PUBLISHED = {
    "deepseek-v3": (671.03, 37.55),
    "deepseek-v2": (235.74, 21.38),
    "deepseek-v2-lite": (15.71, 2.66),
    "kimi-k2": (1026.41, 32.86),
    "llama-2-70b": (68.98, 68.98),
    "llama-3.1-8b": (8.03, 8.03),
    "llama-3.1-70b": (70.55, 70.55),
    "llama-3.1-405b": (405.85, 405.85),
    "llama-4-maverick": (400.71, 17.18),
    "qwen3-32b": (32.76, 32.76),
    "qwen3-30b-a3b": (30.53, 3.35),
    "qwen3-235b-a22b": (235.09, 22.19),
    "gpt-oss-120b": (116.83, 5.71),
    "gpt-oss-20b": (20.91, 4.19),
    "minimax-m2.5": (228.69, 11.03),
    "glm-4.5-355b-a32b": (352.80, 33.63),
    "openpangu-pro-moe-72b": (71.99, 16.50),
    "mixtral-8x7b": (46.70, 12.88),
    "gpt3-175b": (174.60, 174.60),
    "megatron-1008b": (1008.0, 1008.0),
    "bloom-176b": (176.25, 176.25),
    "nemotron-4-340b": (341.0, 341.0),
    "gemma-2-27b": (27.23, 27.23),
}
# name -> parameters in 1e9 in the name or on the card of models with linear or windowed layers
NAMEPLATE = {
    "qwen3-next-80b-a3b": (80, 3.9),
    "qwen3.5-397b-a17b": (397, 17),
    "qwen3.5-122b-a10b": (122, 10),
    "qwen3.5-27b": (27, 27),
    "qwen3.5-35b-a3b": (35, 3.5),
    "mimo-v2-flash": (309, 15),
    "step-3.7-flash": (196, 11),
    "glm-5": (744, 41.8),
    "grok-1-314b": (314, 86),
    "nemotron-3-nano-30b-a3b": (31.6, 3.6),
    "nemotron-3-super-120b-a12b": (120.6, 12.7),
    "nemotron-3-ultra-550b-a55b": (550, 55),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_match_the_published_count(name: str) -> None:
    counted = parameters(model(name))
    total, active = PUBLISHED[name]
    assert counted.total / 1e9 == pytest.approx(total, rel=2e-3)
    assert counted.active / 1e9 == pytest.approx(active, rel=2e-3)


@pytest.mark.parametrize("name", NAMEPLATE)
def test_hybrids_match_their_nameplate(name: str) -> None:
    counted = parameters(model(name))
    total, active = NAMEPLATE[name]
    assert counted.total / 1e9 == pytest.approx(total, rel=0.015)
    assert counted.active / 1e9 == pytest.approx(active, rel=0.04)


def test_deepseek_by_class() -> None:
    counted = parameters(model("deepseek-v3"))
    assert counted.mtp / 1e9 == pytest.approx(
        11.6, abs=0.1
    )  # 685 B on the card = 671 + 11.6 + a copy of embedding and head
    assert counted.embedding == counted.head == 129280 * 7168
    assert counted.experts == 58 * 256 * 3 * 7168 * 2048
    assert counted.shared == 58 * 3 * 7168 * 2048


@pytest.mark.parametrize(
    ("name", "kv", "value"),
    [
        ("deepseek-r1", "bf16", 70_272),
        ("deepseek-r1", "int8", 35_136),
        ("kimi-k2", "bf16", 70_272),
        ("llama-3.1-405b", "bf16", 516_096),
        ("qwen3-235b-a22b", "bf16", 192_512),
        ("qwen3-235b-a22b", "fp8", 96_256),
        ("gpt-oss-120b", "bf16", 73_728),
        ("bloom-176b", "fp16", 4_014_080),
    ],
)
def test_cache_bytes_per_token(name: str, kv: str, value: float) -> None:
    assert kv_bytes_per_token(model(name), kv) == value


def test_sparse_indexer_keeps_132_bytes_per_token_and_layer_of_its_own() -> None:
    extra = kv_bytes_per_token(model("deepseek-v3.2")) - kv_bytes_per_token(model("deepseek-v3"))
    assert extra == 61 * 132
    assert kv_bytes_per_token(model("glm-5.2")) == 78 * 1152 + 21 * 132  # 57 layers share the selection


def test_windows_and_states_bound_the_cache() -> None:
    gpt_oss, hybrid = model("gpt-oss-120b"), model("qwen3.5-397b-a17b")
    assert kv_cache_bytes(gpt_oss, 100_000) == 18 * 2048 * (100_000 + 128)
    grown = kv_cache_bytes(hybrid, 20_000) - kv_cache_bytes(hybrid, 10_000)
    assert grown == 10_000 * kv_bytes_per_token(hybrid) == 10_000 * 15 * 2 * 2 * 256 * 2
    linear = next(b.attention for b in hybrid.blocks if isinstance(b.attention, GatedLinear))
    assert kv_cache_bytes(hybrid, 0) == 45 * (linear.v_heads * 128 * 128 * 4 + (4096 + 8192) * 3 * 2)


def test_every_reference_count_within_one_percent() -> None:
    """An independent count of all dense, expert and latent models; it leaves the indexer of GLM-5 out."""
    file = SHARED / "models" / "param_check.tsv"
    if not file.exists():
        pytest.skip("the shared folder with the reference counts is absent")
    refused, checked = not_modelled(), 0
    for line in file.read_text(encoding="utf-8").splitlines():
        name, _, figure = line.split("\t")
        if figure == "None" or name in refused:
            continue
        loaded = model(name)
        counted = parameters(loaded)
        total, active = (float(part.split("B ")[0]) for part in figure.split(" / "))
        left_out = 0
        if name.startswith("glm-5"):
            left_out = sum(
                b.count
                * (attention_parameters(b.attention, loaded.hidden) - _without_indexer(b.attention, loaded.hidden))
                for b in loaded.blocks
            )
        assert (counted.total - left_out) / 1e9 == pytest.approx(total, rel=0.01, abs=0.0051), name
        assert (counted.active - left_out) / 1e9 == pytest.approx(active, rel=0.01, abs=0.0051), name
        checked += 1
    assert checked >= 75


def _without_indexer(kind: object, hidden: int) -> int:
    assert isinstance(kind, Latent)
    return attention_parameters(replace(kind, indexer=None), hidden)


def test_about_a_hundred_models_by_name() -> None:
    usable = [name for name in model_names() if name not in not_modelled()]
    assert len(usable) >= 95
    for name in usable:
        loaded = model(name)
        assert loaded.source, name
        assert parameters(loaded).total > 1e8, name
