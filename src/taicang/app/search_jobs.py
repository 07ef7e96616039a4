"""Jobs and outcomes of ``taicang search``: machines by name, each searched over the space that was asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import click

from taicang.app.load_options import read_load

MODES = {
    "agg": ("aggregated",),
    "disagg": ("disaggregated",),
    "both": ("aggregated", "disaggregated"),
    "decode": ("decode",),
}
"""Layouts by the word of the option."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One machine: what was searched, what came out, and the plan to run (none where nothing is feasible)."""

    job: Any
    found: Any
    space: Any
    chosen: Any = None


def outcomes(model: str, names: list[str], options: dict[str, Any]) -> list[Outcome]:
    """Outcomes of the machines; of several, those that lack a figure or a kernel are named and left out."""
    from taicang.errors import MissingFigure, NotModelled

    load = read_load(options, model)
    done, refused = [], []
    for name in names:
        try:
            done.append(_chosen(_one(model, name, load, options), options))
        except (MissingFigure, NotModelled) as error:
            if len(names) == 1:
                raise
            refused.append(error)
            click.echo(f"{name}: left out: {error}", err=True)
    if not done:
        raise refused[0]
    return done


def _one(model: str, name: str, load: dict[str, Any], options: dict[str, Any]) -> Outcome:
    from taicang.predict.choose import DEPTH
    from taicang.search import versus
    from taicang.search.door import formats, prepare
    from taicang.search.run import Ask, search

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
    space = space_of(job, options)
    keep = None
    if options["emit"]:
        from taicang.search.handover import able

        keep = able(options["emit"], job.machine, job.model, job.stack.name)
    modes: Any = MODES[options["mode"]]
    depth = max(options["top"], DEPTH) if options["confirm"] else options["top"]
    ask = Ask(objective=options["objective"], modes=modes, load_per_s=options["load_per_s"], top=depth)
    quants = formats([each.strip() for each in options["quant"].split(",")], job)
    found = search(job, quants, versus.widened(space, given), ask, beside=beside, keep=keep)
    return Outcome(job=job, found=found, space=space)


def _chosen(each: Outcome, options: dict[str, Any]) -> Outcome:
    """``each`` with the plan to run, the ranking cut to what is shown."""
    from taicang.predict.choose import choose

    if not each.found.best:
        return each
    chosen = choose(
        each.job,
        each.found.best,
        most=options["confirm"],
        named=options["profile"] or "",
        within_ratio=options["within_ratio"],
        load_per_s=options["load_per_s"],
    )
    return replace(each, chosen=chosen, found=replace(each.found, best=each.found.best[: options["top"]]))


def space_of(job: Any, options: dict[str, Any]) -> Any:
    """The space that was asked for, with the draft length fixed where the user named one."""
    from taicang.search.space import default, wide

    space = wide(job.model) if options["space"] == "wide" else default(job.model)
    return space if options["drafts"] is None else replace(space, drafts=(options["drafts"],))
