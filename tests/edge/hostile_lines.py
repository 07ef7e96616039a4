"""Command lines of the documentation and of the commands' own help, changed in a place or two.

What a page shows is what users start from: their options, values and combinations are drawn without a list of them
here, and so is every option that comes to be documented.
"""

import contextlib
import os
import random
import re
import shlex
import shutil
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import click

from taicang.app.main import cli

HERE = Path(__file__).resolve().parents[2]
LINE = re.compile(r"(?:^|\$ |`)\s*taicang ((?:[^\n`\\]|\\\n|\\.)+)", re.MULTILINE)
UNIT = re.compile(r"([\d.]+)\s?([A-Za-zµ/]*)")
FLIPPED = {"k": "K", "GB": "GiB", "MB": "MiB", "GB/s": "Gb/s", "ms": "us", "s": "min", "h": "d", "USD": "CNY"}
SIZES = ("30000", "1000000", "1000000000", "1000000000000000000", "0.000000001")
"""Of what is counted or measured: too much for any host, or next to nothing."""
LONG = {"--pareto": "out", "--evidence": "out", "--requests": "12", "--hours": "0.002", "--samples": "100",
        "--draws": "5", "--seeds": "2", "--workers": "1", "--seed": "1", "--clients": "3", "--confirm": "1",
        "--suite": "gemm", "--turns": "2", "--limit": "1s"}  # fmt: skip
"""Options whose documented values would make a case long, or need what is not here."""
PLACES = (
    "pipe", "pipe.yaml", "pipe.csv", "pipe.json x 2", "pipes", "folder", "folder/", "folder.yaml", "circle", "away",
    "endless", "endlesses", "large", "socket", "empty", "empty/x", "circle/x", "pipe/x", "folder x 2", "./pipe",
    "/dev/zero", "/dev/null", "/proc/self/mem", "/proc/kmsg", "/proc/self/environ", "~", ".", "..", "//", "-", "--",
    "@pipe", "a\nb", "\x1b[31mx", "x" * 300, "x/" * 3000, "\udcff\udcfe", "日本語", "file:///etc/passwd",
)  # fmt: skip
"""Names of what is no plain file of a modest size; those that are not special are made by ``furnish``."""


