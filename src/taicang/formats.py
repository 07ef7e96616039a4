"""Number formats: how many bytes an element takes and which arithmetic peak a product in it runs at.

Bytes include the scale factors that travel with the data (OCP MX: one 8-bit scale per 32 elements; nvfp4: one per 16;
fp8_block: one fp32 per 128 activations and per 128x128 weights, as DeepSeek-V3's recipe).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


def _format(name: str, weight: float, activation: float, peak: str, quantises: bool) -> Format:
    return Format(name=name, weight_bytes=weight, activation_bytes=activation, peak=peak, quantises=quantises)


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
            _format("mxfp4_w4a16", 0.5 + 1 / 32, 2.0, "bf16", False),
            _format("mxfp4_w4a8", 0.5 + 1 / 32, 1.0 + 1 / 32, "fp8", True),
            _format("mxfp4", 0.5 + 1 / 32, 0.5 + 1 / 32, "fp4", True),
            _format("nvfp4", 0.5 + 1 / 16, 0.5 + 1 / 16, "fp4", True),
        )
    }
)


def number_format(name: str) -> Format:
    """Look a format up by name; ``UnknownName`` suggests the nearest."""
    try:
        return FORMATS[name]
    except KeyError:
        raise UnknownName("number format", name, FORMATS) from None
