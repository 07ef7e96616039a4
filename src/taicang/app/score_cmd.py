"""``taicang score`` and ``taicang fit``."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taicang.app import terminal
from taicang.app.calibrate_cmd import show_refused
from taicang.app.options import command, give, written
from taicang.errors import UnknownName
from taicang.output import check_file, check_folder, write_file

if TYPE_CHECKING:
    from taicang.evidence.score import Outcome, Score


FITS = written("score")["fits"]
ON_CARRIED = ("porting",)
"""Families fitted on tables that the package carries."""


def families() -> click.Choice[str]:
    """What can be fitted."""
    return click.Choice([*FITS, "all"])


@command("score")
def score(
    files: tuple[Path, ...], evidence: Path | None, suites: tuple[str, ...], by_group: bool, rows: Path | None,
    as_csv: bool, stack: str, row_id: str | None, freeze: bool, page: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Score the predictions against published measurements, held-out and calibrated-on rows apart."""
    from taicang.catalog import trust
    from taicang.evidence import board
    from taicang.evidence.score import score_parts

    if stack and not files:
        raise click.UsageError("--stack is about rows of FILES")
    if rows is not None:
        check_file(rows, "--rows")
    if freeze:
        check_file(trust.FILE, "--freeze")
    found = _outcomes(files, evidence, suites, stack, row_id or "")
    everything = [one for outcomes in found.values() for one in outcomes]
    scores = score_parts(everything, by_group=by_group)
    whole = [] if files else [one for one in scores if one.group == "all"]
    try:  # the scores are shown even where they cannot be written
        if rows is not None:
            write_file(rows, _table(board.outcome_rows(found)), "--rows")
        if freeze:
            click.echo(f"frozen in {board.freeze(whole, evidence)}", err=as_json)
    finally:
        drifts = [] if freeze and not as_json else board.drifts(whole, evidence)
        fields: dict[str, Any] = {
            "suites": board.suite_rows(found),
            "rows": board.outcome_rows(found),
            "drifts": drifts,
        }

        def show() -> None:
            if row_id is not None:
                _explain([row for row in fields["rows"] if row["id"] == row_id], row_id, everything)
            elif as_csv:
                click.echo(_table(fields["rows"]), nl=False)
            else:
                within = {suite: board.in_band([one for one in everything if one.suite == suite]) for suite in
                          {one.suite for one in everything}}  # fmt: skip
                show_scores(scores, within, drifts=drifts, alone=evidence is None and not files)
                show_refused(_refused(found) if files else [])

        give("score", fields, show, as_json=as_json and row_id is None, page=page, title="taicang score")


def _outcomes(
    files: tuple[Path, ...], evidence: Path | None, suites: tuple[str, ...], stack: str, row: str
) -> dict[str, list[Outcome]]:
    """Outcomes by file; what could not be read is told on stderr."""
    from taicang import catalog
    from taicang.evidence import board, intake

    if stack:
        catalog.stack(stack)  # an unknown name is no matter of single rows
    notes: list[str] = []
    found: dict[str, list[Outcome]] = {}
    if files:
        board.check_names(suites)
        for file in files:
            found[str(file)] = intake.your_outcomes(file, suites, stack)
    else:
        for one in board.suite_outcomes(evidence, suites, notes, row):
            found.setdefault(board.file_of(one), []).append(one)
    for note in notes:
        click.echo(note, err=True)
    return found


def _refused(found: Mapping[str, list[Outcome]]) -> list[str]:
    """Rows without a prediction, once for each reason."""
    return list(dict.fromkeys(f"{file}: {one.id}: {one.refused}" for file, every in found.items() for one in every
                              if one.refused))  # fmt: skip


def _table(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["id"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(_flat(row) for row in rows)
    return text.getvalue()


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row for a line of text."""
    return row | {"bands": "; ".join(band.said for band in row["bands"].values())}


def _explain(matching: list[dict[str, Any]], row_id: str, known: list[Outcome]) -> None:
    if not matching:
        raise UnknownName("row", row_id, [one.id for one in known])
    for row in matching:
        for key, value in _flat(row).items():
            click.echo(f"{key:10s} {value}")
        if row["predicted"] is not None:
            click.echo(f"{'error':10s} {row['predicted'] / row['measured'] - 1.0:+.1%}")
        click.echo()


@command("score.fit")
def fit(family: str, evidence: Path | None) -> None:
    """Fit the calibrated constants of FAMILY on its declared part of the evidence and write them into the package."""
    from taicang.catalog import calibration
    from taicang.evidence import fitting

    if evidence is None and family not in ON_CARRIED:
        raise click.UsageError("fitting needs --evidence DIR")
    check_folder(calibration.FOLDER, "fit")
    for name in FITS if family == "all" else [family]:
        for path in (path for each in FITS[name] for path in fitting.fit(each, evidence)):
            click.echo(f"{name}: {path}")


WIDTH = 130
LEFT_OUT = ("model", "sibling", "source", "nothing")
"""What was left out of the fits, in the order of the columns."""


def show_scores(
    scores: list[Score], within: Mapping[str, tuple[int, int] | None], *, drifts: list[str], alone: bool
) -> None:
    """Scores with their errors, then what drifted from the frozen scoreboard; of a user's rows how many are in band."""
    console = terminal.wide(WIDTH)
    _show_left_out(console, {one.suite for one in scores})
    named = ("suite", "group", "part")
    yours = ["in band"] if any(within.values()) else []
    table = terminal.table(*named, "rows", "coverage", "MAPE", "median", "bias", "p90", *yours, words=named)
    for one in scores:
        cells = (one.coverage_ratio, one.mape_ratio, one.median_ratio, one.bias_ratio, one.p90_ratio)
        inside = within.get(one.suite) if one.group == "all" else None
        last = ["-" if inside is None or not inside[1] else "{} of {}".format(*inside)] if yours else []
        table.add_row(one.suite, one.group, one.part, str(one.rows), *map(_share, cells), *last)
    console.print(table)
    if alone:
        console.print("[dim]the tables that the package carries; --evidence DIR scores a folder of measured rows[/]")
    for line in drifts:
        console.print(f"[yellow]drift[/] {line}")


def _show_left_out(console: Any, suites: set[str]) -> None:
    """Mean errors and coverage of bands where models and chips were left out whole, as frozen."""
    parts = tuple(
        head
        for words in ("unseen model", "unseen chip", "unseen publisher", "interpolation")
        for head in (words, "in band")
    )
    table = terminal.table("left out of the fits", "rows", *parts)
    from taicang.catalog.trust import left_out

    for suite, axes in left_out().items():
        if suite not in suites:
            continue
        cells = [str(max(one["rows"] for one in axes.values()))]
        for axis in LEFT_OUT:
            one = axes.get(axis, {})
            cells += [_share(one.get("mape_ratio")), _share(one.get("covered_ratio"))]
        table.add_row(suite, *cells)
    if table.row_count:
        console.print(table)
        console.print("[dim]as `taicang fit bands` recorded; nine in ten is what a band says[/]\n")


def _share(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.1%}"
