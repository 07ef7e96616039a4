"""Options of commands that read a request trace, and what they make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taicang.app.options import Finite, Quantity, Whole, stacked

if TYPE_CHECKING:
    from taicang.traffic.trace import Trace


RATE = Quantity("per_s", "RATE")
TIME = Quantity("s", "TIME", zero=True)
FACTOR = Finite(1e-6, 1e6)
READING = stacked(
    click.option("--block-tokens", type=Whole(1), help="Tokens behind one hash id of the trace."),
    click.option("--repair", is_flag=True, help="Drop faulty rows, sort by time, cut torn files; count each."),
    click.option("--tokenizer", type=click.Path(path_type=Path, dir_okay=False),
                 help="tokenizer.json that counts the tokens of texts."),
    click.option("--chars-per-token", type=Finite(0.01, 1e6), help="Count the tokens of texts by this ratio instead."),
    click.option("--columns", metavar="FIELD=COLUMN,...",
                 help="Columns of a table of your own, e.g. arrival=ts:ms,input=prompt,session=chat,ttft=first:ms."),
    click.option("--missing-output", type=Whole(1), help="Output tokens of rows that give none."),
    click.option("--missing-input", type=Whole(1), help="Prompt tokens of a benchmark's summary that gives none."),
)  # fmt: skip
"""How to read a file."""

CHANGING = stacked(
    click.option("--from", "begin", type=TIME, help="Leave out what arrives before, e.g. 10min."),
    click.option("--until", type=TIME, help="Leave out what arrives from then on."),
    click.option("--thin", type=Finite(0.0, 1.0, min_open=True),
                 help="Keep a random share of the sessions, each whole, so that shared prefixes survive."),
    click.option("--speed", type=FACTOR, default=1.0, help="Play it so many times as fast."),
    click.option("--input-scale", type=FACTOR, default=1.0, help="Prompts so many times as long."),
    click.option("--output-scale", type=FACTOR, default=1.0, help="Answers so many times as long."),
)  # fmt: skip
"""What to make of it."""


def load(paths: Sequence[Path], options: Mapping[str, Any], *, overlay: bool = False, gap_s: float = 0.0) -> Trace:
    """The traces in ``paths``, each read and changed as the options say, then spliced (or overlaid) into one.

    Of a ServeGen client set, requests are drawn: ``hours`` of them (default: all its windows), scaled to ``rate``.
    """
    from taicang.traffic import change

    made = [_one(path, options) for path in paths]
    if len(made) == 1:
        return made[0]
    return change.overlaid(made) if overlay else change.spliced(made, gap_s=gap_s)


def _one(path: Path, options: Mapping[str, Any]) -> Trace:
    from taicang.traffic import change
    from taicang.traffic.columns import parse as parse_columns
    from taicang.traffic.read import read
    from taicang.traffic.servegen import is_client_set
    from taicang.traffic.texts import counter

    begin, until, rate = options["begin"], options["until"], options.get("rate")
    if is_client_set(path):
        from taicang.traffic.mixture import mixture
        from taicang.traffic.servegen import read_clients

        start, hours = begin or 0.0, options.get("hours")
        span = hours * 3600.0 if hours else None if until is None else until - start
        made = mixture(read_clients(path), rate_per_s=rate, span_s=span, begin_s=start, seed=options["seed"])
    else:
        made = read(
            path, block=options["block_tokens"] or 0, repair=options["repair"],
            count=counter(chars_per_token=options["chars_per_token"], tokenizer=options["tokenizer"]),
            missing_output=options["missing_output"], missing_input=options["missing_input"], head=_head(options),
            run=options.get("run"),
            columns=parse_columns(options["columns"]) if options["columns"] else None,
        )  # fmt: skip
        if begin is not None or until is not None:
            made = change.window(made, begin or 0.0, float("inf") if until is None else until)
    if options["thin"]:
        made = change.thin(made, options["thin"], options["seed"])
    if options["speed"] != 1.0:
        made = change.faster(made, options["speed"])
    if options["input_scale"] != 1.0 or options["output_scale"] != 1.0:
        made = change.longer(made, options["input_scale"], options["output_scale"])
    return made


def _head(options: Mapping[str, Any]) -> int | None:
    """Rows that are enough, where requests are taken from the head before anything else."""
    whole = options["repair"] or options["begin"] is not None or options["until"] is not None or options["thin"]
    return None if whole else options.get("requests")


SEED = click.option("--seed", type=Whole(0, most=2**63 - 1), default=0, show_default=True, help="Of every random draw.")
