"""From a name, a path or a spec to figures: finds the file, derives from its base, applies what the user sets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from taicang.catalog import files, own, schema
from taicang.catalog.leaf import NONE, Leaf, flatten, origin, value
from taicang.errors import InvalidInput, UnknownName

_VARIANTS = {"chip": "bins", "machine": "bins", "stack": "versions"}
_JOIN = {"chip": "-", "machine": "-", "stack": "@"}
_DEPTH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """An entry's figures by key, after derivation."""

    kind: str
    name: str
    root: str
    """Its own name; of a user's entry that of the package's that it derives from."""
    file: Path
    leaves: Mapping[str, Leaf]

    def get(self, path: str) -> Any:
        """The value of ``path`` in SI or as text, None where unknown, absent or not given."""
        leaf = self.leaves.get(path)
        if leaf is None or leaf.missing or leaf.absent:
            return None
        type_ = schema.field_type(self.kind, path)
        assert type_ is not None
        return value(leaf, type_)


def is_path(name: str) -> bool:
    """Whether ``name`` means a file of the user rather than a built-in entry."""
    return "/" in name or name.lower().endswith((".yaml", ".yml"))


_MAKERS = re.compile(r"^(nvidia|amd|huawei|instinct|geforce|tesla|standard)-|-?(gpus?|npus?)$")


@cache
def aliases(kind: str) -> Mapping[str, str]:
    """Other names of built-in entries."""
    return {str(k).lower(): str(v) for k, v in (files.read(files.DATA / "aliases.yaml").get(kind) or {}).items()}


@cache
def names(kind: str) -> tuple[str, ...]:
    """Every built-in entry of ``kind`` ("chip", "machine", "stack"), sorted, without aliases."""
    found: list[str] = []
    for stem in sorted(stems(kind), key="{}.yaml".format):
        bins = variants(kind, stem)
        found += [f"{stem}{_JOIN[kind]}{v}" for v in bins] if bins else [stem]
    return tuple(found)


@cache
def stems(kind: str) -> frozenset[str]:
    """What the names of built-in entries begin with: those of stacks, their engines."""
    return frozenset(path.stem for path in (files.DATA / schema.FOLDERS[kind]).glob("*.yaml"))


def variants(kind: str, stem: str) -> list[str]:
    """What may follow the built-in ``stem`` in a name: bins of a chip, versions of a stack."""
    return [str(v) for v in files.read(_file(kind, stem)).get(_VARIANTS[kind]) or ()]


def _file(kind: str, stem: str) -> Path:
    return files.DATA / schema.FOLDERS[kind] / f"{stem}.yaml"


def built_in(kind: str, name: str) -> tuple[Path, str | None] | None:
    """File and bin of the built-in entry ``name`` (in small letters), where there is one; no other file is read."""
    parts = name.split(_JOIN[kind])
    for cut in range(len(parts), 0, -1):
        stem, rest = _JOIN[kind].join(parts[:cut]), _JOIN[kind].join(parts[cut:])
        if stem in stems(kind):
            bins = {each.lower(): each for each in variants(kind, stem)}
            return (_file(kind, stem), bins.get(rest)) if rest in bins or not (rest or bins) else None
    return None


def _plain(name: str) -> str:
    """``name`` as the catalogue writes names: one word, without its maker."""
    return _MAKERS.sub("", "-".join(re.split(r"[\s_-]+", name.strip().lower())))


def locate(kind: str, name: str, beside: Path | None = None) -> tuple[Path, str | None]:
    """File and bin of ``name``; ``UnknownName`` suggests the nearest. Relative paths are taken ``beside`` a file."""
    if (found := find(kind, name, beside)) is None:
        raise UnknownName(kind, name, [*names(kind), *aliases(kind), *own.names(kind)])
    return found


def find(kind: str, name: str, beside: Path | None = None) -> tuple[Path, str | None] | None:
    """As ``locate``, None for an unknown name: no file is read for its suggestions."""
    if is_path(name):
        path = Path(name)
        return (beside.parent / path if beside is not None and not path.is_absolute() else path), None
    for spelt in dict.fromkeys((name.strip().lower(), _plain(name))):
        low = aliases(kind).get(spelt, spelt)
        if (found := built_in(kind, low)) is not None:
            return found
        if (mine := own.find(kind, low)) is not None:
            return mine, None
    return None


def resolve(kind: str, name: str, sets: Iterable[str] = (), *, beside: Path | None = None) -> Resolved:
    """The entry ``name`` with ``sets`` ("key=value" each) applied."""
    found = _resolve(kind, name, beside, _DEPTH)
    leaves = dict(found.leaves)
    for text in sets:
        leaves = derive(kind, leaves, [_set_leaf(kind, text, leaves)])
    return replace(found, leaves=leaves)


