"""Options of commands that read a request trace, and what they make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taicang.app.options import LONGEST_S, Finite, Seconds, stacked
from taicang.units import parse

if TYPE_CHECKING:
    from taicang.traffic.trace import Trace


class Rate(click.ParamType[float]):
    """Requests in a time: 40/s, 90/min."""

    name = "RATE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse through the catalogue's unit door."""
        found = value if isinstance(value, float) else parse(value, "per_s", where=param.opts[0] if param else "")
        if not found > 0:
            self.fail(f"a rate must be more than nothing, got {value!r}", param, ctx)
        if not SLOWEST <= found <= 1 / SLOWEST:
            self.fail(f"a rate lies between {SLOWEST:g}/s and {1 / SLOWEST:g}/s, got {value!r}", param, ctx)
        return found


class Time(click.ParamType[float]):
    """A point in time of a trace: 0s, 90min."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse through the catalogue's unit door; zero is a time."""
        found = value if isinstance(value, float) else parse(value, "s", where=param.opts[0] if param else "")
        if not 0.0 <= found <= LONGEST_S:
            self.fail(f"a time of a trace is zero or later, got {value!r}", param, ctx)
        return found


SLOWEST = 1e-9
"""Requests per second."""
FACTOR = Finite(1e-6, 1e6)
READING = stacked(
    click.option("--block-tokens", type=click.IntRange(1), help="Tokens behind one hash id of the trace."),
    click.option("--repair", is_flag=True, help="Drop faulty rows, sort by time, cut torn files; count each."),
    click.option("--tokenizer", type=click.Path(path_type=Path, dir_okay=False),
                 help="tokenizer.json that counts the tokens of texts."),
    click.option("--chars-per-token", type=Finite(0.01, 1e6), help="Count the tokens of texts by this ratio instead."),
    click.option("--columns", metavar="FIELD=COLUMN,...",
                 help="Columns of a table of your own, e.g. arrival=ts:ms,input=prompt,output=out,session=chat."),
    click.option("--missing-output", type=click.IntRange(1), help="Output tokens of rows that give none."),
)  # fmt: skip
"""How to read a file."""

CHANGING = stacked(
    click.option("--from", "begin", type=Time(), help="Leave out what arrives before, e.g. 10min."),
    click.option("--until", type=Time(), help="Leave out what arrives from then on."),
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
            missing_output=options["missing_output"], head=_head(options),
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


SEED = click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of every random draw.")


__all__ = ["CHANGING", "READING", "SEED", "Rate", "Seconds", "Time", "load"]
