"""The number format of the published weights, from ``quantization_config``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taicang.errors import InvalidInput, NotModelled

_PLAIN = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def weight_format(config: Mapping[str, Any] | None, plain: str, where: str) -> tuple[str, bool]:
    """Name of the format (see ``formats``) and whether only the experts are held in it.

    ``config`` is the value of ``quantization_config``, ``plain`` that of ``torch_dtype``. Raises ``NotModelled``.
    """
    if config is None:
        if plain and plain not in _PLAIN:
            raise NotModelled(f"{where}: weights in {plain!r} are not modelled")
        return _PLAIN.get(plain, "bf16"), False
    if not isinstance(config, Mapping):
        raise InvalidInput(f"expected an object, got {config!r}", where=where)
    left = [
        str(name) for key in ("modules_to_not_convert", "ignore", "exclude_modules") for name in config.get(key) or ()
    ]
    experts_only = any("self_attn" in name for name in left)
    method = str(config.get("quant_method", ""))
    algorithm = str(config.get("quant_algo") or "").upper()
    if method == "fp8":
        return _fp8(config.get("weight_block_size"), where), experts_only
    if method == "mxfp4":
        return "mxfp4_w4a16", experts_only
    if algorithm in ("NVFP4", "FP8"):
        return algorithm.lower(), experts_only
    if method in ("awq", "gptq") and config.get("bits", config.get("w_bit")) == 4:
        return "w4a16", experts_only
    if method == "compressed-tensors":
        return _compressed(config, where), experts_only
    raise NotModelled(f"{where}: quantisation {method or algorithm or dict(config)!r} is not modelled")


def _fp8(block: Any, where: str) -> str:
    if block is None:
        return "fp8"
    if list(block) == [128, 128]:
        return "fp8_block"
    raise NotModelled(f"{where}: fp8 weights in blocks of {block!r} are not modelled")


def _compressed(config: Mapping[str, Any], where: str) -> str:
    """Formats of the compressed-tensors library: bits, type and grouping of weights and activations."""
    groups = [g for g in (config.get("config_groups") or {}).values() if isinstance(g, Mapping)]
    if len(groups) != 1:
        raise NotModelled(f"{where}: {len(groups)} groups of differently quantised weights are not modelled")
    weights = groups[0].get("weights") or {}
    inputs = groups[0].get("input_activations") or {}
    key = (weights.get("num_bits"), weights.get("type"), inputs.get("num_bits"), inputs.get("type"))
    known = {
        (4, "int", None, None): "w4a16",
        (4, "int", 8, "int"): "w4a8",
        (8, "int", 8, "int"): "int8",
        (4, "float", 4, "float"): "nvfp4",
    }
    if key == (8, "float", 8, "float"):
        return _fp8(weights.get("block_structure"), where)
    if key not in known:
        raise NotModelled(f"{where}: weights and activations {key} are not modelled")
    return known[key]
