"""``taicang ask``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from taicang.app.asking import Asking, answer, read
from taicang.app.main import COMMANDS, LazyGroup

ANSWERING = ("infer", "search", "compare", "replay", "train", "centre", "fabric")
"""Commands that answer a question."""


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    epilog="""\b
Examples:
  taicang infer deepseek-r1 --on cloudmatrix384 --tpot 50ms --save run.yaml
  taicang ask run.yaml
  taicang ask run.yaml --on gb200-nvl72 --json
\b
A question, run.yaml (keys are the options of the command):
  ask: search
  model: deepseek-v3
  on: hgx-h200 x 4
  input: 4000
  output: 1000
  tpot: 50ms
""",
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("extra", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS OF THE COMMAND]")
@click.pass_context
def ask(ctx: click.Context, file: Path, extra: tuple[str, ...]) -> Any:
    """Answer the question in FILE, which --save of any command writes; options change it or say where it goes."""
    run = read(file, ANSWERING)
    command = LazyGroup(commands={}).get_command(ctx, run.ask)
    assert isinstance(command, Asking), COMMANDS[run.ask]
    return answer(run, command, file, extra)
