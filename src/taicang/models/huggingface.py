"""Import a model from the ``config.json`` that Hugging Face models carry.

Every key with an effect is read or refused: an unknown ``model_type``, an unknown key or a feature that the types
cannot express raises ``NotModelled``, unless the caller asks for the nearest kind, which ``assumptions`` then records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from taicang.errors import InvalidInput, NotModelled
from taicang.models.attention import attentions
from taicang.models.families import Families, Family, nearest, settled
from taicang.models.feedforward import NONE, feed_forwards
from taicang.models.hybrid import hybrid_blocks, recurring_blocks, searched_blocks
from taicang.models.keys import Keys, sum_of
from taicang.models.quantised import CLASSES, Held, held
from taicang.models.recurrent import state_space
from taicang.models.types import Block, Dense, Experts, FeedForward, Model

ALONE = {"pattern": hybrid_blocks, "searched": searched_blocks, "recurring": recurring_blocks}
"""Layouts that tell whole layers, mixers and feed-forwards at once."""
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
CONTEXT = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len", "model_max_length", "n_ctx")
DECODER_ONLY = "text decoder only: encoders of images, video and sound are left out"
BESIDE = "a layer whose attention has a state-space mixer beside it counts as two layers"
_MOST_LAYERS = 10_000  # far above any model: a slip of the pen must not fill the memory
_TOWER = (
    ("num_hidden_layers", "depth", "vt_num_hidden_layers", "layers", "n_layers"),
    ("embed_dim", "hidden_size", "vt_hidden_size", "width", "n_embed"),
)
"""Names of layers and width in the configuration of an encoder of images; its hidden_size beside an embed_dim is what
it hands over (Qwen2-VL)."""
_HALVES = {"merge_kernel_size", "pixel_shuffle_ratio", "downsample_ratio"}
"""Keys of encoders that make one token of a square of four patches."""
_LARGEST, _LARGEST_OF_FRAMES = 4096, 16384
"""Tokens of the largest image of an encoder that takes any size, and of one whose patches have several frames:
preprocessors of Kimi-K2.5 allow 16,384 patches, those of Qwen2.5-VL to Qwen3.5 16 Mi pixels."""
_INNER = ("text_config", "llm_config", "language_config", "thinker_config", "text_model_config")
"""Where wrappers of images, video and sound hold the configuration of their text decoder."""
_WHOLE = ("blip-2", "instructblip", "instructblipvideo")
"""Wrappers around a whole model with its head, whose own word on tied embeddings counts."""
_FROM_WRAPPER = ("quantization_config", "compression_config", "quantize", "tie_word_embeddings", "torch_dtype", "dtype")


def from_config(
    config: Mapping[str, Any], name: str, *, families: Families, approximate: bool = False, where: str = ""
) -> Model:
    """The model that ``config`` (a parsed config.json from ``where``) describes.

    Raises ``NotModelled`` naming feature and key, ``InvalidInput`` naming file and key.
    """
    data, assumptions, tower = _decoder(Keys(config, where=where).data, where)
    keys = Keys(data, where=where, approximate=approximate)
    family = _family(keys, families)
    keys = _with_defaults(keys, {**(family.wrapped if assumptions else {}), **family.defaults})
    family = settled(family, keys.data)
    keys.ignore(
        *(
            key
            for key, cases in family.when.items()
            if not isinstance(keys.data.get(key), str) or keys.data[key] in cases
        )
    )
    hidden = keys.number("hidden_size", "n_embd", "n_embed", "d_model")
    stated = next((each for each in CONTEXT if keys.data.get(each) is not None), CONTEXT[0])
    context = keys.number(stated, default=2048)  # old files have the length that was trained beside the longest
    quantised, apart = keys.get("quantization_config", "compression_config"), keys.get("expert_dtype")
    if keys.get("quantize"):  # MindStudio ModelSlim's word for what its weights are in
        words = {"quantize": keys.get("quantize"), "mla_quantize": keys.get("mla_quantize")}
        quantised = {**(quantised or {}), **words, "quant_method": "modelslim"}
    if apart and isinstance(quantised, Mapping):
        quantised = {**quantised, "expert_dtype": apart}
    weights = held(quantised, str(keys.get("dtype", "torch_dtype") or ""), keys.at("quantization_config"))
    if family.layout in ALONE:
        stacked, said = ALONE[family.layout](keys)
        assumptions += said
    else:
        stacked = _stacked(keys, family, hidden, weights)
        assumptions += [BESIDE] if family.beside else []
    keys.ignore("position_embedding", "alibi", "parallel_attn", "num_ln_in_parallel_attn", "lm_head_bias")
    keys.ignore("activation_function", "hidden_activation", "hidden_act", "activation", "afn", *CONTEXT)
    keys.ignore("vocab_size_per_layer_input")
    _same_width(keys, hidden)
    spared = _spared(stacked)
    padded = keys.maybe("padded_vocab_size")
    vocab = max(keys.number("vocab_size", default=padded), padded or 1)
    model = Model(
        name=name,
        hidden=hidden,
        vocab=vocab,
        blocks=_without(stacked, spared),
        tied_embeddings=keys.flag("tie_word_embeddings", default=family.tied) and not family.untied,
        **_formats(weights, spared),
        max_context=context,
        mtp_layers=_mtp(keys),
        position_embeddings=0 if family.positions is None else context + family.positions,
        outer_norms=family.outer_norms,
        extra=sum_of(family.model_extra, {"vocab": vocab, "hidden": hidden}, keys),
        source=where,
        **tower,
    )
    keys.finish()
    return replace(model, assumptions=(*assumptions, *keys.assumptions, *weights.assumptions))


def _same_width(keys: Keys, hidden: int) -> None:
    for key in ("word_embed_proj_dim", "embedding_size"):
        if keys.maybe(key) not in (None, hidden):
            keys.refuse("an embedding of another width than the layers", key, f"{hidden} as the layers")


def _decoder(config: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str], dict[str, Any]]:
    """The keys of the text decoder, with those that wrappers around it hold for it, and ``Model.tower_ratio`` and the
    like."""
    data, assumptions, tower = _flat(config), [], _tower(config)
    for _ in range(3):
        key = next((each for each in _INNER if data.get(each) is not None), None)
        if key is None:
            break
        inner = data[key]
        if not isinstance(inner, Mapping):
            raise InvalidInput(f"expected an object, got {inner!r}", where=f"{where}: {key}" if where else key)
        kind = str(data.get("model_type", "")).removesuffix("_text") + "_text"
        passed = {k: data[k] for k in _FROM_WRAPPER if data.get(k) is not None}
        tower = _tower(data) or tower
        tied = passed.get("tie_word_embeddings", None if data.get("model_type") in _WHOLE else False)
        made = {"model_type": kind} | passed | dict(inner)
        if tied is not None and str(data.get("transformers_version", "")).partition(".")[0] >= "5":
            made["tie_word_embeddings"] = tied  # since version 5 the wrapper's word counts
        data = made
        assumptions = [DECODER_ONLY]
    return data, assumptions, tower


def _tower(wrapper: Mapping[str, Any]) -> dict[str, Any]:
    """Of an encoder of images, what ``Model`` says of one; empty where a config does not say."""
    vision = wrapper.get("vision_config")
    if not isinstance(vision, Mapping):
        return {}

    def said(*names: str, of: Mapping[str, Any] = vision) -> int:
        found = next((of[name] for name in names if of.get(name)), 0)
        return found if isinstance(found, int) and 0 < found < 10**6 else 0

    layers, width = said(*_TOWER[0]), said(*_TOWER[1])
    if not layers or not width:
        return {}
    inner = said("intermediate_size", "vt_intermediate_size") or 4 * width
    side = said("spatial_merge_size", "pooling_kernel_size") or (2 if vision.keys() & _HALVES else 1)
    patches = (said("image_size") // said("patch_size")) ** 2 if said("image_size") and said("patch_size") else 0
    told = said("mm_tokens_per_image", "vision_soft_tokens_per_image", of=wrapper)
    if told and patches:
        side = max(round((patches / told) ** 0.5), 1)
    most = _LARGEST_OF_FRAMES if said("temporal_patch_size") else _LARGEST
    return {
        "tower_ratio": round(layers * width**2 / (24 * 1024**2), 4),
        "tower_tokens": told or patches // side**2 or most,
        "tower_live": 2 * width * side**2,
        "tower_shared": 2 * inner * side**2,
    }


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of DBRX and MPT, which nest those of attention and feed-forward, on one level."""
    data = {key: value for key, value in config.items() if value != -1 or "window" not in key}  # -1: none
    for name in ("attn_config", "ffn_config"):
        if isinstance(data.get(name), Mapping):
            nested = {k: v for k, v in data.pop(name).items() if k != "model_type"}
            if "kv_n_heads" in nested:
                data.pop("num_key_value_heads", None)  # a name that version 4 saves beside, with a value of its own
            data = {**nested, **data}
    return data


