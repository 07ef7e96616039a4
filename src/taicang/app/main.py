"""The command line. Commands load when they are called, so that --help is instant."""

from __future__ import annotations

import errno
import gc
import importlib
import os
import sys
from contextlib import suppress
from typing import NoReturn

import click

from taicang import __version__
from taicang.app import terminal
from taicang.app.options import HELP
from taicang.errors import InvalidInput, MissingFigure, NotModelled, TaicangError

COMMANDS = {
    "infer": "Serve a model on a machine: TTFT, TPOT, throughput, memory, power, and why.",
    "train": "Train a model on a machine: step time, tokens/s, MFU, memory, and where the time goes.",
    "run": "Run a PyTorch program, unchanged, on devices of a machine that are not there.",
    "reprice": "A captured run on other machines, without running it again.",
    "doctor": "Whether PyTorch and the compiler of this Python work with run.",
    "search": "The best way to run a model: every layout priced, the best kept and explained.",
    "sweep": "A study over catalogue fields, plans and loads, resumable, on many processes.",
    "replay": "Serve a request trace or generated traffic: TTFT, TPOT, goodput, cache hits, load over time.",
    "serve": "An endpoint as OpenAI's, that answers when the machine would: for clients, routers, dashboards.",
    "check": "A benchmark of your own against the prediction, and what may explain a gap.",
    "trace": "Look at, convert and fetch request traces.",
    "fabric": "The bus link by link: topology, collectives, contention, faults, pictures.",
    "compare": "The same model, load and SLO on several machines, per chip and per watt.",
    "centre": "What a compute centre costs: per chip-hour, million tokens and run, with bands.",
    "audit": "What was said of supernodes, what holds, and the number that decides it.",
    "view": "Stored results as one page to look at.",
    "ask": "Answer a question in a file, as --save of the commands above writes it.",
    "demo": "DeepSeek-R1 on six machines (what `make demo` runs).",
    "catalog": "Chips, machines and software stacks with a source for every figure.",
    "models": "Built-in models and config.json imports: parameters, cache, FLOPs.",
    "port": "What moving a repository from CUDA to Ascend takes, or back: by file and line.",
    "score": "Score the predictions against published measurements.",
    "fit": "Fit the calibrated constants on their declared part of the evidence.",
    "calibrate": "A profile of your own, of rows that you measured, for --stack.",
    "measure": "Time the kernels of the machine at hand, for calibrate and score.",
}
"""Name, which is that of its module too, and what it does."""
ELSEWHERE = {"demo": "compare", "fit": "score", "reprice": "run", "doctor": "run"}
"""Commands in the module of another."""
LISTED = {
    "model": "taicang models list names those that are built in; a config.json will do.",
    "machine": "taicang catalog list --kind machine names them.",
    "machines": "taicang catalog list --kind machine names them.",
}
"""What may stand where something is missing."""
SAME = (
    "clients users closed-loop concurrency max-concurrency", "input isl input-len random-input-len",
    "output osl output-len random-output-len", "on machine machines system", "requests num-prompts",
    "global-batch gbs global-batch-size", "micro-batch mbs micro-batch-size", "seq seq-len seq-length sequence-length",
    "tp tensor-parallel-size tensor-model-parallel-size", "dp data-parallel-size", "ep expert-parallel-size",
    "pp pipeline-parallel-size pipeline-model-parallel-size", "quant dtype quantization precision",
    "kv kv-cache-dtype", "memory-fraction gpu-memory-utilization mem-fraction-static",
    "graph enforce-eager cudagraph-mode disable-cuda-graph", "batch max-num-seqs",
)  # fmt: skip
"""What commands, engines and benchmarks call one and the same."""
LASTING = ["run"], ["serve"]
"""Commands whose memory is that of somebody's program, or lasts for days."""
RARELY = (100_000, 50, 100)
"""Imports and answers make few circles: looking for them as often as Python does takes a tenth of a short command."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Commands in the order a user meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module and return the command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"taicang.app.{ELSEWHERE.get(cmd_name, cmd_name)}_cmd")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest the nearest command for an unknown one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from taicang.errors import UnknownName

            raise click.UsageError(str(UnknownName("command", args[0], COMMANDS)), ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings=HELP)
@click.version_option(__version__, prog_name="taicang")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(debug: bool) -> None:
    """An AI supernode in software.

    \b
    Examples:
      taicang infer deepseek-r1 --on cloudmatrix384 --input 4096 --output 256 --tpot 50ms
      taicang compare deepseek-r1 --on cloudmatrix384,gb200-nvl72,"hgx-h20 x 4"
      taicang catalog show ascend-910c-752t
      taicang score --evidence ../shared/evidence
    """
    del debug  # read from argv by main(), before any command runs


def main() -> None:
    """Entry point: errors that a user can mend are one line and exit code 2; --debug gives the traceback."""
    terminal.prepare()
    argv = sys.argv[1:]
    debug = "--debug" in argv
    argv = [arg for arg in argv if arg != "--debug"]
    # products of matrices are small here: waking a thread for each core costs more time than it spares
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if argv[:1] not in LASTING:
        gc.set_threshold(*RARELY)
    try:
        code = cli.main(args=argv, prog_name="taicang", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except TaicangError as error:
        if debug:
            raise
        click.echo(f"taicang: {terminal.clean(str(error))}", err=True)
        sys.exit(2 if isinstance(error, (InvalidInput, MissingFigure, NotModelled)) else 1)
    except click.ClickException as error:
        if debug:
            raise
        name = error.param.name if isinstance(error, click.MissingParameter) and error.param else None
        error.message = LISTED.get(name or "", terminal.clean(error.message))  # type: ignore[misc]
        _suggested(error)
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt) as stop:
        if isinstance(stop.__cause__, EOFError):  # of an import: nothing here asks on the terminal
            raise stop.__cause__ from None
        click.echo("taicang: interrupted", err=True)
        sys.exit(130)
    except (OSError, MemoryError) as error:
        if debug:
            raise
        _give_up(error)
    if sys.stdout is None:
        _give_up(OSError(errno.EBADF, "it is closed"))
    gc.freeze()  # what is left goes with the process, unsearched
    sys.exit(code if isinstance(code, int) else 0)


def _suggested(error: click.ClickException) -> None:
    """Put the command's own word for an option that another command or an engine calls by this name first."""
    if not isinstance(error, click.NoSuchOption) or error.ctx is None:
        return
    asked = error.option_name.lstrip("-").replace("_", "-")
    known = {each for option in error.ctx.command.params for each in option.opts}
    meant = [f"--{word}" for words in SAME if asked in words.split() for word in words.split() if f"--{word}" in known]
    if meant:
        error.possibilities = meant  # type: ignore[misc]


def _give_up(error: OSError | MemoryError) -> NoReturn:
    """A file that is named cannot be read, what has no name is standard output, or there is no room for the work."""
    if isinstance(error, MemoryError):
        click.echo("taicang: out of memory; smaller sizes or counts take less", err=True)
        sys.exit(2)
    if error.filename is None and sys.stdout is not None:
        with suppress(OSError, ValueError):  # Python flushes it again at its end, and would trace back
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    place = "cannot write to standard output" if error.filename is None else error.filename
    click.echo(f"taicang: {place}: {error.strerror or error}", err=True)
    sys.exit(2)
