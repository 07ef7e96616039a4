"""Rows of published serving results, in the words of the file: what ran where, how it was loaded, what was measured."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from taicang.catalog.models import model
from taicang.catalog.rules import section, settings
from taicang.errors import NotModelled
from taicang.evidence.split import held_out
from taicang.evidence.tables import CARRIED, lines, record
from taicang.models.types import Model

FILE = "published_serving.csv"

RULES = CARRIED / "rules" / "published.yaml"
"""The file of rules for these rows."""
RUN_S = 600.0
"""Least duration of an MLPerf run."""

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
        machines = section(RULES, "machines")
        if self.chip not in machines:
            raise NotModelled(f"no machine of the catalogue carries {self.chip}")
        return str(machines[self.chip])

    @property
    def of_source(self) -> Mapping[str, Any]:
        """What the rules say of the row's source: its suite and the stack of its epoch."""
        first = self.source.split("_")[0]
        facts = {"source": self.source, "first": first, "chip": self.chip, "vllm": "vllm" in self.system.lower()}
        return {"stack": first} | settings(RULES, "sources", facts)

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
        if "accepted" in self.extra:
            return float(self.extra["accepted"])
        found = _ACCEPTED.search(self.notes)
        return None if found is None else (float(found[1]) + float(found[2])) / 2

    @property
    def spread(self) -> float:
        """Deviation of the answers' lengths over their mean; 0 for synthetic loads of one length."""
        known = section(RULES, "data_sets").get(self.seq.get("dataset"))
        return float(known["spread"]) if known else 0.0

    def lengths(self) -> tuple[float, float]:
        """Mean prompt and answer in tokens; ``NotModelled`` where the source does not tell."""
        if (dataset := self.seq.get("dataset")) is not None:
            known = section(RULES, "data_sets").get(dataset)
            if known is None:
                raise NotModelled(f"no published mean lengths of the data set {dataset}")
            return known["prompt"], known["answer"]
        if (task := self.seq.get("task")) is not None:
            prompts = section(RULES, "tasks")
            if task not in prompts:
                raise NotModelled(f"no assumed prompt length of the task {task}")
            return prompts[task], float(self.seq["avg_osl"])
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

    row = record(
        Published,
        dict(cells),
        source=cells["src"],
        count=int(float(cells["count"])) if cells["count"] else 0,
        par=mapping("par"),
        batch=mapping("batch"),
        seq=mapping("seq"),
        extra=mapping("extra"),
    )
    return completed(row)


def completed(row: Published) -> Published:
    """``row`` with what its source states beside the columns of the file."""
    facts = {"source": row.source, "model": row.model, "phase": row.phase, "mtp": str(row.par.get("mtp", ""))}
    said = settings(RULES, "readings", facts)
    told: dict[str, Any] = {column: {**getattr(row, column), **values} for column, values in said.items()}
    return replace(row, **told)
