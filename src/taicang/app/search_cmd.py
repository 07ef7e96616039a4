"""``taicang search``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from taicang.app.asking import Asking
from taicang.app.load_options import NAMED_LOAD
from taicang.app.options import (
    CHOICES,
    HTML,
    JSON,
    Finite,
    Whole,
    give,
    named,
    stacked,
    write_files,
)
from taicang.app.search_jobs import Outcome, ask_of, outcomes, ranking
from taicang.search.words import MODES

SEARCH = stacked(
    click.option(
        "--objective",
        type=click.Choice(["tokens/s/chip", "per-watt", "per-usd", "per-cny", "smallest"]),
        default="tokens/s/chip",
        show_default=True,
        help="What is best; smallest: the fewest chips of the machine (of any size: NAME x N) that carry --load.",
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
    click.option(
        "--load",
        "load_per_s",
        type=Finite(0, min_open=True),
        help="Requests per second to carry (objective smallest).",
    ),
    click.option("--top", type=Whole(1), default=5, show_default=True, help="Layouts to show per machine."),
    click.option("--pareto", type=click.Path(file_okay=False), help="Write the Pareto front (CSV, JSON, plots) here."),
    click.option(
        "--emit",
        type=click.Choice(["vllm", "vllm-ascend", "sglang", "trtllm", "mindie", "dynamo", "llm-d", "megatron"]),
        help="Engine or platform to hand over to.",
    ),
    click.option("--out", type=click.Path(file_okay=False), default="deploy", show_default=True, help="Where to."),
    click.option(
        "--weights", default=None, help="Where the engine finds the weights (default: the model's id on Hugging Face)."
    ),
    click.option("--versus", help="A decode plan to set beside the winner: dp=64,ep=64,redundant=64,batch=48,mtp=1."),
    click.option(
        "--confirm",
        type=Whole(0),
        default=4,
        show_default=True,
        help="Plans of unlike layouts to replay (0: none); that with the most goodput within the limits is chosen.",
    ),
    click.option("--explain/--no-explain", default=True, help="Why the winner wins, what binds, what more would buy."),
)
CHOSEN = ("rank", "choice", "keeps", "why", "load_ratio", "goodput_tokens_per_s_per_chip", "passed")


@click.command(
    cls=Asking,
    epilog="""\b
Examples:
  taicang search deepseek-v3 --on "hgx-h200 x 4" --input 4000 --output 1000 --ttft 2s --tpot 50ms
  taicang search deepseek-r1 --on cloudmatrix384,"hgx-h20 x 48" --profile servegen-deepseek-r1 \\
      --slo mlperf-interactive --pareto out/
  taicang search llama-3.1-70b --on "hgx-h200 x 4" --objective smallest --load 20
  taicang search deepseek-v3 --on "hgx-h200 x 4" --tpot 50ms --emit sglang --out deploy
  taicang search deepseek-r1 --on cloudmatrix384 --tpot 50ms \\
      --versus dp=320,ep=320,redundant=32,shared_ranks=32,batch=48,mtp=1
