"""One figure with its provenance, and a file's nested sections flattened to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from taicang.catalog import files, schema
from taicang.errors import InvalidInput, UnitError, UnknownName
from taicang.units import DIMENSIONS, count, parse, shorten

MOST: Final = 10**9
"""Largest count and ratio."""
UNKNOWN: Final = "unknown"
NONE: Final = "none"
"""Known to be absent (arithmetic that the chip does not have); as a whole section it removes an inherited one."""
_LEAF_KEYS: Final = ("value", "source", "place", "kind", "note", "conflicts")
_FROM_KEYS: Final = ("source", "place", "kind")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A value as written, who says so, and who says otherwise."""

    path: str
    raw: Any
    source: str = ""
    place: str = ""
    kind: str = ""
    note: str = ""
    conflicts: tuple[Mapping[str, Any], ...] = ()
    file: Path | None = None
    at: tuple[str, ...] = ()
    """Keys inside the file (they differ from ``path`` inside a bin)."""

    @property
    def where(self) -> str:
        """File, line and key; for values from the command line the key alone."""
        return files.where(self.file, self.at) if self.file else f"--set {self.path}"

    @property
    def missing(self) -> bool:
        """No public figure."""
        return isinstance(self.raw, str) and self.raw == UNKNOWN

    @property
    def absent(self) -> bool:
        """Known not to exist."""
        return self.raw is None or (isinstance(self.raw, str) and self.raw == NONE)


def value(leaf: Leaf, type_: str, raw: Any = UNKNOWN) -> Any:
    """``leaf`` (or another reading ``raw`` of it) in SI or as text. Errors name file, line and key."""
    raw = leaf.raw if raw is UNKNOWN else raw
    if type_ in schema.CHOICES and raw not in schema.CHOICES[type_]:
        raise UnknownName(
            type_, shorten(raw) if isinstance(raw, (list, dict)) else str(raw), schema.CHOICES[type_], where=leaf.where
        )
    try:
        found = _read(raw, type_)
        if found == 0 and type_ in DIVISORS and not leaf.path.endswith("idle"):
            raise InvalidInput(f"expected a quantity of more than nothing, got {raw!r}")
        return found
    except UnitError as error:
        raise UnitError(str(error), where=leaf.where) from None
    except InvalidInput as error:
        raise InvalidInput(str(error), where=leaf.where) from None


DIVISORS: Final = frozenset({"bytes_per_s", "flop_per_s", "hz", "w", "usd", "cny"})
"""Dimensions that times, throughput per watt and throughput per price divide by: a zero means nothing there.

Idle power may be none.
"""


def _read(raw: Any, type_: str) -> Any:
    if type_ in DIMENSIONS:
        number = parse(raw, type_)
        if number < 0:
            raise InvalidInput(f"expected a quantity that is not negative, got {raw!r}")
        return number
    reader: Callable[[Any], Any] = _READERS.get(type_, _text)
    return reader(raw)


def _ratio(raw: Any) -> float:
    if isinstance(raw, bool) or not isinstance(raw, (int, float)) or not 1 / MOST <= raw <= MOST:
        raise InvalidInput(f"expected a positive number up to {MOST:g}, got {shorten(raw)}")
    return float(raw)


def _flag(raw: Any) -> bool:
    if not isinstance(raw, bool):
        raise InvalidInput(f"expected true or false, got {shorten(raw)}")
    return raw


def _words(raw: Any) -> frozenset[str]:
    if not isinstance(raw, list) or not all(isinstance(word, str) for word in raw):
        raise InvalidInput(f"expected a list of words, got {shorten(raw)}")
    return frozenset(raw)


def _text(raw: Any) -> str:
    if not isinstance(raw, str):
        raise InvalidInput(f"expected text, got {shorten(raw)}")
    return raw


def _any(raw: Any) -> Any:
    """A fact of free dimension: a number, text, a list of them, or a quantity whose unit tells the dimension."""
    if isinstance(raw, (list, dict)):
        raise InvalidInput(f"expected a number or a text, got {shorten(raw)}")
    if isinstance(raw, (int, float)) and not abs(raw) < 1e300:
        raise InvalidInput(f"expected a finite number, got {shorten(raw)}")
    if isinstance(raw, str):
        for dimension in DIMENSIONS:
            try:
                return parse(raw, dimension)
            except UnitError:
                continue
    return raw


