"""Choices that the user may leave open: software stack, number formats, and what a model and a machine allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from taicang.errors import NotModelled, UnknownName
from taicang.formats import number_format
from taicang.hardware import Chip, Machine
from taicang.models.types import Attention, GatedLinear, GroupedQuery, Latent, Model, ShortConv, StateSpace, routed
from taicang.plans import Quantisation
from taicang.stacks import Stack

QUANTS = ("auto", "bf16", "fp8", "int8", "w4a8", "w4a16", "w8a16", "nvfp4")
_WORDS = {"w8a8": "int8", "awq": "w4a16", "gptq": "w4a16", "int4": "w4a16", "w8a8_fp8": "fp8", "fp16": "bf16"}
"""Names that people give to schemes."""
_WIDE = {"fp8": "fp8_w8a16", "fp4": "nvfp4_w4a16"}
"""Arithmetic that is lacking -> weights that are widened in registers."""
CACHES = ("auto", "bf16", "fp8", "int8")
_CACHE_WORDS = {
    "fp8_e4m3": "fp8", "fp8_e5m2": "fp8", "fp8_e4m3fn": "fp8", "float8_e4m3fn": "fp8", "fp8_inc": "fp8",
    "bfloat16": "bf16", "float16": "bf16", "fp16": "bf16", "half": "bf16",
}  # fmt: skip
"""What engines call formats of a cache."""
NAMED_QUANTS, NAMED_CACHES = (*QUANTS, *_WORDS), (*CACHES, *_CACHE_WORDS)
"""All that may be asked for, by whatever name."""


def default_stack(machine: Machine, model: Model) -> str:
    """The engine that serves such models on such machines in published results."""
    if machine.chip.ascend:
        latent = isinstance(model.blocks[0].attention, Latent)
        return "cloudmatrix-infer" if latent and machine.ranks >= 32 else "vllm-ascend"
    return "sglang" if isinstance(model.blocks[0].attention, Latent) else "vllm"


def quantisation(name: str, model: Model, chip: Chip, stack: Stack | None = None, kv: str = "auto") -> Quantisation:
    """``formats`` of a scheme, and of a cache, that the user names."""
    scheme = _WORDS.get(name, name)
    if scheme not in QUANTS:
        raise UnknownName("quantisation", name, NAMED_QUANTS, where="--quant")
    cache = _CACHE_WORDS.get(kv, kv)
    if cache not in CACHES:
        raise UnknownName("cache format", kv, CACHES, where="--kv")
    return formats(scheme, model, chip, stack, cache)


def formats(name: str, model: Model, chip: Chip, stack: Stack | None = None, kv: str = "auto") -> Quantisation:
    """Formats by the checkpoint's own ("auto"), or as asked; a format without arithmetic on ``chip`` is refused.

    Weights that ``stack`` widens stay as they are, and products run in 16 bits. Other checkpoints in fp8 become int8
    where the chip has int8 and no fp8, else bf16. The cache has the format ``kv``; left open, that of the checkpoint,
    or what ``stack`` gives the cache of a model in fp8 or fp4.
    """
    peaks = chip.peak_flop_per_s
    if name == "auto":
        forms = {kind: _on(chip, form, stack) for kind, form in model.formats.items()}
        form = _on(chip, model.dtype, stack)
    else:
        form = "fp8_block" if (name, model.dtype) == ("fp8", "fp8_block") else name
        form, forms = _widened(chip, form, stack) or form, {}
    for each in {form, *forms.values()}:
        _needs(chip, number_format(each).peak, each)
    found = _by_class(form, model, forms)
    if kv != "auto":
        if kv != "bf16":
            _needs(chip, kv, f"a cache in {kv}")
        found = replace(found, kv=kv)
    elif name == "auto" and model.kv_dtype and (model.kv_dtype in peaks or model.kv_dtype == "bf16"):
        found = replace(found, kv=model.kv_dtype)
    elif "fp8" in peaks and (cache := _kept(form, stack)):
        found = replace(found, kv=cache)
    elif name == "auto":  # what a checkpoint does not say of its cache, engines do not assume
        found = replace(found, kv="bf16")
    return found if "fp8" in peaks else replace(found, index="bf16")


def _kept(form: str, stack: Stack | None) -> str:
    """The cache's format where ``stack`` decides it for weights in ``form``; "" where it is left to the checkpoint."""
    if stack is None or not form.startswith(("fp8", "mxfp", "nvfp")):
        return ""
    return stack.quantised_cache or (stack.stated_cache if form in ("fp8", "nvfp4") else "")


