"""Profiles of public request traces: quantiles of lengths, rates, burstiness."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from taicang.errors import UnknownName

FOLDER = Path(__file__).parent / "data" / "profiles"


@cache
def profiles() -> Mapping[str, Mapping[str, Any]]:
    """All embedded profiles by name."""
    loaded: Mapping[str, Mapping[str, Any]] = json.loads((FOLDER / "profiles.json").read_text(encoding="utf-8"))
    return loaded


def profile(name: str) -> Mapping[str, Any]:
    """One profile; ``UnknownName`` suggests the nearest."""
    if name not in profiles():
        raise UnknownName("profile", name, profiles(), where="--profile")
    return profiles()[name]


@cache
def downloads() -> Mapping[str, Mapping[str, Any]]:
    """Public traces that can be fetched, by name: address, checksum, licence, format."""
    loaded = json.loads((FOLDER / "download_catalog.json").read_text(encoding="utf-8"))
    return {entry["name"]: entry for entry in loaded["traces"]}
