"""Options of ``taicang train``: the plan, the run around it, and what they are read into."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from taicang.app import terminal
from taicang.app.ask_cmd import Asking
from taicang.app.options import (
    CHAKRA,
    DURATION,
    HTML,
    JSON,
    MOST,
    SETS,
    TOKENS,
    Finite,
    Named,
    Quantity,
    Whole,
    give,
    listed,
    stacked,
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


class Stage(click.ParamType[Any]):
    """A ZeRO stage by number or name."""

    name = "STAGE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the name; the plan takes its number, and HSDP's groups need the machine."""
        text = str(value).lower()
        if text not in ZERO and text not in ("0", "1", "2", "3"):
            self.fail(f"{value!r} is none of 0, 1, 2, 3, {', '.join(ZERO)}", param, ctx)
        return text


SCHEDULES: Final = ("gpipe", "1f1b", "interleaved", "zero_bubble", "zb_2p", "zb_v", "dualpipe", "dualpipev")
SPELT: Final = {"zb": "zero_bubble", "zb_h1": "zero_bubble", "zb_1p": "zero_bubble", "zb_h2": "zb_2p", "zbv": "zb_v"}
"""Names of schedules in their papers."""


class Spelt(click.Choice[str]):
    """A choice whose values may be written with hyphens, or as papers call them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The value as the plan has it."""
        text = str(value).lower().replace("-", "_")
        return super().convert(SPELT.get(text, text), param, ctx)


def _degree(name: str, text: str) -> Any:
    return click.option(f"--{name}", type=Whole(1), default=1, show_default=True, help=text)


def _choice(name: str, default: str, values: list[str], text: str) -> Any:
    return click.option(f"--{name}", type=click.Choice(values), default=default, show_default=True, help=text)


LAYOUT = stacked(
    _degree("tp", "Tensor-parallel ranks."),
    _degree("cp", "Context-parallel ranks."),
    _degree("pp", "Pipeline stages."),
    _degree("vpp", "Model chunks per stage."),
    _degree("ep", "Expert-parallel ranks."),
    click.option("--etp", type=Whole(1), help="Tensor-parallel ranks per expert (default: the stack's, mostly 1)."),
    click.option("--dp", type=Whole(1), help="Data-parallel groups (default: fills the machine)."),
    click.option(
        "--order", default="tp-cp-ep-dp-pp", show_default=True,
        help="Axes, from the innermost level outward, or random[:SEED] places.",
    ),
    _degree("micro-batch", "Sequences per microbatch."),
    click.option(
        "--global-batch", type=Whole(1), help="Sequences per step (default: about 4 million tokens)."
    ),
    click.option("--seq", type=TOKENS, default=4096, show_default=True, help="Tokens per sequence, e.g. 4096 or 8k."),
    click.option("--dtype", default="bf16", show_default=True,
                 help="bf16, fp16, fp8, fp8_block, mxfp8, nvfp4, int8; nf4 with --lora."),
    click.option(
        "--zero", type=Stage(), default="1", show_default=True,
        help="0 to 3, or none, distributed-optimizer, fsdp, fsdp2, hsdp.",
    ),
    click.option(
        "--shard", type=Whole(0), default=0, help="Ranks of a ZeRO shard group (HSDP; default: all)."
    ),
    click.option("--skew", type=Finite(0, 2), default=0.0, show_default=True,
                 help="Power-law exponent of the experts' popularity under real routing."),
    _choice("offload", "none", ["none", "optimizer", "weights"], "To host memory, as DeepSpeed does: the optimizer, or "
            "with ZeRO 3 the weights too."),
    click.option("--offload-activations", type=Finite(0, 1), default=0.0, metavar="SHARE",
                 help="Share of the layers whose activations wait in host memory for the backward pass."),
    click.option("--nvme", type=Quantity("bytes_per_s", "BANDWIDTH"),
                 help="Offload to NVMe instead: its bandwidth for one rank, e.g. 3GB/s."),
    click.option("--no-reshard", is_flag=True, help="FSDP: keep gathered weights for the backward pass."),
    _choice("moments", "fp32", ["fp32", "bf16", "fp8"], "Format of Adam's moments."),
    _choice("master", "fp32", ["fp32", "remainder", "none"], "Master weights beside the 16-bit ones."),
    click.option("--gradients", type=click.Choice(["fp32", "bf16", "fp16"]), help="Gradients (default: the stack's)."),
    click.option("--recompute", type=click.Choice(["none", "selective", "full"]),
                 help="What the backward pass runs forward again (default: what the stack does; mostly none)."),
    click.option(
        "--recompute-share", type=Finite(0, 1), default=1.0, show_default=True,
        help="Share of the layers that full recompute repeats.",
    ),
    click.option(
        "--recompute-modules", default="core", show_default=True,
        help="Parts that selective recompute repeats: core, norm, up, mlp, experts, shared, act.",
    ),
    click.option("--schedule", type=Spelt(SCHEDULES), default="1f1b", show_default=True,
                 help="Pipeline schedule; interleaved (1f1b with --vpp), zb_v and dualpipev run two chunks a stage or "
                 "more; zb-h1 is zero_bubble."),
    click.option(
        "--stages", default="", help='Layers of each chunk, with E, M, L for embedding, MTP, head: "E15,16,16,15L".'
    ),
    _choice("context", "ring", ["ring", "all_gather", "ulysses"], "Kind of context parallelism."),
    click.option(
        "--overlap", default="",
        help='What runs beside computing: "+shared_expert" and "-tensor" change its list, plain words replace it.',
    ),
    click.option("--fused", default="", help='Kernels likewise: "+expert_products,+fp8_attention".'),
    click.option("--graphs", "captured", default="",
                 help="Parts of a layer that graphs replay, so that none of its kernels waits for the host: mixer, "
                 "router, experts."),
    click.option("--lora", is_flag=True, help="Train adapters beside frozen weights."),
    click.option("--no-sp", is_flag=True, help="Without sequence parallelism."),
)  # fmt: skip
"""Layout and formats of a training job."""

