"""Evidence files of any name: recognised by their columns, and scored row by row where a whole file cannot be.

A suite reads its own file names in an evidence folder. A file that a user brings is staged under the name of its kind
in an empty folder; a row that its suite cannot read is found by halving and becomes a refusal with its reason, so that
one odd line, an unknown machine or a missing column costs coverage and nothing else.
"""

from __future__ import annotations

import csv
import importlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TypeAlias

from taicang.errors import InvalidInput, TaicangError
from taicang.evidence import intake_ascend
from taicang.evidence.score import Outcome

NONE = "none"
"""Module of rows that no suite predicts."""

Cells: TypeAlias = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of evidence file: where its suite looks for it, what tells it, and where it states what was measured."""

    file: str
    module: str
    columns: frozenset[str]
    measured: Mapping[str, tuple[str, str]]
    """Suite -> (column, unit of the column)."""
    says: str = ""
    """Content of the column ``kind``, where several kinds share their columns."""


def _kind(columns: str, suite: str, file: str, stated: str, module: str = "", says: str = "") -> Kind:
    column, unit = stated.split("/")
    return Kind(
        file=file,
        module=module or f"suite_{suite.split('_', maxsplit=1)[0]}",
        columns=frozenset(columns.split()),
        measured=MappingProxyType({suite: (column, unit)}),
        says=says,
    )


_BEST = "latency_ms_best/ms"
_MEAN = "latency_ms/ms"
_VALUE = "value/"
_PUBLISHED = "kind metric value src"
_EXCHANGE = "suite_exchange"
KINDS = (
    Kind(
        file="served_e2e.csv",
        module="suite_served",
        columns=frozenset(["model_path", "system", "isl", "osl", "concurrency", "silicon_tpot_ms"]),
        measured=MappingProxyType(
            {"served_tpot": ("silicon_tpot_ms", "ms"), "served_ttft": ("silicon_ttft_ms", "ms")},
        ),
    ),
    _kind(_PUBLISHED, "published", "published_serving.csv", _VALUE, says="serving"),
    _kind(_PUBLISHED, "training", "published_training.csv", _VALUE, says="training"),
    _kind(_PUBLISHED, "published_collective", "published_collective.csv", _VALUE, "suite_collective", "collective"),
    _kind(_PUBLISHED, "published_operator", "published_operator.csv", _VALUE, NONE, "operator"),
    _kind("gemm_dtype m n k latency_ms_best", "gemm", "kernels/gemm.csv", _BEST),
    _kind("attn_dtype isl latency_ms_best", "attend_prefill", "kernels/attention_prefill_gqa.csv", _BEST),
    _kind("attn_dtype kv_len latency_ms_best", "attend_decode", "kernels/attention_decode_gqa.csv", _BEST),
    _kind("mla_dtype isl latency_ms_best", "mla_prefill", "kernels/mla_prefill.csv", _BEST),
    _kind("mla_dtype kv_len latency_ms_best", "mla_decode", "kernels/mla_decode.csv", _BEST),
    _kind("moe_dtype inter_size latency_ms_best", "experts", "kernels/moe_experts.csv", _BEST),
    _kind("moe_dtype inter_size num_slots latency_ms", "experts_wideep", "kernels/moe_wideep.csv", _MEAN),
    _kind("nccl_dtype message_size latency_ms", "nccl", "kernels/nccl.csv", _MEAN, "suite_collective"),
    _kind(
        "allreduce_dtype message_size latency_ms",
        "allreduce",
        "kernels/custom_allreduce.csv",
        _MEAN,
        "suite_collective",
    ),
    _kind("moe_dtype op_name topk latency_ms", "alltoall_gb200", "kernels/alltoall_trtllm_gb200.csv", _MEAN, _EXCHANGE),
    _kind(
        "num_topk dispatch_avg_t_us", "deepep_ll", "kernels/deepep_low_latency.csv", "dispatch_avg_t_us/us", _EXCHANGE
    ),
    _kind(
        "num_topk dispatch_transmit_us",
        "deepep_normal",
        "kernels/deepep_normal.csv",
        "dispatch_transmit_us/us",
        _EXCHANGE,
    ),
)


def outcomes(path: Path) -> list[Outcome]:
    """Outcomes of one file. Raises ``InvalidInput`` for a file of no known kind."""
    if path.suffix in (".yaml", ".yml"):
        return intake_ascend.step_outcomes(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle)
            header, rows = set(reader.fieldnames or ()), [_clean(row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"cannot read this file ({error})", where=str(path)) from None
    fitting = [kind for kind in KINDS if kind.columns <= header]
    if not fitting:
        raise InvalidInput(
            f"no kind of evidence has the columns {', '.join(sorted(header)) or '(none)'}", where=str(path)
        )
    if not fitting[0].says:
        return of_kind(max(fitting, key=lambda kind: len(kind.columns)), rows)
    return [outcome for kind in fitting for outcome in _published(kind, [r for r in rows if r["kind"] == kind.says])]


def _clean(row: Mapping[str | None, str | list[str] | None]) -> dict[str, str]:
    """A line with every cell a text: short lines lack cells, long ones carry more than the header names."""
    return {str(key): value if isinstance(value, str) else "" for key, value in row.items() if key is not None}


def _published(kind: Kind, rows: Sequence[Cells]) -> list[Outcome]:
    ascend = [row for row in rows if intake_ascend.is_ascend(row)]
    others = [row for row in rows if not intake_ascend.is_ascend(row)]
    return [*(intake_ascend.row_outcome(row) for row in ascend), *of_kind(kind, others)]


def of_kind(kind: Kind, rows: Sequence[Cells]) -> list[Outcome]:
    """Outcomes of rows of one kind, in their order as far as the suite keeps it."""
    if not rows:
        return []
    if kind.module == NONE:
        return [o for i, row in enumerate(rows) for o in refused(kind, row, i, "no suite predicts such rows yet")]
    module = importlib.import_module(f"taicang.evidence.{kind.module}")
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "kernels").mkdir()
        reads_kernels = kind.file.startswith("kernels/") and kind.module not in ("suite_gemm", "suite_collective")
        run = _Runner(
            kind=kind,
            file=folder / kind.file,
            call=lambda: module.outcomes(folder / "kernels" if reads_kernels else folder),
        )
        known = frozenset(outcome.id for outcome in run.call())  # what the package carries is not in the file
        found = run.halved(list(enumerate(rows)), known)
    return [_in_unit_of_file(outcome, kind) for outcome in [*found, *_left_out(kind, rows, found)]]


def _left_out(kind: Kind, rows: Sequence[Cells], found: Sequence[Outcome]) -> Iterator[Outcome]:
    """Refusals of the rows with a name that their suite passed over."""
    seen = {outcome.id for outcome in found}
    for index, row in enumerate(rows):
        name = row.get("id")
        if name and not any(f"{name}{part}" in seen for part in ("", "-token", "-power")):
            yield from refused(
                kind, row, index, f"the suite takes no {row.get('metric') or 'such'} rows of this source"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Runner:
    kind: Kind
    file: Path
    call: Callable[[], Sequence[Outcome]]

    def halved(self, rows: list[tuple[int, Cells]], known: frozenset[str]) -> list[Outcome]:
        """Outcomes of the rows; those that cannot even be read are found by halving."""
        try:
            return self._all(rows, known)
        except Exception as error:  # whatever a reader stumbles over must not take the other rows with it
            if len(rows) == 1:
                return list(refused(self.kind, rows[0][1], rows[0][0], reason(error)))
        middle = len(rows) // 2
        return self.halved(rows[:middle], known) + self.halved(rows[middle:], known)

    def _all(self, rows: list[tuple[int, Cells]], known: frozenset[str]) -> list[Outcome]:
        with self.file.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, list(rows[0][1]))
            writer.writeheader()
            writer.writerows(row for _, row in rows)
        try:
            mine = [o for o in self.call() if o.id not in known]
        finally:
            self.file.unlink()
        found = [o for o in mine if any(o.suite.startswith(suite) for suite in self.kind.measured)]
        return [sound(outcome) for outcome in found]


def reason(error: Exception) -> str:
    """Why a row could not be read, in words."""
    if isinstance(error, TaicangError):
        return str(error)
    if isinstance(error, KeyError):
        return f"no entry for {error.args[0]!r}" if error.args else "a missing entry"
    return f"cannot read this row: {error}"


def sound(outcome: Outcome) -> Outcome:
    """The outcome, or a refusal where either number is none that an error can be taken of."""
    said = outcome.predicted
    if not (math.isfinite(outcome.measured) and outcome.measured > 0):
        return replace(outcome, predicted=None, refused=outcome.refused or "the row states no positive measured value")
    if said is not None and not (math.isfinite(said) and said > 0):
        return replace(outcome, predicted=None, refused=f"the prediction is {said}")
    return outcome


def refused(kind: Kind, row: Cells, index: int, why: str) -> Iterator[Outcome]:
    """One refusal per figure that the row states; as nothing is known of it, it counts as held out."""
    for suite, (column, unit) in kind.measured.items():
        try:
            measured = float(row.get(column, ""))
        except ValueError:
            measured = math.nan
        yield Outcome(
            id=row.get("id") or f"row {index + 1}",
            suite=f"{suite}_{row.get('mode') or 'agg'}" if suite.startswith("served") else suite,
            group="refused",
            measured=measured,
            predicted=None,
            unit=unit or row.get("unit", ""),
            held_out=True,
            refused=why,
        )


def _in_unit_of_file(outcome: Outcome, kind: Kind) -> Outcome:
    """Seconds and microseconds as the milliseconds that the file states."""
    units = {unit for _, unit in kind.measured.values()}
    scale = {"s": 1e3, "us": 1e-3}.get(outcome.unit)
    if units != {"ms"} or scale is None:
        return outcome
    said = None if outcome.predicted is None else outcome.predicted * scale
    return replace(outcome, measured=outcome.measured * scale, predicted=said, unit="ms")
