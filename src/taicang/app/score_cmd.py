"""``taicang score`` and ``taicang fit``."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path

import click

from taicang.app.options import JSON, echo_json

FITS = {
    "gemm": ("fit_gemm", False),
    "attend": ("fit_attend", True),
    "mla": ("fit_mla", True),
    "experts": ("fit_experts", True),
    "collective": ("fit_collective", False),
    "exchange": ("fit_exchange", True),
    "ascend": ("fit_ascend", False),
    "stacks": ("fit_stacks", False),
    "stacks_published": ("fit_published", False),
    "energy": ("fit_energy", False),
    "training": ("fit_training", False),
}
"""Family -> module of taicang.evidence, and whether it reads the folder ``kernels``."""

FOLDER = click.option(
    "--evidence",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    envvar="TAICANG_EVIDENCE",
    help="Folder of measured rows (also TAICANG_EVIDENCE). Without it only the suites that the package carries run.",
)


@click.command(
    epilog="""\b
Examples:
  taicang score
  taicang score --evidence ../shared/evidence
  taicang score --evidence ../shared/evidence --suite gemm --by-group
  taicang score --evidence ../shared/evidence --rows rows.csv
"""
)
@FOLDER
@click.option("--suite", "suites", multiple=True, help="Only this suite (repeatable).")
@click.option("--by-group", is_flag=True, help="Also by group (machine, format, engine).")
@click.option("--rows", type=click.Path(dir_okay=False, path_type=Path), help="Write every row with its prediction.")
@click.option("--freeze", is_flag=True, help="Accept these scores as the expected ones.")
@JSON
def score(
    evidence: Path | None, suites: tuple[str, ...], by_group: bool, rows: Path | None, freeze: bool, as_json: bool
) -> None:
    """Score the predictions against published measurements, held-out and calibrated-on rows apart.

    Error of a row: predicted / measured - 1. TPOT excludes the first token. A refused row lowers the coverage and
    never counts as accurate.
    """
    from taicang.evidence import board
    from taicang.evidence.score import score_parts

    found = list(board.outcomes(evidence, suites))
    scores = score_parts(found, by_group=by_group)
    if rows:
        from taicang.records import columns

        table = columns(found)
        with rows.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle)
            writer.writerow(table)
            writer.writerows(zip(*table.values(), strict=True))
    whole = [one for one in scores if one.group == "all"]
    if freeze:
        click.echo(f"frozen in {board.freeze(whole)}", err=as_json)
    if as_json:
        echo_json({"scores": scores, "drifts": board.drifts(whole)})
        return
    from taicang.app.render_score import show_scores

    show_scores(scores, drifts=[] if freeze else board.drifts(whole), alone=evidence is None)


@click.command(
    epilog="""\b
Examples:
  taicang fit gemm --evidence ../shared/evidence
  taicang fit all --evidence ../shared/evidence
"""
)
@click.argument("family", type=click.Choice([*FITS, "all"]))
@FOLDER
def fit(family: str, evidence: Path | None) -> None:
    """Fit the calibrated constants of FAMILY on its declared part of the evidence and write them into the package.

    Needs scipy (pip install "taicang[fit]"). The file says which rows it was fitted on.
    """
    if evidence is None:
        raise click.UsageError("fitting needs --evidence DIR")
    for name in FITS if family == "all" else [family]:
        module, kernels = FITS[name]
        written = importlib.import_module(f"taicang.evidence.{module}").fit(
            evidence / "kernels" if kernels else evidence
        )
        for path in written if isinstance(written, list) else [written]:
            click.echo(f"{name}: {path}")