RUN = stacked(
    click.option("--tokens", type=Whole(1, name="TOKENS", most=MOST),
                 help="Tokens of the whole run, e.g. 2T: days, energy, money, failures."),
    _choice("checkpoint", "asynchronous", ["synchronous", "asynchronous", "in_memory"], "How checkpoints are taken."),
    click.option("--interval", type=DURATION, help="Between checkpoints, e.g. 20min (default: the best one)."),
    click.option("--storage", type=Quantity("bytes_per_s", "BANDWIDTH"),
                 help="Of the checkpoint storage, e.g. 200GB/s (default: 2 GB/s per 8 chips); no checkpoint starts "
                 "before the last one is stored."),
    click.option("--restart", type=DURATION, default=600.0, show_default="600s", help="Restart after a failure."),
    click.option("--spares", type=Whole(0), default=0, show_default=True,
                 help="Idle chips that stand by, beside the plan's."),
    click.option(
        "--mtbf", multiple=True, type=Named(),
        help="Mean time between failures of one chip, node, rack, switch, optical_module or of the software per chip.",
    ),
    click.option("--kwh", type=Finite(0), default=0.08, show_default=True, help="USD per kilowatt-hour."),
    click.option(
        "--chip-hour", type=Finite(0), default=0.0, show_default=True, help="USD per chip and hour."
    ),
)  # fmt: skip
"""The run around the step."""

_FIELDS = {
    "nvme": "nvme_bytes_per_s", "offload_activations": "activations_away_ratio",
    "no_reshard": "reshard", "no_sp": "sp", "recompute_share": "recompute_ratio",
}  # fmt: skip
"""Option -> field of the plan, where they differ."""


def training_from(ctx: click.Context) -> Training:
    """The question of a parsed command line of ``taicang train``."""
    from taicang import catalog
    from taicang.search.training import Training
    from taicang.train.space import scale_up_ranks

    options = ctx.params
    on = catalog.machine(options["machine"], options["sets"])
    return Training(
        model=options["model"], on=on, plan=_plan(options, scale_up_ranks(on)), stack=options["stack"],
        sets=options["sets"], searched=options["search"], pinned=_pinned(ctx),
        overlap=listed(options["overlap"]), fused=listed(options["fused"]), captured=listed(options["captured"]),
        tokens=options["tokens"], policy=_policy(options),
        explained=options["explain"] or options["trace"] is not None or options["chakra"] is not None,
    )  # fmt: skip


def _plan(options: dict[str, Any], domain: int) -> Any:
    """The plan that the options fix; ``domain`` is how many ranks HSDP's shard groups span."""
    from taicang.train_plans import WAVES, TrainPlan, recipe

    names = ("tp", "cp", "pp", "vpp", "ep", "order", "micro_batch", "seq", "schedule", "stages",
             "context", "moments", "master", "offload", "skew")  # fmt: skip
    zero = options["zero"]
    shard = options["shard"]
    if zero == "hsdp" and not shard:
        shard = domain // options["tp"]
        if shard < 2:
            raise click.UsageError(f"hsdp: tp={options['tp']} fills a scale-up domain of {domain} ranks; name --shard")
    if options["schedule"] in (*WAVES, "interleaved"):
        options = {**options, "vpp": options["vpp"] if options["vpp"] > 1 else 2}
    if options["schedule"] == "interleaved":
        options = {**options, "schedule": "1f1b"}
    return TrainPlan(
        **{name: options[name] for name in names},
        dp=options["dp"] or 0,
        etp=options["etp"] or 0,
        global_batch=options["global_batch"] or 0,
        zero=ZERO[zero] if zero in ZERO else int(zero),
        shard=shard,
        reshard=not options["no_reshard"],
        activations_away_ratio=options["offload_activations"],
        gradients=options["gradients"] or "",
        nvme_bytes_per_s=options["nvme"] or 0.0,
        recompute=options["recompute"] or "",
        recompute_ratio=options["recompute_share"],
        recompute_modules=_modules(options["recompute_modules"]),
        sp=not options["no_sp"],
        trained_ratio=0.0 if options["lora"] else 1.0,
        recipe=recipe(options["dtype"]),
    )


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


def _policy(options: dict[str, Any]) -> Any:
    """How the run guards against failures, and what things cost."""
    from taicang.train.run import Policy

    return Policy(
        saving=options["checkpoint"],
        interval_s=options["interval"],
        storage_bytes_per_s=options["storage"],
        restart_s=options["restart"],
        spare_chips=options["spares"],
        mtbf_s=dict(options["mtbf"]),
        kwh_usd=options["kwh"],
        chip_hour_usd=options["chip_hour"],
    )


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
@LAYOUT
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
