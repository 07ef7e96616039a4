"""What reaches the terminal: symbols that its encoding has, no control characters of a file, a width that shows."""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

PLAIN = {"µ": "u", "×": "x", "≤": "<=", "≥": ">=", "–": "-", "—": "-", "…": "...", "→": "->", "·": "."} | dict.fromkeys(
    "▏▎▍▌▋▊▉█", "#"
)
"""What stands for a symbol that an encoding lacks."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def prepare() -> None:
    """Let output be written whatever the environment says of it."""
    codecs.register_error("taicang", _written)
    if not isinstance(sys.stderr, _Heard):
        sys.stderr = cast(TextIO, _Heard(sys.stderr or open(os.devnull, "w")))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="taicang")
    for name in ("COLUMNS", "LINES"):
        value = os.environ.get(name, "1")
        if not (value.isascii() and value.isdigit() and 0 < len(value.lstrip("0")) < 5):
            del os.environ[name]


class _Heard:
    """Standard error, closed or full as it may be: what cannot be told there costs no answer."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def _written(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(PLAIN.get(each, ascii(each)[1:-1]) for each in lacking), error.end


def clean(text: str) -> str:
    """``text`` without characters that steer a terminal."""
    return _CONTROL.sub("?", text)


def console(**options: Any) -> Any:
    """A console of rich that prints no control character of what it is given, as wide as the terminal is then."""
    from rich.console import Console
    from rich.segment import Segment

    class Clean(Console):
        def render(self, *args: Any, **named: Any) -> Iterable[Segment]:
            for segment in super().render(*args, **named):
                yield segment if segment.control else segment._replace(text=clean(segment.text))

    made: Any = Clean(emoji=False, **options)
    made.width = options.get("width")  # rich would keep COLUMNS as it was when the module was read
    return made


def wide(least: int, *, piped: bool = False) -> Any:
    """A console of at least so many columns (where it is no terminal, or ``piped`` and none, of just so many)."""
    made = console(highlight=False)
    if made.width < least or (piped and not made.is_terminal):
        return console(highlight=False, width=least, force_terminal=made.is_terminal)
    return made


def table(
    *columns: str, words: Collection[str] | None = None, options: Mapping[str, Any] | None = None, **more: Any
) -> Any:
    """A table without lines: the columns named in ``words`` (the first) begin on their left, others end on their right.

    ``options`` are of each column, ``more`` of the table.
    """
    from rich.table import Table

    made = Table(box=None, pad_edge=False, **more)
    for column in columns:
        left = column in (columns[:1] if words is None else words)
        made.add_column(column, justify="left" if left else "right", **(options or {}))
    return made


@contextmanager
def counting(told: Callable[[int, int], str]) -> Iterator[Callable[[int, int], None] | None]:
    """A line on the terminal that says how far a long answer is; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return

    def tell(done: int, of: int) -> None:
        sys.stderr.write(f"\r{told(done, of):<78}")
        sys.stderr.flush()

    try:
        yield tell
    finally:
        sys.stderr.write("\r" + " " * 78 + "\r")


def hang(console: Any, markup: str, indent: int = 2) -> None:
    """Print a line of markup whose continuations stand further in."""
    from rich.text import Text

    for number, line in enumerate(
        Text.from_markup(markup, emoji=False).wrap(console, max(console.width - indent - 2, 20))
    ):
        console.print(Text(" " * (indent + 2 * (number > 0))) + line)


BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Any) -> str:
    """Bars from zero to the largest value."""
    listed = [float(value) for value in values]
    top = max(*listed, 1e-30)
    return "".join(BARS[min(int(value / top * 8), 7)] for value in listed)
