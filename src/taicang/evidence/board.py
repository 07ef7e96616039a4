"""The scoreboard: every suite and its scores against the frozen ones, and outcomes as plain data."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from taicang.catalog import files
from taicang.catalog.trust import FILE, NINE_IN_TEN, Band, bands, unvalidated
from taicang.errors import InvalidInput, UnknownName
from taicang.evidence import intake
from taicang.evidence.score import Outcome, Score, score, score_parts
from taicang.evidence.suites import Source, kinds, sources
from taicang.evidence.tables import BOARD
from taicang.output import write_file


def suite_outcomes(
    folder: Path | None, wanted: Iterable[str] = (), notes: list[str] | None = None, row: str = ""
) -> Iterator[Outcome]:
    """Outcomes of all suites that can run: on an evidence ``folder``, else on the carried tables.

    ``wanted`` restricts them by suite name. With a ``row``, sources whose files name it come first, and none runs after
    one that has it, but those. Absent and partly unreadable files are told in ``notes``. Raises
    ``UnknownName`` for a suite that does not exist and ``InvalidInput`` for a folder without evidence.
    """
    names = list(wanted)
    check_names(names)
    if folder is not None and not any((folder / kind.file).is_file() for kind in kinds()):
        raise InvalidInput("no evidence here (expected CSV files and a folder 'kernels')", where=str(folder))
    naming = _naming(row, folder or BOARD) if row else ()
    found = False
    for source in sorted(sources().values(), key=lambda each: each.name not in naming):
        if (names and not set(names) & set(source.suites)) or (source.long and folder is None and not names):
            continue
        if found and source.name not in naming:
            return
        for outcome in _run(source, folder, [] if notes is None else notes):
            if not names or outcome.suite in names:
                found |= outcome.id == row
                yield outcome


def _naming(row: str, folder: Path) -> set[str]:
    """Sources of the files in which a line begins with the name of a row, or with what stands before its last dash."""
    line = re.compile(rf'^"?(?:{re.escape(row)}|{re.escape(row.rpartition("-")[0] or row)})"?,', re.MULTILINE)
    places = [(kind, folder / kind.file) for kind in kinds()]
    return {
        source
        for kind, place in places
        if place.is_file() and line.search(place.read_text(encoding="utf-8", errors="replace"))
        for source in kind.sources
    }


def check_names(names: Iterable[str]) -> None:
    """Raise ``UnknownName`` for a suite that does not exist, with the nearest that do."""
    known = [name for source in sources().values() for name in source.suites]
    for name in names:
        if name not in known:
            raise UnknownName("suite", name, known)


def _run(source: Source, folder: Path | None, notes: list[str]) -> Iterator[Outcome]:
    if source.carried:
        yield from source.told()
    else:
        alone, folder = folder is None, folder or BOARD
        files = [folder / kind.file for kind in kinds() if source.name in kind.sources]
        notes.extend(f"{file}: absent, its suites are skipped" for file in files if not (file.is_file() or alone))
        try:
            found = list(source.told(folder))
        except Exception as error:  # one file must not take the others with it
            notes.append(f"{source.name}: {intake.reason(error)}; its files are read row by row")
            found = [outcome for file in files if file.is_file() for outcome in _by_row(file, notes)]
        there = [file for file in files if not alone and file.is_file()]
        theirs = bool(there) and not any(map(intake.fitted_on, there))  # no fit has seen these files
        for each in map(intake.sound, found):
            yield replace(each, yours=True) if theirs and not each.held_out else each


def _by_row(file: Path, notes: list[str]) -> list[Outcome]:
    try:
        return intake.file_outcomes(file)
    except InvalidInput as error:
        notes.append(str(error))
        return []


def frozen() -> Mapping[str, Any]:
    """The frozen scoreboard as plain data; empty before the first freeze."""
    if not FILE.exists():
        return {}
    return files.read(FILE)


def _section(folder: Path | None) -> str:
    return "carried" if folder is None else "scores"


FROZEN = ("rows", "coverage_ratio", "mape_ratio", "median_ratio", "bias_ratio", "p90_ratio")


def freeze(scores: Iterable[Score], folder: Path | None) -> Path:
    """Accept ``scores`` as the expected ones of the carried tables (no ``folder``) or of a whole evidence folder.

    Suites that did not run keep theirs.
    """
    kept = dict(frozen())
    board: dict[str, Any] = dict(kept.get(_section(folder), {}))
    for one in scores:
        board.setdefault(one.suite, {})
        board[one.suite][one.part] = {name: round(getattr(one, name), 4) for name in FROZEN}
    kept[_section(folder)] = board
    header = "# Written by `taicang score --freeze`: expected errors; a drift of half a point fails the tests.\n"
    return write_file(FILE, header + yaml.safe_dump(kept, sort_keys=False), "--freeze")


DRIFT_RATIO = 0.005
"""How far a suite's mean error may move before it must be accepted on purpose: half a point."""


