"""Number formats: how many bytes an element takes and which arithmetic peak a product in it runs at.

Bytes include the scale factors that travel with the data (OCP MX: one 8-bit scale per 32 elements; nvfp4: one per 16;
fp8_block: one fp32 per 128 activations and per 128x128 weights, as DeepSeek-V3's recipe; w4a16, w4a8 and w8a16: one
fp16 per 128 weights; nf4: one fp32 per 64, as bitsandbytes). Other groups stand behind the name: "w4a16_g32" has a
scale per 32 weights, "w4a16_g128z" a zero point beside each scale, "w4a16_g0" a scale per channel, "fp8_block_64x64"
blocks of 64 by 64.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType

from taicang.errors import UnknownName


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One way to hold the weights and activations of a matrix product."""

    name: str
    weight_bytes: float
    activation_bytes: float
    peak: str
    """Key of the chip's arithmetic peak that the product runs at."""
    quantises: bool
    """Whether activations are quantised on the fly (an extra pass, fused or not)."""
    kernel: str
    """Name whose kernels compute it: the name without its grouping."""


def _format(name: str, weight: float, activation: float, peak: str, quantises: bool) -> Format:
    return Format(
        name=name,
        weight_bytes=weight,
        activation_bytes=activation,
        peak=peak,
        quantises=quantises,
        kernel=name,
    )


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        f.name: f
        for f in (
            _format("fp32", 4.0, 4.0, "fp32", False),
            _format("bf16", 2.0, 2.0, "bf16", False),
            _format("fp16", 2.0, 2.0, "fp16", False),
            _format("fp8", 1.0, 1.0, "fp8", True),
            _format("fp8_block", 1.0 + 4 / (128 * 128), 1.0 + 4 / 128, "fp8", True),
            _format("mxfp8", 1.0 + 1 / 32, 1.0 + 1 / 32, "fp8", True),
            _format("int8", 1.0, 1.0, "int8", True),
            _format("w4a8", 0.5 + 2 / 128, 1.0, "int8", True),
            _format("w4a16", 0.5 + 2 / 128, 2.0, "bf16", False),
            _format("w8a16", 1.0 + 2 / 128, 2.0, "bf16", False),
            _format("fp8_w8a16", 1.0, 2.0, "bf16", False),
            _format("nf4", 0.5 + 4 / 64, 2.0, "bf16", False),
            _format("nf4_double", 0.5 + 1 / 64 + 4 / (64 * 256), 2.0, "bf16", False),
            _format("w4a8_fp8", 0.5 + 2 / 128, 1.0, "fp8", True),
            _format("nvfp4_w4a16", 0.5 + 1 / 16, 2.0, "bf16", False),
            _format("mxfp4_w4a16", 0.5 + 1 / 32, 2.0, "bf16", False),
            _format("mxfp4_w4a8", 0.5 + 1 / 32, 1.0 + 1 / 32, "fp8", True),
            _format("mxfp4", 0.5 + 1 / 32, 0.5 + 1 / 32, "fp4", True),
            _format("nvfp4", 0.5 + 1 / 16, 0.5 + 1 / 16, "fp4", True),
        )
    }
)


_GROUPED = re.compile(r"(w4a16|w4a8|w4a8_fp8|w8a16)_g(\d{1,6})(z?)|fp8_block_(\d{1,5})x(\d{1,5})", re.ASCII)


def number_format(name: str) -> Format:
    """Look a format up by name, grouping included; ``UnknownName`` suggests the nearest."""
    found = FORMATS.get(name) or _grouped(name)
    if found is None:
        raise UnknownName("number format", name, FORMATS)
    return found


@cache
def _grouped(name: str) -> Format | None:
    match = _GROUPED.fullmatch(name)
    if match is None:
        return None
    base, group, zeros, rows, columns = match.groups()
    if base is None:
        block = int(rows) * int(columns)
        return replace(FORMATS["fp8_block"], name=name, weight_bytes=1.0 + 4 / block) if block else None
    bits = 8 if base == "w8a16" else 4
    each = 2.0 + (bits / 8 if zeros else 0.0)
    return replace(FORMATS[base], name=name, weight_bytes=bits / 8 + (each / int(group) if int(group) else 0.0))


def lenders(kernel: str, known: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Formats whose measured constants stand for those of ``kernel``, best first: the ``known`` ones, else, where
    weights are widened in registers and multiplied in 16 bits, other such kernels (bytes and peak stay its own)."""
    form = FORMATS[kernel]
    widened = form.peak == "bf16" and form.weight_bytes < form.activation_bytes
    return known.get(kernel, ("w4a16", "bf16") if widened else ())
