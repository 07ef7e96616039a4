"""``taicang train``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taicang.app import terminal
from taicang.app.asking import Asking
from taicang.app.options import CHAKRA, HTML, JSON, SETS, give, write_chakra, write_files
from taicang.app.train_options import PLAN, RUN, training_from
from taicang.output import check_file, check_folder, write_file

if TYPE_CHECKING:
    from taicang.centre.quote import Quote


@click.command(
    cls=Asking,
    epilog="""\b
Examples:
  taicang train llama-3.1-405b --on "hgx-h100 x 128" --tp 8 --pp 8 --cp 2 --vpp 8 --global-batch 1152 --seq 8192
  taicang train deepseek-v3 --on "hgx-h800 x 256" --pp 16 --ep 64 --schedule dualpipe --global-batch 15360 \\
    --recompute selective --recompute-modules norm,up,mlp --moments bf16 --stack hai-llm --dtype fp8_block
  taicang train llama-3-8b --on hgx-h100 --zero fsdp2 --global-batch 128 --seq 8192 --dtype fp8 --json
  taicang train pangu-7b --on "atlas-800t-a2 x 128" --tokens 2T --search
  taicang train llama-3-70b --on "gb200-nvl72 x 16" --tp 4 --search   (only layouts with tp 4)
  taicang train llama-3.1-70b --on "hgx-h100 x 16" --search --emit megatron --out deploy
""",
)
@click.argument("model")
@click.option("--on", "machine", required=True, help='Machine, e.g. "hgx-h100 x 128", my.yaml.')
@PLAN
@RUN
@click.option("--search", is_flag=True, help="Find the fastest layout on the whole machine; options given stay fixed.")
@click.option("--explain", is_flag=True, help="What 10 % more of each resource would save.")
@click.option(
    "--perfetto",
    "--trace",
    "trace",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the step's timeline as trace events, for ui.perfetto.dev.",
)
@CHAKRA
@click.option("--emit", type=click.Choice(["megatron"]), help="Also write the plan's launch files for this engine.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default="deploy", show_default=True,
              help="Where to.")  # fmt: skip
@click.option("--stack", help="Software stack, e.g. nemo@25.04 (default: by vendor).")
@SETS
@HTML
@JSON
@click.pass_context
def train(ctx: click.Context, /, as_json: bool, page: Path | None, **options: Any) -> int:
    """Train MODEL on a machine: one step's time, tokens/s, MFU, memory and where the time goes."""
    from taicang.app.quotes import quoted
    from taicang.predict import Infeasible
    from taicang.predict.train import answer

    if options["trace"] is not None:
        check_file(options["trace"], "--perfetto")
    if options["emit"]:
        check_folder(options["out"], "--out")
    asked = training_from(ctx)
    with terminal.counting(lambda done, total: f"{done:,} of {total:,} layouts") as progress:
        result = answer(asked if page is None else replace(asked, explained=True), progress)
    if isinstance(result, Infeasible):
        return _give(result, as_json, page)
    cost = None
    if result.run is not None:
        rent = options["chip_hour"]
        cost = quoted(options["machine"], options["sets"], lambda costs: costs.run(result), rent_usd=rent)
    try:  # what was found is shown even where it cannot be written
        if options["emit"]:
            from taicang import catalog
            from taicang.catalog.models import model as load_model
            from taicang.search.handover.megatron import megatron

            on = catalog.machine(options["machine"], options["sets"])
            files = megatron(result.step.plan, load_model(options["model"]), on, overlap=result.overlap)
            write_files(files, options["out"])
        if options["chakra"] is not None and result.explained is not None:
            from taicang.predict.chakra import training_graph

            write_chakra(training_graph(result.explained.setup, result.model), options["chakra"])
        if options["trace"] is not None and result.explained is not None:
            write_file(options["trace"], json.dumps(result.explained.trace), "--perfetto")
    finally:
        bare = replace(result.explained, trace={}) if result.explained and asked.explained else None
        code = _give(replace(result, explained=bare), as_json, page, cost, result.explained)
    return code


def _give(result: Any, as_json: bool, page: Path | None, cost: Quote | str | None = None, explained: Any = None) -> int:
    from taicang.app.quotes import cost_fields, cost_line
    from taicang.predict import Infeasible

    fits = not isinstance(result, Infeasible)

    def show() -> None:
        from taicang.app.render import show_infeasible
        from taicang.app.render_train import show_training

        (show_training if fits else show_infeasible)(result)
        if cost is not None:
            click.echo(cost_line(cost))

    fields = {"infeasible": not fits, "prediction": result, **({} if cost is None else cost_fields(cost))}
    title = f"{result.model} on {result.machine}"
    return give(
        "train",
        fields,
        show,
        as_json=as_json,
        page=page,
        title=title,
        feasible=fits,
        shown=fields | {"explained": explained},
    )
