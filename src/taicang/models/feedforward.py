"""The feed-forward kind of each layer, from the keys of a configuration."""

from __future__ import annotations

from taicang.errors import InvalidInput
from taicang.models.families import Family
from taicang.models.keys import Keys
from taicang.models.types import Dense, Experts, FeedForward


def feed_forwards(keys: Keys, family: Family, layers: int, hidden: int) -> list[FeedForward]:
    """One feed-forward kind per layer. Raises ``InvalidInput`` naming the key."""
    gated = keys.flag("gated_mlp", default=family.gated)
    bias = keys.flag("mlp_bias", default=family.ffn_bias)
    experts = keys.maybe("n_routed_experts", "num_experts", "num_local_experts", low=0)
    if not experts:
        if family.needs_experts:
            keys.number("n_routed_experts", "num_experts", "num_local_experts")
        keys.ignore("num_experts_per_tok", "moe_intermediate_size")
        return [Dense(inter=_width(keys, hidden), gated=gated, bias=bias)] * layers
    sparse = _sparse(keys, layers)
    topk = keys.number("num_experts_per_tok", "experts_per_token", "top_k_experts")
    if topk > experts:
        raise InvalidInput(f"{topk} of only {experts} experts", where=keys.at("num_experts_per_tok"))
    inter = keys.maybe("moe_intermediate_size")
    if inter is None:
        inter = keys.number("intermediate_size") if family.inter_is_experts else keys.number("moe_intermediate_size")
    groups = keys.number("n_group", "num_expert_groups", default=1)
    moe = Experts(
        experts=experts,
        topk=topk,
        inter=inter,
        gated=gated,
        shared_inter=_shared(keys, inter),
        shared_gate=bool(keys.data.get("shared_expert_intermediate_size")) and "num_expert_groups" not in keys.data,
        groups=groups,
        topk_groups=keys.number("topk_group", default=groups),
        bias=bias,
    )
    keys.ignore("intermediate_size", "intermediate_size_mlp", "mlp_intermediate_size")
    if all(sparse):
        return [moe] * layers
    dense = Dense(inter=keys.maybe("intermediate_size_mlp") or _width(keys, hidden), gated=gated, bias=bias)
    return [moe if is_moe else dense for is_moe in sparse]


def _width(keys: Keys, hidden: int) -> int:
    width = keys.maybe("intermediate_size", "ffn_hidden_size", "n_inner")
    if width is None and keys.data.get("model_type") in ("bloom", "gpt2", "falcon"):
        return 4 * hidden  # these families state no width of their own
    return width if width is not None else keys.number("intermediate_size")


def _shared(keys: Keys, inter: int) -> int:
    """Width of the shared experts together. Llama 4 always has one, of an expert's width."""
    stated = keys.maybe(
        "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "shared_intermediate_size",
        "share_expert_dim", low=0,
    )  # fmt: skip
    count = keys.maybe("n_shared_experts", "num_shared_experts", low=0)
    if stated is not None:
        return stated * (1 if count is None else count)
    if count is not None:
        return count * inter
    return inter if keys.data.get("model_type") == "llama4_text" else 0


def _sparse(keys: Keys, layers: int) -> list[bool]:
    """Which layers hold experts."""
    types = keys.per_layer("mlp_layer_types", layers)
    first = keys.number("first_k_dense_replace", default=0, low=0)
    lone = keys.get("mlp_only_layers") or []
    if not isinstance(lone, list):
        raise InvalidInput(f"expected a list of layers, got {lone!r}", where=keys.at("mlp_only_layers"))
    step = keys.number("decoder_sparse_step", default=1)
    interleave = keys.number("interleave_moe_layer_step", default=1)
    listed = keys.get("moe_layers")
    if isinstance(keys.data.get("moe_layer_freq"), list):
        flags = keys.per_layer("moe_layer_freq", layers) or []
        return [bool(flag) for flag in flags]
    freq = keys.number("moe_layer_freq", default=1)
    if types is not None:
        return [kind == "sparse" for kind in types]
    if isinstance(listed, list):
        return [i in listed for i in range(layers)]
    return [
        i >= first and i % freq == 0 and i not in lone and (i + 1) % step == 0 and (i + 1) % interleave == 0
        for i in range(layers)
    ]
