"""Which keys an entry may hold, and of which type or dimension each is.

Keys of levels and of stacks are the fields of ``Level``, ``Stack`` and what it holds: a field's name is its key's with
the unit at its end.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args

from taicang.catalog import files
from taicang.hardware import Level
from taicang.stacks import Headroom, Keeping, Stack

KINDS: Final = ("chip", "machine", "stack")
FOLDERS: Final[Mapping[str, str]] = {"chip": "chips", "machine": "machines", "stack": "stacks"}
PROVENANCE: Final = ("measured-here", "published", "datasheet", "calibrated", "assumed", "unknown")
PEAKS: Final = ("fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4")
STATUS: Final = ("shipping", "announced", "cancelled")
ROUTINGS: Final = ("adaptive", "striped", "ecmp")
CHOICES: dict[str, tuple[str, ...]] = {"status": STATUS, "routing": ROUTINGS}
"""Type -> what a key of it may say."""


class Key(NamedTuple):
    """The field that a key of an entry gives, and the key's type."""

    field: str
    type: str


_UNITS = {"_bytes_per_s": "bytes_per_s", "_bytes": "bytes", "_s": "s", "_ratio": "ratio", "_tokens": "count"}
_KINDS = {"int": "count", "bool": "flag", "str": "name", "frozenset[str]": "words", "tuple[int, ...]": "extents"}
"""Annotation -> type."""


def _keys(owner: Any, *but: str, **named: str) -> dict[str, Key]:
    """The keys that give fields of ``owner``, ``but`` some; ``named`` are fields whose keys are called otherwise."""
    found: dict[str, Key] = {}
    for field in fields(owner):
        unit = next((each for each in _UNITS if field.name.endswith(each)), "")
        key, said = named.get(field.name, field.name.removesuffix(unit)), str(field.type)
        choices = get_args(getattr(sys.modules[owner.__module__], said, None))
        if choices:
            CHOICES[key] = choices
        type_ = _UNITS.get(unit) or (key if choices else _KINDS.get(said))
        if type_ and field.name not in but:
            found[key] = Key(field.name, type_)
    return found


LEVEL: Final = _keys(Level, "name")
STACK: Final = _keys(Stack, "name", "version", "epoch", "asked", "kernel_ratio", graph_tokens="graph_tokens")
MEMORY: Final = _keys(
    Headroom, "shrunk_ratio", "reserve_tokens", "reserve_token_bytes", "reserve_rank_bytes", "captured",
    "captured_wide", "reserve_prompt_bytes", "reserve_least_bytes", "hidden_tile", "inner_tile", "row_tile",
    "state_copies", "state_bytes", "layout", "block_tokens", "window_ratio", "states_as_keys", "counts_requests",
    usable_ratio="ratio", graph_bytes="graphs",
)  # fmt: skip
"""Below ``memory`` of a stack."""
KEEPS: Final = _keys(Keeping)
"""Below ``keeps`` of a stack."""
TEXTS: Final = frozenset({"text", "name", "flag", "words", "extents", *CHOICES})
"""Types that describe rather than measure: they need no source."""


_SAID: Final[Mapping[str, Any]] = files.read(Path(__file__).parent / "schema.yaml")
ARCHITECTURE: Final[Mapping[str, str]] = {
    profile: name for name, profiles in _SAID["architectures"].items() for profile in profiles
}
"""Architecture of each kernel profile: a chip whose kernels were measured; others borrow the constants of one."""
_OF_FIELDS: Final = {"planes.*.*": LEVEL, "own": STACK, "memory": MEMORY, "keeps": KEEPS}


def _section(kind: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, type_ in _SAID[kind].items():
        stem = "" if key == "own" else f"{key}."
        own = {f"{stem}{name}": each.type for name, each in _OF_FIELDS.get(key, {}).items()}
        found |= own if type_ == "fields" else {key: type_}
    return found


FIELDS: Final[Mapping[str, Mapping[str, str]]] = {
    "chip": _section("chip"),
    "machine": _section("machine")
    | {f"chip.{path}": type_ for path, type_ in _section("chip").items()}
    | {"chip.base": "name"},
    "stack": _section("stack"),
}
RECORDED: Final[tuple[str, ...]] = tuple(_SAID["recorded"])
"""Keys (or their beginnings, that end in a dot) that entries keep for the record: no prediction reads them."""

EXTENSIVE: Final[tuple[str, ...]] = tuple(_SAID["extensive"])
"""Figures of a whole machine that grow with its chips."""


def recorded(path: str) -> bool:
    """Whether ``path`` is kept for the record."""
    return any(path == each or (each.endswith(".") and path.startswith(each)) for each in RECORDED)


@cache
def field_type(kind: str, path: str) -> str | None:
    """Type of the key ``path``, None when there is no such key; ``*`` in the schema stands for one part."""
    fields = FIELDS[kind]
    if path in fields:
        return fields[path]
    parts = path.split(".")
    for pattern, type_ in fields.items():
        wanted = pattern.split(".")
        if len(wanted) == len(parts) and all(w in ("*", p) for w, p in zip(wanted, parts, strict=True)):
            return type_ if not (wanted[-2:] == ["peak", "*"] and parts[-1] not in PEAKS) else None
    return None


def spelled(kind: str) -> list[str]:
    """Keys that need no invented part, for suggestions."""
    paths = [path for path in FIELDS[kind] if "*" not in path]
    for pattern in FIELDS[kind]:
        if pattern.endswith("peak.*"):
            paths += [pattern[:-1] + peak for peak in PEAKS]
    return paths