def _resolve(kind: str, name: str, beside: Path | None, depth: int) -> Resolved:
    path, variant = locate(kind, name, beside)
    body = files.read(path)
    given = origin(path, body, ())
    leaves: dict[str, Leaf] = {}
    root = ""
    if "base" in body:
        base = _base(kind, body["base"], path, depth)
        leaves, root = dict(base.leaves), "" if path.is_relative_to(files.DATA) else base.root
    if variant is None and _VARIANTS[kind] in body:
        why = f"a file of yours holds one entry, without {_VARIANTS[kind]}"
        raise InvalidInput(why, where=files.where(path, (_VARIANTS[kind],)))
    leaves = derive(kind, leaves, flatten(kind, path, body, (), given))
    title = path.stem
    if variant is not None:
        key = _VARIANTS[kind]
        leaves = derive(kind, leaves, flatten(kind, path, body[key][variant] or {}, (key, variant), given))
        title = f"{path.stem}{_JOIN[kind]}{variant}"
    return Resolved(kind=kind, name=title, root=root or title, file=path, leaves=leaves)


def _base(kind: str, base: Any, path: Path, depth: int) -> Resolved:
    if not isinstance(base, str) or not depth:
        why = "expected the name of an entry" if depth else "entries derive from each other in a circle"
        raise InvalidInput(why, where=files.where(path, ("base",)))
    if (found := find(kind, base, path)) is None:
        known = [*names(kind), *aliases(kind)]
        raise UnknownName(kind, base, known, where=files.where(path, ("base",)))
    if not os.path.isfile(found[0]):
        raise InvalidInput(f"no such file: {base}", where=files.where(path, ("base",)))
    return _resolve(kind, base, path, depth - 1)


def derive(kind: str, base: Mapping[str, Leaf], changes: Iterable[Leaf]) -> dict[str, Leaf]:
    """``base`` with ``changes`` on top. Another number of chips scales what a whole machine has, costs and draws."""
    changes = list(changes)
    leaves = dict(base)
    changed = {leaf.path for leaf in changes}
    for leaf in changes:
        if leaf.absent and schema.field_type(kind, leaf.path) is None:
            leaves = {path: kept for path, kept in leaves.items() if not path.startswith(f"{leaf.path}.")}
            continue
        if kind == "machine" and leaf.path in ("chip", "chip.base"):
            leaves = {path: kept for path, kept in leaves.items() if path != "chip" and not path.startswith("chip.")}
            leaves["chip"] = replace(leaf, path="chip")
            continue
        if kind == "machine" and leaf.path == "chips" and "chips" in base:
            leaves |= _scaled(leaves, base["chips"], leaf, changed)
        leaves[leaf.path] = leaf
    return leaves


def _scaled(leaves: Mapping[str, Leaf], old: Leaf, new: Leaf, changed: set[str]) -> dict[str, Leaf]:
    if old.missing or new.missing:
        return {}  # nothing to scale from, or to
    before, after = value(old, "count"), value(new, "count")
    scaled = {}
    for path in schema.EXTENSIVE:
        leaf = leaves.get(path)
        if before == after or leaf is None or leaf.missing or leaf.absent or path in changed:
            continue
        type_ = schema.field_type("machine", path)
        assert type_ is not None
        unit = {"bytes": "B", "w": "W", "usd": "USD", "cny": "CNY"}[type_]
        note = f"scaled from {before} to {after} chips"

        def share(raw: object, leaf: Leaf = leaf, type_: str = type_, unit: str = unit) -> str:
            return f"{value(leaf, type_, raw) * after / before!r} {unit}"

        others = tuple({**other, "value": share(other["value"])} for other in leaf.conflicts)
        scaled[path] = replace(leaf, raw=share(leaf.raw), kind="assumed", note=note, conflicts=others)
    return scaled


def _level_keys(leaves: Mapping[str, Leaf]) -> set[str]:
    """Every key that the levels of a machine, or the network that joins several, may hold."""
    stems = {path.rpartition(".")[0] for path in leaves if path.startswith("planes.") and path.endswith(".ranks")}
    stems.add("planes.scale_up.scale_out")
    keys = [path.rpartition(".")[2] for path in schema.FIELDS["machine"] if path.startswith("planes.*.*.")]
    return {f"{stem}.{key}" for stem in stems for key in keys}


def _set_leaf(kind: str, text: str, leaves: Mapping[str, Leaf]) -> Leaf:
    path, equals, raw = text.partition("=")
    path = path.strip()
    if not equals or not path or not raw.strip():
        raise InvalidInput(f"expected KEY=VALUE such as chip.memory.bandwidth='4 TB/s', got {text!r}", where="--set")
    if kind == "chip" and path.startswith("chip."):
        path = path.removeprefix("chip.")
    known = {*schema.spelled(kind), *leaves, *_level_keys(leaves)}
    if not any(key == path or key.startswith(f"{path}.") for key in known) and not path.startswith("kernel_ratio."):
        raise UnknownName(f"{kind} key", path, known, where="--set")
    loaded = files.load(raw, f"--set {path}")
    leaf = Leaf(path=path, raw=loaded, source="user", kind="assumed", place="--set")
    type_ = schema.field_type(kind, path)
    if type_ is None and loaded != NONE:
        inside = sorted(key for key in known if key.startswith(f"{path}."))
        raise InvalidInput(f"is a section; set one of its keys: {', '.join(inside)}", where=f"--set {path}")
    if type_ is not None and not leaf.missing and not leaf.absent:
        value(leaf, type_)  # a wrong unit is refused here, not when it is first used
    return leaf
