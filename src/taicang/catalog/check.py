"""Does the catalogue hold together: schema, sources, names and the laws between figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from taicang import reading
from taicang.catalog import files, laws, schema
from taicang.catalog.build import chip_of, machine_of
from taicang.catalog.entry import entry, find, sources
from taicang.catalog.leaf import Leaf
from taicang.catalog.resolve import Resolved, aliases, names, resolve
from taicang.catalog.stack_entry import stack
from taicang.errors import InvalidInput, MissingFigure


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong."""

    entry: str
    key: str
    problem: str


def check(name: str | None = None) -> list[Finding]:
    """Every finding in the whole catalogue, or in the one entry or file ``name``; an empty list means sound."""
    if name is not None:
        return list(_one(find(name), name))
    found = [finding for path in sorted(files.DATA.rglob("*.yaml")) for finding in _doubled(path)]
    for kind in schema.KINDS:
        for known in names(kind):
            found += _one(kind, known)
        for alias, target in aliases(kind).items():
            clash = alias in names(kind)
            if clash or (target not in names(kind) and kind != "stack"):
                problem = "is an entry as well" if clash else f"stands for {target!r}, which is no entry"
                found.append(Finding(entry="aliases", key=f"{kind}.{alias}", problem=problem))
    return list(dict.fromkeys(found))


def _doubled(path: Path) -> Iterator[Finding]:
    for line, key, problem in files.faults(reading.text(path)):
        yield Finding(entry=f"{files.shown(path)}:{line}", key=key, problem=problem)


def _one(kind: str, name: str) -> Iterator[Finding]:
    try:
        found = resolve(kind, name)
        entry(kind, name)  # reads every value and every conflicting one
        if kind == "stack":
            stack(name)
        else:
            (machine_of if kind == "machine" else chip_of)(found)
    except MissingFigure:
        pass
    except InvalidInput as error:
        yield Finding(entry=name, key="", problem=str(error))
        return
    for leaf in found.leaves.values():
        yield from _provenance(found, leaf)
    if kind != "stack":
        for key, problem in laws.broken(found):
            yield Finding(entry=found.name, key=key, problem=problem)
    profile = found.get("profile") if kind == "chip" else None
    if profile is not None and profile not in schema.PROFILES:
        known = ", ".join(schema.PROFILES)
        yield Finding(entry=found.name, key="profile", problem=f"{profile!r} is no kernel profile ({known})")


def _provenance(found: Resolved, leaf: Leaf) -> Iterator[Finding]:
    def finding(problem: str) -> Finding:
        return Finding(entry=found.name, key=leaf.path, problem=problem)

    type_ = schema.field_type(found.kind, leaf.path)
    theirs = leaf.file is None or not leaf.file.is_relative_to(files.DATA)
    if leaf.absent or leaf.raw == "all" or type_ in schema.TEXTS:
        return
    if not theirs and not leaf.missing and not leaf.source:
        yield finding("has no source")
    for source in [leaf.source, *(str(other.get("source", "")) for other in leaf.conflicts)]:
        if source and source not in sources():
            yield finding(f"source {source!r} is not in sources.yaml")
    if (leaf.kind or not theirs) and leaf.kind not in schema.PROVENANCE:
        yield finding(f"kind {leaf.kind!r} is none of {', '.join(schema.PROVENANCE)}")
    if leaf.source == "estimate" and leaf.kind not in ("assumed", "unknown"):
        yield finding("an estimate of ours has kind 'assumed'")


@cache
def digest() -> str:
    """SHA-256 over the names and contents of all data files: results carry it, so that they can be repeated."""
    total = sha256()
    for path in sorted(files.DATA.rglob("*.yaml")):
        total.update(path.relative_to(files.DATA).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()
