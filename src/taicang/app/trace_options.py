"""Options of requests: a trace that is read and changed, or traffic that is generated, and what they make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taicang.app.options import DURATION, TOKENS, Finite, Quantity, Whole, stacked
from taicang.errors import InvalidInput

if TYPE_CHECKING:
    from taicang.traffic.generate import Rhythm
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


MOST_REQUESTS = 100_000_000
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
    if count > MOST_REQUESTS:
        raise InvalidInput(f"{count:,} requests are more than the {MOST_REQUESTS:,} that are generated at once")
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


NEEDS = (
    ("think", ("clients", "turns")),
    ("random_think", ("clients", "turns")),
    ("shared", ("generated",)),
    ("spread", ("generated",)),
    ("turns", ("generated",)),
    ("cv", ("rate",)),
    ("process", ("rate",)),
    ("pool_plane", ("pool",)),
    ("ssd_plane", ("ssd",)),
    ("ssd_bandwidth", ("ssd",)),
    ("ttl", ("offload", "pool", "ssd")),
    ("keep_answers", ("offload", "pool", "ssd")),
    ("form", ("out",)),
)
"""Option, and those of which it needs one."""
EXCLUDES = (
    ("rate", "clients", "clients set the pace themselves"),
    ("profile", "input_tokens", "a profile has lengths of its own"),
    ("profile", "output_tokens", "a profile has lengths of its own"),
    ("profile", "spread", "a profile has lengths of its own"),
    ("profile", "shared", "a profile has lengths of its own"),
    ("instances", "keep_answers", "what an instance that does both computes is written anyway"),
    ("instances", "prefill", "the pools name their instances"),
    ("trace", "input_tokens", "a trace has lengths of its own"),
    ("trace", "output_tokens", "a trace has lengths of its own"),
)
"""Two that do not go together, and why."""
FLAGS = {
    "clients": "--closed-loop",
    "input_tokens": "--input",
    "output_tokens": "--output",
    "form": "--format",
    "generated": "generated traffic (no TRACE)",
    "trace": "TRACE",
}
"""How the user writes an option, where it is not by its name."""


def refuse_unused(context: click.Context, path: str | None) -> None:
    """Raise ``InvalidInput`` for an option that the user gave and nothing would read. ``path`` is the trace's."""
    given: Mapping[str, Any] = context.params
    said = {name for name in given if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE}
    said.add("generated" if path is None else "trace")
    for name, needs in NEEDS:
        if name in said and not said & set(needs):
            wanted = " or ".join(_flag(each) for each in needs)
            raise InvalidInput(f"changes nothing without {wanted}", where=_flag(name))
    for first, second, why in EXCLUDES:
        if first in said and second in said:
            raise InvalidInput(f"{why}: drop {_flag(second)} or {_flag(first)}", where=_flag(second))
    if "batch" in said:
        raise InvalidInput("a replay finds its batches itself; their limit is --max-batch", where="--batch")
    if "cv" in said and given["process"] in ("poisson", "uniform"):
        raise InvalidInput(f"changes nothing of --process {given['process']}: name gamma or weibull", where="--cv")


def _flag(name: str) -> str:
    return FLAGS.get(name, f"--{name.replace('_', '-')}")
