"""``taicang search``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from taicang.app.ask_cmd import Asking
from taicang.app.options import command, give, named, write_files
from taicang.app.search_jobs import Outcome, ask_of, outcomes, ranking

CHOSEN = ("rank", "choice", "keeps", "why", "load_ratio", "goodput_tokens_per_s_per_chip", "passed")


@command("search", Asking)
def search(model: str, machines: str, as_json: bool, pareto: str | None, explain: bool, **options: Any) -> int:
    """The best way to run MODEL under a load and an SLO, on every machine."""
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
            from taicang.app.search_jobs import emit_all

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
    from taicang.app.render_bands import cost_fields
    from taicang.records import plain

    cost = cost_fields(more["quote"]) if "quote" in more else {}
    rest = {name: said for name, said in more.items() if name != "quote"}
    made: dict[str, Any] = plain(each.found) | plain(rest) | cost
    return made


def _more(each: Outcome, model: str, options: dict[str, Any], explain: bool, as_json: bool) -> dict[str, Any]:
    """What was asked about an outcome: the plan to run and what replays saw, why it wins, the user's plan beside it."""
    from taicang import __version__, catalog
    from taicang.app.render_bands import quoted
    from taicang.app.search_jobs import assumed
    from taicang.records import plain
    from taicang.search.explain import explained
    from taicang.search.trusted import told
    from taicang.search.versus import fields, versus

    def flat(replayed: Any) -> dict[str, Any]:
        ran: dict[str, Any] = plain(replayed.ran)
        return {"rank": replayed.rank, "promised_tokens_per_s_per_chip": replayed.promised_tokens_per_s_per_chip} | ran

    chosen = each.chosen
    rate = chosen.choice.output_tokens_per_s_per_chip * chosen.load_ratio
    off = chosen.choice.bands["throughput"].wide_ratio
    cost = quoted(each.job.machine.name, options["sets"], lambda costs: costs.output(rate, off))
    ran = [each.ran.bands for each in chosen.replayed if each.rank == chosen.rank]
    said: dict[str, Any] = {
        "quote": cost,
        "chosen": {name: getattr(chosen, name) for name in CHOSEN} | {"bands": (ran or [chosen.choice.bands])[0]},
    }
    beside = told(each.job, chosen.choice, options["sets"])
    said |= {name: beside[name] for name in ("model", "stack", "sources")}
    if notes := assumed(each, model, options):
        said["notes"] = notes
    said["assumptions"] = (*beside["assumptions"], *notes)
    said |= {"digest": catalog.digest(), "version": __version__}
    if explain:
        if options["page"] is not None or as_json:
            from taicang.predict.plan_details import plan_details

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
