"""Options that several commands share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from taicang.errors import InvalidInput
from taicang.units import parse

F = TypeVar("F", bound=Callable[..., Any])
LONGEST_S = 1e12
"""Longest time that an option takes."""
MOST_SKEW = 2.0
"""Largest exponent of ``--skew``."""


class Seconds(click.ParamType[float]):
    """A duration with a unit: 50ms, 2s."""

    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse through the catalogue's unit door, so that a bare number is refused."""
        if isinstance(value, float):
            return value
        where = param.opts[0] if param else ""
        seconds = parse(value, "s", where=where)
        if not seconds > 0:
            raise InvalidInput(f"a limit must be more than nothing, got {value!r}", where=where)
        if seconds > LONGEST_S:
            raise InvalidInput(f"{value!r} is beyond any run", where=where)
        return seconds


class Finite(click.FloatRange):
    """A number in a range; what is no number is in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Refuse nan and infinity."""
        found = float(super().convert(value, param, ctx))
        if not math.isfinite(found):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return found


class Named(click.ParamType[Any]):
    """NAME=DURATION, e.g. chip=50000h."""

    name = "CLASS=DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        """Split at the equals sign; the duration needs a unit."""
        name, equals, text = str(value).partition("=")
        if not equals:
            self.fail(f"expected CLASS=DURATION such as chip=50000h, got {value!r}", param, ctx)
        return name.strip().replace("_", " "), Seconds().convert(text, param, ctx)


class Skew(click.ParamType[Any]):
    """A number, or the path of a file that exists."""

    name = "EXPONENT|FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | Path:
        """The number where it is one."""
        if isinstance(value, float | Path):
            return value
        try:
            exponent = float(value)
        except ValueError:
            if not Path(value).is_file():
                self.fail(f"{value!r} is neither an exponent from 0 to {MOST_SKEW:g} nor a file of loads", param, ctx)
            return Path(value)
        if not 0.0 <= exponent <= MOST_SKEW:
            self.fail(f"{value!r} is not an exponent from 0 to {MOST_SKEW:g}", param, ctx)
        return exponent


def stacked(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Several decorators as one, in reading order."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


LOAD = stacked(
    click.option(
        "--input", "input_tokens", type=click.IntRange(1), default=4096, show_default=True, help="Prompt tokens."
    ),
    click.option(
        "--output", "output_tokens", type=click.IntRange(1), default=256, show_default=True, help="Output tokens."
    ),
    click.option("--tpot", type=Seconds(), help="Time per output token that must hold, e.g. 50ms."),
    click.option("--ttft", type=Seconds(), help="Time to first token that must hold, e.g. 2s."),
)
"""Load and SLO."""

CHOICES = stacked(
    click.option("--stack", help="Software stack, e.g. vllm, sglang@0.5.9 (default: by machine and model)."),
    click.option(
        "--quant", default="auto", show_default=True, help="auto (the checkpoint's), bf16, fp8, int8, w4a8, nvfp4."
    ),
    click.option(
        "--mtp", "drafts", type=click.IntRange(0, 8), help="Drafted tokens per step (default: 1 if the model has MTP)."
    ),
    click.option(
        "--acceptance",
        type=Finite(0, 1),
        default=0.7,
        show_default=True,
        help="Chance that a drafted token is accepted.",
    ),
    click.option(
        "--skew",
        type=Skew(),
        default=1.01,
        show_default=True,
        help="Power-law exponent of expert popularity, or a file of the tokens that each expert got.",
    ),
    click.option(
        "--set",
        "sets",
        multiple=True,
        metavar="PATH=VALUE",
        help='Change a figure: --set chip.memory.bandwidth="4 TB/s".',
    ),
    click.option(
        "--approximate", is_flag=True, help="Take the nearest modelled kind for unmodelled features, and say so."
    ),
)
"""Stack, formats, model traits."""

PLAN = stacked(
    click.option("--tp", type=click.IntRange(1), help="Tensor-parallel ranks of attention."),
    click.option("--dp", type=click.IntRange(1), help="Attention data-parallel groups."),
    click.option("--pp", type=click.IntRange(1), help="Pipeline stages."),
    click.option("--ep", type=click.IntRange(1), help="Expert-parallel groups."),
    click.option("--moe-tp", type=click.IntRange(1), help="Tensor-parallel ranks of each expert."),
    click.option("--redundant", type=click.IntRange(0), help="Redundant experts."),
    click.option("--shared-ranks", type=click.IntRange(0), help="Ranks that hold only the shared expert."),
    click.option("--microbatches", type=click.IntRange(1, 2), help="Microbatches that overlap."),
    click.option(
        "--exchange", type=click.Choice(("auto", "all_to_all", "gather")), help="How tokens reach experts under --dp."
    ),
    click.option("--batch", type=click.IntRange(1), help="Sequences per attention group in decode."),
)
"""Layout of the decode instance."""

HELP = {"help_option_names": ["-h", "--help"]}
"""Context of groups: their commands answer -h also where they are called without the root command."""

JSON = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")


def echo_json(value: Any) -> None:
    """Print a dataclass or plain data as JSON."""
    from taicang.records import plain

    click.echo(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def write_files(files: Mapping[str, str], folder: Path, where: str = "--out") -> None:
    """Write ``files`` by name into ``folder``, all or none, and say so. Raises ``InvalidInput`` where that fails."""
    from taicang.app.folders import write_into

    write_into(files, folder, where)
    click.echo(f"wrote {', '.join(files)} to {folder}", err=True)
