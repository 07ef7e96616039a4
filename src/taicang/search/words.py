"""Words that commands and studies share (nothing is imported here: ``--help`` reads them)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taicang.search.result import Mode

MODES: dict[str, tuple[Mode, ...]] = {
    "agg": ("aggregated",),
    "disagg": ("disaggregated",),
    "both": ("aggregated", "disaggregated"),
    "decode": ("decode",),
}
"""Kinds of layouts by the word of ``--mode``."""
