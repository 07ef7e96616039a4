"""Measured latent-attention kernels against ``cost.attend_mla``: "mla_prefill", "mla_decode" and two Ascend operators.

A row is one kernel of one layer of DeepSeek-V3 (128 heads; some A100 rows 64) at one tensor-parallel degree, the
fastest of the serving stacks measured on that machine. ``num_heads`` counts the heads of one rank. Prefill rows hold
the 192/128 attention core and the append to the cache, not the projection of the latent to keys and values.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from taicang import catalog
from taicang.catalog import calibration
from taicang.cost.attend_mla import MlaDecodeFit, MlaFit, MlaPrefillFit, attend_mla, fit_for
from taicang.errors import NotModelled, UnknownName
from taicang.evidence.score import Outcome
from taicang.evidence.split import held_out
from taicang.hardware import Chip
from taicang.ops import Attend
from taicang.plans import Phase

KINDS: Mapping[Phase, type[MlaPrefillFit] | type[MlaDecodeFit]] = MappingProxyType(
    {"prefill": MlaPrefillFit, "decode": MlaDecodeFit}
)
DTYPES = MappingProxyType({"bfloat16": "bf16", "fp8": "fp8"})
LENGTH: Mapping[Phase, str] = MappingProxyType({"prefill": "isl", "decode": "kv_len"})
KV_LORA, ROPE, HEAD = 512.0, 64.0, 128.0
"""Widths of DeepSeek-V2/V3: latent, rotary key, head without its rotary part."""
ASCEND = "ascend-910c"
ASCEND_TABLE = Path(__file__).parent / "data" / "ascend_mla.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The rows of one system and dtype combination as one operator with arrays."""

    system: str
    op: Attend
    ids: tuple[str, ...]
    measured_s: NDArray[np.float64]
    held: NDArray[np.bool_]

    @property
    def combination(self) -> str:
        """Key of the calibrated constants: "dtype/kv_dtype"."""
        return f"{self.op.dtype}/{self.op.kv_dtype}"


def absorbed(
    sequences: NDArray[np.float64], length: NDArray[np.float64], heads: NDArray[np.float64], kv: str
) -> Attend:
    """Decode of one token per sequence over ``length`` cached tokens."""
    tokens = sequences * length
    return Attend(
        kind="mla",
        phase="decode",
        sequences=sequences,
        queries=sequences,
        pairs=tokens,
        context=tokens,
        heads=heads,
        kv_heads=1,
        qk_dim=KV_LORA + ROPE,
        v_dim=KV_LORA,
        dtype="bf16",
        kv_dtype=kv,
    )


def unabsorbed(
    sequences: NDArray[np.float64], length: NDArray[np.float64], heads: NDArray[np.float64], kv: str
) -> Attend:
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


def rows(path: Path, phase: Phase) -> list[Rows]:
    """Read one evidence file, grouped by system and dtypes in the order of the file."""
    groups: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    with path.open(newline="", encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            groups.setdefault((row["system"], row["mla_dtype"], row["kv_cache_dtype"]), []).append(row)
    return [_group(listed, phase) for listed in groups.values()]


def _group(listed: list[dict[str, str]], phase: Phase) -> Rows:
    first = listed[0]

    def column(name: str) -> NDArray[np.float64]:
        return np.array([float(row[name]) for row in listed])

    names = ("mla_dtype", "kv_cache_dtype", "num_heads", "tp_size", "batch_size", LENGTH[phase])
    keys = [tuple(row[name] for name in names) for row in listed]
    make = unabsorbed if phase == "prefill" else absorbed
    return Rows(
        system=first["system"],
        op=make(column("batch_size"), column(LENGTH[phase]), column("num_heads"), DTYPES[first["kv_cache_dtype"]]),
        ids=tuple("/".join((first["system"], *key)) for key in keys),
        measured_s=column("latency_ms_best") * 1e-3,
        held=np.array([held_out(f"mla_{phase}", *key) for key in keys]),
    )


def outcomes(folder: Path) -> list[Outcome]:
    """Price every row of the two files in ``folder``; chips and combinations that are refused say why."""
    phases: tuple[Phase, ...] = ("prefill", "decode")
    return [o for phase in phases for found in rows(folder / f"mla_{phase}.csv", phase) for o in _priced(found, phase)]


def chip_of(system: str) -> Chip:
    """The catalogue's chip for a system name of the evidence ("h100_sxm")."""
    try:
        return catalog.chip(system.removesuffix("_sxm"))
    except UnknownName as why:
        raise NotModelled(str(why)) from None


def calibrated(profile: str, op: Attend) -> MlaFit:
    """The shipped constants for ``op``; ``NotModelled`` where the profile has none."""
    fit: MlaFit
    if op.phase == "prefill":
        fit = fit_for(calibration.fits("mla_prefill", MlaPrefillFit).get(profile, {}), op.dtype, op.kv_dtype)
    else:
        fit = fit_for(calibration.fits("mla_decode", MlaDecodeFit).get(profile, {}), op.dtype, op.kv_dtype)
    return fit


def _priced(found: Rows, phase: Phase) -> list[Outcome]:
    predicted: list[float | None] = [None] * len(found.ids)
    refused = ""
    try:
        chip = chip_of(found.system)
        cost = attend_mla(found.op, chip, calibrated(chip.profile, found.op))
        predicted = [float(s) for s in np.asarray(cost.seconds)]
    except NotModelled as why:
        refused = str(why)
    return [
        Outcome(
            id=name,
            suite=f"mla_{phase}",
            group=f"{found.system} {found.combination}",
            measured=float(measured),
            predicted=value,
            unit="s",
            held_out=bool(held),
            refused=refused,
        )
        for name, measured, value, held in zip(found.ids, found.measured_s, predicted, found.held, strict=True)
    ]


def ascend_rows() -> list[dict[str, str]]:
    """The two published rates of the fused latent-attention operator on one Ascend 910C die."""
    with ASCEND_TABLE.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def ascend_outcomes() -> list[Outcome]:
    """The published rates against the model at shapes far on either side of the ridge; both are calibrated-on rows.

    The paper names no shapes: 128 heads with four query tokens (three drafts) stand for "compute bound", 16 heads with
    one for "memory bound", each 96 sequences of 32,768 tokens, so that the launch floor does not matter.
    """
    chip = catalog.chip(ASCEND)
    listed = []
    for row in ascend_rows():
        heads, drafts = (128.0, 3.0) if row["bound"] == "compute" else (16.0, 0.0)
        op = _verify(heads=heads, queries=1.0 + drafts, dtype=row["dtype"], kv_dtype=row["kv_dtype"])
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


def _verify(*, heads: float, queries: float, dtype: str, kv_dtype: str) -> Attend:
    sequences, length = 96.0, 32768.0
    return Attend(
        kind="mla",
        phase="decode",
        sequences=sequences,
        queries=sequences * queries,
        pairs=sequences * length * queries,
        context=sequences * length,
        heads=heads,
        kv_heads=1,
        qk_dim=KV_LORA + ROPE,
        v_dim=KV_LORA,
        dtype=dtype,
        kv_dtype=kv_dtype,
    )
