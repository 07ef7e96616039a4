"""Options that several commands share."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import click

from taicang.errors import InvalidInput
from taicang.output import Content, check_file, write
from taicang.units import count, parse, share

F = TypeVar("F", bound=Callable[..., Any])
MOST = 10**18
"""Largest count that an option takes at all."""
MOST_SKEW = 2.0
"""Largest exponent of ``--skew``."""


class Parsed(click.ParamType[Any]):
    """What ``read`` makes of a text and of the option's name; a value that is none already stays."""

    def __init__(self, name: str, read: Callable[[str, str], Any], dimension: str = "") -> None:
        self.name, self.read, self.dimension = name, read, dimension

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse a text."""
        return self.read(value, param.opts[0] if param else "") if isinstance(value, str) else value


def quantity(dimension: str, name: str, zero: str = "") -> Parsed:
    """A number with a unit, through the one door for quantities: 50ms, 40/s, 20TB. More than nothing, or ``zero``."""

    def read(text: str, where: str) -> float:
        found = parse(text, dimension, where=where)
        if found < 0 or (found == 0 and not zero):
            least = "zero or more" if zero else "more than nothing"
            raise InvalidInput(f"must be {least}, got {text!r}", where=where)
        return found

    return Parsed(name, read, dimension)


DURATION = quantity("s", "DURATION")


class Whole(click.IntRange):
    """A whole number in a range, also written 32k, 2T or 32Ki."""

    def __init__(self, least: int, high: int | None = None, *, name: str = "", most: int = 10**9) -> None:
        super().__init__(least, high)
        self.most = most
        """Refused beyond, without a word in the help."""
        self.name = name or self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse through the one door for counts."""
        found = count(value, int(self.min or 0), MOST, where=param.opts[0] if param else "")
        if found > self.most:
            self.fail(f"{found:,} is more than {self.most:,}", param, ctx)
        return int(super().convert(found, param, ctx))


TOKENS = Whole(1, name="TOKENS")


class Finite(click.FloatRange):
    """A number in a range; what is no number is in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Refuse nan and infinity."""
        found = float(super().convert(value, param, ctx))
        if not math.isfinite(found):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return found


def _class(text: str, where: str) -> tuple[str, float]:
    name, equals, duration = text.partition("=")
    if not equals:
        raise click.BadParameter(f"expected CLASS=DURATION such as chip=50000h, got {text!r}")
    return name.strip().replace("_", " "), DURATION.read(duration, where)


def _skew(text: str, _where: str) -> float | Path:
    """A number, or the path of a file that exists."""
    try:
        exponent = float(text)
    except ValueError:
        if not os.path.isfile(Path(text)):
            says = f"{text!r} is neither an exponent from 0 to {MOST_SKEW:g} nor a file of loads"
            raise click.BadParameter(says) from None
        return Path(text)
    if not 0.0 <= exponent <= MOST_SKEW:
        raise click.BadParameter(f"{text!r} is not an exponent from 0 to {MOST_SKEW:g}")
    return exponent


def _number(text: str) -> float | int:
    return int(text) if text.isdigit() else float(text)


def _range(kind: Callable[..., Any], text: str) -> Any:
    """A type of numbers: "1", "0..8", or ">0..1" where the least is not among them."""
    low, _, high = text.lstrip(">").partition("..")
    return kind(_number(low), _number(high) if high else None, **({"min_open": True} if text.startswith(">") else {}))


def _path(*words: str) -> click.Path[Any]:
    whole: dict[str, Any] = {} if "text" in words else {"path_type": Path}
    return click.Path(exists="exists" in words, file_okay="folder" not in words, dir_okay="file" not in words, **whole)


