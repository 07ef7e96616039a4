"""``taicang replay``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from taicang.app.options import CHOICES, JSON, PLAN, Seconds, echo_json
from taicang.units import parse

if TYPE_CHECKING:
    from taicang.predict.replay import Replay
    from taicang.traffic.trace import Trace


class Rate(click.ParamType[float]):
    """Requests in a time: 40/s, 90/min."""

    name = "RATE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse through the catalogue's unit door."""
        return value if isinstance(value, float) else parse(value, "per_s", where=param.opts[0] if param else "")


class Bytes(click.ParamType[float]):
    """A size: 20TB, 512 GiB."""

    name = "BYTES"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse through the catalogue's unit door."""
        return value if isinstance(value, float) else parse(value, "bytes", where=param.opts[0] if param else "")


class Failure(click.ParamType[tuple[int, float, float | None]]):
    """Which instance fails when, and for how long: 3@60s, 3@60s+5min."""

    name = "FAILURE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse both times through the catalogue's unit door."""
        if isinstance(value, tuple):
            return value
        number, _, times = value.partition("@")
        if not number.isdigit() or not times:
            self.fail(f"{value!r} is not INSTANCE@TIME such as 3@60s+5min", param, ctx)
        at, _, down = times.partition("+")
        return int(number), parse(at, "s", where="--fail"), parse(down, "s", where="--fail") if down else None


@click.command(
    epilog="""\b
Examples:
  taicang replay trace.jsonl.gz llama-3.1-8b --on "hgx-h100 x 2" --instances 16 --router prefix-aware --out run/
  taicang replay trace.jsonl.gz deepseek-r1 --on cloudmatrix384 --prefill 6x16 --decode 1x160
  taicang replay --profile servegen-deepseek-r1 --rate 40/s --hours 1 deepseek-r1 --on cloudmatrix384
  taicang replay --closed-loop 128 --input 8192 --output 1024 minimax-m2.5 --on hgx-b200 --tp 4
"""
)
@click.argument("what", nargs=-1, required=True, metavar="[TRACE] MODEL")
@click.option("--on", "machine", required=True, help='Machine, e.g. cloudmatrix384, "hgx-h100 x 4", my.yaml.')
@click.option("--instances", type=click.IntRange(1), help="Instances that prefill and decode (default: all that fit).")
@click.option("--prefill", default="", help="Prefill pool, INSTANCESxCHIPS, e.g. 6x16.")
@click.option("--decode", default="", help="Decode pool, INSTANCESxCHIPS, e.g. 1x160.")
@click.option("--router", default="least-loaded", show_default=True, help="least-loaded, round-robin, prefix-aware...")
@click.option("--pool", type=Bytes(), default=0.0, help="Memory pool for prompt blocks, e.g. 20TB.")
@click.option("--pool-plane", default="", help="Plane of the pool: scale_up (default), vpc, rdma, host.")
@click.option(
    "--fail", "failures", type=Failure(), multiple=True, help="An instance fails (and returns): NUMBER@TIME[+TIME]."
)
@click.option("--policy", type=click.Choice(["mixed", "prefill_first", "decode_first"]), help="Default: the stack's.")
@click.option("--max-tokens", "tokens", type=click.IntRange(1), help="Token budget of a step (default: the stack's).")
@click.option("--max-batch", "sequences", type=click.IntRange(1), help="Sequences in flight per attention group.")
@click.option("--profile", help="Lengths of an embedded profile instead of a trace.")
@click.option("--rate", type=Rate(), help="Arrivals at this rate, e.g. 40/s.")
@click.option("--process", type=click.Choice(["poisson", "gamma", "weibull", "uniform"]), default="poisson",
              show_default=True, help="Arrival process of --rate.")  # fmt: skip
