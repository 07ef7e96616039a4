"""Words that commands and studies share (no imports here: ``--help`` reads them)."""

MODES = {
    "agg": ("aggregated",),
    "disagg": ("disaggregated",),
    "both": ("aggregated", "disaggregated"),
    "decode": ("decode",),
}
"""Kinds of layouts by the word of ``--mode``."""
