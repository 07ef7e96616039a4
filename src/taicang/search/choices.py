"""Choices that the user may leave open: software stack, number formats, and what a model and a machine allow."""

from __future__ import annotations

from dataclasses import replace

from taicang.errors import NotModelled, UnknownName
from taicang.hardware import Chip, Machine
from taicang.models.types import Attention, GatedLinear, GroupedQuery, Latent, Model, StateSpace, routed
from taicang.plans import Quantisation
from taicang.stacks import Stack

QUANTS = ("auto", "bf16", "fp8", "int8", "w4a8", "nvfp4")


def default_stack(machine: Machine, model: Model) -> str:
    """The engine that serves such models on such machines in published results."""
    if machine.chip.ascend:
        latent = isinstance(model.blocks[0].attention, Latent)
        return "cloudmatrix-infer" if latent and machine.ranks >= 32 else "vllm-ascend"
    return "sglang" if isinstance(model.blocks[0].attention, Latent) else "vllm"


def quantisation(name: str, model: Model, chip: Chip, stack: Stack | None = None) -> Quantisation:
    """``formats`` of a scheme that the user names."""
    if name not in QUANTS:
        raise UnknownName("quantisation", name, QUANTS, where="--quant")
    return formats(name, model, chip, stack)


def formats(name: str, model: Model, chip: Chip, stack: Stack | None = None) -> Quantisation:
    """Formats by the checkpoint's own ("auto"), or as asked; a format without arithmetic on ``chip`` is refused.

    A block-fp8 checkpoint becomes int8 where the chip has int8 and no fp8 (Ascend), else bf16. The cache of a model in
    fp8 or fp4 has the format that ``stack`` gives it.
    """
    peaks = chip.peak_flop_per_s
    form = name
    if name == "auto":
        form = model.dtype
        if form.startswith("fp8") and "fp8" not in peaks:
            form = "int8" if "int8" in peaks else "bf16"
        if form.startswith("mxfp4"):
            form = "mxfp4_w4a8" if "fp4" in peaks else "mxfp4_w4a16"
    elif name == "fp8" and model.dtype == "fp8_block":
        form = "fp8_block"
    need = {"fp8": "fp8", "fp8_block": "fp8", "int8": "int8", "w4a8": "int8", "nvfp4": "fp4"}.get(form)
    if need and need not in peaks:
        raise NotModelled(
            f"{chip.name} has no {need} arithmetic, which {form} needs (it has {', '.join(sorted(peaks))})"
        )
    found = _by_class(form, model, named=name != "auto")
    if stack is not None and stack.quantised_cache and form.startswith(("fp8", "mxfp", "nvfp")) and "fp8" in peaks:
        found = replace(found, kv=stack.quantised_cache)
    return found if "fp8" in peaks else replace(found, index="bf16")


def _by_class(form: str, model: Model, *, named: bool) -> Quantisation:
    """The format of each tensor class under the scheme ``form``; ``named`` by the user, not the checkpoint's own."""
    if form in ("bf16", "fp16"):
        return Quantisation()
    if form.startswith("mxfp4") or (not named and model.experts_only):
        return Quantisation(experts=form)
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
    send = {"int8": "int8", "w4a16": "bf16"}.get(form, "fp8")
    return Quantisation(attention=form, dense=form, experts=form, dispatch=send)


def _heads(kind: Attention) -> int:
    if isinstance(kind, GatedLinear):
        return kind.k_heads
    return kind.groups if isinstance(kind, StateSpace) else kind.heads


def divides(model: Model, tp: int) -> bool:
    """Whether ``tp`` ranks can share the heads of every layer."""
    for block in model.blocks:
        kind = block.attention
        heads = _heads(kind)
        if tp > heads or heads % tp:
            return False
        if isinstance(kind, GroupedQuery) and max(kind.kv_heads, tp) % min(kind.kv_heads, tp):
            return False
    return True
