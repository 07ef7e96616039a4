"""``taicang search``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from taicang.app.load_options import NAMED_LOAD, read_load
from taicang.app.options import CHOICES, JSON, echo_json, stacked, write_files

MODES = {
    "agg": ("aggregated",),
    "disagg": ("disaggregated",),
    "both": ("aggregated", "disaggregated"),
    "decode": ("decode",),
}
"""Layouts by the word of the option."""
SEARCH = stacked(
    click.option(
        "--objective",
        type=click.Choice(["tokens/s/chip", "per-watt", "per-usd", "per-cny", "smallest"]),
        default="tokens/s/chip",
        show_default=True,
        help="What is best; smallest is the fewest chips that carry --load.",
    ),
    click.option(
        "--mode",
        type=click.Choice([*MODES]),
        default="both",
        show_default=True,
        help="Layouts; decode: only decode, over its own chips.",
    ),
    click.option(
        "--space", type=click.Choice(["standard", "wide"]), default="standard", show_default=True, help="Axes."
    ),
    click.option("--load", "load_per_s", type=click.FloatRange(0, min_open=True), help="Requests per second."),
    click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Layouts to show per machine."),
    click.option("--pareto", type=click.Path(file_okay=False), help="Write the Pareto front (CSV, JSON, plots) here."),
    click.option(
        "--emit",
        type=click.Choice(["vllm", "vllm-ascend", "sglang", "trtllm", "mindie", "dynamo", "llm-d", "megatron"]),
        help="Engine or platform to hand over to.",
    ),
    click.option("--out", type=click.Path(file_okay=False), default="deploy", show_default=True, help="Where to."),
    click.option("--weights", default=None, help="Where the engine finds the weights (default: the model's name)."),
    click.option("--versus", help="A decode plan to set beside the winner: dp=320,ep=320,batch=48,mtp=1."),
    click.option(
        "--confirm", type=click.IntRange(0), default=2, show_default=True, help="Best layouts to replay (0: none)."
    ),
    click.option("--explain/--no-explain", default=True, help="Why the winner wins, what binds, what more would buy."),
)


@click.command(
    epilog="""\b
Examples:
  taicang search deepseek-v3 --on "hgx-h200 x 4" --input 4000 --output 1000 --ttft 2s --tpot 50ms
  taicang search deepseek-r1 --on cloudmatrix384,"hgx-h20 x 48" --profile servegen-deepseek-r1 \\
      --slo mlperf-interactive --pareto out/
  taicang search llama-3.1-70b --on "hgx-h200 x 4" --objective smallest --load 20
  taicang search deepseek-v3 --on "hgx-h200 x 4" --tpot 50ms --emit sglang --out deploy
  taicang search deepseek-r1 --on cloudmatrix384 --tpot 50ms --versus dp=320,ep=320,batch=48,mtp=1
