"""One question in writing: what a command line asks as YAML, and that YAML asked again.

An option is described once, where click reads it: its name is the key, its type checks the value, its default is what
is filled in. ``--save`` writes what was given, and below it the defaults that this version filled in, so that a
question means the same after a default has moved.
"""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from taicang import __version__
from taicang.app.main import COMMANDS, LazyGroup
from taicang.app.options import command, context_of
from taicang.errors import InvalidInput, UnknownName

OUTPUT = frozenset(
    {"json", "out", "format", "perfetto", "pareto", "layers", "save", "help", "html", "svg", "chakra", "chakra-phase"}
)
"""Keys that say how an answer is shown or where it goes, which is no part of the question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question: the command that answers it, what was given, and the defaults that filled the rest."""

    ask: str
    given: Mapping[str, Any]
    defaults: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Of the whole question: given or filled in, a value counts the same."""
        text = json.dumps({"ask": self.ask, **self.defaults, **self.given}, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def text(self) -> str:
        """The question as YAML."""
        import yaml

        parts: dict[str, Any] = {"ask": self.ask, **self.given}
        if self.defaults:
            parts["defaults"] = dict(self.defaults)
        body = yaml.safe_dump(parts, sort_keys=False, allow_unicode=True, width=120)
        return f"# taicang {__version__}, question {self.digest}: taicang ask FILE\n{body}"


class Asking(click.Command):
    """A command that answers a question: ``--save FILE`` also writes the question down."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        save = click.Option(
            ["--save"], type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", expose_value=False,
            help="Also write the question as YAML, for taicang ask.",
        )  # fmt: skip
        self.params.append(save)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the words as they were given: what is written down is what the user wrote."""
        words = list(args)
        rest = super().parse_args(ctx, args)
        ctx.meta["taicang.words"] = words
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        """Write the question down before it is answered."""
        words = self.make_parser(ctx).parse_args(list(ctx.meta["taicang.words"]))[0]
        if words.get("save"):
            from taicang.app.options import write_files

            path = Path(words["save"])
            write_files({path.name: question_of(ctx, words).text()}, path.parent, "--save")
        return super().invoke(ctx)


def question_of(ctx: click.Context, words: Mapping[str, Any]) -> Question:
    """The question of a parsed command line; ``words`` are its values as they were written."""
    given: dict[str, Any] = {}
    filled: dict[str, Any] = {}
    implied = {each for part in ctx.meta.get("taicang.implied", {}).values() for each in part}
    for param in ctx.command.params:
        name = key_of(param)
        source = ctx.get_parameter_source(str(param.name))
        if name in OUTPUT or source is None:
            continue
        if source is click.core.ParameterSource.COMMANDLINE:
            given[name] = _scalar(words.get(str(param.name)))
            continue
        value = ctx.params.get(str(param.name))
        if param.name == "sets":
            value = tuple(each for each in value or () if each not in implied)
        if not (value is None or value is False or value in ("", ())):  # none of them; zero is a value
            filled[name] = list(value) if isinstance(value, tuple) else value
    return Question(ask=str(ctx.info_name), given=given, defaults=filled)


def _scalar(value: Any) -> Any:
    """A written value as YAML shows it best: a number that reads back as it was written, without quotes."""
    if isinstance(value, tuple | list):
        return [_scalar(each) for each in value]
    for number in (int, float):
        with suppress(TypeError, ValueError):
            if isinstance(value, str) and str(number(value)) == value and math.isfinite(number(value)):
                return number(value)
    return value


def key_of(param: click.Parameter) -> str:
    """A parameter's key in YAML: its first long option, or the name of an argument."""
    if isinstance(param, click.Argument):
        return str(param.name)
    return next((text for text in param.opts if text.startswith("--")), param.opts[0]).lstrip("-")


def read_question(path: Path, commands: Sequence[str]) -> Question:
    """The question in a file (YAML 1.1 reads a bare ``on`` as true). Raises ``InvalidInput`` with file, line, key."""
    from taicang.catalog import files

    content: dict[Any, Any] = files.read(path)
    loaded = {"on" if key is True else str(key): value for key, value in content.items()}
    ask, defaults = loaded.pop("ask", None), loaded.pop("defaults", {})
    if ask is None:
        raise InvalidInput(f"needs 'ask': one of {', '.join(commands)}", where=str(path))
    if ask not in commands:
        raise UnknownName("command", str(ask), commands, where=files.where(path, ["ask"]))
    if not isinstance(defaults, dict):
        raise InvalidInput("expected a mapping of keys to values", where=files.where(path, ["defaults"]))
    return Question(ask=ask, given=loaded, defaults=defaults)


