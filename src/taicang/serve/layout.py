"""How an engine lays out the cache of a model whose layers do not all keep the same.

"blocks" (vLLM, kv_cache_utils.py): layers that keep the same form groups of one size, the groups take blocks out of one
pool, and every block holds as many bytes. Where there are states, a block of keys and values is made so long that it is
no smaller than a state. "pools" (SGLang, pool_configurator.py): keys and values of all tokens, of windows and states
have a pool each, in fixed proportions. Elsewhere, and where all layers keep the same, a sequence takes what it holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, cast

import numpy as np

from taicang.formats import number_format
from taicang.models.count import kv_bytes_per_token, kv_cache_bytes, state_bytes, token_bytes
from taicang.models.types import Attention, Compressed, GroupedQuery, Latent, Model
from taicang.plans import ServePlan
from taicang.stacks import Headroom
from taicang.units import Count, Num

UNEVEN = 1.5
"""Groups have as many layers as the smallest kind, or as the largest where that has less than so many times more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Layers of a rank that keep the same."""

    layers: Any
    token_bytes: Any = 0.0
    """Of keys and values, of one token and layer."""
    window_tokens: float = np.inf
    state_bytes: Any = 0.0
    """Of one sequence and layer."""


def kinds(model: Model, mine: Model, plan: ServePlan, head: Headroom) -> tuple[Kind, ...]:
    """What the layers of rank model ``mine`` keep; empty where one of them keeps what has no place in a layout."""
    found: dict[Any, Kind] = {}
    for block, own in zip(model.blocks, mine.blocks, strict=True):
        if isinstance(block.attention, Compressed):
            return ()
        key, alone = _key(block.attention), replace(own, count=1, sets=0)
        if not isinstance(block.attention, GroupedQuery) or not block.attention.reused:
            found[key] = Kind(
                layers=own.count + (found[key].layers if key in found else 0),
                token_bytes=kv_bytes_per_token(replace(mine, blocks=(alone,)), plan.quant.kv)
                + _sparse_bytes(block.attention, plan, head),
                window_tokens=float(getattr(block.attention, "window", None) or np.inf),
                state_bytes=state_bytes(own.attention, head.state_bytes, plan.draft_tokens),
            )
    last = _key(model.blocks[-1].attention)
    if model.mtp_layers and head.layout == "blocks" and last in found and np.any(found[last].token_bytes):
        drafting: Any = np.where(np.asarray(plan.draft_tokens) > 0, 1.0, 0.0)
        found[last] = replace(found[last], layers=found[last].layers + drafting)
    return tuple(found.values())


def _sparse_bytes(kind: Attention, plan: ServePlan, head: Headroom) -> float:
    """What the engine keeps of a token in a layer of sparse latent attention beyond what the layer needs."""
    if not isinstance(kind, Latent) or kind.indexer is None:
        return 0.0
    narrow = number_format(plan.quant.kv).activation_bytes == 1.0
    unused = head.indexes_all and kind.indexer.shared
    own = replace(kind, indexer=replace(kind.indexer, shared=False)) if unused else kind
    return head.sparse_bytes * narrow + token_bytes(own, 1.0) - token_bytes(kind, 1.0)


def _key(kind: Attention) -> Any:
    """Layers keep the same where this is equal."""
    if isinstance(kind, GroupedQuery):
        return kind.kv_heads, kind.head_dim, kind.v_head_dim, kind.window
    return kind.indexer if isinstance(kind, Latent) else kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """A pool of equal blocks, and the groups of layers that take them."""

    bytes: Any
    tokens: tuple[Any, ...]
    """Of a block, by kind (0: states)."""
    groups: tuple[Any, ...]
    """By kind."""
    windows: tuple[float, ...]

    def of(self, context: Count, states: Count, ahead: Count = 0) -> Any:
        """Blocks of a sequence that keeps ``states`` states in a layer, and ``ahead`` tokens beside windows."""
        total: Any = 0
        for tokens, groups, window in zip(self.tokens, self.groups, self.windows, strict=True):
            if not np.any(tokens):
                total = total + groups * states
                continue
            whole: Any = np.ceil(context / tokens)
            if window < np.inf:
                near = np.minimum(context, window - 1 + np.maximum(ahead, 1))
                whole = np.minimum(whole, np.ceil(near / tokens) + 1)
            total = total + groups * np.maximum(whole, 1)
        return total


def blocks(held: tuple[Kind, ...], head: Headroom) -> Blocks:
    """The pool for layers that keep ``held``."""
    least = reduce(np.minimum, (kind.layers for kind in held))
    most = reduce(np.maximum, (kind.layers for kind in held))
    size: Any = np.where(most < least * UNEVEN, most, least)
    widest: Any = reduce(np.maximum, (kind.token_bytes for kind in held))
    state: Any = reduce(np.maximum, (kind.state_bytes for kind in held))
    keys = widest / 2.0 if head.states_as_keys else widest
    steps = np.ceil(state / np.maximum(head.block_tokens * keys, 1.0))
    page = np.maximum(head.block_tokens * np.maximum(steps, 1.0) * widest, state)
    return Blocks(
        bytes=size * page,
        tokens=tuple(np.floor(page / each) if np.any(each := kind.token_bytes) else 0.0 for kind in held),
        groups=tuple(np.ceil(kind.layers / size) for kind in held),
        windows=tuple(kind.window_tokens for kind in held),
    )


def pool_bytes(held: tuple[Kind, ...], head: Headroom) -> tuple[Any, Any]:
    """Bytes that a token of room takes in all pools together, and tokens of room that one of a window stands for."""
    whole: Any = sum(kind.layers * kind.token_bytes for kind in held if kind.window_tokens == np.inf)
    near: Any = sum(kind.layers * kind.token_bytes for kind in held if kind.window_tokens < np.inf)
    ratio = head.window_ratio if np.any(whole) else 1.0
    states = _stateful(held)
    return (whole + ratio * near) * (1.0 + head.state_ratio * states), 1.0 / ratio


def sequence_bytes(model: Model, mine: Model, plan: ServePlan, head: Headroom, context: Count) -> Num:
    """Bytes of a rank's room that a sequence of ``context`` tokens takes."""
    held = _laid(model, mine, plan, head)
    if not held:
        return kv_cache_bytes(mine, context, plan.quant.kv)
    total: Any
    if head.layout == "pools":
        each, stands = pool_bytes(held, head)
        near = max((kind.window_tokens for kind in held if kind.window_tokens < np.inf), default=0.0)
        whole = context if any(kind.window_tokens == np.inf and np.any(kind.token_bytes) for kind in held) else 0.0
        total = each * np.maximum(whole, stands * np.minimum(context, near))
    elif head.layout == "blocks" and not _even(held):
        pool = blocks(held, head)
        total = pool.bytes * pool.of(context, 1 + np.asarray(plan.draft_tokens))  # states of prefixes give way
    else:
        total = sum(kind.layers * (kind.token_bytes * context + kind.state_bytes) for kind in held)
    return cast(Num, total)