@cache
def tree() -> dict[tuple[str, ...], click.Command]:
    """Every command by its words."""

    def below(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                yield from below(inner, (*path, name))
        else:
            yield path, command

    return dict(below(cli, ()))


def path_of(words: list[str]) -> tuple[str, ...]:
    """The words that name the command; none where there is no such command."""
    return next((tuple(words[:many]) for many in (2, 1) if tuple(words[:many]) in tree()), ())


@cache
def examples() -> tuple[tuple[str, ...], ...]:
    """Command lines of pages, READMEs and help."""
    pages = [path.read_text(encoding="utf-8") for path in (*HERE.glob("*.md"), *sorted(HERE.glob("docs/**/*.md")))]
    helps = [f"{command.help}\n{command.epilog}" for command in tree().values()]
    found: dict[tuple[str, ...], None] = {}
    for text in pages + helps:
        for match in LINE.finditer(text.replace("&lt;", "<")):
            line = re.split(r" (?:[(|>&#]|2>)|[;…]|\.\.\.|\$\(", match[1].replace("\\\n", " "))[0]
            try:
                words = shlex.split(line)
            except ValueError:
                continue
            if path_of(words):
                found.setdefault(tuple(words))
    return tuple(found)


@cache
def values() -> dict[str, tuple[str, ...]]:
    """What pages and help give for each option."""
    found: dict[str, dict[str, None]] = {}
    for words in examples():
        for option, given in pairwise(words):
            if option.startswith("--") and not given.startswith("--"):
                found.setdefault(option, {}).setdefault(given)
    for command in tree().values():
        for each in command.params:
            if isinstance(each, click.Option) and each.help and not each.is_flag:
                text = each.help.replace('"', "'")
                quoted = re.findall(r"'([^'\n]{1,60})'|(?:e\.g\.|such as) ([^\s,;']+)", text)
                listed = re.findall(r"(?:[:,(] ?|\bor )([\w+:.%/@=-]+)(?=[,.;)]| or|$)", text)
                for word in [a or b for a, b in quoted] + listed:
                    found.setdefault(each.opts[0], {}).setdefault(word.strip(".,"))
    return {option: tuple(given) for option, given in found.items()}


def respelled(rng: random.Random, text: str) -> str:
    """The same or nearly: another unit, another notation, another case, more room."""
    how = rng.randrange(6)
    match = UNIT.search(text)
    if match and how < 4:
        number, unit = match[1], match[2]
        new = (
            f"{number}e0{unit}",
            f"{number} {unit}",
            f"{number}{FLIPPED.get(unit, unit.upper())}",
            f"{rng.choice(('0', '1', '-', '3.5', '1e3', '0.', '.5', '1_0', '٣', *SIZES))}{unit}",
        )[how]
        return text[: match.start()] + new + text[match.end() :]
    return f" {text} " if how == 4 else rng.choice((text.upper(), text.replace("-", "_"), f"{text},{text}", text[:-1]))


def furnish(folder: Path) -> None:
    """The files that pages name, to be read and spoiled, and what lies at ``PLACES``."""
    if (folder / "examples").exists():
        return
    shutil.copytree(HERE / "examples", folder / "examples")
    (folder / "empty").touch()
    for name in ("folder", "folder.yaml", "pipes", "endlesses"):
        (folder / name).mkdir()
    for name in ("pipe", "pipe.yaml", "pipe.csv", "pipe.json"):
        os.mkfifo(folder / name)
    for name in ("config.json", "summary.json", "capture.json", "journal.jsonl", "chunk-0-trace.csv", "a.csv", "a.py"):
        os.mkfifo(folder / "pipes" / name)
        (folder / "endlesses" / name).symlink_to("/dev/zero")
    for name, target in (("circle", "circle"), ("away", "nowhere"), ("endless", "/dev/zero")):
        (folder / name).symlink_to(target)
    with (folder / "large").open("wb") as file:
        file.truncate(1 << 36)  # takes no room
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(folder):  # a socket's path is short
        made.bind("socket")


def brief(words: Sequence[str]) -> list[str]:
    """``words`` with values that take less long."""
    before = ("", *words)
    return [LONG.get(last, word) if word[:2] != "--" else word for last, word in zip(before, words, strict=False)]


def argv(
    rng: random.Random,
    value: Callable[[click.Parameter, float], str],
    lines: Sequence[Sequence[str]],
    never: Collection[str] = (),
) -> list[str]:
    """One of ``lines`` with a few options left out, doubled, added from its command, or with another value."""
    words = list(rng.choice(lines))
    path = path_of(words)
    options = [each for each in tree()[path].params if isinstance(each, click.Option) and not each.hidden]
    flags = {name for each in options if each.is_flag for name in (*each.opts, *each.secondary_opts)} | {"-h", "--help"}
    head, pairs = list(path), []
    at = len(path)
    while at < len(words):
        word = words[at]
        if word.startswith("--") and word not in flags and "=" not in word and at + 1 < len(words):
            pairs.append([word, words[at + 1]])
            at += 1
        else:
            pairs.append([word])
        at += 1
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        how = rng.randrange(6)
        if options and (how < 2 or not pairs):
            each = rng.choice(options)
            name = rng.choice([*each.opts, *each.secondary_opts])
            known = values().get(each.opts[0], ())
            pairs.append([name] if each.is_flag else [name, rng.choice([*known, value(each, 0.1)])])
            continue
        if not pairs:
            break
        chosen = rng.randrange(len(pairs))
        pair = pairs[chosen]
        if how == 2 and pair[0].startswith("-"):
            del pairs[chosen]
        elif how == 3:
            pairs.insert(rng.randrange(len(pairs) + 1), list(pair))
        elif how == 4 and rng.random() < 0.3:
            before, sign, _ = pair[-1].rpartition(rng.choice(("=", ",")))  # the last of a list, or all
            pair[-1] = f"{before}{sign}{rng.choice(PLACES)}" if pair[-1][:2] != "--" else pair[-1]
        elif len(pair) == 2:
            pair[1] = respelled(rng, pair[1]) if how == 4 else rng.choice(values().get(pair[0], (pair[1],)))
        elif not pair[0].startswith("-"):
            pair[0] = respelled(rng, pair[0]) if rng.random() < 0.3 else pair[0]
    pairs = [pair for pair in pairs if pair[0].removeprefix("--") not in never]
    return brief([*head, *(word for pair in pairs for word in pair)])
