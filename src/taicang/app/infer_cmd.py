"""``taicang infer``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from taicang.app.asking import Asking
from taicang.app.options import CHOICES, HTML, JSON, LOAD, PLAN, check_page, echo_json, write_page
from taicang.search.words import MODES


@click.command(
    cls=Asking,
    epilog="""\b
Examples:
  taicang infer deepseek-r1 --on cloudmatrix384 --input 4096 --output 256 --tpot 50ms
  taicang infer llama-3.1-70b --on hgx-h100 --input 1024 --output 1024 --tp 4 --batch 32
  taicang infer path/to/config.json --on "hgx-h20 x 2" --tpot 100ms --json
  taicang infer deepseek-r1 --on cloudmatrix384 --set chip.memory.bandwidth="4 TB/s"
""",
)
@click.argument("model")
@click.option("--on", "machine", required=True, help='Machine, e.g. cloudmatrix384, "hgx-h100 x 4", my.yaml.')
@LOAD
@PLAN
@click.option("--prefill-plan", metavar="PLAN", help='Layout of prefill instances as printed: "DP32 EP32 R32 x2".')
@click.option(
    "--mode",
    type=click.Choice(["agg", "disagg", "both"]),
    default="both",
    show_default=True,
    help="Prefill and decode share instances, have their own, or what is best.",
)
@CHOICES
@click.option("--layers", is_flag=True, help="Print the operator waterfall of the whole step, not of one layer only.")
@HTML
@JSON
def infer(model: str, machine: str, as_json: bool, layers: bool, page: Path | None, **options: Any) -> None:
    """Serve MODEL (a built-in name or a Hugging Face config.json) on a machine.

    Prints the best whole instances of the usual layouts that meet the SLO and fit machine and memory: TTFT, TPOT,
    throughput per instance, chip and die, memory by what fills it, the operator waterfall, what binds, power,
    assumptions, sources and the error band. A printed plan, given back as options, gives the same figures.
    """
    from taicang.app.expert_loads import resolve
    from taicang.app.plan_options import plan_from
    from taicang.catalog.models import model as load_model
    from taicang.plans import read_plan
    from taicang.predict import Infeasible
    from taicang.predict import infer as predict

    resolve(options, model)
    check_page(page)
    net = load_model(model, approximate=options["approximate"])
    result = predict(
        net,
        machine,
        plan=plan_from(options, net),
        prefill_plan=read_plan(options["prefill_plan"], "--prefill-plan") if options["prefill_plan"] else None,
        modes=MODES[options["mode"]],
        input_tokens=options["input_tokens"],
        output_tokens=options["output_tokens"],
        tpot_s=options["tpot"],
        ttft_s=options["ttft"],
        stack=options["stack"],
        memory_ratio=options["memory_ratio"],
        quant=options["quant"],
        kv=options["kv"],
        batch=options["batch"],
        drafts=options["drafts"],
        acceptance_ratio=options["acceptance"],
        skew=options["skew"],
        sets=options["sets"],
    )
    fields = {"infeasible": isinstance(result, Infeasible), **_fields(result)}
    write_page("infer", fields, page, f"{model} on {machine}")
    if as_json:
        echo_json(fields)
    elif isinstance(result, Infeasible):
        from taicang.app.render import show_infeasible

        show_infeasible(result)
    else:
        from taicang.app.render import show_prediction

        show_prediction(result, whole=layers)
    if isinstance(result, Infeasible):
        raise SystemExit(1)


def _fields(result: Any) -> dict[str, Any]:
    from taicang.records import plain

    made: dict[str, Any] = plain(result)
    return made
