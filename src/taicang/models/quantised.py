"""The number formats of the published weights and cache, by tensor class, from ``quantization_config``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from taicang.errors import InvalidInput, NotModelled

_PLAIN = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
CLASSES = ("attention", "dense", "experts")
_UNTOUCHED = re.compile(
    r"(?:^|\.)(?:lm_head|embed\w*|\w*norm\w*|gate|router|shared_expert_gate|e_score\w*|conv1d|\w*visual\w*|\w*vision\w*"
    r"|\w*audio\w*|mm_\w*|multi_modal\w*|mtp|eh_proj|weights_proj|indexer|in_proj_a|in_proj_b|A_log|dt_bias)(?:\W|$)"
)
"""Modules that are in 16 bits here whatever the file says: heads, embeddings, norms, routers, other towers."""
_WORDS = {
    "experts": re.compile(r"(?<!shared_)(?<!shared)experts?\b(?!_gate)|\bmoe\b|block_sparse_moe"),
    "attention": re.compile(r"attn|attention|mixer|\b(?:q|k|v|o|qkv|kv_b|q_b)_proj"),
    "dense": re.compile(r"mlp|shared|feed_forward|ffn|\b(?:gate|up|down|gate_up)_proj|\bw[123]\b"),
}
"""What names a class in a module's name, the first that fits."""
_MINOR = re.compile(r"\b(?:k|v|kv_a|kv_b|q_a|q|down|up)_proj\b")
_MAJOR = re.compile(r"\b(?:o|out|dense|gate|gate_up|w1)_proj\b|\bw1\b")
_COMPRESSED = {
    (4, "int", None, None): "w4a16",
    (4, "int", 8, "int"): "w4a8",
    (4, "int", 8, "float"): "w4a8_fp8",
    (8, "int", None, None): "w8a16",
    (8, "int", 8, "int"): "int8",
    (8, "float", None, None): "fp8_w8a16",
    (8, "float", 8, "float"): "fp8",
    (4, "float", None, None): "nvfp4_w4a16",
    (4, "float", 4, "float"): "nvfp4",
    (4, "float", 8, "float"): "mxfp4_w4a8",
}
"""Bits and type of weights and of activations."""
_MICROSCALED = {"nvfp4": "mxfp4", "nvfp4_w4a16": "mxfp4_w4a16", "fp8": "mxfp8"}
"""The format with a scale per 32 elements (OCP MX) instead."""
_MODELOPT = {
    "FP8": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
    "FP8_PB_WO": "fp8_block",
    "NVFP4": "nvfp4",
    "NVFP4_AWQ": "nvfp4",
    "W4A16_NVFP4": "nvfp4_w4a16",
    "MXFP8": "mxfp8",
    "W4A16": "w4a16",
    "W4A16_AWQ": "w4a16",
    "W4A8_AWQ": "w4a8_fp8",
    "W8A16": "w8a16",
    "INT8": "int8",
    "W8A8_SQ_PER_CHANNEL": "int8",
    "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN": "int8",
}
_QUARK = {
    "fp4": (4, "float"), "fp8_e4m3": (8, "float"), "fp8_e5m2": (8, "float"), "int8": (8, "int"), "int4": (4, "int"),
    "uint4": (4, "int"), "uint8": (8, "int"), "fp8": (8, "float"),
}  # fmt: skip
_TORCHAO = {
    "int4weightonly": ("w4a16", 128), "int8weightonly": ("w8a16", -1),
    "int8dynamicactivationint8weight": ("int8", None),
    "int8dynamicactivationint4weight": ("w4a8", 32), "float8weightonly": ("fp8_w8a16", None),
    "float8dynamicactivationfloat8weight": ("fp8", None), "float8dynamicactivationint4weight": ("w4a8_fp8", 128),
    "nvfp4inference": ("nvfp4", None), "nvfp4dynamicactivationnvfp4weight": ("nvfp4", None),
}  # fmt: skip
"""Formats of the torchao library and the group that it takes by default (-1: one scale per channel)."""
_MODELSLIM = {
    "w8a8": "int8", "w8a8_dynamic": "int8", "w8a16": "w8a16_g0", "w4a8": "w4a8", "w4a8_dynamic": "w4a8",
    "w4a16": "w4a16", "float": "bf16",
}  # fmt: skip
_IGNORED = (
    "modules_to_not_convert", "ignore", "exclude_modules", "exclude", "ignored_layers", "llm_int8_skip_modules",
    "skip_modules",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """How a checkpoint is held: ``formats`` by tensor class, ``left`` the classes of single layers in bf16."""

    formats: Mapping[str, str]
    kv: str = ""
    left: Mapping[int, frozenset[str]] = field(default_factory=dict)
    assumptions: tuple[str, ...] = ()

    @property
    def dtype(self) -> str:
        """The format of the bulk of the weights: of the last class that is quantised, else of all."""
        forms = list(self.formats.values())
        return next((form for form in reversed(forms) if form not in _PLAIN.values()), forms[-1])


def held(config: Mapping[str, Any] | None, plain: str, where: str) -> Held:
    """Formats of weights and cache (names from ``formats``).

    ``config`` is the value of ``quantization_config``, ``plain`` that of ``torch_dtype``. Raises ``NotModelled``.
    """
    if config is None:
        plain = plain.removeprefix("torch.")
        if plain and plain not in _PLAIN:
            raise NotModelled(f"{where}: weights in {plain!r} are not modelled")
        return Held(formats=dict.fromkeys(CLASSES, _PLAIN.get(plain, "bf16")))
    if not isinstance(config, Mapping):
        raise InvalidInput(f"expected an object, got {config!r}", where=where)
    flat = {**config, **_mapping(config.get("quantization"))}  # the separate file of ModelOpt nests its keys
    method = str(flat.get("quant_method") or "").lower()
    method = method or ("modelopt" if flat.get("quant_algo") or flat.get("quant_cfg") else "")
    method = method or ("bitsandbytes" if flat.get("load_in_4bit") or flat.get("load_in_8bit") else "")
    reader = _METHODS.get(method)
    if reader is None:
        raise NotModelled(f"{where}: quantisation {method or dict(config)!r} is not modelled")
    said = reader(flat, where) if callable(reader) else reader
    forms = dict.fromkeys(CLASSES, said) if isinstance(said, str) else said
    names = [*_names(flat), *(("self_attn", "mlp") if method == "mxfp4" else ())]
    return _without(forms, names, _kv(flat, where))


def _without(forms: Mapping[str, str], names: Iterable[str], kv: str) -> Held:
    """``forms`` less the modules that the file leaves alone."""
    everywhere: set[str] = set()
    single: dict[int, set[str]] = {}
    halves: dict[tuple[str, str], int] = {}
    for name in names:
        found = _module(name)
        if found is None:
            continue
        kind, layers, major = found
        if not major:
            part = re.sub(r"\d+", "N", name).rpartition(".")[2]
            halves[kind, part] = halves.get((kind, part), 0) + 1
        elif layers is None:
            everywhere.add(kind)
        else:
            for layer in layers:
                single.setdefault(layer, set()).add(kind)
    known = everywhere | {kind for kinds in single.values() for kind in kinds}
    said = sorted({f"{part} of {kind}" for kind, part in halves if kind not in known})
    notes = (f"left in 16 bits by the checkpoint, counted as quantised: {', '.join(said)}",) if said else ()
    return Held(
        formats={kind: "bf16" if kind in everywhere else form for kind, form in forms.items()},
        kv=kv,
        left={layer: frozenset(kinds - everywhere) for layer, kinds in single.items() if kinds - everywhere},
        assumptions=notes,
    )


def _module(name: str) -> tuple[str, tuple[int, ...] | None, bool] | None:
    """Tensor class of a module or pattern, its layers (None: all), whether it stands for most of the class."""
    pattern = name.removeprefix("re:").replace("\\", "")
    text = pattern.strip("^$").rstrip("*").rstrip(".")
    if _UNTOUCHED.search(text):
        return None
    kind = next((kind for kind, words in _WORDS.items() if words.search(text)), None)
    if kind is None:
        return None
    minor = bool(_MINOR.search(text)) and not _MAJOR.search(text)
    at = re.search(r"(?:layers|blocks|h)\.(\d+|[(\[][\d|,\-]+[)\]])(?:\.|$)", text)
    if at is None:
        return kind, None, not minor
    digits = [int(each) for each in re.findall(r"\d+", at[1])]
    layers = range(digits[0], digits[1] + 1) if "-" in at[1] and len(digits) == 2 else digits
    return kind, tuple(layers)[:10_000], not minor


def _names(config: Mapping[str, Any]) -> list[str]:
    found = [str(name) for key in _IGNORED for name in _list(config.get(key))]
    found += [key.removeprefix("-:") for key in _mapping(config.get("dynamic")) if key.startswith("-:")]
    extra = _mapping(config.get("extra_config"))
    return found + [key for key, value in extra.items() if _mapping(value).get("bits", 0) >= 16]


def _kv(config: Mapping[str, Any], where: str) -> str:
    """The cache's format, "" where the checkpoint says nothing of it."""
    scheme = _mapping(config.get("kv_cache_scheme"))
    algorithm = str(config.get("kv_cache_quant_algo") or "").upper()
    algorithm = {"C8": "INT8", "C16": ""}.get(str(config.get("kv_quant_type") or "").upper(), algorithm)
    quark = config.get("kv_cache_quant_config") or {}
    if scheme:
        key: tuple[Any, Any] = (scheme.get("num_bits"), scheme.get("type"))
        known: Mapping[tuple[Any, Any], str] = {
            (8, "float"): "fp8",
            (8, "int"): "int8",
            (4, "float"): "nvfp4",
            (16, "float"): "bf16",
        }
        found = known.get(key)
    elif algorithm and algorithm != "NONE":
        found = {"FP8": "fp8", "INT8": "int8", "NVFP4": "nvfp4"}.get(algorithm)
        key = (algorithm, "")
    elif quark:
        text = str(quark)
        found = "fp8" if "fp8" in text else "int8" if "int8" in text else None
        key = (text[:40], "")
    else:
        return ""
    if found is None:
        raise NotModelled(f"{where}: a cache of {key} is not modelled")
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _fp8(config: Mapping[str, Any], where: str) -> dict[str, str]:
    block = config.get("weight_block_size")
    if block is None:
        main = "fp8"
    else:
        sizes = [block, block] if isinstance(block, int) else block
        if not (isinstance(sizes, list) and len(sizes) == 2 and all(isinstance(n, int) and n > 0 for n in sizes)):
            raise NotModelled(f"{where}: fp8 weights in blocks of {block!r} are not modelled")
        main = "fp8_block" if sizes == [128, 128] else f"fp8_block_{sizes[0]}x{sizes[1]}"
    experts = {"fp4": "mxfp4_w4a8", "fp8": main, None: main}.get(config.get("expert_dtype"))
    if experts is None:
        raise NotModelled(f"{where}: experts in {config['expert_dtype']!r} are not modelled")
    return {"attention": main, "dense": main, "experts": experts}


def _packed(base: str, group: Any, where: str, *, zeros: bool = False) -> str:
    """``base`` with its group of weights per scale (-1: one scale per channel)."""
    if group is None:
        return base if not zeros else f"{base}_g128z"
    if not isinstance(group, int) or isinstance(group, bool) or not (group == -1 or 0 < group <= 65536):
        raise NotModelled(f"{where}: groups of {group!r} weights are not modelled")
    return base if (group, zeros) == (128, False) else f"{base}_g{max(group, 0)}{'z' if zeros else ''}"


def _integers(config: Mapping[str, Any], where: str) -> str:
    """AWQ, GPTQ and AutoRound: whole numbers, activations in 16 bits."""
    bits = config.get("bits", config.get("w_bit"))
    if bits not in (4, 8):
        raise NotModelled(f"{where}: weights of {bits!r} bits are not modelled")
    changed = [k for k, v in _mapping(config.get("dynamic")).items() if not k.startswith("-:") and "bits" in str(v)]
    if changed:
        raise NotModelled(f"{where}: other bits for {changed[0]!r} are not modelled")
    zeros = bool(config.get("zero_point", False)) or config.get("sym") is False
    return _packed(f"w{bits}a16", config.get("group_size", config.get("q_group_size")), where, zeros=zeros)


def _bits_and_bytes(config: Mapping[str, Any], where: str) -> str:
    if config.get("load_in_8bit") or config.get("_load_in_8bit"):
        return "int8"
    if not (config.get("load_in_4bit") or config.get("_load_in_4bit")):
        raise NotModelled(f"{where}: bitsandbytes in neither 8 nor 4 bits is not modelled")
    return "nf4_double" if config.get("bnb_4bit_use_double_quant") else "nf4"


def _modelopt(config: Mapping[str, Any], where: str) -> Any:
    algorithm = str(config.get("quant_algo") or "").upper()
    if algorithm == "MIXED_PRECISION":
        return _by_layer(_mapping(config.get("quantized_layers")), where)
    if algorithm not in _MODELOPT:
        raise NotModelled(f"{where}: quantisation {algorithm!r} is not modelled")
    form = _MODELOPT[algorithm]
    return _packed(form, config.get("group_size"), where) if form.startswith(("w4", "w8")) else form


def _by_layer(layers: Mapping[str, Any], where: str) -> Any:
    """One format per tensor class from a list of modules; a class in several formats is refused."""
    found: dict[str, str] = {}
    for name, each in layers.items():
        form = _modelopt(_mapping(each), where)
        seen = _module(name)
        if seen is not None and found.setdefault(seen[0], form) != form:
            raise NotModelled(f"{where}: {seen[0]} weights in {found[seen[0]]} and {form} are not modelled")
    if not found:
        raise NotModelled(f"{where}: quantisation in mixed precision without its layers is not modelled")
    return {kind: found.get(kind, "bf16") for kind in CLASSES}


def _compressed(config: Mapping[str, Any], where: str) -> Any:
    """Formats of the compressed-tensors library: bits, type and grouping of weights and activations."""
    if _mapping(config.get("sparsity_config")).get("format", "dense") != "dense" or config.get("format") == "marlin-24":
        raise NotModelled(f"{where}: sparse weights are not modelled")
    groups = [g for g in _mapping(config.get("config_groups")).values() if isinstance(g, Mapping)]
    if not groups:
        raise NotModelled(f"{where}: no group of quantised weights")
    found: dict[str, str] = {}
    for group in groups:
        form = _group(group, where)
        named = {seen[0] for target in _list(group.get("targets")) if (seen := _module(str(target)))}
        for kind in named or set(CLASSES) - set(found):
            if named and found.get(kind, form) != form:
                raise NotModelled(f"{where}: {kind} weights in {found[kind]} and {form} are not modelled")
            found.setdefault(kind, form)
    return {kind: found.get(kind, "bf16") for kind in CLASSES}


def _group(group: Mapping[str, Any], where: str) -> str:
    weights, inputs = _mapping(group.get("weights")), _mapping(group.get("input_activations"))
    key = (weights.get("num_bits"), weights.get("type"), inputs.get("num_bits"), inputs.get("type"))
    return _scheme(key, weights.get("group_size"), weights.get("block_structure"), weights.get("symmetric"), where)


def _scheme(key: tuple[Any, ...], group: Any, block: Any, symmetric: Any, where: str) -> str:
    if key not in _COMPRESSED:
        raise NotModelled(f"{where}: weights and activations {key} are not modelled")
    form = _COMPRESSED[key]
    if form.startswith(("w4", "w8")):
        return _packed(form, group, where, zeros=symmetric is False)
    if group == 32 and form in _MICROSCALED:
        return _MICROSCALED[form]
    if form == "fp8" and block:
        return _fp8({"weight_block_size": block}, where)["dense"]
    if form.startswith("nvfp4") and group not in (None, 16):
        raise NotModelled(f"{where}: fp4 weights in groups of {group!r} are not modelled")
    return form


def _quark(config: Mapping[str, Any], where: str) -> Any:
    main = _quark_layer(_mapping(config.get("global_quant_config")), where)
    forms = dict.fromkeys(CLASSES, main)
    for pattern, each in _mapping(config.get("layer_quant_config")).items():
        seen, form = _module(pattern), _quark_layer(_mapping(each), where)
        if seen is not None and form != main:
            if seen[1] is not None:
                raise NotModelled(f"{where}: {pattern!r} in {form} among layers in {main} is not modelled")
            forms[seen[0]] = form
    return forms


def _quark_layer(config: Mapping[str, Any], where: str) -> str:
    def kind(value: Any) -> tuple[Any, Any, Any]:
        each = _mapping((_list(value) or [value])[-1])
        if not each.get("dtype"):
            return None, None, None
        name = str(each["dtype"]).lower()
        if name not in _QUARK:
            raise NotModelled(f"{where}: quantisation to {name!r} is not modelled")
        return (*_QUARK[name], each.get("group_size"))

    bits, sort, group = kind(config.get("weight"))
    if bits is None:
        return "bf16"
    taken, taken_sort, _ = kind(config.get("input_tensors"))
    if bits == 4 and sort == "float":
        group = group or 32
    return _scheme((bits, sort, taken, taken_sort), group, None, None, where)


def _torchao(config: Mapping[str, Any], where: str) -> str:
    """A name, or the tree of a configuration's class and fields under "default"."""
    kind: Any = config.get("quant_type")
    kind = _mapping(kind).get("default", kind)
    name = str(_mapping(kind).get("_type", kind) or "")
    fields = {**_mapping(config.get("quant_type_kwargs")), **_mapping(_mapping(kind).get("_data"))}
    form, group = _TORCHAO.get(name.removesuffix("Config").replace("_", "").lower(), ("", None))
    if not form:
        raise NotModelled(f"{where}: torchao's {name or kind!r} is not modelled")
    return form if group is None else _packed(form, fields.get("group_size", group), where, zeros=form == "w4a16")


def _half_quadratic(config: Mapping[str, Any], where: str) -> str:
    each = _mapping(_mapping(config.get("quant_config")).get("weight_quant_params"))
    return _integers({"bits": each.get("nbits"), "group_size": each.get("group_size"), "zero_point": True}, where)


def _modelslim(config: Mapping[str, Any], where: str) -> dict[str, str]:
    """MindStudio's words: one for all weights, one for latent attention where it differs, one for the cache."""
    words = {"attention": config.get("mla_quantize") or config.get("quantize"), "dense": config.get("quantize")}
    forms = {kind: _MODELSLIM.get(str(word).lower()) for kind, word in words.items()}
    for kind, form in forms.items():
        if form is None:
            raise NotModelled(f"{where}: quantisation {words[kind]!r} is not modelled")
    return {kind: str(forms["attention" if kind == "attention" else "dense"]) for kind in CLASSES}


_METHODS: Mapping[str, Any] = {
    "torchao": _torchao,
    "hqq": _half_quadratic,
    "modelslim": _modelslim,
    "fp8": _fp8,
    "fbgemm_fp8": "fp8",
    "mxfp4": "mxfp4_w4a16",
    "awq": _integers,
    "gptq": _integers,
    "gptq_marlin": _integers,
    "awq_marlin": _integers,
    "auto-round": _integers,
    "intel/auto-round": _integers,
    "bitsandbytes": _bits_and_bytes,
    "modelopt": _modelopt,
    "modelopt_fp4": lambda config, where: _modelopt({"quant_algo": "NVFP4", **config}, where),
    "compressed-tensors": _compressed,
    "quark": _quark,
    "eetq": "w8a16_g0",
    "experts_int8": {"attention": "bf16", "dense": "bf16", "experts": "w8a16_g0"},
}
