"""Rows of published serving results, in the words of the file: what ran where, how it was loaded, what was measured."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taicang.catalog.models import model
from taicang.errors import NotModelled
from taicang.evidence.split import held_out
from taicang.evidence.tables import lines
from taicang.models.types import Model

FILE = "published_serving.csv"

MACHINES: Mapping[str, str] = {
    "A100-80G": "hgx-a100",
    "B200": "hgx-b200",
    "B300": "hgx-b300",
    "GB200": "gb200-nvl72",
    "GB300": "gb300-nvl72",
    "H100-SXM": "hgx-h100",
    "H20-96G": "hgx-h20",
    "H200-SXM": "hgx-h200",
    "H200-NVL(PCIe)": "h200-nvl",
    "H800-SXM": "hgx-h800",
    "MI300X": "mi300x-8",
    "MI325X": "mi325x-8",
}
"""Chip of a row -> the machine of the catalogue that carries it."""

LENGTHS: Mapping[str, tuple[float, float, float]] = {
    "OpenOrca": (294.0, 294.45, 1.0),
    "CNN-DailyMail": (778.0, 128.0, 0.0),
    "LongBench+Ruler+GovReport": (9428.0, 684.68, 1.0),
    "mlperf_deepseek_r1": (800.0, 3886.2, 1.0),
}
"""Mean prompt and answer of the MLPerf data sets in tokens, and the answers' spread (deviation over mean).

Answers: ``tokens_per_sample`` of MLCommons' reference accuracy (294.45 for Llama-2-70B, 684.68 for Llama-3.1-405B,
3,886.2 for DeepSeek-R1); for Llama-3.1-8B the reference generates 8,167,644 characters over 13,368 samples, 611 each,
which is the benchmark's limit of 128 tokens. Prompts: MLCommons' posts on the v5.0 and v5.1 benchmarks for
Llama-3.1-405B (9,428) and Llama-3.1-8B (778); about 294 for Open Orca and about 800 for DeepSeek-R1 are assumed.
Spread: assumed exponential, none where the limit cuts every answer.
"""

QUEUES: Mapping[str, tuple[float, float]] = {
    "OpenOrca": (24576.0, 1024.0),
    "CNN-DailyMail": (13368.0, 128.0),
    "LongBench+Ruler+GovReport": (8313.0, 20000.0),
    "mlperf_deepseek_r1": (4388.0, 20000.0),
}
"""Samples of each data set and the longest answer that the benchmark allows (MLCommons' inference rules)."""
RUN_S = 600.0
"""Least duration of an MLPerf run."""

PROMPTS: Mapping[str, float] = {"lm-arena-chat": 200.0, "gpqa": 250.0}
"""Assumed mean prompt of the ML.ENERGY tasks, which the file leaves out: a chat turn, a multiple-choice question."""

_BALANCED = re.compile(r"balanced routing|perfect EPLB|random routing", re.IGNORECASE)
_ACCEPTED = re.compile(r"accept(?:ance)?(?: length)? (\d\.\d+)-(\d\.\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One published result."""

    id: str
    source: str
    system: str
    chip: str
    count: int
    """Chips; 0 where the source does not say."""
    model: str
    dtype: str
    par: Mapping[str, Any]
    batch: Mapping[str, Any]
    seq: Mapping[str, Any]
    metric: str
    value: float
    unit: str
    grade: str
    role: str
    extra: Mapping[str, Any]
    notes: str

    @property
    def net(self) -> Model:
        """The model; raises as ``catalog.models.model``."""
        return model(self.model)

    @property
    def held_out(self) -> bool:
        """Kept from every fit: by the row's role, where the file leaves that open by the evidence split."""
        return held_out(self.id) if self.role == "either" else self.role != "calibration"

    @property
    def context(self) -> bool:
        """Told apart from the headline: ambiguous (grade C) or given for context."""
        return self.role == "context" or self.grade == "C"

    @property
    def machine(self) -> str:
        """Name of one machine of the catalogue; ``NotModelled`` for a chip that it lacks."""
        try:
            return MACHINES[self.chip]
        except KeyError:
            raise NotModelled(f"no machine of the catalogue carries {self.chip}") from None

    @property
    def phase(self) -> str:
        """ "prefill", "decode" or another word of the source; "" where it says none."""
        return str(self.par.get("phase", ""))

    @property
    def balanced(self) -> bool:
        """Whether the source says that tokens were routed evenly over the experts."""
        return bool(_BALANCED.search(self.notes))

    @property
    def accepted(self) -> float | None:
        """Tokens that a sequence gains per step, where the source says how many drafts were accepted."""
        found = _ACCEPTED.search(self.notes)
        return None if found is None else (float(found[1]) + float(found[2])) / 2

    @property
    def spread(self) -> float:
        """Deviation of the answers' lengths over their mean; 0 for synthetic loads of one length."""
        return LENGTHS.get(str(self.seq.get("dataset")), (0.0, 0.0, 0.0))[2]

    def lengths(self) -> tuple[float, float]:
        """Mean prompt and answer in tokens; ``NotModelled`` where the source does not tell."""
        if (dataset := self.seq.get("dataset")) is not None:
            if dataset not in LENGTHS:
                raise NotModelled(f"no published mean lengths of the data set {dataset}")
            return LENGTHS[dataset][:2]
        if (task := self.seq.get("task")) is not None:
            if task not in PROMPTS:
                raise NotModelled(f"no assumed prompt length of the task {task}")
            return PROMPTS[task], float(self.seq["avg_osl"])
        if "kv_len" in self.seq:
            return float(self.seq["kv_len"]), 1.0
        if "isl" not in self.seq:
            raise NotModelled("the source gives no sequence lengths")
        return float(self.seq["isl"]), float(self.seq.get("osl", 1.0))


def read(path: Path) -> list[Published]:
    """Rows of the file."""
    return [_row(cells) for cells in lines(path)]


def _row(cells: Mapping[str, str]) -> Published:
    def mapping(key: str) -> Mapping[str, Any]:
        loaded = json.loads(cells[key]) if cells[key] else {}
        return loaded if isinstance(loaded, dict) else {}

    return Published(
        id=cells["id"],
        source=cells["src"],
        system=cells["system"],
        chip=cells["chip"],
        count=int(float(cells["count"])) if cells["count"] else 0,
        model=cells["model"],
        dtype=cells["dtype"],
        par=mapping("par"),
        batch=mapping("batch"),
        seq=mapping("seq"),
        metric=cells["metric"],
        value=float(cells["value"]),
        unit=cells["unit"],
        grade=cells["grade"],
        role=cells["role"],
        extra=mapping("extra"),
        notes=cells["notes"],
    )
