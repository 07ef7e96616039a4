"""Measured loads of a model's experts, turned into the exponent that ``--skew`` takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from taicang import reading
from taicang.errors import InvalidInput

if TYPE_CHECKING:
    from taicang.models.types import Model


def resolve(options: dict[str, Any], model: str | Model) -> None:
    """Put in place of a file in ``options["skew"]`` the exponent that fits its loads (the mean of those of its lines).

    A line holds the tokens that each routed expert got, in any order; layers may have a line each. A JSON list, or list
    of lists, will do too. Raises ``InvalidInput`` with file and line.
    """
    path = options["skew"]
    if not isinstance(path, Path):
        return
    from taicang.catalog.models import model as load_model
    from taicang.cost.skew import exponent_of
    from taicang.models.types import routed

    net = load_model(model, approximate=options["approximate"]) if isinstance(model, str) else model
    experts = routed(net)
    if experts is None:
        raise InvalidInput(f"{net.name} has no routed experts", where="--skew")
    fitted = [exponent_of(row, float(experts.topk)) for row in _rows(path, experts.experts)]
    options["skew"] = float(np.mean(fitted))
    click.echo(f"{path}: loads as under a power law of exponent {options['skew']:.3g}", err=True)


def _rows(path: Path, experts: int) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
    made = []
    for number, fields in _lines(path):
        where = f"{path}:{number}"
        try:
            row = np.asarray([float(field) for field in fields], dtype=float)
        except (TypeError, ValueError):
            raise InvalidInput("expected numbers, the tokens of each expert", where=where) from None
        if len(row) != experts:
            raise InvalidInput(f"has {len(row)} loads, the model routes to {experts} experts", where=where)
        if not np.isfinite(row).all() or row.min() < 0 or row.sum() <= 0:
            raise InvalidInput("loads must be finite, none below 0 and not all 0", where=where)
        made.append(row)
    if not made:
        raise InvalidInput("holds no loads", where=str(path))
    return made


def _lines(path: Path) -> list[tuple[int, list[Any]]]:
    text = reading.text(path, most=reading.LINE)
    if text.lstrip().startswith("["):
        body = reading.document(text, str(path))
        return list(enumerate(body if body and isinstance(body[0], list) else [body], 1))
    split = ((number, re.split(r"[\s,;]+", line.strip())) for number, line in enumerate(text.splitlines(), 1))
    return [(number, fields) for number, fields in split if fields != [""]]
