"""Calibrated constants: written by the fitting commands, never by hand, and kept apart from datasheet figures.

A file per family: ``profiles: {profile: {key: {constant: value}}}`` beside ``fitted_on``, which says from which rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from taicang.catalog import files
from taicang.errors import InvalidInput

FOLDER = Path(__file__).parent / "data" / "calibration"
T = TypeVar("T")


@cache
def read(family: str) -> Mapping[str, Any]:
    """The calibration file of ``family`` as plain data."""
    path = FOLDER / f"{family}.yaml"
    loaded = files.read(path)
    if "profiles" not in loaded:
        raise InvalidInput("expected a mapping with 'profiles'", where=str(path))
    return loaded


@cache
def fits(family: str, kind: type[T]) -> Mapping[str, Mapping[str, T]]:
    """Constants of ``family`` by profile and key, as instances of the dataclass ``kind`` that its formula takes."""
    return {
        profile: {key: kind(**constants) for key, constants in keyed.items()}
        for profile, keyed in read(family)["profiles"].items()
    }
