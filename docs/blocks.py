"""Run the examples of a Markdown page and fill in what they print.

Two kinds of fenced blocks are examples. ``console``: lines that begin with "$ " are commands, the rest is what they
print. ``python``: run in one namespace per page; a ``text`` block right after it holds what it prints. A comment right
before the fence directs: ``<!-- keep 1-5 9- -->`` shows these lines of the output only, ``<!-- before WORDS -->`` those
before the first line that begins with the words, ``<!-- quiet -->`` none,
``<!-- slow -->`` runs it with the slow tests, ``<!-- evidence -->`` needs the folder of measured rows (slow too), and
``<!-- shown -->`` is never run.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rich.console import Console

from taicang.app import main, render

ROOT = Path(__file__).resolve().parents[1]
EVIDENCE = ROOT.parent / "shared" / "evidence"
WIDTH = "100"
FENCE = re.compile(
    r"^(?:<!-- (?P<hint>[^\n]*?) -->\n)?```(?P<kind>console|python)[^\n]*\n(?P<body>.*?)^```$"
    r"(?P<out>\n\n```text\n(?P<printed>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
NUMBER = re.compile(r"\d[\d,]*\.?\d*")
DIGEST = re.compile(r"\b(?:[0-9a-f]{64}|[0-9a-f]{12})\b")
"""The catalogue's digest changes with every figure."""
SLACK_RATIO = 0.02
"""By how much a figure in an example may differ from what the program prints now (rounding on other processors)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One block of a page: ``start`` and ``end`` are its place in the text."""

    kind: str
    hints: frozenset[str]
    keep: str
    body: str
    printed: str | None
    start: int
    end: int

    @property
    def slow(self) -> bool:
        """Whether it takes long or needs more than the package."""
        return bool(self.hints & {"slow", "evidence"})

    @property
    def runs(self) -> bool:
        """Whether it can be run here."""
        return "shown" not in self.hints and ("evidence" not in self.hints or EVIDENCE.is_dir())


def examples(text: str) -> Iterator[Example]:
    """All examples of a page, in order. Output of a ``console`` block is part of its body."""
    for match in FENCE.finditer(text):
        hint = match["hint"] or ""
        order = re.search(r"\b(?:keep|before) .*", hint)
        keep = order[0] if order else ""
        words = frozenset(re.findall(r"slow|evidence|shown|quiet", hint.removesuffix(keep)))
        yield Example(
            kind=match["kind"],
            hints=words,
            keep=keep,
            body=match["body"],
            printed=match["printed"],
            start=match.start(),
            end=match.end(),
        )


@cache
def run_command(line: str) -> str:
    """What a ``taicang`` command prints, run in this process with a terminal of ``WIDTH`` columns."""
    words = shlex.split(line)
    if words[0] != "taicang":
        raise ValueError(f"not a command of ours: {line}")
    out = io.StringIO()
    before = sys.argv, os.environ.get("COLUMNS"), os.environ.get("TAICANG_EVIDENCE"), render.console, Path.cwd()
    os.environ["COLUMNS"] = WIDTH
    os.environ.pop("TAICANG_EVIDENCE", None)
    render.console = Console(highlight=False)
    os.chdir(ROOT)
    try:
        sys.argv = [word.replace("../shared/evidence", str(EVIDENCE)) for word in words]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), contextlib.suppress(SystemExit):
            main.main()
    finally:
        sys.argv, render.console = before[0], before[3]
        os.chdir(before[4])
        for key, value in (("COLUMNS", before[1]), ("TAICANG_EVIDENCE", before[2])):
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value
    return "\n".join(part.rstrip() for part in out.getvalue().rstrip().splitlines())


