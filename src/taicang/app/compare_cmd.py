"""``taicang compare`` and ``taicang demo``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from taicang.app.ask_cmd import Asking
from taicang.app.load_options import named_load, run_from
from taicang.app.options import command, give, named, write_files
from taicang.errors import MissingFigure, NotModelled, TaicangError

DEMO_MACHINES = (
    "cloudmatrix384",
    "atlas-800i-a2 x 4",
    "hgx-h100 x 4",
    "hgx-h20 x 4",
    "dgx-h100-nvl256",
    "gb200-nvl72",
)
"""The supernode of the article and its rivals; clusters at four nodes, the size that published runs use."""


@command("compare", Asking)
def compare(model: str, machines: str, as_json: bool, **options: Any) -> int:
    """The same MODEL, load and SLO on several machines: at equal chips, power and money, with what binds each."""
    from taicang.app.render_bands import cost_fields, of_tokens, quoted
    from taicang.output import check_folder
    from taicang.predict import Infeasible, Served
    from taicang.records import plain
    from taicang.search.budget import read_budget

    names = named(machines)
    if options["pareto"]:
        check_folder(Path(options["pareto"]), "--pareto")
    budgets = [read_budget(text) for text in options["budgets"]]
    named_load(options, model)
    results = [_one(model, name, options) for name in names]
    refusals = [each for each in results if isinstance(each, TaicangError)]
    if refusals and len(refusals) == len(results):
        raise refusals[0]
    shown = [
        Infeasible(model=model, machine=name, reason=str(each), needed="", available="")
        if isinstance(each, TaicangError)
        else each
        for name, each in zip(names, results, strict=True)
    ]
    costs = {
        name: quoted(name, options["sets"], partial(of_tokens, each))
        for name, each in zip(names, shown, strict=True)
        if isinstance(each, Served)
    }
    bought = {name: _bought(name, each, budgets, options) for name, each in zip(names, shown, strict=True)}

    def show() -> None:
        from taicang.app.render_compare import show_comparison

        show_comparison(names, shown, options, bought, costs)

    try:  # what was found is shown even where it cannot be written
        if options["pareto"]:
            _files(model, dict(zip(names, shown, strict=True)), bought, options)
    finally:
        fields = {
            name: plain(each)
            | ({"budgets": bought[name]} if budgets else {})
            | (cost_fields(costs[name]) if name in costs else {})
            for name, each in zip(names, shown, strict=True)
        }
        code = give(
            "compare", fields, show, as_json=as_json, page=options["page"], title=f"{model} on {', '.join(names)}",
            feasible=any(isinstance(each, Served) for each in results),
        )  # fmt: skip
    return code


@command("compare.demo")
@click.pass_context
def demo(ctx: click.Context, as_json: bool) -> Any:
    """DeepSeek-R1, 4,096 + 256 tokens, TPOT at most 50 ms, on the supernode and five rivals."""
    on = ",".join(DEMO_MACHINES)
    return ctx.invoke(compare, model="deepseek-r1", machines=on, tpot_s=0.05, drafts=1, as_json=as_json)


def _one(model: str, name: str, options: dict[str, Any]) -> Any:
    """A prediction, an infeasibility, or the error of a machine that lacks a figure or a kernel."""
    from taicang.predict.serving import answer

    try:
        return answer(run_from(options, model, name))
    except (MissingFigure, NotModelled) as error:
        return error


def _bought(name: str, result: Any, budgets: list[Any], options: dict[str, Any]) -> dict[str, Any]:
    """Whole machines and their output tokens per second by budget; None where the machine lacks the figure."""
    from taicang import catalog
    from taicang.predict import Served
    from taicang.search.budget import machines

    found: dict[str, Any] = {}
    for budget in budgets if isinstance(result, Served) else ():
        try:
            count = machines(budget, catalog.machine(name, options["sets"]))
        except MissingFigure:
            found[budget.text] = None
            continue
        found[budget.text] = {"machines": count, "output_tokens_per_s": count * result.machine_output_tokens_per_s}
    return found


def _files(model: str, shown: dict[str, Any], bought: dict[str, Any], options: dict[str, Any]) -> None:
    """The comparison as CSV and JSON, and the fronts of the machines that can serve."""
    from taicang.app import pareto_files
    from taicang.predict import Served
    from taicang.search.door import formats, job_of
    from taicang.search.run import Ask, search
    from taicang.search.space import default

    found = []
    for name, each in shown.items():
        if isinstance(each, Served):
            job = job_of(run_from(options, model, name))
            found.append(search(job, formats([options["quant"]], job, options["kv"]), default(job.model), Ask(top=1)))
    files = pareto_files.comparison(shown, bought) | (pareto_files.fronts(found) if found else {})
    write_files(files, Path(options["pareto"]), "--pareto")
