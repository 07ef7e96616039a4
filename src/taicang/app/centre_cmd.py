"""``taicang centre``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from taicang.app.asking import Asking
from taicang.app.centre_options import MIX, MONEY
from taicang.app.load_options import NAMED_LOAD
from taicang.app.options import CHOICES, HTML, JSON, check_page, echo_json, write_page


@click.command(
    cls=Asking,
    epilog="""\b
Examples:
  taicang centre cloudmatrix384 --serve deepseek-r1 --tpot 50ms \\
      --profile servegen-deepseek-r1 --site inner-mongolia --utilisation 30%
  taicang centre hgx-h100 --serve llama-3.1-70b --tpot 50ms --rent "2 USD/h"
  taicang centre "hgx-h20 x 8" --serve deepseek-r1 --tpot 50ms \\
      --compare "gb200-nvl72,cloudmatrix384" --html centre.html
  taicang centre "atlas-800-a2 x 128" --train pangu-7b --tokens 2T
  taicang centre centre.yaml --utilisation 60%
\b
A centre, centre.yaml (keys are the options; machine is the argument):
  machine: cloudmatrix384
  count: 4
  serve: deepseek-r1
  profile: servegen-deepseek-r1
  tpot: 50ms
  site: inner-mongolia
  utilisation: 20..40 %
  figure: [years=5, interest=3.5%]
""",
)
@click.argument("machine")
@MIX
@NAMED_LOAD
@MONEY
@CHOICES
@click.option("--compare", "others", help="Machines that serve the same, comma-separated.")
@HTML
@JSON
def centre(machine: str, others: str | None, page: Path | None, as_json: bool, **options: Any) -> Any:
    """What a centre of MACHINE costs: per chip-hour, million tokens and training run.

    MACHINE is a name, a machine's file, or a centre's file. Every figure may be a range (20..30 %): results are the
    5th, 50th and 95th percentile of draws from all ranges, the prediction's own error among them, with a list of
    what matters most.
    """
    found = _file(click.get_current_context(), machine)
    if found is not None:
        return found[0]
    from taicang.app.centre_options import Unfit, case, machines
    from taicang.app.expert_loads import resolve
    from taicang.app.load_options import read_load
    from taicang.centre.report import compare, report

    check_page(page)
    if options["serve"]:
        resolve(options, options["serve"])
    load = read_load(options, options["serve"]) if options["serve"] else None
    names = [machine, *machines(others)]
    if options["load"] is not None and load is None:
        raise click.UsageError("--load needs --serve MODEL")
    if len(names) > 1 and load is None:
        raise click.UsageError("--compare needs --serve MODEL")
    cases, said = [], []
    for name in names:
        try:
            one, told = case(name, options if name == machine else options | {"price": None, "rent": None}, load)
        except Unfit as error:
            if name == machine:
                return _unfit(error.infeasible, as_json)
            said.append(f"{name}: left out: {error}")
            continue
        cases.append(one)
        said += told if name == machine else [f"{name}: {line}" for line in told]
    drawn = {"currency": options["currency"], "samples": options["samples"], "seed": options["seed"]}
    told_of = report(cases[0], **drawn)
    rows = compare(cases, **drawn) if len(cases) > 1 else ()
    said = list(dict.fromkeys(said))
    made = _plain(cases[0], told_of, rows, said)
    write_page("centre", made, page, f"{machine}, centre")
    if as_json:
        echo_json(made)
    else:
        from taicang.app.render_centre import show

        show(cases[0], told_of, rows, said)
    return None


def _file(ctx: click.Context, machine: str) -> Any:
    """The answer to a centre's file, whose keys are the options; None where ``machine`` is no such file."""
    path = Path(machine)
    if path.suffix.lower() not in (".yaml", ".yml") or not os.path.isfile(path):
        return None
    from taicang.app.asking import Run, answer
    from taicang.catalog import files

    body = {str(key): value for key, value in files.read(path).items()}
    if "machine" not in body:
        return None
    words = [word for word in ctx.meta["taicang.words"] if word != machine]
    body.pop("ask", None)
    return (answer(Run(ask="centre", given=body, defaults={}), ctx.command, path, words),)


def _unfit(infeasible: Any, as_json: bool) -> None:
    if as_json:
        echo_json({"infeasible": True, "reason": infeasible.reason})
    else:
        from taicang.app.render import show_infeasible

        show_infeasible(infeasible)
    raise SystemExit(1)


def _plain(case: Any, told: Any, rows: Any, said: list[str]) -> dict[str, Any]:
    """The report for programs, with its figures and where they come from."""
    from taicang.records import plain

    made: dict[str, Any] = plain(told)
    return made | {
        "infeasible": False,
        "machine_chips": case.plant.machine.chips,
        "serving": plain(case.serving),
        "training": plain(case.training),
        "compared": plain(rows),
        "figures": plain(case.figures),
        "assumptions": said,
    }
