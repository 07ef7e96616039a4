"""An entry as a reader wants it: every figure with its value, source, place, kind and the readings that disagree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from taicang.catalog import files, own, schema
from taicang.catalog.build import chip_part, split
from taicang.catalog.leaf import Leaf, value
from taicang.catalog.resolve import Resolved, aliases, is_path, names, resolve
from taicang.catalog.stack_entry import nearest
from taicang.errors import InvalidInput, MissingFigure, UnknownName


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Another value for the same figure, and who gives it."""

    text: str
    value: Any
    source: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure of an entry."""

    key: str
    text: str
    """As written, with its unit."""
    value: Any
    """In SI, or text; None where no public source gives it or it is known not to exist."""
    source: str
    """Key of ``sources``."""
    place: str
    kind: str
    """measured-here, published, datasheet, calibrated, assumed or unknown."""
    note: str
    conflicts: tuple[Reading, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A chip, machine or stack with the provenance of every figure; a machine's chip is under "chip."."""

    kind: str
    name: str
    title: str
    status: str
    figures: tuple[Figure, ...]
    fitted: Mapping[str, Any]
    """What a profile of the user's own was fitted on."""

    @property
    def unknowns(self) -> tuple[str, ...]:
        """Keys that no public source gives."""
        return tuple(figure.key for figure in self.figures if figure.kind == "unknown")

    @property
    def conflicts(self) -> tuple[Figure, ...]:
        """Figures on which sources disagree."""
        return tuple(figure for figure in self.figures if figure.conflicts)

    def figure(self, key: str) -> Figure:
        """The figure under ``key``; ``UnknownName`` suggests the nearest."""
        for figure in self.figures:
            if figure.key == key:
                return figure
        raise UnknownName(f"key of {self.name}", key, [figure.key for figure in self.figures])


def entry(kind: str, name: str, sets: Iterable[str] = ()) -> Entry:
    """The entry ``name`` of ``kind`` ("chip", "machine", "stack"), or the YAML file of that path, with its provenance.

    Raises ``UnknownName``, ``InvalidInput`` and ``UnitError``; never ``MissingFigure``.
    """
    if kind not in schema.KINDS:
        raise UnknownName("kind of entry", kind, schema.KINDS)
    if kind == "machine":
        name, _ = split(name)
    elif kind == "stack":
        name = nearest(name)
    found = resolve(kind, name, sets)
    figures = [_figure(kind, leaf) for path, leaf in found.leaves.items() if not path.startswith("chip.")]
    if kind == "machine":
        figures += _chip_figures(found)
    return Entry(
        kind=kind,
        name=found.name,
        title=found.get("title") or found.name,
        status=found.get("status") or "",
        fitted=files.read(found.file).get("fitted") or {},
        figures=tuple(figure for figure in figures if figure.key not in ("title", "status")),
    )


def _chip_figures(found: Resolved) -> list[Figure]:
    try:
        part = chip_part(found)
    except MissingFigure:
        return []
    return [replace(_figure("chip", leaf), key=f"chip.{leaf.path}") for leaf in part.leaves.values()]


def _figure(kind: str, leaf: Leaf) -> Figure:
    type_ = schema.field_type(kind, leaf.path) or "text"
    gone = leaf.missing or leaf.absent
    return Figure(
        key=leaf.path,
        text="none"
        if leaf.raw is None
        else ", ".join(map(str, leaf.raw))
        if isinstance(leaf.raw, list)
        else str(leaf.raw),
        value=None if gone else value(leaf, type_),
        source=leaf.source,
        place=leaf.place,
        kind=leaf.kind,
        note=leaf.note,
        conflicts=tuple(
            Reading(
                text=str(other["value"]),
                value=value(leaf, type_, other["value"]),
                source=str(other.get("source", "")),
                note=str(other.get("note", "")),
            )
            for other in leaf.conflicts
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A document that figures come from."""

    key: str
    title: str
    url: str
    tier: str
    """primary (the vendor or authors), secondary (press, analysts), inference (our own arithmetic)."""


@cache
def sources() -> dict[str, Source]:
    """Every source by its key."""
    path = files.DATA / "sources" / "sources.yaml"
    return {key: Source(key=key, **body) for key, body in files.read(path).items()}


def find(name: str) -> str:
    """The kind of the entry ``name``: machine before chip before stack. A file is told by its keys."""
    if is_path(name):
        return _kind_of_file(name)
    low = name.strip().lower()
    for kind in ("machine", "chip", "stack"):
        plain = split(low)[0] if kind == "machine" else low.partition("@")[0] if kind == "stack" else low
        known = {known.partition("@")[0] for known in names(kind)} if kind == "stack" else set(names(kind))
        if plain in known or plain in aliases(kind) or own.find(kind, plain):
            return kind
    raise UnknownName(
        "entry", name, [known for kind in schema.KINDS for known in (*names(kind), *aliases(kind), *own.names(kind))]
    )


def _kind_of_file(name: str) -> str:
    for kind in ("machine", "chip", "stack"):
        try:
            resolve(kind, name)
        except InvalidInput:
            continue
        return kind
    resolve("machine", name)  # raises what is wrong with it
    return "machine"
