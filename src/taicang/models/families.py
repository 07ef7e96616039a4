"""What a ``model_type`` of Hugging Face implies beyond its keys: defaults that live in the model's code.

Sources: the configuration and modelling classes of Hugging Face transformers by the same names, and the papers of the
models that it does not carry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Layout: TypeAlias = Literal["full", "window", "alternate", "sixth", "fourth_chunked", "switch", "hybrid", "pattern"]
"""How layers share the window: every layer sees all; every layer has the window; even layers have it; all but every
sixth; all but every fourth in chunks; only behind ``use_sliding_window``; linear layers but every fourth; mixers
and feed-forwards as the file's pattern orders them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Defaults of one ``model_type``."""

    latent: bool = False
    """Multi-head latent attention."""
    bias: bool = False
    """Bias of query, key and value where the file has no key for it."""
    out_bias: bool | None = False
    """Bias of the attention output; None follows ``bias``."""
    ffn_bias: bool = False
    gated: bool = True
    qk_norm: bool = False
    output_gate: bool = False
    norms: int = 2
    tied: bool = False
    """``tie_word_embeddings`` where the file has no key for it."""
    layout: Layout = "full"
    sinks: bool = False
    inter_is_experts: bool = False
    """``intermediate_size`` is the width of an expert."""
    learned_positions: bool = False
    needs_experts: bool = False


_LATENT = Family(latent=True)
_QWEN3 = Family(qk_norm=True, layout="switch")
_HYBRID = Family(qk_norm=True, output_gate=True, layout="hybrid")
_GPT = Family(bias=True, out_bias=None, ffn_bias=True, gated=False, tied=True, learned_positions=True)
_GPT_OSS = Family(
    bias=True,
    out_bias=None,
    ffn_bias=True,
    layout="alternate",
    sinks=True,
    inter_is_experts=True,
    needs_experts=True,
)
_GEMMA2 = Family(norms=4, tied=True, layout="alternate")
_GEMMA3 = Family(norms=4, tied=True, qk_norm=True, layout="sixth")

FAMILIES: dict[str, Family] = {
    "llama": Family(out_bias=None),
    "mistral": Family(layout="window"),
    "mixtral": Family(layout="window", inter_is_experts=True, needs_experts=True),
    "qwen2": Family(bias=True, layout="switch"),
    "qwen2_moe": Family(bias=True, layout="switch", needs_experts=True),
    "qwen3": _QWEN3,
    "qwen3_moe": Family(qk_norm=True, layout="switch", needs_experts=True),
    "qwen3_next": _HYBRID,
    "qwen3_5_text": _HYBRID,
    "qwen3_5_moe_text": _HYBRID,
    "phi3": Family(layout="window"),
    "phimoe": Family(bias=True, out_bias=None, layout="window", inter_is_experts=True, needs_experts=True),
    "gemma": Family(tied=True),
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA3,
    "falcon": Family(gated=False, tied=True),
    "bloom": Family(bias=True, out_bias=None, ffn_bias=True, gated=False, tied=True),
    "gpt2": _GPT,
    "gpt2-megatron": _GPT,
    "nemotron": Family(gated=False),
    "nemotron_h": Family(gated=False, layout="pattern"),
    "gpt_oss": Family(
        bias=True,
        out_bias=None,
        ffn_bias=True,
        layout="alternate",
        sinks=True,
        inter_is_experts=True,
        needs_experts=True,
    ),
    "minimax_m2": Family(qk_norm=True, inter_is_experts=True, needs_experts=True),
    "glm4_moe": Family(needs_experts=True),
    "bailing_moe": Family(needs_experts=True),
    "llama4_text": Family(layout="fourth_chunked", inter_is_experts=True),
    "mimo_v2_flash": Family(needs_experts=True),
    "step3p7": Family(needs_experts=True),
    "PanguEmbedded": Family(out_bias=None),
    "PanguProMoE": Family(bias=True, out_bias=None, needs_experts=True),
    "pangu_ultra_dense": Family(),
    "pangu_ultra_moe": _LATENT,
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "deepseek_v32": _LATENT,
    "kimi_k2": _LATENT,
    "glm_moe_dsa": _LATENT,
}

NOT_MODELLED: dict[str, tuple[str, str]] = {
    "deepseek_v4": ("attention over a compressed context with hyper-connections", "compress_ratios"),
    "deepseek_v41_text": ("attention over a compressed context with n-gram memory layers", "compress_ratios"),
    "gemma4_text": (
        "attention whose keys are its values, experts beside a dense layer",
        "attention_k_eq_v",
    ),
}
"""Known structures that the types cannot say: the feature and the key that announces it."""
