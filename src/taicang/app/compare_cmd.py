"""``taicang compare`` and ``taicang demo``."""

from __future__ import annotations

from typing import Any

import click

from taicang.app.options import CHOICES, JSON, LOAD, echo_json
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


@click.command(
    epilog="""\b
Examples:
  taicang compare deepseek-r1 --on cloudmatrix384,gb200-nvl72,"hgx-h20 x 4" --tpot 50ms
  taicang compare llama-3.1-70b --on hgx-h100,hgx-h200,hgx-b200 --input 1024 --output 1024 --json
"""
)
@click.argument("model")
@click.option("--on", "machines", required=True, help="Machines, comma-separated.")
@LOAD
@CHOICES
@JSON
def compare(model: str, machines: str, as_json: bool, **options: Any) -> None:
    """The same MODEL, load and SLO on several machines: per chip and per watt, with what binds each."""
    names = [name.strip().strip('"') for name in machines.split(",") if name.strip()]
    if not names:
        raise click.UsageError("--on names no machine")
    _compare(model, names, as_json, options)


@click.command()
@JSON
def demo(as_json: bool) -> None:
    """DeepSeek-R1, 4,096 + 256 tokens, TPOT at most 50 ms, on the supernode and five rivals."""
    options = {
        "input_tokens": 4096,
        "output_tokens": 256,
        "tpot": 0.05,
        "ttft": None,
        "stack": None,
        "quant": "auto",
        "drafts": 1,
        "acceptance": 0.7,
        "skew": 1.01,
        "sets": (),
        "approximate": False,
    }
    _compare("deepseek-r1", list(DEMO_MACHINES), as_json, options)


def _compare(model: str, names: list[str], as_json: bool, options: dict[str, Any]) -> None:
    results = [_one(model, name, options) for name in names]
    refusals = [each for each in results if isinstance(each, TaicangError)]
    if refusals and len(refusals) == len(results):
        raise refusals[0]
    shown = [
        each if not isinstance(each, TaicangError) else _refused(model, name, each)
        for name, each in zip(names, results, strict=True)
    ]
    if as_json:
        echo_json(dict(zip(names, shown, strict=True)))
        return
    from taicang.app.render_compare import show_comparison

    show_comparison(names, shown, options)


def _one(model: str, name: str, options: dict[str, Any]) -> Any:
    """A prediction, an infeasibility, or the error of a machine that lacks a figure or a kernel."""
    from taicang.predict import infer

    try:
        return infer(
            model,
            name,
            input_tokens=options["input_tokens"],
            output_tokens=options["output_tokens"],
            tpot_s=options["tpot"],
            ttft_s=options["ttft"],
            stack=options["stack"],
            quant=options["quant"],
            drafts=options["drafts"],
            acceptance_ratio=options["acceptance"],
            skew=options["skew"],
            approximate=options["approximate"],
            sets=options["sets"],
        )
    except (MissingFigure, NotModelled) as error:
        return error


def _refused(model: str, name: str, error: TaicangError) -> Any:
    from taicang.predict import Infeasible

    return Infeasible(model=model, machine=name, reason=str(error), needed="", available="")