def remade(model: Model, quant: Quantisation) -> str:
    """What says that the published weights have to be quantised anew for ``quant``; "" where they serve as they are."""
    kind = "experts" if routed(model) else "dense"
    own, planned = model.formats[kind], getattr(quant, kind)
    if own.partition("_")[0] == planned.partition("_")[0] or own in ("bf16", "fp16", "fp32"):
        return ""
    return f"the checkpoint is published in {own}: its weights have to be converted to {planned} before they are served"


def _widened(chip: Chip, form: str, stack: Stack | None) -> str:
    """What ``stack`` makes of weights in ``form`` whose arithmetic ``chip`` lacks: products in 16 bits ("": refused).

    The kernels (Marlin) are for NVIDIA's tensor cores from those on that have bf16.
    """
    lacks = number_format(form).peak not in chip.peak_flop_per_s
    able = stack is not None and form in stack.widened and chip.vendor == "NVIDIA" and "bf16" in chip.peak_flop_per_s
    return _WIDE[number_format(form).peak] if lacks and able else ""


def _on(chip: Chip, form: str, stack: Stack | None) -> str:
    """The format that engines serve a checkpoint of ``form`` in on ``chip``."""
    peaks = chip.peak_flop_per_s
    if wide := _widened(chip, form, stack):
        return wide
    if form.startswith(("fp8", "mxfp8")) and number_format(form).peak not in peaks:
        return "int8" if "int8" in peaks else "bf16"
    if form == "mxfp4_w4a16" and "fp4" in peaks:
        return "mxfp4_w4a8"
    return "mxfp4_w4a16" if form.startswith("mxfp4") and number_format(form).peak not in peaks else form


def _needs(chip: Chip, peak: str, what: str) -> None:
    peaks = chip.peak_flop_per_s
    if peak in ("fp8", "int8", "fp4") and peak not in peaks:
        raise NotModelled(
            f"{chip.name} has no {peak} arithmetic, which {what} needs (it has {', '.join(sorted(peaks))})"
        )


def _by_class(form: str, model: Model, forms: Mapping[str, str]) -> Quantisation:
    """The format of each tensor class under the scheme ``form``; ``forms`` where they are the checkpoint's own."""
    if form in ("bf16", "fp16"):
        return Quantisation()
    if form.startswith("mxfp4"):
        forms = forms or {"attention": "bf16", "dense": "bf16"}
    whole = _whole(form, model)
    mixed = {kind: each for kind, each in forms.items() if each != form}
    if any(block.plain for block in model.blocks) and forms:
        whole = replace(whole, spares=True)
    if "experts" not in mixed and mixed.get("attention") == mixed.get("dense") == "bf16":
        whole = replace(whole, dispatch="bf16", kv="bf16")  # activations between layers stay in 16 bits
    apart: dict[str, Any] = {kind: "bf16" if each in ("fp16", "fp32") else each for kind, each in mixed.items()}
    return replace(whole, **apart)


def _whole(form: str, model: Model) -> Quantisation:
    if form == "w4a8":
        # the bulk of the weights has four bits: the experts, or a dense model's feed-forward
        return Quantisation(
            attention="int8", dense="int8" if routed(model) else "w4a8", experts="w4a8", dispatch="int8"
        )
    if form == "nvfp4":
        latent = isinstance(model.blocks[0].attention, Latent)
        return Quantisation(
            attention="bf16" if latent else "nvfp4", dense="nvfp4", experts="nvfp4", kv="fp8", dispatch="nvfp4"
        )
    stays = number_format(form).peak == "bf16"
    send = "int8" if form == "int8" else "bf16" if stays else "fp8"
    return Quantisation(attention=form, dense=form, experts=form, dispatch=send)


def _heads(kind: Attention) -> int:
    if isinstance(kind, ShortConv):
        return kind.width
    return kind.k_heads if isinstance(kind, GatedLinear) else kind.heads


def divides(model: Model, tp: int) -> bool:
    """Whether ``tp`` ranks can share the heads of every layer."""
    for block in model.blocks:
        kind = block.attention
        heads = _heads(kind)
        if tp > heads or heads % tp:
            return False
        if isinstance(kind, GroupedQuery) and max(kind.kv_heads, tp) % min(kind.kv_heads, tp):
            return False
        if isinstance(kind, StateSpace) and kind.groups > 1 and kind.groups % tp:
            return False
    return True
