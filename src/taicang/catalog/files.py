"""YAML in: plain data by YAML 1.2's rules (``010`` and ``1:30`` are text, no dates), and where a key stands."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from taicang import reading
from taicang.errors import InvalidInput

DATA = Path(__file__).parent / "data"
_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_BASE):  # type: ignore[misc]
    """Words and numbers of YAML 1.2: 1.1 reads ``on`` as true, ``1:30`` as 90 and ``010`` as 8."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (the library's name; own, not the base's)


_INT = r"[-+]?(?:0|[1-9]\d*(?:_\d+)*)"
_FLOAT = r"[-+]?(?:(?:0|[1-9]\d*(?:_\d+)*)?\.\d+|(?:0|[1-9]\d*(?:_\d+)*)\.?)(?:[eE][-+]?\d+)?"
for _tag, _pattern, _first in (
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", _INT, "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
    ("merge", "<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$", re.ASCII), list(_first))


_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False, ".inf": math.inf}
_NUMBERS = ((int, re.compile(_INT, re.ASCII)), (float, re.compile(_FLOAT, re.ASCII)))


def _own(text: str) -> Any:
    """A file of the package, straight from the parser's events; its constants may be infinite."""
    parser: Any = _BASE(text)
    for _ in "stream", "document":
        parser.get_event()
    return _value(parser.get_event(), parser, {})


def _value(event: Any, parser: Any, anchored: dict[str | None, Any]) -> Any:
    if isinstance(event, yaml.AliasEvent):
        return anchored[event.anchor]
    found: Any = {}
    if isinstance(event, yaml.ScalarEvent):
        found = _plain(event.value) if event.implicit[0] else event.value
    elif isinstance(event, yaml.SequenceStartEvent):
        found = []
        while not isinstance(each := parser.get_event(), yaml.CollectionEndEvent):
            found.append(_value(each, parser, anchored))
    else:
        while not isinstance(each := parser.get_event(), yaml.CollectionEndEvent):
            key, value = _value(each, parser, anchored), _value(parser.get_event(), parser, anchored)
            found |= value if key == "<<" else {key: value}
    if event.anchor:
        anchored[event.anchor] = found
    return found


def _plain(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if text[0] in "-+.0123456789":
        for number, pattern in _NUMBERS:
            if pattern.fullmatch(text):
                return number(text.replace("_", ""))
    return text


def shown(path: Path) -> str:
    """The path as errors show it: inside the package relative to its data folder, else as given."""
    return str(path.relative_to(DATA.parent)) if path.is_relative_to(DATA) else str(path)


def load(text: str, where: str, *, trusted: bool = False) -> Any:
    """YAML as plain data; ``InvalidInput`` names the line of what is malformed, endless or stands twice.

    ``trusted``: a file of the package, which its tests check.
    """
    try:
        for number, key, problem in () if trusted else faults(text):
            raise InvalidInput(problem, where=f"{where}:{number}" + (f": {key}" if key else ""))
        return _own(text) if trusted else yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "not a YAML document"
        raise InvalidInput(f"malformed YAML: {problem}", where=where + line) from None
    except (ValueError, TypeError) as error:  # a value that a tag of its own cannot make
        raise InvalidInput(f"malformed YAML value: {error}", where=where) from None


@cache
def _read(path: Path, _stamp: int) -> dict[str, Any]:
    loaded = load(reading.text(path, shown(path)), shown(path), trusted=path.is_relative_to(DATA.parents[1]))
    if not isinstance(loaded, dict):
        raise InvalidInput("expected a mapping of keys to values", where=f"{shown(path)}:1")
    return loaded


def read(path: Path) -> dict[str, Any]:
    """The file as plain data, read again only when it changed; ``InvalidInput`` names file and line. Do not modify."""
    try:
        stamp = path.stat().st_mtime_ns
    except (OSError, ValueError):
        raise InvalidInput("no such file", where=shown(path)) from None
    return _read(path, stamp)


def where(path: Path | None, keys: Sequence[str]) -> str:
    """ "file:line: key" of the value under ``keys``; parses the file again for its line numbers."""
    key = ".".join(keys)
    if path is None:
        return key
    node = yaml.compose(reading.text(path), Loader=_Loader)
    line = 1
    for wanted in keys:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = next((pair for pair in pairs if str(pair[0].value) == wanted), None)
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return f"{shown(path)}:{line}: {key}"


def faults(text: str) -> Iterator[tuple[int, str, str]]:
    """Line, key and problem of everything that YAML takes and a reader should not: keys given twice, bombs, endless
    numbers, control characters."""
    stack = [_Part("", "", mapping=False)]
    sizes: dict[str, int] = {}  # nodes under each anchor
    event: Any
    for event in yaml.parse(text, Loader=_Loader):
        line, here = event.start_mark.line + 1, stack[-1]
        if isinstance(event, yaml.CollectionEndEvent):
            done = stack.pop()
            stack[-1].nodes += done.nodes
            sizes[done.anchor] = done.nodes
        elif isinstance(event, yaml.NodeEvent):
            key = here.take(event)
            if key is not None:
                yield line, key, "this key stands twice in one section"
            anchor = event.anchor or ""
            if isinstance(event, yaml.CollectionStartEvent):
                stack.append(_Part(anchor, here.key, mapping=isinstance(event, yaml.MappingStartEvent)))
            elif isinstance(event, yaml.AliasEvent):
                if any(part.anchor == anchor for part in stack):
                    yield line, here.key, f"*{anchor} stands inside itself"
                here.nodes += sizes.get(anchor, 1)
            elif isinstance(event, yaml.ScalarEvent):
                here.nodes += 1
                if problem := _scalar(event.value, plain=event.implicit[0]):
                    yield line, here.key, problem
        if len(stack) > reading.DEPTH or sum(part.nodes for part in stack) > reading.NODES:
            yield line, here.key, f"more than {reading.DEPTH} levels or {reading.NODES:,} values in one file"
            return


class _Part:
    """A mapping or list that is being read."""

    __slots__ = ("anchor", "key", "mapping", "nodes", "seen", "waits")

    def __init__(self, anchor: str, key: str, *, mapping: bool) -> None:
        self.anchor, self.key, self.mapping = anchor, key, mapping
        self.nodes, self.waits = 1, False
        self.seen: set[str] = set()

    def take(self, event: Any) -> str | None:
        """The key that ``event`` repeats, if it does."""
        if not self.mapping:
            return None
        self.waits = not self.waits
        if not self.waits:
            return None
        self.key = str(getattr(event, "value", ""))
        twice = self.key in self.seen and isinstance(event, yaml.ScalarEvent)
        self.seen.add(self.key)
        return self.key if twice else None


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_ENDLESS = re.compile(rf"[-+.]*\d[\d._eE+-]{{{reading.DIGITS},}}", re.ASCII)


def _scalar(value: str, *, plain: bool) -> str:
    if plain and _ENDLESS.fullmatch(value):
        return f"a number of {len(value):,} characters, at most {reading.DIGITS} are read"
    return "control characters in a text" if _CONTROL.search(value) else ""