"""
)
@click.argument("model")
@click.option("--on", "machines", required=True, help="Machines, comma-separated.")
@NAMED_LOAD
@SEARCH
@CHOICES
@JSON
def search(model: str, machines: str, as_json: bool, pareto: str | None, explain: bool, **options: Any) -> None:
    """The best way to run MODEL under a load and an SLO, on every machine.

    Prices every legal layout, batch, draft length and chunk size, aggregated and disaggregated; with --emit those that
    the engine can express. --quant takes several formats, comma-separated; --mtp fixes the draft length.
    """
    names = [name.strip().strip('"') for name in machines.split(",") if name.strip()]
    if not names:
        raise click.UsageError("--on names no machine")
    from taicang.app.expert_loads import resolve

    resolve(options, model)
    jobs, found = _search(model, names, options)
    if pareto:
        from taicang.app.pareto_files import write

        for path in write(found, pareto):
            click.echo(f"wrote {path}", err=True)
    if options["emit"]:
        _emit(jobs, found, options)
    more = _more(jobs, found, options, explain)
    if as_json:
        from taicang.records import plain

        echo_json([plain(each) | plain(more.get(each.machine, {})) for each in found])
    else:
        from taicang.app.render_search import show_search

        show_search(jobs, found, options, more)
    if not any(each.best for each in found):
        raise SystemExit(1)


def _search(model: str, names: list[str], options: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Jobs and outcomes of the machines; of several, those that lack a figure or a kernel are named and left out."""
    from taicang.errors import MissingFigure, NotModelled
    from taicang.search import versus
    from taicang.search.door import formats, prepare
    from taicang.search.run import Ask
    from taicang.search.run import search as run

    modes: Any = MODES[options["mode"]]
    ask = Ask(objective=options["objective"], modes=modes, load_per_s=options["load_per_s"], top=options["top"])
    load = read_load(options, model)

    def one(name: str) -> tuple[Any, Any]:
        job = prepare(
            model,
            name,
            **load,
            stack=options["stack"],
            acceptance_ratio=options["acceptance"],
            skew=options["skew"],
            approximate=options["approximate"],
            sets=options["sets"],
        )
        given = versus.fields(options["versus"] or "")
        beside = (versus.layout(job, given),) if given else ()
        space = versus.widened(space_of(job, options), given)
        keep = None
        if options["emit"]:
            from taicang.search.handover import able

            keep = able(options["emit"], job.machine, job.model, job.stack.name)
        return job, run(job, formats(quants, job), space, ask, beside=beside, keep=keep)

    quants = [name.strip() for name in options["quant"].split(",")]
    done, refused = [], []
    for name in names:
        try:
            done.append(one(name))
        except (MissingFigure, NotModelled) as error:
            if len(names) == 1:
                raise
            refused.append(error)
            click.echo(f"{name}: left out: {error}", err=True)
    if not done:
        raise refused[0]
    return [job for job, _ in done], [found for _, found in done]


def _more(jobs: list[Any], found: list[Any], options: dict[str, Any], explain: bool) -> dict[str, dict[str, Any]]:
    """By machine: why its winner wins, what a replay of the best says, and the user's plan beside it."""
    from taicang.search.explain import explained
    from taicang.search.versus import fields, versus

    told: dict[str, dict[str, Any]] = {}
    for job, each in zip(jobs, found, strict=True):
        if not each.best:
            continue
        mine = told[each.machine] = {}
        space, winner = space_of(job, options), each.best[0]
        if explain:
            mine["explanation"] = explained(job, each.best, space)
        if options["confirm"]:
            mine |= _confirmed(job, each, options)
        if options["versus"]:
            mine["versus"] = versus(job, winner.pools[0].plan.quant, fields(options["versus"]), space, winner)
    return told


def _confirmed(job: Any, found: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The best few replayed; where the winner breaks the limits at its full load, also the load that it sustains."""
    from taicang.predict.confirm import confirm, sustained

    how = {"named": options["profile"] or "", "within_ratio": options["within_ratio"]}
    ran = [confirm(job, choice, **how) for choice in found.best[: options["confirm"]] if choice.mode != "decode"]
    told: dict[str, Any] = {"replayed": ran}
    if ran and not ran[0].keeps and not ran[0].refused:
        told["sustained"] = sustained(job, found.best[0], **how)
    return told


def _emit(jobs: list[Any], found: list[Any], options: dict[str, Any]) -> None:
    """Write the best layout of each machine for the engine."""
    from taicang.search.handover import emit

    for job, each in zip(jobs, found, strict=True):
        if not each.best:
            continue
        files = emit(
            each.best[0],
            job.machine,
            job.model,
            to=options["emit"],
            path=options["weights"] or job.model.name,
            input_tokens=options["input_tokens"],
            output_tokens=options["output_tokens"],
        )
        folder = Path(options["out"])
        write_files(files, folder / job.machine.name.replace(" ", "") if len(jobs) > 1 else folder)


def space_of(job: Any, options: dict[str, Any]) -> Any:
    """The space that was asked for, with the draft length fixed where the user named one."""
    from dataclasses import replace

    from taicang.search.space import WIDE, default

    space = WIDE if options["space"] == "wide" else default(job.model)
    return space if options["drafts"] is None else replace(space, drafts=(options["drafts"],))