def _laid(model: Model, mine: Model, plan: ServePlan, head: Headroom) -> tuple[Kind, ...]:
    """``kinds`` where the engine lays them out in a way of its own, and tokens take any room at all."""
    held = kinds(model, mine, plan, head) if head.layout else ()
    return held if any(np.any(kind.token_bytes) for kind in held) else ()


def logged_tokens(
    model: Model, mine: Model, plan: ServePlan, head: Headroom, *, spare: float, context: float, chunk: float
) -> float:
    """Tokens that the engine says it has room for in ``spare`` bytes; ``context`` of the longest request that it takes,
    ``chunk`` of a step."""
    held = _laid(model, mine, plan, head)
    if held and head.layout == "pools":
        return float(spare / pool_bytes(held, head)[0])
    if not held or head.layout == "whole" or _even(held):
        each = float(sequence_bytes(model, mine, plan, head, context))
        return spare / each * context if each else float(np.inf)
    pool = blocks(held, head)
    number = np.floor(spare / pool.bytes)
    if head.counts_requests:
        return float(number / pool.of(context, head.state_copies + np.asarray(plan.draft_tokens), chunk) * context)
    return float(np.floor(number / sum(pool.groups)) * min(float(each) for each in pool.tokens if each))


def _even(held: tuple[Kind, ...]) -> bool:
    """Whether all layers keep all tokens."""
    return all(kind.window_tokens == np.inf for kind in held) and not _stateful(held)


def _stateful(held: tuple[Kind, ...]) -> bool:
    """Whether some layers keep a state."""
    return any(np.any(kind.state_bytes) for kind in held)


def laid_out(model: Model, mine: Model, plan: ServePlan, head: Headroom) -> str:
    """How, where it is in a way of its own ("": each layer takes what it needs)."""
    held = _laid(model, mine, plan, head)
    if not held or _even(held):
        return ""
    if head.layout == "blocks":
        pool = blocks(held, head)
        tokens = min(float(each) for each in pool.tokens if each)
        states = " or a state" * _stateful(held)
        return f"{float(sum(pool.groups)):g} groups of layers take equal blocks, each of {tokens:g} tokens{states}"
    if head.layout == "whole":
        return "layers with windows keep all tokens"
    windows = f"windows have {head.window_ratio:g} of the tokens that other layers have"
    states = f"states have {head.state_ratio:g} of the memory of keys and values"
    near = any(kind.window_tokens < np.inf for kind in held)
    return " and ".join([windows] * near + [states] * _stateful(held))