def drifts(scores: Iterable[Score], folder: Path | None) -> list[str]:
    """Suites whose mean error left the frozen one by more than ``DRIFT_RATIO``, in words."""
    expected = frozen().get(_section(folder), {})
    found = []
    for one in (each for each in scores if each.part != "yours"):
        was = expected.get(one.suite, {}).get(one.part)
        if was is None:
            found.append(f"{one.suite} {one.part}: not frozen yet")
        elif not abs(was["mape_ratio"] - one.mape_ratio) <= DRIFT_RATIO:
            now = f"{one.mape_ratio:.2%}" if one.coverage_ratio else "nothing predicted"
            found.append(f"{one.suite} {one.part}: {was['mape_ratio']:.2%} frozen, {now} now")
    return found


def board(folder: Path | None, wanted: Iterable[str] = (), *, by_group: bool = False) -> list[Score]:
    """Scores of all suites that can run."""
    return score_parts(suite_outcomes(folder, wanted), by_group=by_group)


CARRIED = "carried by the package"
METRICS: Mapping[str, str] = {
    "s": "latency", "ms": "latency", "us": "latency", "W": "power", "GB/s": "bus_bandwidth", "B": "memory",
}  # fmt: skip
"""Unit of an outcome -> what it measures, where its suite does not say."""


def file_of(outcome: Outcome) -> str:
    """Name that the evidence folder gives to the file of an outcome."""
    for kind in kinds():
        if any(outcome.suite.startswith(suite) for suite in kind.measured):
            return kind.file
    return CARRIED


def metric_of(outcome: Outcome) -> str:
    """What an outcome measures: "tpot", "ttft", "step_time", "latency", "throughput", "power"..."""
    if outcome.figure:
        return outcome.figure
    for name in ("tpot", "ttft"):
        if name in outcome.suite:
            return name
    if outcome.suite.startswith("training") and outcome.unit != "B":
        return "step_time"
    return METRICS.get(outcome.unit, "throughput")


def band_of(outcome: Outcome) -> Band:
    """The band that a run like this one gets; of a kernel or collective, what the rows that its fit saw were off by."""
    if outcome.run is not None:
        metric, replay = metric_of(outcome), outcome.suite.startswith("replay")
        return bands(outcome.run, (metric,), replay=replay or metric == "power")[metric]
    seen = frozen().get("scores", {}).get(outcome.suite, {}).get("calibrated-on")
    if not seen:
        return unvalidated(f"no fit has seen rows of {outcome.suite}")
    nine = 1.0 + seen["p90_ratio"]
    return Band(
        verdict=NINE_IN_TEN, low_ratio=1.0 / nine, high_ratio=nine, typical_ratio=seen["median_ratio"],
        rows=seen["rows"], basis=f"rows of {outcome.suite} that its fit has seen",
    )  # fmt: skip


def outcome_rows(found: Mapping[str, Sequence[Outcome]]) -> list[dict[str, Any]]:
    """One plain row per outcome of each file."""
    return [
        {
            "file": file,
            "id": one.id,
            "subset": one.suite,
            "metric": metric_of(one),
            "split": one.part,
            "unit": one.unit,
            "measured": one.measured if math.isfinite(one.measured) else None,
            "predicted": one.predicted,
            "bands": {} if one.predicted is None else {metric_of(one): band_of(one)},
            "reason": one.refused or one.note,
        }
        for file, outcomes in found.items()
        for one in outcomes
    ]


def suite_rows(found: Mapping[str, Sequence[Outcome]]) -> list[dict[str, Any]]:
    """One plain row per file, suite, metric and part of the evidence split."""
    parts: dict[tuple[str, str, str, str], list[Outcome]] = {}
    for file, outcomes in found.items():
        for one in outcomes:
            parts.setdefault((file, one.suite, metric_of(one), one.part), []).append(one)
    return [
        {"file": file, "subset": subset, "metric": metric, "split": split, **_errors(outcomes)}
        for (file, subset, metric, split), outcomes in parts.items()
    ]


def _errors(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    listed = list(outcomes)
    made = score(listed, suite="")
    said = sum(one.predicted is not None for one in listed)
    return {
        "rows": len(listed),
        "predicted": said,
        "coverage": made.coverage_ratio,
        "mape": made.mape_ratio if said else None,
        "median_ape": made.median_ratio if said else None,
        "bias": made.bias_ratio if said else None,
    } | ({} if (within := in_band(listed)) is None else {"banded": within[1], "in_band": within[0]})


def in_band(outcomes: Sequence[Outcome]) -> tuple[int, int] | None:
    """How many measurements of a user's lie in the band of their prediction, and how many have one; None of others'
    rows: what their bands say was drawn from them."""
    if any(one.part != "yours" for one in outcomes):
        return None
    inside, banded = 0, 0
    for one in outcomes:
        if one.predicted is None:
            continue
        band = band_of(one)
        if band.low_ratio is not None and band.high_ratio is not None:
            banded += 1
            inside += band.low_ratio <= one.measured / one.predicted <= band.high_ratio
    return inside, banded
