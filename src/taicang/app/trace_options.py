"""Options of requests: a trace that is read and changed, or traffic that is generated, and what they make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taicang.app.options import quantity, written
from taicang.errors import InvalidInput

if TYPE_CHECKING:
    from taicang.traffic.generate import Rhythm
    from taicang.traffic.trace import Trace


RATE = quantity("per_s", "RATE")
TIME = quantity("s", "TIME", "zero")


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
    from taicang.traffic.read import read_trace
    from taicang.traffic.servegen import is_client_set
    from taicang.traffic.texts import counter

    begin, until, rate = (options.get(name) for name in ("begin", "until", "rate"))
    if is_client_set(path):
        from taicang.traffic.servegen import mixture, read_clients

        start, hours = begin or 0.0, options.get("hours")
        span = hours * 3600.0 if hours else None if until is None else until - start
        made = mixture(read_clients(path), rate_per_s=rate, span_s=span, begin_s=start, seed=options["seed"])
    else:
        made = read_trace(
            path, block=options.get("block_tokens") or 0, repair=options.get("repair", False),
            count=counter(chars_per_token=options.get("chars_per_token"), tokenizer=options.get("tokenizer")),
            missing_output=options.get("missing_output"), missing_input=options.get("missing_input"),
            head=_head(options), run=options.get("run"),
            columns=parse_columns(options["columns"]) if options.get("columns") else None,
        )  # fmt: skip
        if begin is not None or until is not None:
            made = change.window(made, begin or 0.0, float("inf") if until is None else until)
    if options.get("thin"):
        made = change.thin(made, options["thin"], options["seed"])
    speed, scales = options.get("speed", 1.0), [options.get(f"{side}_scale", 1.0) for side in ("input", "output")]
    if speed != 1.0:
        made = change.faster(made, speed)
    if scales != [1.0, 1.0]:
        made = change.longer(made, *scales)
    return made


def _head(options: Mapping[str, Any]) -> int | None:
    """Rows that are enough, where requests are taken from the head before anything else."""
    cut = options.get("begin") is not None or options.get("until") is not None
    return None if cut or options.get("repair") or options.get("thin") else options.get("requests")


def traffic(path: str | None, options: Mapping[str, Any]) -> Trace:
    """The trace that the options name or describe."""
    from taicang.serve.record import COMING_S
    from taicang.traffic import change

    made = _arriving(path, options)
    if (made.span_s > COMING_S and not options["clients"]) or options["think"] > COMING_S:
        raise InvalidInput(f"a replay keeps time of {COMING_S / 86400:.0f} days, not of more")
    if options["isolate"]:
        made = change.isolated(made)
    if options["deadline"]:
        made = change.due(made, options["deadline"])
    return made


def _arriving(path: str | None, options: Mapping[str, Any]) -> Trace:
    from taicang.traffic import change, generate

    rate, seed = options["rate"], options["seed"]
    if path is not None:
        made = load([Path(path)], options)
        made = change.take(made, options["requests"]) if options["requests"] else made
        if rate and made.kind == "servegen":  # its clients were drawn at this rate
            return made
    else:
        made = _generated(options)
    if options["diurnal"] and not rate:
        raise InvalidInput("needs --rate, the mean over the day", where="--diurnal")
    if rate:
        day = rhythm(options["diurnal"], options["profile"]) if options["diurnal"] else None
        made = generate.arriving(made, rate, process=options["process"], cv=options["cv"], seed=seed, day=day)
    return made


def _generated(options: Mapping[str, Any]) -> Trace:
    from taicang.search.trusted import usual_lengths
    from taicang.traffic import generate
    from taicang.traffic.generate import sessions

    rate, count, turns = options["rate"], options["requests"], options["turns"] or 1
    seed = options["seed"]
    if rate and options["hours"]:
        count = count or max(round(rate * options["hours"] * 3600), 1) * turns
    count = count or (options["clients"] or 0) * 10 * turns
    if not count:
        raise InvalidInput("say how much traffic: --rate with --hours, --requests, or --closed-loop")
    generate.room(count * generate.REQUEST_BYTES, f"{count:,} requests")
    if options["profile"]:
        from taicang.catalog.profiles import profile

        if turns > 1:
            raise InvalidInput("gives lengths of single requests: drop --turns, or give --input and --output",
                               where="--profile")  # fmt: skip
        return generate.from_profile(options["profile"], profile(options["profile"]), count, seed=seed)
    lengths = options["input_tokens"], options["output_tokens"]
    if turns > 1 or options["shared"]:
        return sessions(
            -(-count // turns), turns, shared_tokens=options["shared"], new_tokens=lengths[0],
            output_tokens=lengths[1], delay_s=options["think"], spread=options["spread"], seed=seed,
        )  # fmt: skip
    made = generate.fixed(count, *lengths, spread=options["spread"], seed=seed)
    return made if options["spread"] else replace(made, notes=(*made.notes, *usual_lengths(*lengths)))


def rhythm(text: str, profile_name: str | None) -> Rhythm:
    """A day from an amplitude, the profile's rates, or the two first columns of a CSV (window start in s, rate)."""
    from taicang.catalog.profiles import profile
    from taicang.traffic import generate
    from taicang.traffic.read import read_rates

    if text == "profile":
        rates = profile(profile_name or "").get("rate_per_s_by_600s") if profile_name else None
        if not rates:
            raise InvalidInput("needs a --profile with rates by time", where="--diurnal profile")
        return generate.rhythm(600.0, [float(rate) for rate in rates.values()], f"profile {profile_name}")
    try:
        amplitude = float(text)
    except ValueError:
        window_s, values = read_rates(Path(text))
        return generate.rhythm(window_s, values, text)
    if not 0.0 <= amplitude <= 1.0:
        raise InvalidInput(f"a wave's amplitude lies between 0 and 1, got {text}", where="--diurnal")
    return generate.wave(amplitude)


GENERATED, TRACE = "generated traffic (no TRACE)", "TRACE"


def refuse_unused(context: click.Context, path: str | None) -> None:
    """Raise ``InvalidInput`` for an option that the user gave and nothing would read. ``path`` is the trace's."""
    asked = {str(param.name): param.opts[0] for param in context.command.params}
    source = click.core.ParameterSource.COMMANDLINE
    said = {flag for name, flag in asked.items() if context.get_parameter_source(name) is source}
    said.add(GENERATED if path is None else TRACE)
    for flag, needs in written("traffic")["needs"].items():
        if flag in said and not said & set(needs):
            raise InvalidInput(f"changes nothing without {' or '.join(needs)}", where=flag)
    for first, others in written("traffic")["excludes"].items():
        for second, why in others.items():
            if first in said and second in said:
                raise InvalidInput(f"{why}: drop {second} or {first}", where=second)
    if "--batch" in said:
        raise InvalidInput("a replay finds its batches itself; their limit is --max-batch", where="--batch")
    if "--cv" in said and (process := context.params["process"]) in ("poisson", "uniform"):
        raise InvalidInput(f"changes nothing of --process {process}: name gamma or weibull", where="--cv")