def kept(output: str, keep: str) -> str:
    """The lines that ``keep`` names ("keep 1-5 9-", "before words"), with "..." where lines are left out."""
    lines = output.splitlines()
    if not keep:
        return output
    kind, _, told = keep.partition(" ")
    if kind == "before":
        stop = next((i for i, line in enumerate(lines) if line.startswith(told)), len(lines))
        while stop and not lines[stop - 1]:
            stop -= 1
        told = f"1-{stop}"
    shown: list[str] = []
    last = 0
    for part in told.split():
        first, dash, end = part.partition("-")
        begin = int(first)
        stop = len(lines) if dash and not end else int(end or first)
        if begin > last + 1:
            shown.append("...")
        shown += lines[begin - 1 : stop]
        last = stop
    if last < len(lines):
        shown.append("...")
    return "\n".join(shown)


def commands(body: str) -> list[str]:
    """The commands of a console block; a line that ends in a backslash continues."""
    joined = re.sub(r"\\\n\s*", "", body)
    return [line[2:] for line in joined.splitlines() if line.startswith("$ ")]


def console(example: Example) -> str:
    """The block's body with fresh outputs."""
    pieces, lines = [], example.body.splitlines()
    i = 0
    while i < len(lines):
        if not lines[i].startswith("$ "):
            i += 1
            continue
        source = [lines[i]]
        while source[-1].endswith("\\"):
            i += 1
            source.append(lines[i])
        i += 1
        output = kept(run_command(commands("\n".join(source))[0]), example.keep)
        pieces.append("\n".join([*source, output] if output else source))
    return "\n".join(pieces) + "\n"


def python(example: Example, names: dict[str, object], where: str) -> str:
    """What the block prints; it runs from the top folder of the repository."""
    out, before = io.StringIO(), Path.cwd()
    os.chdir(ROOT)
    try:
        body = example.body.replace("../shared/evidence", str(EVIDENCE))
        with contextlib.redirect_stdout(out):
            exec(compile(body, where, "exec"), names)
    finally:
        os.chdir(before)
    return kept(out.getvalue().rstrip(), example.keep) + "\n"


def fresh(example: Example, names: dict[str, object], where: str) -> tuple[str, str]:
    """What the page shows of an example and what it should show (equal for Python that shows no output)."""
    if example.kind == "console":
        shows = example.body.strip("\n") + "\n"
        return shows, _quietly(example, shows) if "quiet" in example.hints else console(example)
    printed = python(example, names, where)
    return (printed, printed) if example.printed is None else (example.printed, printed)


def _quietly(example: Example, shows: str) -> str:
    """Run the commands of a block that shows no output."""
    for line in commands(example.body):
        printed = run_command(line)
        if printed.startswith("taicang: ") or "Traceback" in printed:
            raise ValueError(f"{line}: {printed}")
    return shows


def refreshed(text: str, where: str, *, slow: bool) -> str:
    """The page with every example that runs here run again."""
    names: dict[str, object] = {}
    made, last = [], 0
    for example in examples(text):
        if not example.runs or (example.slow and not slow):
            continue
        was, now = fresh(example, names, where)
        block = text[example.start : example.end]
        if was != now:
            old = f"```text\n{was}" if example.kind == "python" else example.body
            new = f"```text\n{now}" if example.kind == "python" else now
            block = block.replace(old, new, 1)
        made += [text[last : example.start], block]
        last = example.end
    return "".join([*made, text[last:]])


def alike(first: str, second: str) -> bool:
    """Whether two texts say the same: words alike, figures within ``SLACK_RATIO``, whatever the blanks and bars."""

    def words(text: str) -> list[str]:
        return re.sub(r"[▁-▏\s]+", " ", NUMBER.sub(" # ", text)).split()

    def figures(text: str) -> list[float]:
        return [float(found.replace(",", "").rstrip(".")) for found in NUMBER.findall(text)]

    first, second = DIGEST.sub("digest", first), DIGEST.sub("digest", second)
    one, two = figures(first), figures(second)
    near = len(one) == len(two) and all(
        abs(a - b) <= SLACK_RATIO * max(abs(a), abs(b)) + 0.1 * (max(abs(a), abs(b)) < 10)
        for a, b in zip(one, two, strict=True)
    )
    return near and words(first) == words(second)
