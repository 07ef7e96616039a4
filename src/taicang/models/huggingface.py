"""Import a model from the ``config.json`` that Hugging Face models carry.

Every key with an effect is read or refused: an unknown ``model_type``, an unknown key or a feature that the types
cannot express raises ``NotModelled``, unless the caller asks for the nearest kind, which ``assumptions`` then records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from taicang.errors import InvalidInput, NotModelled
from taicang.models.attention import attentions
from taicang.models.families import FAMILIES, NOT_MODELLED, Family
from taicang.models.feedforward import feed_forwards
from taicang.models.hybrid import hybrid_blocks
from taicang.models.keys import Keys
from taicang.models.quantised import CLASSES, Held, held
from taicang.models.types import Attention, Block, Dense, FeedForward, Model

_MOST_LAYERS = 10_000  # far above any model: a slip of the pen must not fill the memory
_WRAPPERS = ("qwen3_5", "qwen3_5_moe", "llama4", "gemma3", "mistral3", "kimi_k25")


def from_config(config: Mapping[str, Any], name: str, *, approximate: bool = False, where: str = "") -> Model:
    """The model that ``config`` (a parsed config.json from ``where``) describes.

    Raises ``NotModelled`` naming feature and key, ``InvalidInput`` naming file and key.
    """
    outer = Keys(config, where=where, approximate=approximate)
    keys, assumptions = outer, []
    if "text_config" in config:
        keys = Keys(_merged(outer), where=where, approximate=approximate)
        outer.ignore("text_config", "quantization_config", "tie_word_embeddings")
        outer.finish()
        assumptions = [*outer.assumptions, "text decoder only: encoders of images, video and sound are left out"]
    kind = keys.text("model_type")
    if not kind:
        raise InvalidInput("this key is missing", where=keys.at("model_type"))
    if kind in NOT_MODELLED:
        feature, key = NOT_MODELLED[kind]
        raise NotModelled(f"{keys.at(key)}: {feature} is not modelled (model_type {kind!r})")
    if kind not in FAMILIES:
        near = get_close_matches(kind, FAMILIES, n=1)
        hint = f"; the nearest known one is {near[0]!r}" if near else ""
        raise NotModelled(f"{keys.at('model_type')}: {kind!r} is not modelled{hint}")
    family = FAMILIES[kind]
    hidden = keys.number("hidden_size", "n_embd")
    context = keys.number("max_position_embeddings", "n_positions", "seq_length", default=2048)
    weights = held(
        keys.get("quantization_config"), str(keys.get("dtype", "torch_dtype") or ""), keys.at("quantization_config")
    )
    if family.layout == "pattern":
        stacked, said = hybrid_blocks(keys)
        assumptions += said
    else:
        stacked = _stacked(keys, family, hidden, weights)
    keys.ignore("position_embedding", "alibi", "parallel_attn", "num_ln_in_parallel_attn", "lm_head_bias")
    keys.ignore("activation_function", "hidden_activation", "hidden_act", "activation")
    spared = _spared(stacked)
    model = Model(
        name=name,
        hidden=hidden,
        vocab=max(keys.number("vocab_size"), keys.number("padded_vocab_size", default=1)),
        blocks=_without(stacked, spared),
        tied_embeddings=keys.flag("tie_word_embeddings", default=family.tied),
        **_formats(weights, spared),
        max_context=context,
        mtp_layers=_mtp(keys),
        position_embeddings=context if family.learned_positions else 0,
        source=where,
    )
    keys.finish()
    return replace(model, assumptions=(*assumptions, *keys.assumptions, *weights.assumptions))


def _formats(weights: Held, spared: frozenset[str]) -> dict[str, Any]:
    """Fields of ``Model`` for the published formats; a class in the format of the bulk needs no word."""
    dtype = weights.dtype
    forms = {kind: "bf16" if kind in spared else form for kind, form in weights.formats.items()}
    apart = {f"{kind}_dtype": "" if form == dtype else form for kind, form in forms.items()}
    return {"dtype": dtype, "kv_dtype": weights.kv, **apart}


def _stacked(keys: Keys, family: Family, hidden: int, weights: Held) -> tuple[Block, ...]:
    layers = keys.number("num_hidden_layers", "n_layer")
    if layers > _MOST_LAYERS:
        raise InvalidInput(f"{layers} layers are more than {_MOST_LAYERS}", where=keys.at("num_hidden_layers"))
    attention = attentions(keys, family, layers, hidden)
    ffn = feed_forwards(keys, family, layers, hidden)
    norms = 4 if keys.flag("sandwich_norm", default=False) else family.norms
    return blocks(attention, ffn, norms, weights.left)


def blocks(
    attention: list[Attention], ffn: list[FeedForward], norms: int, left: Mapping[int, frozenset[str]]
) -> tuple[Block, ...]:
    """Equal layers gathered in the order of their last appearance: the last block is the last layer's kind.

    ``left``: tensor classes of single layers in bf16.
    """
    layers = [
        Block(attention=a, ffn=f, count=1, norms=norms, plain=tuple(sorted(left.get(i, frozenset()) & _classes(f))))
        for i, (a, f) in enumerate(zip(attention, ffn, strict=True))
    ]
    counts, last = Counter(layers), {block: i for i, block in enumerate(layers)}
    return tuple(replace(block, count=counts[block]) for block in sorted(last, key=last.__getitem__))


def _spared(stacked: tuple[Block, ...]) -> frozenset[str]:
    """Classes that every layer which has them leaves in bf16, one by one."""
    having = [(block, _classes(block.ffn)) for block in stacked]
    return frozenset(
        kind
        for kind in CLASSES
        if (those := [block for block, classes in having if kind in classes])
        and all(kind in block.plain for block in those)
    )


def _without(stacked: tuple[Block, ...], spared: frozenset[str]) -> tuple[Block, ...]:
    return tuple(replace(b, plain=tuple(k for k in b.plain if k not in spared)) for b in stacked) if spared else stacked


def _classes(ffn: FeedForward) -> frozenset[str]:
    """Tensor classes that a layer with ``ffn`` has."""
    return frozenset({"attention", "dense"} if isinstance(ffn, Dense) else {"attention", "dense", "experts"})


def _merged(outer: Keys) -> dict[str, Any]:
    """The keys of the text decoder, with those that its wrapper holds for it."""
    kind = outer.text("model_type")
    inner = outer.get("text_config")
    if not isinstance(inner, Mapping):
        raise InvalidInput(f"expected an object, got {inner!r}", where=outer.at("text_config"))
    known = inner.get("model_type", "") in NOT_MODELLED or kind in _WRAPPERS
    if not known:
        raise NotModelled(f"{outer.at('model_type')}: {kind!r} around a text_config is not modelled")
    passed = ("quantization_config", "tie_word_embeddings", "torch_dtype")
    return {"model_type": f"{kind}_text"} | {k: outer.data[k] for k in passed if k in outer.data} | dict(inner)


def _mtp(keys: Keys) -> int:
    """Multi-token-prediction layers."""
    modules = keys.number("num_mtp_modules", default=0, low=0) * keys.number("mtp_transformer_layers", default=1, low=0)
    modules = modules if keys.flag("use_mtp", default=True) else 0
    return keys.number("num_nextn_predict_layers", "mtp_num_hidden_layers", default=modules, low=0)
