"""Measured latent-attention kernels against ``cost.attend_mla``: "mla_prefill", "mla_decode" and two Ascend operators.

A row is one kernel of one layer of DeepSeek-V3 (128 heads; some A100 rows 64) at one tensor-parallel degree, the
fastest of the serving stacks measured on that machine. ``num_heads`` counts the heads of one rank. Prefill rows hold
the 192/128 attention core and the append to the cache, not the projection of the latent to keys and values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from taicang import catalog
from taicang.catalog import calibration
from taicang.cost.attend_mla import MlaDecodeFit, MlaFit, MlaPrefillFit, attend_mla, fit_for
from taicang.evidence.attention_rows import LENGTH, PHASES, measured, parts
from taicang.evidence.measured import Measured
from taicang.evidence.score import Outcome
from taicang.evidence.tables import CARRIED, Array, Cells, column, lines, number_format
from taicang.ops import Attend
from taicang.plans import Phase
from taicang.units import Count

KINDS: Mapping[Phase, type[Any]] = MappingProxyType({"prefill": MlaPrefillFit, "decode": MlaDecodeFit})
SHAPE = ("mla_dtype", "kv_cache_dtype", "num_heads", "tp_size", "batch_size")
KV_LORA, ROPE, HEAD = 512.0, 64.0, 128.0
"""Widths of DeepSeek-V2/V3: latent, rotary key, head without its rotary part."""
ASCEND = "ascend-910c"
ASCEND_TABLE = CARRIED / "ascend_mla.csv"


def absorbed(
    sequences: Count, length: Count, heads: Count, kv: str, *, dtype: str = "bf16", queries: Count = 1.0
) -> Attend:
    """Decode of ``queries`` tokens per sequence over ``length`` cached tokens."""
    tokens = sequences * length
    return Attend(
        kind="mla",
        phase="decode",
        sequences=sequences,
        queries=sequences * queries,
        pairs=tokens * queries,
        context=tokens,
        heads=heads,
        kv_heads=1,
        qk_dim=KV_LORA + ROPE,
        v_dim=KV_LORA,
        dtype=dtype,
        kv_dtype=kv,
    )


def unabsorbed(sequences: Count, length: Count, heads: Count, kv: str) -> Attend:
    """Prefill of whole prompts of ``length`` tokens."""
    return Attend(
        kind="mla",
        phase="prefill",
        sequences=sequences,
        queries=sequences * length,
        pairs=sequences * (length * (length + 1.0) / 2.0),
        context=sequences * length,
        heads=heads,
        kv_heads=heads,
        qk_dim=HEAD + ROPE,
        v_dim=HEAD,
        dtype="bf16",
        kv_dtype=kv,
    )


def operator(listed: Sequence[Cells], phase: Phase) -> Attend:
    """All lines as one operator of arrays; the arithmetic is told by the cache's format."""
    make = unabsorbed if phase == "prefill" else absorbed
    sequences, length, heads = (column(listed, name) for name in ("batch_size", LENGTH[phase], "num_heads"))
    return make(sequences, length, heads, number_format(listed[0]["kv_cache_dtype"]))


def read(folder: Path, phase: Phase) -> list[Measured[Attend]]:
    """One evidence file, grouped by system and dtypes in the order of the file."""
    return [
        measured(listed, "mla", phase, SHAPE, partial(operator, phase=phase))
        for listed in parts(folder / f"mla_{phase}.csv", *SHAPE)
    ]


def outcomes(folder: Path) -> list[Outcome]:
    """Price every row of the two files in ``folder``; chips and combinations that are refused say why."""
    rows = [found for phase in PHASES for found in read(folder, phase)]
    return [outcome for found in rows for outcome in found.outcomes(partial(_priced, found))]


def _priced(rows: Measured[Attend]) -> Array:
    return seconds(rows, calibrated(rows.chip.profile, rows.op))


def seconds(rows: Measured[Attend], fit: MlaFit) -> Array:
    """Predicted seconds of all rows."""
    return np.asarray(attend_mla(rows.op, rows.chip, fit).seconds)


def calibrated(profile: str, op: Attend) -> MlaFit:
    """The shipped constants for ``op``; ``NotModelled`` where the profile has none."""
    profiles = calibration.fits(f"mla_{op.phase}", KINDS[op.phase])  # type: ignore[arg-type]  # types are hashable
    fit: MlaFit = fit_for(profiles.get(profile, {}), op.dtype, op.kv_dtype)
    return fit


def ascend_rows() -> list[Cells]:
    """The two published rates of the fused latent-attention operator on one Ascend 910C die."""
    return lines(ASCEND_TABLE)


def ascend_outcomes() -> list[Outcome]:
    """The published rates against the model at shapes far on either side of the ridge; both are calibrated-on rows.

    The paper names no shapes: 128 heads with four query tokens (three drafts) stand for "compute bound", 16 heads with
    one for "memory bound", each 96 sequences of 32,768 tokens, so that the launch floor does not matter.
    """
    chip = catalog.chip(ASCEND)
    listed = []
    for row in ascend_rows():
        heads, drafts = (128.0, 3.0) if row["bound"] == "compute" else (16.0, 0.0)
        op = absorbed(96.0, 32768.0, heads, row["kv_dtype"], dtype=row["dtype"], queries=1.0 + drafts)
        cost = attend_mla(op, chip, calibrated(chip.profile, op))
        done = cost.flop if row["bound"] == "compute" else op.context * op.qk_dim * 2.0
        listed.append(
            Outcome(
                id=f"{row['chip']}/mla/{row['bound']}-bound",
                suite="ascend_operators",
                group=f"{row['chip']} mla {row['dtype']}/{row['kv_dtype']}",
                measured=float(row["measured"]),
                predicted=float(done / cost.seconds),
                unit=row["unit"],
                held_out=False,
            )
        )
    return listed
