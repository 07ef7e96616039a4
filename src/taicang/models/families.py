"""What a ``model_type`` of Hugging Face implies beyond its keys: defaults that live in the model's code.

The families themselves are data, which the catalogue reads; here is what can be said of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

Layout: TypeAlias = Literal[
    "full", "window", "alternate", "sixth", "fourth_chunked", "switch", "hybrid", "pattern", "searched", "recurring"
]
"""How layers share the window where the file has no list: every layer sees all; every layer has the window; even
layers have it; all but every sixth; all but every fourth in chunks; only behind ``use_sliding_window``; linear layers
but every fourth; mixers and feed-forwards as the file's pattern orders them; each as the file's list has it; mixers
with a transformer layer before some of them whose weights recur."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Structure of one ``model_type`` that its files do not state."""

    latent: bool = False
    """Multi-head latent attention."""
    compressed: bool = False
    """Attention over a compressed context, with hyper-connections (DeepSeek-V4)."""
    bias: bool = False
    """Bias of query, key and value."""
    out_bias: bool | None = False
    """Bias of the attention output; None follows ``bias``."""
    ffn_bias: bool = False
    experts_bias: bool = False
    gated: bool = True
    qk_norm: Literal["", "head", "full", "joint", "bare"] = ""
    """Norms of queries and keys: weights of one head that all share, of all heads (each normed for itself, or "joint"),
    or none."""
    gate: Literal["", "full", "apart", "head"] = ""
    """Gate of the attention's output: of its width (made with the queries, or apart), or one number per head."""
    norms: int = 2
    """Vectors of the hidden size in a layer: a norm with a bias has two."""
    outer_norms: int = 1
    """Vectors of the hidden size outside the layers."""
    tied: bool = False
    """``tie_word_embeddings`` where the file has no key for it."""
    untied: bool = False
    """The head has weights of its own whatever the file says."""
    layout: Layout = "full"
    sinks: bool = False
    inter_is_experts: bool = False
    """``intermediate_size`` is the width of an expert."""
    shared_gate: bool = False
    positions: int | None = None
    """Rows of a learned position table beyond the context (None: rotary, or none)."""
    needs_experts: bool = False
    state: Literal["delta", "channel", "channel_low_rank", "lightning"] = "delta"
    """Kind of the linear layers: gated delta rule with a decay per head, per channel, or a fixed decay."""
    mixer: Literal["", "mamba1", "mamba2"] = ""
    """Every layer is such a mixer alone."""
    beside: bool = False
    """Each layer's attention has a state-space mixer beside it."""
    attention_extra: str = ""
    """Further parameters of an attention layer, as a sum of products of sizes; likewise of a state-space mixer, of
    any layer, of one with experts, outside the layers."""
    state_extra: str = ""
    layer_extra: str = ""
    sparse_extra: str = ""
    model_extra: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Values of keys that a file may lack."""
    wrapped: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Values of keys that the file of a wrapper may lack: it states what differs from the class of the decoder."""
    residual: str = ""
    """Key of the width of a dense feed-forward that every token goes through beside the experts."""
    twice: bool = False
    """A layer is two, with an attention and a dense feed-forward each, and experts beside the first (LongCat)."""
    loops: str = ""
    """Key of how often all layers run, one time after the other, with the same weights and a cache each (Ouro)."""
    half_inter: bool = False
    """``intermediate_size`` counts gate and up projection together."""
    when: Mapping[str, Mapping[Any, Mapping[str, Any]]] = field(default_factory=dict, hash=False)
    """Fields that the value of a key changes; "any" stands for every value but zero."""
    window_kv: int = 1
    """Key-value heads of windowed layers, in those of the others."""
    window_sinks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Families:
    """All that can be imported, by ``model_type``."""

    known: Mapping[str, Family]
    refused: Mapping[str, tuple[str, str]]
    """Known structures that the types cannot say: the feature and the key that announces it."""


def settled(family: Family, data: Mapping[str, Any]) -> Family:
    """``family`` as the keys of ``data`` switch it."""
    for key, cases in family.when.items():
        value = data.get(key)
        if value is None or isinstance(value, (list, dict)):
            continue
        chosen = cases.get(value, cases.get("any") if value else None)
        if chosen:
            family = replace(family, **chosen)
    return family


def nearest(data: Mapping[str, Any], kind: str, families: Families) -> str:
    """The family whose structure is the nearest to that which the keys of ``data`` announce; of equals the first."""
    present = {key for key, value in data.items() if value not in (None, False, 0)}
    experts = any(key in present for key in ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts"))
    traits = {
        "latent": (16, "kv_lora_rank" in present),
        "pattern": (16, "hybrid_override_pattern" in present),
        "searched": (16, "block_configs" in present),
        "experts": (8, experts),
        "hybrid": (8, "linear_num_value_heads" in present),
        "inter": (4, experts and "moe_intermediate_size" not in present),
        "norms": (2, False),
        "tied": (1, bool(data.get("tie_word_embeddings"))),
    }
    words = {*kind.split("_")}

    def score(name: str) -> tuple[int, int]:
        family = families.known[name]
        own = {
            "latent": family.latent,
            "pattern": family.layout == "pattern",
            "searched": family.layout == "searched",
            "experts": family.needs_experts or (family.latent and experts),
            "hybrid": family.layout == "hybrid",
            "inter": family.inter_is_experts,
            "norms": family.norms != 2 or not family.gated or bool(family.mixer) or family.beside,
            "tied": family.tied,
        }
        return sum(weight for key, (weight, trait) in traits.items() if own[key] == trait), len(
            words & {*name.split("_")}
        )

    return max(families.known, key=score)
