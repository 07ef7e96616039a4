"""Activations of one rank at their peak, as engines measure it before they size the cache."""

from __future__ import annotations

from functools import reduce
from typing import Any, cast

import numpy as np

from taicang.models.types import Dense, Experts, Latent, Model
from taicang.plans import ServePlan
from taicang.stacks import Headroom
from taicang.units import Count, Num

LIVE_WIDTHS = 8
"""Assumed number of hidden-width bf16 activations that are alive at once in a step."""


def activation_peak(model: Model, mine: Model, plan: ServePlan, head: Headroom, tokens: Count) -> Num:
    """Bytes of activations at their peak: in a layer, where the next tokens are sampled, in the encoder of images."""
    here: Any = tokens / (plan.tp if plan.sp else 1)
    expanded: Any = head.expanded_tokens * _expanded(mine)
    widest = _widest(mine, plan, head, here)
    layer = here * model.hidden * 2.0 * LIVE_WIDTHS + np.maximum(widest, expanded) * 2.0
    peak = np.maximum(layer, head.sampled * model.vocab * head.sampling_bytes)
    if head.encodes and model.tower_tokens:
        seen = np.maximum(tokens, model.tower_tokens)
        alive: Any = model.tower_live + model.tower_shared / plan.tp
        peak = np.maximum(peak + seen * model.hidden * 2.0, seen * alive * 2.0)
    return cast(Num, peak)


def _widest(mine: Model, plan: ServePlan, head: Headroom, tokens: Count) -> Any:
    """Numbers of the largest intermediate result of ``tokens``."""
    widest: Any = 0
    for block in mine.blocks:
        ffn = block.ffn
        if isinstance(ffn, Dense):
            wide: Any = tokens * ffn.inter * (1 + ffn.gated)
        else:
            wide = _routed(mine, ffn, plan, head, tokens)
        widest = np.maximum(widest, wide)
        if isinstance(block.attention, Latent):
            heads = block.attention.heads * (block.attention.nope_dim + block.attention.rope_dim)
            widest = np.maximum(widest, tokens * heads)
    return widest


def _routed(mine: Model, ffn: Experts, plan: ServePlan, head: Headroom, tokens: Count) -> Any:
    """Numbers of the workspaces of experts: a row for each token and expert; where kernels take whole tiles of rows,
    as many more as may be left empty in the last tile of each expert, and a workspace for either product."""
    blocks = plan.quant.experts == "fp8_block"
    few = head.tiled_ranks == 0 or np.asarray(plan.moe_tp) <= head.tiled_ranks
    tiled: Any = np.where(few, head.row_tile, 1) if blocks else 1
    rows = np.ceil((tokens * ffn.topk + ffn.experts * (tiled - 1)) / tiled) * tiled
    copies = np.where(tiled > 1, np.maximum(head.expert_copies, 2), head.expert_copies)
    each: Any = np.where(copies == 1, mine.hidden, np.maximum(mine.hidden, ffn.inter))
    return rows * (each + np.maximum(mine.hidden, ffn.inter * (1 + ffn.gated)) * (copies - 1))


def _expanded(mine: Model) -> Any:
    """Numbers of a cached token's keys and values, once latent attention has made them of its latent."""
    kinds = [block.attention for block in mine.blocks]
    made: Any = [kind.heads * (kind.nope_dim + kind.v_dim) for kind in kinds if isinstance(kind, Latent)]
    return reduce(np.maximum, made, 0)