_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "count": lambda raw: count(raw, 1, MOST, what="a whole number"),
    "ranks": lambda raw: raw if raw == "all" else count(raw, 1, MOST, what="a whole number"),
    "seed": lambda raw: count(raw, 0, MOST, what="a whole number"),
    "extents": lambda raw: tuple(count(part, 1, MOST, what="sizes such as 4x4x4") for part in str(raw).split("x")),
    "ratio": _ratio, "flag": _flag, "words": _words, "any": _any,
}  # fmt: skip
"""By type; what is none of them is text."""


def flatten(
    kind: str, file: Path, body: Mapping[str, Any], at: tuple[str, ...], given: Mapping[str, str]
) -> list[Leaf]:
    """The figures under ``body``, found in ``file`` below the keys ``at``; ``given`` is the provenance they inherit."""
    found: dict[str, Leaf] = {}
    for leaf in _walk(kind, file, body, at, (), dict(given)):
        if leaf.path in found:
            raise InvalidInput("this key stands twice, once inside a section and once with a dot", where=leaf.where)
        found[leaf.path] = leaf
    return list(found.values())


def _walk(
    kind: str, file: Path, body: Mapping[str, Any], at: tuple[str, ...], path: tuple[str, ...], given: dict[str, str]
) -> Iterator[Leaf]:
    given = given | origin(file, body, at)
    for key, child in body.items():
        if key == "from" or (not path and key in ("base", "bins", "versions", "fitted")):
            continue
        here, name = (*at, str(key)), (*path, str(key))
        dotted = ".".join(name)
        if isinstance(child, dict) and "value" not in child:
            yield from _walk(kind, file, child, here, name, given)
            continue
        if schema.field_type(kind, dotted) is None and not (child == NONE and _section(kind, dotted)):
            if _section(kind, dotted):
                why = f"is a section of keys (or {NONE!r} to remove it), got {shorten(child)}"
                raise InvalidInput(why, where=files.where(file, here))
            raise UnknownName(f"{kind} key", dotted, schema.spelled(kind), where=files.where(file, here))
        yield _leaf(kind, file, here, dotted, child if isinstance(child, dict) else {"value": child}, given)


def _section(kind: str, dotted: str) -> bool:
    depth = dotted.count(".") + 1
    prefixes = (pattern.split(".")[:depth] for pattern in schema.FIELDS[kind] if pattern.count(".") >= depth)
    return any(all(w in ("*", p) for w, p in zip(pre, dotted.split("."), strict=True)) for pre in prefixes)


def _leaf(
    entry: str, file: Path, at: tuple[str, ...], path: str, body: Mapping[str, Any], given: Mapping[str, str]
) -> Leaf:
    _only(file, at, body, _LEAF_KEYS)
    if schema.field_type(entry, path) in schema.TEXTS or body["value"] == "all":
        given = {}  # words need no document behind them unless one is named
    kind = UNKNOWN if body["value"] == UNKNOWN else body.get("kind", given.get("kind", ""))
    conflicts = body.get("conflicts", ())
    if not isinstance(conflicts, (list, tuple)) or not all(isinstance(c, dict) and "value" in c for c in conflicts):
        raise InvalidInput(
            "expected a list in which each conflict has a 'value'", where=files.where(file, (*at, "conflicts"))
        )
    return Leaf(
        path=path,
        raw=body["value"],
        source=body.get("source", given.get("source", "")),
        place=str(body.get("place", given.get("place", "") if "source" not in body else "")),
        kind=kind,
        note=body.get("note", ""),
        conflicts=tuple(conflicts),
        file=file,
        at=at,
    )


def origin(file: Path, body: Mapping[str, Any], at: tuple[str, ...]) -> dict[str, str]:
    """The provenance that ``from`` gives to a section's figures."""
    given = body.get("from", {})
    if not isinstance(given, dict):
        raise InvalidInput(
            f"expected {{source, place, kind}}, got {shorten(given)}", where=files.where(file, (*at, "from"))
        )
    _only(file, (*at, "from"), given, _FROM_KEYS)
    return {key: str(text) for key, text in given.items()}


def _only(file: Path, at: tuple[str, ...], body: Mapping[str, Any], allowed: Sequence[str]) -> None:
    for key in body:
        if key not in allowed:
            raise UnknownName("key", str(key), allowed, where=files.where(file, (*at, str(key))))
