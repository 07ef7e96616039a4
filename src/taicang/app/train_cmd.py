"""``taicang train``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from taicang.app.options import JSON, echo_json, stacked

PLAN = stacked(
    click.option("--tp", type=click.IntRange(1), default=1, show_default=True, help="Tensor-parallel ranks."),
    click.option("--cp", type=click.IntRange(1), default=1, show_default=True, help="Context-parallel ranks."),
    click.option("--pp", type=click.IntRange(1), default=1, show_default=True, help="Pipeline stages."),
    click.option("--vpp", type=click.IntRange(1), default=1, show_default=True, help="Model chunks per stage."),
    click.option("--ep", type=click.IntRange(1), default=1, show_default=True, help="Expert-parallel ranks."),
    click.option(
        "--etp", type=click.IntRange(1), default=1, show_default=True, help="Tensor-parallel ranks per expert."
    ),
    click.option("--dp", type=click.IntRange(1), help="Data-parallel groups (default: fills the machine)."),
    click.option(
        "--micro-batch", type=click.IntRange(1), default=1, show_default=True, help="Sequences per microbatch."
    ),
    click.option(
        "--global-batch", type=click.IntRange(1), help="Sequences per step (default: about 4 million tokens)."
    ),
    click.option("--seq", type=click.IntRange(1), default=4096, show_default=True, help="Tokens per sequence."),
    click.option("--dtype", default="bf16", show_default=True, help="bf16, fp16, fp8, fp8_block, mxfp8, nvfp4, int8."),
    click.option("--zero", type=click.IntRange(0, 3), default=1, show_default=True, help="ZeRO stage (3: FSDP)."),
    click.option(
        "--shard", type=click.IntRange(0), default=0, help="Ranks of a ZeRO shard group (HSDP; default: all)."
    ),
    click.option("--recompute", type=click.Choice(["none", "selective", "full"]), default="none", show_default=True),
    click.option("--schedule", type=click.Choice(["1f1b", "gpipe", "zero_bubble"]), default="1f1b", show_default=True),
    click.option("--context", type=click.Choice(["ring", "all_gather", "ulysses"]), default="ring", show_default=True),
    click.option("--lora", is_flag=True, help="Train adapters beside frozen weights."),
    click.option("--no-sp", is_flag=True, help="Without sequence parallelism."),
)
"""Layout and formats of a training job."""


class Tokens(click.ParamType[float]):
    """A number of tokens: 2T, 300B, 1e12."""

    name = "TOKENS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read a count with an optional K, M, B or T."""
        text = str(value).strip().upper()
        scale = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(text[-1:], 1.0)
        try:
            count = float(text if scale == 1.0 else text[:-1]) * scale
        except ValueError:
            self.fail(f"cannot read {value!r} as a number of tokens such as 2T or 300B", param, ctx)
        if not 0 < count < float("inf"):
            self.fail("expected a positive number of tokens", param, ctx)
        return count


RUN = stacked(
    click.option("--tokens", type=Tokens(), help="Tokens of the whole run, e.g. 2T: days, energy, money, failures."),
    click.option(
        "--checkpoint",
        type=click.Choice(["synchronous", "asynchronous", "in_memory"]),
        default="asynchronous",
        show_default=True,
        help="How checkpoints are taken.",
    ),
    click.option("--spares", type=click.IntRange(0), default=0, show_default=True, help="Idle chips that stand by."),
    click.option("--kwh", type=click.FloatRange(0), default=0.08, show_default=True, help="USD per kilowatt-hour."),
    click.option(
        "--chip-hour", type=click.FloatRange(0), default=0.0, show_default=True, help="USD per chip and hour."
    ),
)
"""The run around the step."""


@click.command(
    epilog="""\b
Examples:
  taicang train llama-3.1-405b --on "hgx-h100 x 128" --tp 8 --pp 8 --cp 2 --vpp 8 --global-batch 1152 --seq 8192
  taicang train deepseek-v3 --on "gb200-nvl72 x 4" --pp 4 --vpp 4 --ep 64 --dp 64 --global-batch 4096 --dtype mxfp8
  taicang train llama-3-8b --on hgx-h100 --zero 3 --global-batch 128 --seq 8192 --dtype fp8 --json
  taicang train openpangu-embedded-7b --on "atlas-800t-a2 x 128" --global-batch 4096 --tokens 2T --search
"""
)
@click.argument("model")
@click.option("--on", "machine", required=True, help='Machine, e.g. "hgx-h100 x 128", my.yaml.')
@PLAN
@RUN
@click.option("--search", is_flag=True, help="Find the fastest layout on the whole machine.")
@click.option("--explain", is_flag=True, help="What 10 % more of each resource would save.")
@click.option(
    "--trace", type=click.Path(dir_okay=False, path_type=Path), help="Write the pipeline's timeline for a trace viewer."
)
@click.option("--stack", help="Software stack, e.g. nemo@25.04 (default: by vendor).")
@click.option("--set", "sets", multiple=True, metavar="PATH=VALUE", help="Change a figure of the machine.")
@JSON
def train(model: str, machine: str, stack: str | None, sets: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Train MODEL on a machine: one step's time, tokens/s, MFU, memory and where the time goes."""
    from taicang.predict import Infeasible
    from taicang.predict.train import train as predict
    from taicang.train.run import Policy

    policy = Policy(
        saving=options["checkpoint"],
        spare_chips=options["spares"],
        kwh_usd=options["kwh"],
        chip_hour_usd=options["chip_hour"],
    )
    result = predict(
        model,
        machine,
        plan_from(options),
        stack=stack,
        sets=sets,
        tokens=options["tokens"],
        explained=options["explain"] or options["trace"] is not None,
        policy=policy,
        searched=options["search"],
    )
    if not isinstance(result, Infeasible) and result.explained is not None:
        if options["trace"]:
            options["trace"].write_text(json.dumps(result.explained.trace), encoding="utf-8")
        result = replace(result, explained=replace(result.explained, trace={}))
    if as_json:
        echo_json({"infeasible": isinstance(result, Infeasible), "prediction": result})
    elif isinstance(result, Infeasible):
        from taicang.app.render import show_infeasible

        show_infeasible(result)
    else:
        from taicang.app.render_train import show_training

        show_training(result)
    if isinstance(result, Infeasible):
        raise SystemExit(1)


def plan_from(options: dict[str, Any]) -> Any:
    """The plan that the options fix."""
    from taicang.train_plans import TrainPlan, recipe

    names = ("tp", "cp", "pp", "vpp", "ep", "etp", "micro_batch", "seq", "zero", "shard", "recompute")
    return TrainPlan(
        **{name: options[name] for name in names},
        dp=options["dp"] or 0,
        global_batch=options["global_batch"] or 0,
        schedule=options["schedule"],
        context=options["context"],
        sp=not options["no_sp"],
        trained_ratio=0.0 if options["lora"] else 1.0,
        recipe=recipe(options["dtype"]),
    )