@click.option(
    "--cv", type=click.FloatRange(0.0, 20.0), default=1.0, show_default=True, help="Of times between arrivals."
)
@click.option("--hours", type=click.FloatRange(0.0), help="Duration of generated traffic.")
@click.option("--requests", type=click.IntRange(1), help="Requests to generate, or to take from the trace's head.")
@click.option("--closed-loop", "clients", type=click.IntRange(1), help="Clients that wait for their answers.")
@click.option("--think", type=Seconds(), default=0.0, help="Time between an answer and its client's next request.")
@click.option("--input", "input_tokens", type=click.IntRange(1), default=1024, show_default=True, help="Prompt tokens.")
@click.option(
    "--output", "output_tokens", type=click.IntRange(1), default=128, show_default=True, help="Output tokens."
)
@click.option("--spread", type=click.FloatRange(0, 1), default=0.0, help="Lengths drawn evenly within this share.")
@click.option("--speed", type=click.FloatRange(0.0, min_open=True), default=1.0, help="Play the trace faster.")
@click.option("--thin", type=click.FloatRange(0.0, 1.0, min_open=True), help="Keep a random share of the trace.")
@click.option("--block-tokens", type=click.IntRange(1), default=None, help="Tokens behind one hash id of the trace.")
@click.option("--repair", is_flag=True, help="Drop faulty rows, sort by time, and count both.")
@click.option("--ttft", type=Seconds(), help="SLO for goodput, e.g. 2s.")
@click.option("--tpot", type=Seconds(), help="SLO for goodput, e.g. 50ms.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=click.Path(file_okay=False), help="Folder for summary.json and requests.csv.")
@PLAN
@CHOICES
@JSON
def replay(what: tuple[str, ...], machine: str, as_json: bool, **options: Any) -> None:
    """Serve a request trace, or generated traffic, with MODEL on a machine, and say what users saw."""
    from taicang.app.plan_options import plan_from
    from taicang.app.replay_output import progress_bar, show, write
    from taicang.predict.replay import System
    from taicang.predict.replay import replay as run

    if len(what) > 2:
        raise click.UsageError(f"expected [TRACE] MODEL, got {' '.join(what)}")
    trace = traffic(what[0] if len(what) == 2 else None, options)
    system = System(
        instances=options["instances"], prefill=options["prefill"], decode=options["decode"], plan=plan_from(options),
        stack=options["stack"], quant=options["quant"], drafts=options["drafts"],
        acceptance_ratio=options["acceptance"], skew=options["skew"], policy=options["policy"],
        tokens=options["tokens"], sequences=options["sequences"], router=options["router"],
        failures=options["failures"], pool_bytes=options["pool"], pool_plane=options["pool_plane"],
        approximate=options["approximate"], sets=options["sets"],
    )  # fmt: skip
    with progress_bar(len(trace)) as progress:
        result: Replay = run(
            what[-1], machine, trace, system, clients=options["clients"] or 0, think_s=options["think"],
            ttft_s=options["ttft"], tpot_s=options["tpot"], seed=options["seed"], progress=progress,
        )  # fmt: skip
    if options["out"]:
        write(result, options["out"])
    if as_json:
        echo_json({name: getattr(result, name) for name in result.__slots__ if name != "table"})
    else:
        show(result, trace)
    if result.summary.partial:
        raise SystemExit(130)


def traffic(path: str | None, options: dict[str, Any]) -> Trace:
    """The trace that the options name or describe."""
    from pathlib import Path

    from taicang.errors import InvalidInput
    from taicang.traffic import generate, trace

    rate, count, seed = options["rate"], options["requests"], options["seed"]
    if path is not None:
        from taicang.traffic.read import read

        made = read(Path(path), block=options["block_tokens"] or 0, repair=options["repair"])
        made = trace.take(made, count) if count else made
        made = trace.thin(made, options["thin"], seed) if options["thin"] else made
        made = trace.faster(made, options["speed"]) if options["speed"] != 1.0 else made
    else:
        if rate and options["hours"]:
            count = count or max(round(rate * options["hours"] * 3600), 1)
        count = count or (options["clients"] or 0) * 10
        if not count:
            raise InvalidInput("say how much traffic: --rate with --hours, --requests, or --closed-loop")
        if options["profile"]:
            from taicang.catalog.profiles import profile

            made = generate.from_profile(options["profile"], profile(options["profile"]), count, seed=seed)
        else:
            lengths = options["input_tokens"], options["output_tokens"]
            made = generate.fixed(count, *lengths, spread=options["spread"], seed=seed)
    if rate:
        made = generate.arriving(made, rate, process=options["process"], cv=options["cv"], seed=seed)
    return made
