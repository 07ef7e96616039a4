"""The evidence that the package carries: published figures whole, measured tables thinned, in columns that suites read.

``python tests/golden/carry.py FOLDER`` writes it from an evidence folder; it is kept below two megabytes. Which rows of
a table are carried is decided by their keys (a hash of all cells but the measured ones), so that the choice cannot
favour rows that are predicted well. Free text is left behind but for the words that decide how a row is read.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from taicang import output
from taicang.evidence.tables import BOARD as FOLDER

WHOLE: Mapping[str, str] = MappingProxyType(
    {
        "served_e2e.csv": "column source: InferenceX (SemiAnalysis) or runs that NVIDIA published with AIConfigurator",
        "published_serving.csv": "column src",
        "published_training.csv": "column src",
        "published_collective.csv": "column src",
    }
)
"""Tables carried whole -> where each row says its source."""

KERNELS = "ai-dynamo/aiconfigurator system tables (NVIDIA, Apache-2.0): silicon measurements of single kernels"
THINNED: Mapping[str, int] = MappingProxyType(
    {
        "gemm.csv": 320,
        "attention_prefill_gqa.csv": 240,
        "attention_decode_gqa.csv": 240,
        "mla_prefill.csv": 160,
        "mla_decode.csv": 160,
        "moe_experts.csv": 280,
        "moe_wideep.csv": 240,
        "nccl.csv": 240,
        "custom_allreduce.csv": 200,
        "alltoall_trtllm_gb200.csv": 160,
        "deepep_low_latency.csv": 120,
        "deepep_normal.csv": 200,
    }
)
"""Kernel tables -> rows carried."""

_SAID = re.compile(
    r"balanced routing|perfect EPLB|random routing|accept(?:ance)?(?: length)? \d\.\d+-\d\.\d+|SHARP|NVLS off|NVLS",
    re.IGNORECASE,
)
_MEASURED = re.compile(r"latency|_us$|gbps$|silicon_|^value$")


def write(folder: Path) -> Path:
    """Write the carried tables from the evidence in ``folder``; returns the folder written."""
    whole, thinned = {}, {}
    for name in WHOLE:
        rows = _read(folder / name)
        for row in rows:
            if "notes" in row:
                row["notes"] = "; ".join(_SAID.findall(row["notes"]))
        whole[name] = _table(rows)
    for name, most in THINNED.items():
        rows = _read(folder / "kernels" / name)
        chosen = set(sorted(range(len(rows)), key=lambda i: _rank(rows[i]))[:most])
        thinned[name] = _table([row for i, row in enumerate(rows) if i in chosen])
    listed = [f"{name}: {where}" for name, where in WHOLE.items()]
    listed += [f"kernels/{name}: {KERNELS}; {most} rows by hash of their keys" for name, most in THINNED.items()]
    output.write(thinned, FOLDER / "kernels", "carried tables")
    output.write(whole | {"SOURCES.txt": "\n".join(listed) + "\n"}, FOLDER, "carried tables")
    return FOLDER


def _rank(row: Mapping[str, str]) -> str:
    key = "|".join(f"{name}={cell}" for name, cell in row.items() if not _MEASURED.search(name))
    return hashlib.sha256(key.encode()).hexdigest()


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def _table(rows: list[dict[str, str]]) -> str:
    made = io.StringIO()
    writer = csv.DictWriter(made, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return made.getvalue()


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
