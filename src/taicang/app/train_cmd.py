"""Options of ``taicang train``: the plan, the run around it, and what they are read into."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from taicang.app import terminal
from taicang.app.ask_cmd import Asking
from taicang.app.load_options import fields_of
from taicang.app.options import (
    command,
    give,
    listed,
    write_chakra,
    write_files,
)
from taicang.output import check_file, check_folder, write_file

if TYPE_CHECKING:
    from taicang.centre.quote import Quote
    from taicang.search.training import Training


ZERO = {
    "none": 0, "distributed-optimizer": 1, "zero1": 1, "zero2": 2, "zero3": 3, "fsdp": 3, "fsdp2": 3, "hsdp": 3,
}  # fmt: skip
"""Names of ZeRO stages beside their numbers; HSDP shards inside one scale-up domain."""


def stage(text: str, _where: str) -> str:
    """A ZeRO stage by number or name; the plan takes its number, and HSDP's groups need the machine."""
    if text.lower() not in (*ZERO, "0", "1", "2", "3"):
        raise click.BadParameter(f"{text!r} is none of 0, 1, 2, 3, {', '.join(ZERO)}")
    return text.lower()


SCHEDULES: Final = ("gpipe", "1f1b", "interleaved", "zero_bubble", "zb_2p", "zb_v", "dualpipe", "dualpipev")
SPELT: Final = {"zb": "zero_bubble", "zb_h1": "zero_bubble", "zb_1p": "zero_bubble", "zb_h2": "zb_2p", "zbv": "zb_v"}
"""Names of schedules in their papers."""


class Spelt(click.Choice[str]):
    """A choice whose values may be written with hyphens, or as papers call them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The value as the plan has it."""
        text = str(value).lower().replace("-", "_")
        return super().convert(SPELT.get(text, text), param, ctx)


def schedule() -> Spelt:
    """The type of ``--schedule``."""
    return Spelt(SCHEDULES)


_FIELDS = {"no_reshard": "reshard", "no_sp": "sp"}
"""Option -> field of the plan, where they differ."""
_UNSAID: dict[str, Any] = {
    "dp": 0,
    "etp": 0,
    "global_batch": 0,
    "gradients": "",
    "nvme_bytes_per_s": 0.0,
    "recompute": "",
}
"""What stands in a plan where its command names nothing: the stack, the machine or the model decide."""


def training_from(ctx: click.Context) -> Training:
    """The question of a parsed command line of ``taicang train``."""
    from taicang import catalog
    from taicang.search.training import Training
    from taicang.train.run import Policy
    from taicang.train.space import scale_up_ranks

    options = ctx.params
    on = catalog.machine(options["machine"], options["sets"])
    return Training(
        model=options["model"], on=on, plan=_plan(options, scale_up_ranks(on)), stack=options["stack"],
        sets=options["sets"], searched=options["search"], pinned=_pinned(ctx),
        overlap=listed(options["overlap"]), fused=listed(options["fused"]), captured=listed(options["captured"]),
        tokens=options["tokens"], policy=Policy(**fields_of(Policy, options) | {"mtbf_s": dict(options["mtbf_s"])}),
        explained=options["explain"] or options["trace"] is not None or options["chakra"] is not None,
    )  # fmt: skip


def _plan(options: dict[str, Any], domain: int) -> Any:
    """The plan that the options fix; ``domain`` is how many ranks HSDP's shard groups span."""
    from taicang.train_plans import WAVES, TrainPlan, recipe

    zero, shard, schedule = options["zero"], options["shard"], options["schedule"]
    if zero == "hsdp" and not shard:
        shard = domain // options["tp"]
        if shard < 2:
            raise click.UsageError(f"hsdp: tp={options['tp']} fills a scale-up domain of {domain} ranks; name --shard")
    said: dict[str, Any] = {name: value for name, value in fields_of(TrainPlan, options).items() if value is not None}
    if schedule in (*WAVES, "interleaved"):
        said["vpp"] = max(said["vpp"], 2)
    return TrainPlan(**_UNSAID | said | {
        "zero": ZERO[zero] if zero in ZERO else int(zero), "shard": shard, "reshard": not options["no_reshard"],
        "schedule": "1f1b" if schedule == "interleaved" else schedule, "sp": not options["no_sp"],
        "recompute_modules": _modules(options["recompute_modules"]), "recipe": recipe(options["dtype"]),
        "trained_ratio": 0.0 if options["lora"] else 1.0,
    })  # fmt: skip


def _modules(text: str) -> tuple[str, ...]:
    """Names of parts of a layer; ``UnknownName`` suggests the nearest."""
    from typing import get_args

    from taicang.errors import UnknownName
    from taicang.lower.training import Module

    known = [name for name in get_args(Module) if name != "rest"]
    found = tuple(listed(text))
    for name in found:
        if name not in known:
            raise UnknownName("part of a layer", name, known)
    return found


def _pinned(ctx: click.Context) -> frozenset[str]:
    """Fields of the plan that the command line sets."""
    given = click.core.ParameterSource.COMMANDLINE
    found = {name for name in ctx.params if ctx.get_parameter_source(name) == given}
    return frozenset(_FIELDS.get(name, name) for name in found) | ({"shard"} if ctx.params["zero"] == "hsdp" else set())


@command("train", Asking)
@click.pass_context
def train(ctx: click.Context, /, as_json: bool, page: Path | None, **options: Any) -> int:
    """Train MODEL on a machine: one step's time, tokens/s, MFU, memory and where the time goes."""
    from taicang.app.render_bands import quoted
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
        rent = options["chip_hour_usd"]
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
    from taicang.app.render_bands import cost_fields, cost_line
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
