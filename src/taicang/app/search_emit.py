"""Hand the chosen plans of ``taicang search`` over: weights, remarks and files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from taicang.app.options import write_files
from taicang.app.search_jobs import Outcome


def emit_all(done: Sequence[Outcome], model: str, options: dict[str, Any]) -> None:
    """Write the chosen plan of each machine for the engine, and say what it does not know."""
    from taicang.search.handover import emit, priced_as_another

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
            memory=None if priced_as_another(options["emit"], job.machine, job.stack) else job.stack.memory,
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
    from taicang.search.handover import priced_as_another

    said = [priced_as_another(options["emit"], each.job.machine, each.job.stack)]
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