""",
)
@click.argument("model")
@click.option("--on", "machines", required=True, help="Machines, comma-separated.")
@NAMED_LOAD
@SEARCH
@CHOICES
@HTML
@JSON
def search(model: str, machines: str, as_json: bool, pareto: str | None, explain: bool, **options: Any) -> int:
    """The best way to run MODEL under a load and an SLO, on every machine.

    Prices every legal layout, batch, draft length and chunk size, aggregated and disaggregated; with --emit those that
    the engine can express. The best of unlike layouts are replayed, and the one with the most tokens/s at the largest
    load that keeps the limits is chosen. --quant takes several formats, comma-separated; --mtp fixes the draft length.
    """
    from taicang.output import check_folder

    names = named(machines)
    for flag, folder in (("--pareto", pareto), ("--out", options["emit"] and options["out"])):
        if folder:
            check_folder(Path(folder), flag)
    done = outcomes(model, names, options)
    more = {each.found.machine: _more(each, model, options, explain, as_json) for each in done if each.chosen}
    if as_json:
        for each in done:
            if each.chosen and each.chosen.warning:
                click.echo(f"taicang: warning: {each.found.machine}: {each.chosen.warning}", err=True)
    from taicang.search.versus import flips

    ranked = ranking(done, options["objective"])
    flipped = flips([(each.job, each.chosen.choice, each.space) for each in ranked], options["objective"])
    try:  # what was found is shown even where it cannot be written
        if pareto:
            from taicang.app.pareto_files import fronts

            write_files(fronts([each.found for each in done]), Path(pareto), "--pareto")
        if options["emit"]:
            from taicang.app.search_emit import emit_all

            emit_all(done, model, options)
    finally:
        if as_json:
            for flip in flipped:
                more[flip.machine]["flips"] = flip
        fields = [_fields(each, more.get(each.found.machine, {})) for each in done]

        def show() -> None:
            from taicang.app.render_search import show_search

            show_search(done, options, more, flipped)

        code = give(
            "search", fields, show, as_json=as_json, page=options["page"], title=f"{model} on {', '.join(names)}",
            feasible=any(each.chosen for each in done),
        )  # fmt: skip
    return code


def _fields(each: Outcome, more: dict[str, Any]) -> dict[str, Any]:
    from taicang.app.quotes import cost_fields
    from taicang.records import plain

    cost = cost_fields(more["quote"]) if "quote" in more else {}
    rest = {name: said for name, said in more.items() if name != "quote"}
    made: dict[str, Any] = plain(each.found) | plain(rest) | cost
    return made


def _more(each: Outcome, model: str, options: dict[str, Any], explain: bool, as_json: bool) -> dict[str, Any]:
    """What was asked about an outcome: the plan to run and what replays saw, why it wins, the user's plan beside it."""
    from taicang import __version__, catalog
    from taicang.app.quotes import quoted
    from taicang.app.search_emit import assumed
    from taicang.predict.plan_details import plan_details
    from taicang.records import plain
    from taicang.search.explain import explained
    from taicang.search.trusted import told
    from taicang.search.versus import fields, versus

    def flat(replayed: Any) -> dict[str, Any]:
        ran: dict[str, Any] = plain(replayed.ran)
        return {"rank": replayed.rank, "promised_tokens_per_s_per_chip": replayed.promised_tokens_per_s_per_chip} | ran

    chosen = each.chosen
    rate = chosen.choice.output_tokens_per_s_per_chip * chosen.load_ratio
    off = (chosen.choice.bands["throughput"].high_ratio or 1.0) - 1.0
    cost = quoted(each.job.machine.name, options["sets"], lambda costs: costs.output(rate, off))
    said: dict[str, Any] = {
        "quote": cost,
        "chosen": {name: getattr(chosen, name) for name in CHOSEN},
    }
    beside = told(each.job, chosen.choice, options["sets"])
    said |= {name: beside[name] for name in ("model", "stack", "sources")}
    if notes := assumed(each, model, options):
        said["notes"] = notes
    said["assumptions"] = (*beside["assumptions"], *notes)
    said |= {"digest": catalog.digest(), "version": __version__}
    if explain:
        if options["page"] is not None or as_json:
            said["plans"] = plan_details(each.job, each.found.best, each.found.front, each.space, options["objective"])
        said["explanation"] = explained(
            each.job, chosen.choice, chosen.rank, each.found.best, each.space, options["objective"]
        )
    if chosen.replayed:
        said["replayed"] = [flat(each) for each in chosen.replayed]
    if options["versus"]:
        quant = chosen.choice.pools[0].plan.quant
        given, ask = fields(options["versus"]), ask_of(options)
        said["versus"] = versus(each.job, quant, given, each.space, chosen.choice, ask)
    return said
