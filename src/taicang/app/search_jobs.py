"""Jobs and outcomes of ``taicang search``: machines by name, each searched over the space that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from taicang.app.load_options import named_load, run_from
from taicang.app.options import write_files
from taicang.errors import InvalidInput
from taicang.search.words import MODES

MOST_UNITS = 512
"""Units of a machine of open size."""


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

    named_load(options, model)
    done, refused = [], []
    for name in names:
        try:
            base, growing = open_ended(name, options["objective"])
            one = _grown if growing else _one
            done.append(_chosen(one(model, base, options), options))
        except (MissingFigure, NotModelled) as error:
            if len(names) == 1:
                raise
            refused.append(error)
            click.echo(f"{name}: left out: {error}", err=True)
    if not done:
        raise refused[0]
    return done


def open_ended(name: str, objective: str) -> tuple[str, bool]:
    """A machine's name, and whether its size is left open: "hgx-h200 x N" is as many as the load takes."""
    base, times, count = name.rpartition(" x ")
    if not times or count.strip() != "N":
        return name, False
    if objective != "smallest":
        text = f"{name!r} leaves the size open, which only --objective smallest settles; give a number for N"
        raise InvalidInput(text, where="--on")
    return base.strip(), True


def _grown(model: str, base: str, options: dict[str, Any]) -> Outcome:
    """The outcome on as many units of a machine as the load takes.

    What a load takes in layouts of a small machine is never less than in those of a large one: it is tried next.
    """
    units = 1
    while True:
        found = _one(model, f"{base} x {units}", options)
        if found.found.best or units >= MOST_UNITS:
            return found
        each = found.job.machine.chips // units
        units = min(-(-(found.found.takes_chips or 2 * units * each) // each), MOST_UNITS)


def _one(model: str, name: str, options: dict[str, Any]) -> Outcome:
    from taicang.predict.choose import DEPTH
    from taicang.search import versus
    from taicang.search.door import PLAN, formats, job_of, narrowed
    from taicang.search.handover import check, stack_for, why_not
    from taicang.search.run import search
    from taicang.search.space import default, layouts, pinned, wide

    run = run_from(options, model, name)
    job = job_of(run)
    if options["emit"] and not options["stack"]:
        check(options["emit"], job.machine)
        own = stack_for(options["emit"], job.machine)
        job = job_of(replace(run, stack=own)) if own else job
    given = versus.fields(options["versus"] or "")
    beside = (versus.layout(job, given),) if given else ()
    space = narrowed((wide if options["space"] == "wide" else default)(job.model), run)
    quants = formats([each.strip() for each in options["quant"].split(",")], job, options["kv"])
    if held := {key: options[key] for key in PLAN if options[key] is not None}:
        space = pinned(space, held)
        if not any(map(space.takes, layouts(space, job.model, job.machine, job.stack, quants[0][1]))):
            beside = (*beside, versus.layout(job, held))  # beyond the axes, or against a rule
    refused = why_not(options["emit"], job.machine, job.model, job.stack.name) if options["emit"] else None
    depth = max(options["top"], DEPTH) if options["confirm"] else options["top"]
    ask = replace(ask_of(options), top=depth)
    found = search(job, quants, versus.widened(space, given), ask, beside=beside, why_not=refused)
    return Outcome(job=job, found=found, space=space)


def ask_of(options: dict[str, Any]) -> Any:
    """What is best, by the options."""
    from taicang.search.run import Ask

    modes: Any = MODES[options["mode"]]
    return Ask(objective=options["objective"], modes=modes, load_per_s=options["load_per_s"], top=options["top"])


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
        load_per_s=options["load_per_s"],
    )
    return replace(each, chosen=chosen, found=replace(each.found, best=each.found.best[: options["top"]]))


def ranking(done: Sequence[Outcome], objective: Any) -> list[Outcome]:
    """Machines that can run it by the objective, best first; without those whose power or price is not public."""
    scored = [(_score(each, objective), each) for each in done if each.chosen]
    return [each for score, each in sorted(scored, key=lambda pair: -(pair[0] or 0.0)) if score is not None]


def _score(each: Outcome, objective: Any) -> float | None:
    """Of the load at which the plan to run keeps its limits."""
    score: float | None = each.chosen.choice.score(objective)
    return score if score is None or objective == "smallest" else score * each.chosen.load_ratio


def emit_all(done: Sequence[Outcome], model: str, options: dict[str, Any]) -> None:
    """Write the chosen plan of each machine for the engine, and say what it does not know."""
    from taicang.search.handover import emit, priced_as_another, priced_version

    made = []
    for each in done:
        if not each.chosen:
            continue
        job, notes = each.job, assumed(each, model, options)
        files = emit(
            each.chosen.choice,
            job.machine,
            job.model,
            to=options["emit"],
            path=weights(each, model, options) or job.model.name,
            input_tokens=options["input_tokens"],
            output_tokens=options["output_tokens"],
            notes=notes,
            version=priced_version(options["emit"], job.stack),
            priced=None if priced_as_another(options["emit"], job.machine, job.stack) else job.stack,
        )
        made.append((each, files, notes))
    for each, files, notes in made:
        write_files(files, folder_of(each, len(done), options))
        for note in notes:
            click.echo(f"{each.found.machine}: {note}", err=True)


def folder_of(each: Outcome, machines: int, options: dict[str, Any]) -> Path:
    """Where the files of one of several machines go."""
    folder = Path(options["out"])
    return folder / each.job.machine.name.replace(" ", "") if machines > 1 else folder


def weights(each: Outcome, model: str, options: dict[str, Any]) -> str | None:
    """Where the engine finds the weights: as told, or where they are published."""
    from taicang.catalog.models import weights_of

    given: str | None = options["weights"]
    return given or weights_of(model, each.job.model)


def assumed(each: Outcome, model: str, options: dict[str, Any]) -> list[str]:
    """What a plan for an engine takes for granted, for its files and for the output."""
    if not options["emit"]:
        return []
    from taicang.search.handover import other_version, priced_as_another

    to, machine, stack = options["emit"], each.job.machine, each.job.stack
    said = [priced_as_another(to, machine, stack) or other_version(to, machine, stack)]
    if weights(each, model, options) is None:
        name = each.job.model.name
        said.append(f"no Hugging Face id of {name} is known: give the path of its weights with --weights")
    elif not options["weights"]:
        said.append(_other_format(each))
    if each.chosen.warning:
        said.append(each.chosen.warning)
    return [text for text in said if text]


def _other_format(each: Outcome) -> str:
    """Where the plan runs weights of another format than the published ones, which no engine makes while it loads."""
    from taicang.models.types import routed

    net, quant = each.job.model, each.chosen.choice.pools[0].plan.quant
    planned = quant.experts if routed(net) else quant.dense
    kinds = [form.partition("_")[0] for form in (planned, net.dtype)]
    if kinds[0] == kinds[1] or kinds == ["fp8", "bf16"]:
        return ""
    return (
        f"the plan runs {planned} weights, those of {net.name} are published in {net.dtype}: give others with --weights"
    )