KINDS: Mapping[str, Callable[..., Any]] = {
    "duration": lambda: DURATION, "tokens": lambda: TOKENS,
    "share": lambda: Parsed("SHARE", lambda text, where: share(text, where=where)),
    "skew": lambda: Parsed("EXPONENT|FILE", _skew), "named": lambda: Parsed("CLASS=DURATION", _class),
    "quantity": quantity,
    "many": lambda name="": Whole(1, most=MOST, name=name),
    "whole": partial(_range, Whole), "finite": partial(_range, Finite), "path": _path,
}  # fmt: skip
"""First word of a declared type -> what makes it of the others."""


@cache
def written(file: str) -> dict[str, dict[str, Any]]:
    """The declarations in ``data/FILE.yaml``."""
    import yaml

    text = (Path(__file__).parent / "data" / f"{file}.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return loaded


def declared(file: str, section: str, **kinds: Callable[..., Any]) -> Callable[[F], F]:
    """The options of a section of ``data/FILE.yaml``; ``kinds`` are types that its commands alone have.

    An option has ``help``, ``type`` (words for ``KINDS``, or a list of choices), ``default`` (in the help unless
    ``quiet``, there as ``shown``), ``metavar``; ``flag``, ``multiple`` and ``required`` are true or left out.
    """

    def apply(function: F) -> F:
        for flags, said in reversed(written(file)[section].items()):
            function = click.option(*flags.split(), **_keywords(said, {**KINDS, **kinds}))(function)
        return function

    return apply


def examples(file: str, command: str) -> str:
    """Examples of a command for the end of its help: a text in ``data/FILE.yaml``, whose lines stay as they are."""
    text: str = written(file)["examples"][command]
    return "\b\n" + text.replace("\n\n", "\n\b\n")


def _keywords(said: Mapping[str, Any], kinds: Mapping[str, Callable[..., Any]]) -> dict[str, Any]:
    """What click calls the keys of a declared option."""
    given = {key: said[key] for key in ("help", "default", "metavar", "multiple", "required") if key in said}
    if "flag" in said:
        given["is_flag"] = True
    if "default" in said and not said.get("quiet"):
        given["show_default"] = said.get("shown", True)
    if isinstance(wanted := said.get("type"), list):
        given["type"] = click.Choice(wanted)
    elif wanted:
        kind, *words = wanted.split()
        given["type"] = kinds[kind](*words)
    return given


def stacked(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Several decorators as one, in reading order."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


LOAD = declared("shared", "load")
"""Load and SLO."""

FABRIC = {
    "closed": (),
    "flows": ("links.routing=adaptive",),
    "striped": ("links.routing=striped",),
    "ecmp": ("links.routing=ecmp",),
}
"""How the fabric is priced -> the keys of the machine that say so."""


def context_of(command: click.Command, words: Sequence[str], **more: Any) -> click.Context:
    """The context of a command line, as below the root command: a command keeps the help option of its first one."""
    if any("\0" in word for word in words):  # no shell can give it; files can
        raise InvalidInput("a value with a zero character in it")
    return command.make_context(command.name, list(words), help_option_names=HELP["help_option_names"], **more)


IMPLIED = "taicang.implied"
"""Where a context keeps the changes of the machine that other options stand for."""


def _fabric(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    ctx.meta.setdefault(IMPLIED, {})["fabric"] = FABRIC[value or "closed"]


def _sets(ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    implied = sorted(ctx.meta.get(IMPLIED, {}).items())  # click asks options in the order in which they are given
    return (*(each for _, part in implied for each in part), *value)


SETS = stacked(
    click.option(
        "--fabric",
        type=click.Choice(list(FABRIC)),
        is_eager=True,
        expose_value=False,
        callback=_fabric,
        help="Price the fabric by closed forms or link by link: adaptive routes, dealt over planes, or hashed.",
    ),
    click.option(
        "--set",
        "sets",
        multiple=True,
        callback=_sets,
        metavar="PATH=VALUE",
        help='Change a figure: --set chip.memory.bandwidth="4 TB/s", --set links.failed=l2-switch:2.',
    ),
)
"""Changes of the machine."""


def _places(ctx: click.Context, param: click.Parameter, value: str) -> None:
    ctx.meta.setdefault(IMPLIED, {})["placement"] = ()
    if value != "plan":
        from taicang.train_plans.placement import seed_of

        if (seed := seed_of(value)) is None:
            raise click.BadParameter(f"expected plan, random or random:SEED, got {value!r}", ctx, param)
        ctx.meta[IMPLIED]["placement"] = (f"links.placed={seed}",)


CHOICES = stacked(
    click.option(
        "--placement",
        default="plan",
        show_default=True,
        expose_value=False,
        is_eager=True,
        callback=_places,
        metavar="plan|random[:SEED]",
        help="Where a plan's ranks lie: as it lays them, or at random places.",
    ),
    declared("shared", "choices"),
    SETS,
    declared("shared", "approximate"),
)
"""Stack, formats, model traits."""

PLAN = declared("shared", "plan")
"""Layout of the decode instance."""

HELP = {"help_option_names": ["-h", "--help"]}
"""Context of groups: their commands answer -h also where they are called without the root command."""

JSON = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")


def check_page(_ctx: click.Context, _param: click.Parameter, path: Path | None) -> Path | None:
    """Refuse before the work a page that could not be written after it."""
    if path is not None:
        check_file(path, "--html")
    return path


HTML = click.option(
    "--html",
    "page",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=check_page,
    help="Also a page to look at: one file that opens anywhere.",
)


def give(
    kind: str, value: Any, show: Callable[[], None], *, as_json: bool, page: Path | None = None, title: str = "",
    shown: Any = None, feasible: bool = True,
) -> int:  # fmt: skip
    """Give the answer ``value`` of the command ``kind``: as a page where one is asked for (of ``shown``, where that
    holds more), as JSON or by ``show``. Returns the exit code: 1 where nothing is feasible. What was found is shown
    even where the page cannot be written."""
    if as_json:
        echo_json(value)
    else:
        show()
    if page is not None:
        from taicang.evidence.near import grounded
        from taicang.page.html import page as page_of
        from taicang.page.views import sections
        from taicang.records import jsonable

        body = sections(kind, grounded(jsonable(value if shown is None else shown)))
        write({page.name: page_of(title, body)}, page.parent, "--html")
        click.echo(f"wrote {page}", err=True)
    return int(not feasible)


def echo_json(value: Any) -> None:
    """Print a dataclass or plain data as JSON."""
    from taicang.records import jsonable

    utf = (sys.stdout.encoding or "").lower().startswith("utf")
    click.echo(json.dumps(jsonable(value), indent=2, ensure_ascii=not utf, allow_nan=False))


def listed(text: str | None) -> list[str]:
    """Words of a comma-separated list."""
    return [word.strip().strip('"') for word in (text or "").split(",") if word.strip()]


def named(text: str | None, option: str = "--on") -> list[str]:
    """Words of a comma-separated list of at least one; none where the option is not given."""
    names = listed(text)
    if text is not None and not names:
        raise click.UsageError(f"{option} names nothing")
    return names


CHAKRA = click.option(
    "--chakra", type=click.Path(dir_okay=False, path_type=Path), metavar="PREFIX",
    help="Also PREFIX.0.et: a Chakra trace that stands for all ranks, for fabric run and other simulators.",
)  # fmt: skip


def write_chakra(workload: Any, prefix: Path) -> None:
    """Write ``workload`` as Chakra traces."""
    from taicang.interop import chakra

    write_files(chakra.write(workload, prefix), prefix.parent, "--chakra")


def write_files(files: Mapping[str, Content], folder: Path, where: str = "--out") -> None:
    """Write ``files`` by name into ``folder``, all or none, and say so. Raises ``InvalidInput`` where that fails."""
    write(files, folder, where)
    click.echo(f"wrote {', '.join(files)} to {folder}", err=True)