def _family(keys: Keys, families: Families) -> Family:
    kind = keys.text("model_type")
    if not kind:
        raise InvalidInput("this key is missing", where=keys.at("model_type"))
    if kind == "git" and "moe_intermediate_size" in keys.data:
        kind = "grok-2"  # whose files bear the name of an encoder of images
    if kind in families.refused:
        feature, key = families.refused[kind]
        raise NotModelled(f"{keys.at(key)}: {feature} is not modelled (model_type {kind!r})")
    if kind not in families.known and f"{kind}_text" in families.known:
        kind += "_text"  # older files of wrappers hold the decoder's keys beside those of the encoders
        keys.assumptions.append(DECODER_ONLY)
    if kind not in families.known:
        near = nearest(keys.data, kind, families)
        keys.refuse(f"{kind!r}, by structure nearest to {near!r},", "model_type", f"read as {near!r}")
        return families.known[near]
    return families.known[kind]


def _with_defaults(keys: Keys, defaults: Mapping[str, Any]) -> Keys:
    given = {key: value for key, value in keys.data.items() if value is not None}
    made = Keys({**keys.data, **defaults, **given}, where=keys.where, approximate=keys.may_approximate)
    made.assumptions = keys.assumptions
    made.ignore("model_type", *(defaults.keys() - given.keys()))
    return made


