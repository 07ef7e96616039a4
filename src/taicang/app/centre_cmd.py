"""``taicang centre``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from taicang.app.ask_cmd import Asking
from taicang.app.options import command, give, named


@command("centre", Asking)
def centre(machine: str, others: str | None, page: Path | None, as_json: bool, **options: Any) -> Any:
    """What a centre of MACHINE costs: per chip-hour, million tokens and training run."""
    found = _file(click.get_current_context(), machine)
    if found is not None:
        return found[0]
    from taicang.app.centre_options import Unfit, case, mixed
    from taicang.app.load_options import named_load
    from taicang.centre.compare import compare, shares
    from taicang.centre.report import report
    from taicang.records import plain

    if options["serve"]:
        named_load(options, options["serve"])
    machine, *beside = named(machine, "MACHINE")
    names = [machine, *beside, *named(others, "--compare")]
    if options["load"] is not None and not options["serve"]:
        raise click.UsageError("--load needs --serve MODEL")
    if len(names) > 1 and not options["serve"]:
        raise click.UsageError("several machines are compared by what they serve: give --serve MODEL")
    cases, said = [], []
    for name in names:
        try:
            if options["mix"]:
                one, told = mixed(name, options, click.get_current_context().command)
            else:
                one, told = case(name, options if name == machine else options | {"price": None, "rent": None})
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
    work = shares(cases[0], **drawn)
    said = list(dict.fromkeys(said))
    made = _plain(cases[0], told_of, rows, said) | {"mix": plain(work)}

    def shown() -> None:
        from taicang.app.render_centre import show

        show(cases[0], told_of, rows, said, work)

    return give("centre", made, shown, as_json=as_json, page=page, title=f"{machine}, centre")


def _file(ctx: click.Context, machine: str) -> Any:
    """The answer to a centre's file, whose keys are the options; None where ``machine`` is no such file."""
    path = Path(machine)
    if path.suffix.lower() not in (".yaml", ".yml") or not os.path.isfile(path):
        return None
    from taicang.app.ask_cmd import Question, answer
    from taicang.catalog import files

    body = {str(key): value for key, value in files.read(path).items()}
    if "machine" not in body:
        return None
    words = [word for word in ctx.meta["taicang.words"] if word != machine]
    body.pop("ask", None)
    if "mix" in body:
        from taicang.app.centre_options import written

        body["mix"] = written(body["mix"], files.where(path, ["mix"]))
    return (answer(Question(ask="centre", given=body, defaults={}), ctx.command, path, words),)


def _unfit(infeasible: Any, as_json: bool) -> int:
    from taicang.app.render import show_infeasible

    fields = {"infeasible": True, "reason": infeasible.reason}
    return give("centre", fields, lambda: show_infeasible(infeasible), as_json=as_json, feasible=False)


def _plain(case: Any, told: Any, rows: Any, said: list[str]) -> dict[str, Any]:
    """The report for programs, with its figures and where they come from."""
    from taicang.records import plain

    made: dict[str, Any] = plain(told)
    return made | {
        "infeasible": False,
        "machine_chips": case.plant.machine.chips,
        "serving": plain(case.serving),
        "training": plain(case.training),
        "bands": plain(case.bands),
        "compared": plain(rows),
        "figures": plain(case.figures),
        "assumptions": said,
    }
