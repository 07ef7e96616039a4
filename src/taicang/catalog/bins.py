"""Kernel constants for bins of a measured chip whose matrix peak alone was cut.

What a kernel loses against the matrix peak it loses to the rest of the core: issue slots, scaling of blocks, softmax,
copies into shared memory, beside the matrix units (the root of the sum of squares of both times, as elsewhere).
A bin with slower matrix units and the same rest spends no more seconds on the rest than the whole chip: per FLOP, and
relative to its own peak, sqrt(1 / efficiency^2 - 1) x (its matrix over vector rate, relative to the whole chip's). The
efficiency that follows is nearer to one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from taicang.cost.model import Book
from taicang.hardware import Chip

T = TypeVar("T")

EFFICIENCIES = ("compute_efficiency_ratio", "matrix_efficiency_ratio", "compute_ratio")
"""Fields that hold a share of the matrix peak."""
CUT_RATIO = 0.5
"""Matrix over vector rate, relative to the measured chip's, below which a bin counts as cut."""


def cut_ratio(chip: Chip, reference: Chip) -> float:
    """Matrix peak over vector rate of ``chip``, relative to ``reference``; 1 for chips of other vendors.

    A bin has no more vector units than the whole chip: of one that has, a later design, only the matrix peaks are told.
    """
    if chip.vendor != reference.vendor or not reference.vector_flop_per_s or not chip.vector_flop_per_s:
        return 1.0
    form = "bf16" if "bf16" in chip.peak_flop_per_s else "fp16"
    own = chip.peak(form) / min(chip.vector_flop_per_s, reference.vector_flop_per_s)
    return own / (reference.peak(form) / reference.vector_flop_per_s)


def for_bin(book: Book, chip: Chip, reference: Chip) -> Book:
    """``book``, fitted on ``reference``, for ``chip``; itself where the matrix peak was not cut."""
    cut = cut_ratio(chip, reference)
    if cut >= CUT_RATIO:
        return book
    changed: dict[str, Any] = {}
    for name in ("gemm", "gqa_prefill", "mla_prefill", "mla_decode", "experts"):
        fits: Mapping[str, Any] = getattr(book, name)
        changed[name] = {key: _nearer(fit, cut) for key, fit in fits.items()}
    return replace(book, **changed)


def _nearer(fit: T, cut: float) -> T:
    for field in fields(fit):  # type: ignore[arg-type]
        if field.name in EFFICIENCIES:
            share = getattr(fit, field.name)
            return replace(fit, **{field.name: 1.0 / math.sqrt(1.0 + (1.0 / share**2 - 1.0) * cut * cut)})  # type: ignore[type-var]
    return fit