def _formats(weights: Held, spared: frozenset[str]) -> dict[str, Any]:
    """Fields of ``Model`` for the published formats; a class in the format of the bulk needs no word."""
    dtype = weights.dtype
    forms = {kind: "bf16" if kind in spared else form for kind, form in weights.formats.items()}
    apart = {f"{kind}_dtype": "" if form == dtype else form for kind, form in forms.items()}
    return {"dtype": dtype, "kv_dtype": weights.kv, **apart}


def _stacked(keys: Keys, family: Family, hidden: int, weights: Held) -> tuple[Block, ...]:
    layers = keys.number(*(("num_layers", *LAYERS) if family.twice else LAYERS))
    keys.ignore("num_hidden_layers")
    if layers > _MOST_LAYERS:
        raise InvalidInput(f"{layers} layers are more than {_MOST_LAYERS}", where=keys.at("num_hidden_layers"))
    attention = attentions(keys, family, layers, hidden)
    ffn = feed_forwards(keys, family, layers, hidden)
    norms = 4 if keys.flag("sandwich_norm", default=False) else family.norms
    streams = keys.number("hc_mult", default=1) if family.compressed or family.streams else 1
    keys.ignore("num_hash_layers", "hc_sinkhorn_iters")
    made = []
    for i, (mixer, behind) in enumerate(zip(attention, ffn, strict=True)):
        plain = tuple(sorted(weights.left.get(i, frozenset()) & _classes(behind)))
        block = Block(
            attention=mixer,
            ffn=behind,
            count=1,
            norms=norms,
            plain=plain,
            extra=_extra(keys, family, behind, hidden),
            streams=streams,
        )
        if family.beside:
            beside = state_space(keys, hidden)
            made.append(Block(attention=beside, ffn=NONE, count=1, norms=0, plain=plain))
        made.append(block)
        if family.twice:
            dense = Dense(inter=behind.shared_inter) if isinstance(behind, Experts) else behind
            made.append(replace(block, ffn=dense, extra=0))
    counts, last = Counter(made), {block: i for i, block in enumerate(made)}
    loops = keys.number(family.loops, default=1) if family.loops else 1
    return tuple(
        replace(block, count=counts[block] * loops, sets=counts[block] if loops > 1 else 0)
        for block in sorted(last, key=last.__getitem__)
    )


def _extra(keys: Keys, family: Family, ffn: FeedForward, hidden: int) -> int:
    sizes = {"hidden": hidden, "inter": ffn.inter}
    if isinstance(ffn, Dense):
        return sum_of(family.layer_extra, sizes, keys)
    sizes["experts"] = ffn.experts
    return sum_of(family.layer_extra, sizes, keys) + sum_of(family.sparse_extra, sizes, keys)


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


def _mtp(keys: Keys) -> int:
    """Multi-token-prediction layers."""
    modules = keys.number("num_mtp_modules", default=0, low=0) * keys.number("mtp_transformer_layers", default=1, low=0)
    modules = modules if keys.flag("use_mtp", default=True) else 0
    return keys.number("num_nextn_predict_layers", "mtp_num_hidden_layers", default=modules, low=0)
