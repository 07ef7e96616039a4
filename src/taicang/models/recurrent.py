"""Mixers with a state of fixed size, from the keys of a configuration: linear attention and Mamba."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taicang.models.families import Family
from taicang.models.keys import Keys
from taicang.models.types import GatedLinear, StateSpace

HEADS = ("num_attention_heads", "n_head", "n_heads", "attention_heads", "decoder_attention_heads", "num_heads")

STATES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
"""Formats of recurrent states, by their names in files."""


def linear(keys: Keys, family: Family, hidden: int) -> GatedLinear:
    """Linear attention of the family's kind."""
    fixed = family.state == "channel" and keys.maybe("group_norm_size")  # as Ring's files name its first kind
    if family.state == "lightning" or fixed:
        heads = keys.number(*HEADS)
        width = keys.maybe("head_dim") or hidden // heads
        return GatedLinear(k_heads=heads, v_heads=heads, k_dim=width, v_dim=width, conv_width=0, decay="fixed")
    if family.state.startswith("channel"):
        heads = keys.number("linear_num_heads", default=_inside(keys, "num_heads"))
        width = keys.number("linear_head_dim", default=_inside(keys, "head_dim"))
        conv = keys.number(
            "linear_conv_kernel_dim", "short_conv_kernel_size", default=_inside(keys, "short_conv_kernel_size") or 4
        )
        rank = width if family.state == "channel_low_rank" else 0
        return GatedLinear(
            k_heads=heads, v_heads=heads, k_dim=width, v_dim=width, conv_width=conv, decay="channel", rank=rank
        )
    return GatedLinear(
        k_heads=keys.number("linear_num_key_heads"),
        v_heads=keys.number("linear_num_value_heads"),
        k_dim=keys.number("linear_key_head_dim"),
        v_dim=keys.number("linear_value_head_dim"),
        conv_width=keys.number("linear_conv_kernel_dim"),
        state_dtype=_state_dtype(keys),
    )


def _state_dtype(keys: Keys) -> str:
    """What the file asks the state to be kept in ("": nothing, or what the engine sees fit)."""
    return STATES.get(str(keys.get("mamba_ssm_dtype", "mamba_ssm_cache_dtype")), "")


def _inside(keys: Keys, name: str) -> int | None:
    """A size in Kimi-Linear's table of its linear layers."""
    table = keys.get("linear_attn_config")
    value = table.get(name) if isinstance(table, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def state_space(keys: Keys, hidden: int, alone: str = "") -> StateSpace:
    """The Mamba mixer; ``alone`` is its version where the model has no other ("mamba1", "mamba2")."""
    first = alone == "mamba1"
    state = keys.number("mamba_d_state", "ssm_state_size", "state_size")
    conv = keys.number("mamba_d_conv", "conv_kernel", default=4)
    biases: dict[str, Any] = {
        "conv_bias": keys.flag("mamba_conv_bias", "use_conv_bias", default=True),
        "proj_bias": keys.flag("use_bias" if "use_bias" in keys.data else "mamba_proj_bias", default=False),
    }
    expand = keys.number("mamba_expand", "expand", default=2)
    keys.ignore("mamba_proj_bias", "time_step_rank", "mamba_norm_before_gate", "mamba_hidden_act", "mamba_intermediate")
    if first or keys.data.get("mamba_dt_rank"):
        inner = keys.maybe("intermediate_size") if first else None
        rank = keys.get("mamba_dt_rank", "time_step_rank")
        rank = -(-hidden // 16) if rank == "auto" else keys.number("mamba_dt_rank", "time_step_rank")
        return StateSpace(
            heads=inner or expand * hidden, head_dim=1, state_dim=state, groups=1, conv_width=conv, dt_rank=rank,
            norm=False, **biases,
        )  # fmt: skip
    heads = keys.number("mamba_num_heads", "mamba_n_heads", "n_mamba_heads", "num_heads")
    inner = keys.maybe("mamba_d_ssm") or expand * hidden
    width = (
        keys.maybe("mamba_head_dim", "mamba_headdim")
        or (keys.maybe("head_dim") if alone else None)
        or (inner // heads if keys.get("mamba_d_head") in (None, "auto") else keys.number("mamba_d_head"))
    )
    return StateSpace(
        heads=heads,
        head_dim=width,
        state_dim=state,
        groups=keys.number("mamba_n_groups", "mamba_ngroups", "n_groups", default=8),
        conv_width=conv,
        chunk=keys.number("mamba_chunk_size", "chunk_size", default=128),
        norm=keys.flag("mamba_rms_norm", "rms_norm", default=True),
        state_dtype=_state_dtype(keys),
        **biases,
    )
