"""Options of ``taicang replay`` that describe the requests, and the trace that they make."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taicang.app.options import DURATION, TOKENS, Finite, Whole, stacked
from taicang.app.trace_options import CHANGING, RATE, READING, SEED, load
from taicang.errors import InvalidInput

if TYPE_CHECKING:
    from taicang.traffic.generate import Rhythm
    from taicang.traffic.trace import Trace

MOST = 100_000_000
"""Requests that fit the memory of a host."""
LONGEST_RUN_S = 100 * 86400.0
"""Span of the requests: the record of a run counts its time in 63 bits."""
TRAFFIC = stacked(
    click.option("--profile", help="Lengths of an embedded profile instead of a trace (taicang trace profiles)."),
    click.option("--rate", type=RATE, help="Arrivals (of requests or sessions) at this rate, e.g. 40/s."),
    click.option("--process", type=click.Choice(["poisson", "gamma", "weibull", "uniform"]), default="poisson",
                 show_default=True, help="Arrival process of --rate."),
    click.option("--cv", type=Finite(0.0, 20.0), default=1.0, show_default=True,
                 help="Coefficient of variation of the times between arrivals."),
    click.option("--diurnal", metavar="SHARE|profile|FILE", default="",
                 help="Let --rate follow a day: a wave of this amplitude (0.6), the profile's, or a CSV of rates."),
    click.option("--hours", type=Finite(0.0, 1e6, min_open=True), help="Duration of generated traffic."),
    click.option("--requests", type=Whole(1, most=10**18),
                 help="Requests to generate, or to take from the trace's head."),
    click.option("--closed-loop", "clients", type=Whole(1), help="Clients that wait for their answers."),
    click.option("--think", type=DURATION, default=0.0, help="Between an answer and the client's next request."),
    click.option("--random-think", is_flag=True, help="Draw it from an exponential with this mean."),
    click.option("--input", "input_tokens", type=TOKENS, default=1024, show_default=True,
                 help="Prompt tokens (of sessions: new in each turn)."),
    click.option("--output", "output_tokens", type=TOKENS, default=128, show_default=True,
                 help="Output tokens."),
    click.option("--spread", type=Finite(0, 1), default=0.0, help="Lengths drawn evenly within this share."),
    click.option("--turns", type=Whole(2), help="Sessions of so many turns; each sends all before it again."),
    click.option("--deadline", type=DURATION, help="Requests are to start within this time (see --order, --late)."),
    click.option("--isolate", is_flag=True, help="Clients of the trace share no cached blocks."),
    click.option("--shared", type=Whole(0), default=0, help="Prompt tokens that all sessions begin with."),
    CHANGING,
    READING,
    SEED,
)  # fmt: skip
"""The requests."""


def traffic(path: str | None, options: Mapping[str, Any]) -> Trace:
    """The trace that the options name or describe."""
    from taicang.traffic import change

    made = _arriving(path, options)
    if (made.span_s > LONGEST_RUN_S and not options["clients"]) or options["think"] > LONGEST_RUN_S:
        raise InvalidInput(f"a replay keeps time of {LONGEST_RUN_S / 86400:.0f} days, not of more")
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
    from taicang.traffic import generate
    from taicang.traffic.sessions import sessions

    rate, count, turns = options["rate"], options["requests"], options["turns"] or 1
    seed = options["seed"]
    if rate and options["hours"]:
        count = count or max(round(rate * options["hours"] * 3600), 1) * turns
    count = count or (options["clients"] or 0) * 10 * turns
    if not count:
        raise InvalidInput("say how much traffic: --rate with --hours, --requests, or --closed-loop")
    if count > MOST:
        raise InvalidInput(f"{count:,} requests are more than the {MOST:,} that are generated at once")
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
    return generate.fixed(count, *lengths, spread=options["spread"], seed=seed)


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
