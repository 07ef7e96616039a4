"""Options that several commands share."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from importlib import import_module
from inspect import cleandoc
from pathlib import Path
from typing import Any

import click

from taicang.errors import InvalidInput
from taicang.output import Content, check_file, write
from taicang.units import count, parse, share

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


def of_class(text: str, where: str) -> tuple[str, float]:
    """What a class of parts has: chip=50000h."""
    name, equals, duration = text.partition("=")
    if not equals:
        raise click.BadParameter(f"expected CLASS=DURATION such as chip=50000h, got {text!r}")
    return name.strip().replace("_", " "), DURATION.read(duration, where)


def skew(text: str, _where: str) -> float | Path:
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


def _of(name: str) -> Any:
    """What a declaration names as "module.function" of ``app``."""
    module, _, function = name.partition(".")
    return getattr(import_module(f"taicang.app.{module}"), function)


KINDS: Mapping[str, Callable[..., Any]] = {
    "duration": lambda: DURATION, "tokens": lambda: TOKENS, "quantity": quantity,
    "share": lambda: Parsed("SHARE", lambda text, where: share(text, where=where)),
    "parsed": lambda name, read: Parsed(name, _of(read)),
    "many": lambda name="": Whole(1, most=MOST, name=name), "seed": lambda: Whole(0, most=2**63 - 1),
    "whole": partial(_range, Whole), "plain": partial(_range, click.IntRange), "finite": partial(_range, Finite),
    "path": _path, "unread": lambda: click.UNPROCESSED,
}  # fmt: skip
"""First word of a declared type -> what makes it of the others; a name with a dot is a function of ``app``."""
KEYS = ("help", "default", "metavar", "multiple", "required", "nargs", "envvar")


@cache
def written(file: str) -> dict[str, dict[str, Any]]:
    """The declarations in ``data/FILE.yaml``."""
    import yaml

    text = (Path(__file__).parent / "data" / f"{file}.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return loaded


def command(name: str, kind: Any = click.command, **more: Any) -> Callable[[Callable[..., Any]], Any]:
    """The command (of ``kind``, a decorator or a class) that ``data/FILE.yaml`` declares for ``name``, "FILE" or
    "FILE.COMMAND".

    It ``takes`` options and arguments: sections of its file ("FILE.SECTION": of another), which may list others, or
    options by their flags and arguments by their names. The function's docstring begins its help, ``more`` goes on and
    ``examples`` end it. An option has ``help``, ``type`` (words for ``KINDS``, or a list of choices), ``default`` (in
    the help unless ``quiet``, there as ``shown``), ``metavar``; ``flag``, ``multiple`` and ``required`` are true or
    left out; ``call`` names the function that checks it, and one that is ``asked`` first gives no value of its own.
    """
    file, _, word = name.partition(".")
    said = written(file).get("commands", {}).get(word or file, {})

    def apply(function: Callable[..., Any]) -> Any:
        text = f"{cleandoc(function.__doc__ or '')}\n\n{said.get('more', '')}".rstrip()
        given = {"help": re.sub(r"^(Examples?:)$", "\b\n\\1", text, flags=re.MULTILINE), **more}
        if examples := written(file).get("examples", {}).get(word or file):
            given["epilog"] = "\b\n" + examples.replace("\n\n", "\n\b\n")
        for flags, how in reversed([*_taken(file, said.get("takes", []))]):
            make: Any = click.option if flags.startswith("-") else click.argument
            function = make(*flags.split(), **_keywords(how))(function)
        return click.command(cls=kind, **given)(function) if isinstance(kind, type) else kind(**given)(function)

    return apply


def _taken(file: str, section: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(section, str):
        where, _, name = section.rpartition(".")
        yield from _taken(where or file, written(where or file)[name])
    elif isinstance(section, list):
        for each in section:
            yield from _taken(file, each)
    else:
        yield from section.items()


def _keywords(said: Mapping[str, Any]) -> dict[str, Any]:
    """What click calls the keys of a declared option."""
    given = {key: said[key] for key in KEYS if key in said}
    if "flag" in said:
        given["is_flag"] = True
    if "default" in said and not said.get("quiet"):
        given["show_default"] = said.get("shown", True)
    if "call" in said:
        given["callback"] = _of(said["call"])
    if "asked" in said:
        given |= {"is_eager": True, "expose_value": False}
    if isinstance(wanted := said.get("type"), list):
        given["type"] = click.Choice(wanted)
    elif wanted:
        kind, *words = wanted.split()
        given["type"] = (_of(kind) if "." in kind else KINDS[kind])(*words)
    return given


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


def set_fabric(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    """The changes that ``--fabric`` stands for."""
    ctx.meta.setdefault(IMPLIED, {})["fabric"] = FABRIC[value or "closed"]


def all_sets(ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Changes of the machine, with those that other options stand for."""
    implied = sorted(ctx.meta.get(IMPLIED, {}).items())  # click asks options in the order in which they are given
    return (*(each for _, part in implied for each in part), *value)


def places(ctx: click.Context, param: click.Parameter, value: str) -> None:
    """The changes that ``--placement`` stands for."""
    ctx.meta.setdefault(IMPLIED, {})["placement"] = ()
    if value != "plan":
        from taicang.train_plans.placement import seed_of

        if (seed := seed_of(value)) is None:
            raise click.BadParameter(f"expected plan, random or random:SEED, got {value!r}", ctx, param)
        ctx.meta[IMPLIED]["placement"] = (f"links.placed={seed}",)


HELP = {"help_option_names": ["-h", "--help"]}
"""Context of groups: their commands answer -h also where they are called without the root command."""


def check_page(_ctx: click.Context, _param: click.Parameter, path: Path | None) -> Path | None:
    """Refuse before the work a page that could not be written after it."""
    if path is not None:
        check_file(path, "--html")
    return path


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


def write_chakra(workload: Any, prefix: Path) -> None:
    """Write ``workload`` as Chakra traces."""
    from taicang.interop import chakra

    write_files(chakra.write(workload, prefix), prefix.parent, "--chakra")


def write_files(files: Mapping[str, Content], folder: Path, where: str = "--out") -> None:
    """Write ``files`` by name into ``folder``, all or none, and say so. Raises ``InvalidInput`` where that fails."""
    write(files, folder, where)
    click.echo(f"wrote {', '.join(files)} to {folder}", err=True)