def answer(question: Question, command: click.Command, path: Path, extra: Sequence[str]) -> Any:
    """Answer ``question`` through its command; ``extra`` are options that change it or say where the answer goes."""
    from taicang.catalog import files

    keys = {key_of(param): param for param in command.params if key_of(param) not in OUTPUT}
    for section, values in ((), question.given), (("defaults",), question.defaults):
        for key in values:
            if str(key) not in keys:
                raise UnknownName("key", str(key), keys, where=files.where(path, [*section, str(key)]))
    words: list[str] = []
    for key, value in question.given.items():
        words += words_of(keys[key], key, value, partial(files.where, path, [key]))
    for key, value in question.defaults.items():
        words_of(keys[key], key, value, partial(files.where, path, ["defaults", key]))
    filled = {str(keys[key].name): value for key, value in question.defaults.items()}
    try:
        with context_of(command, [*words, *extra], default_map=filled) as context:
            return command.invoke(context)
    except click.BadParameter as error:
        raise _placed(error.format_message(), key_of(error.param) if error.param else "", question, path) from None
    except InvalidInput as error:
        raise _placed(str(error), error.where.lstrip("-"), question, path) from None


def words_of(param: click.Parameter, key: str, value: Any, where: Callable[[], str]) -> list[str]:
    """One key of a question as words of a command line; ``where`` says its place."""
    if isinstance(value, dict) or value is None:
        raise InvalidInput("expected a value or a list of values", where=where())
    if isinstance(param, click.Option) and param.is_flag:
        if not isinstance(value, bool):
            raise InvalidInput(f"expected true or false, got {value!r}", where=where())
        return [param.opts[0]] if value else list(param.secondary_opts[:1])
    if isinstance(value, list) and not (param.multiple if isinstance(param, click.Option) else param.nargs == -1):
        if param.type is not click.STRING:
            raise InvalidInput(f"expected one value, got a list of {len(value)}", where=where())
        # the ends of a range, or several machines or formats
        value = (".." if param.metavar == "RANGE" else ",").join(map(str, value))
    values = [str(each) for each in (value if isinstance(value, list) else [value])]
    return values if isinstance(param, click.Argument) else [f"--{key}={each}" for each in values]


def _placed(message: str, key: str, question: Question, path: Path) -> InvalidInput:
    """What is wrong with a value, by the line that holds it."""
    from taicang.catalog import files

    if key in question.given:
        return InvalidInput(message, where=files.where(path, [key]))
    if key in question.defaults:
        return InvalidInput(message, where=files.where(path, ["defaults", key]))
    return InvalidInput(message)


def words(question: Mapping[str, Any]) -> str:
    """The command line that asks ``question``, a mapping as a file holds one."""
    given = dict(question)
    kind = given.pop("ask")
    if kind == "catalog":
        return f"taicang catalog show {given['name']}"
    first = [str(given.pop(key)) for key in ("model", "machine") if key in given and kind != "catalog"][:1]
    parts = ["taicang", str(kind), *first]
    for key, value in given.items():
        if value is True:
            parts.append(f"--{key}")
        elif value is False:
            continue
        else:
            for each in value if isinstance(value, list) else [value]:
                parts += [f"--{key}", str(each)]
    return shlex.join(parts)


ANSWERING = ("infer", "search", "compare", "replay", "train", "centre", "fabric")
"""Commands that answer a question."""


@command("ask", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.pass_context
def ask(ctx: click.Context, file: Path, extra: tuple[str, ...]) -> Any:
    """Answer the question in FILE, which --save of any command writes; options change it or say where it goes."""
    run = read_question(file, ANSWERING)
    command = LazyGroup(commands={}).get_command(ctx, run.ask)
    assert isinstance(command, Asking), COMMANDS[run.ask]
    return answer(run, command, file, extra)
