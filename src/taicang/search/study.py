"""A design-space study: axes over a base point, sampled as a grid, at random, as a Latin hypercube or adaptively."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import yaml

from taicang.errors import InvalidInput, UnknownName
from taicang.search.evaluate import FIGURES, KEYS
from taicang.units import Count

Kind: TypeAlias = Literal["grid", "random", "latin", "bayesian"]
KINDS = ("grid", "random", "latin", "bayesian")
SAMPLE = ("kind", "points", "seed", "objective")
_NUMBER = re.compile(r"^\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*(.*?)\s*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Values of one key: listed, or a range that is sampled between its ends."""

    key: str
    values: tuple[Any, ...] = ()
    low: Count = 0.0
    """First end of the range, in ``unit``."""
    high: Count = 0.0
    unit: str = ""
    log: bool = False
    whole: bool = False
    """Rounded to whole numbers."""
    steps: int = 0

    def at(self, share: float) -> Any:
        """The value at ``share`` (0 to 1) of the axis."""
        if self.values:
            return self.values[min(int(share * len(self.values)), len(self.values) - 1)]
        if self.log:
            value = float(np.exp(np.log(self.low) + share * (np.log(self.high) - np.log(self.low))))
        else:
            value = float(self.low + share * (self.high - self.low))
        if self.whole:
            return round(value)
        return f"{value:.9g} {self.unit}" if self.unit else value

    def grid(self) -> list[Any]:
        """All listed values, or ``steps`` of the range with both ends."""
        if self.values:
            return list(self.values)
        if self.steps < 2:
            raise InvalidInput("a range needs steps of at least 2 in a grid", where=f"axis {self.key}")
        return [self.at(i / (self.steps - 1)) for i in range(self.steps)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """``digest`` names the study's content: results of another study are never taken for its own."""

    base: Mapping[str, Any]
    axes: tuple[Axis, ...]
    kind: Kind
    count: int
    seed: int
    digest: str
    objective: str = "output_tokens_per_s_per_chip"
    """Figure of the results that Bayesian sampling looks for."""


def read(path: str | Path) -> Study:
    """The study of a YAML file. Raises ``InvalidInput`` (with file and key) for anything that is not understood."""
    place = str(path)
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidInput("no such file", where=place) from None
    except yaml.YAMLError as error:
        raise InvalidInput(f"not YAML: {' '.join(str(error).split())}", where=place) from None
    if not isinstance(data, dict):
        raise InvalidInput("expected keys base, axes and sample", where=place)
    for key in data:
        if key not in ("base", "axes", "sample"):
            raise UnknownName("key", str(key), ("base", "axes", "sample"), where=place)
    base, axes, sample = (_mapping(data, key, place) for key in ("base", "axes", "sample"))
    for key in (*base, *axes):
        if key not in KEYS and "." not in key:
            raise UnknownName("key", key, KEYS, where=place)
    kind = sample.get("kind", "grid")
    if kind not in KINDS:
        raise UnknownName("sampling", str(kind), KINDS, where=f"{place}: sample.kind")
    for key in sample:
        if key not in SAMPLE:
            raise UnknownName("key", key, SAMPLE, where=f"{place}: sample")
    objective = str(sample.get("objective", FIGURES[-1]))
    if objective not in FIGURES:
        raise UnknownName("figure", objective, FIGURES, where=f"{place}: sample.objective")
    count = sample.get("points", 0)
    if kind != "grid" and (not isinstance(count, int) or count < 1):
        raise InvalidInput("needs a number of points", where=f"{place}: sample.points")
    text = json.dumps([base, axes, sample], sort_keys=True, default=str)
    return Study(
        base=base,
        axes=tuple(_axis(key, value, place) for key, value in axes.items()),
        kind=kind,
        count=count,
        seed=int(sample.get("seed", 0)),
        objective=objective,
        digest=hashlib.sha256(text.encode()).hexdigest()[:16],
    )


def _mapping(data: Mapping[str, Any], key: str, place: str) -> dict[str, Any]:
    found = data.get(key) or {}
    if not isinstance(found, dict):
        raise InvalidInput("expected a mapping", where=f"{place}: {key}")
    # YAML 1.1 reads the bare key on as true
    return {("on" if name is True else str(name)): value for name, value in found.items()}


def _axis(key: str, value: Any, place: str) -> Axis:
    where = f"{place}: axes.{key}"
    if isinstance(value, list) and value:
        return Axis(key=key, values=tuple(value))
    if not isinstance(value, dict) or not {"from", "to"} <= value.keys():
        raise InvalidInput("expected a list of values, or a range {from, to, steps, scale}", where=where)
    low, unit = _quantity(value["from"], where)
    high, other = _quantity(value["to"], where)
    if unit != other:
        raise InvalidInput(f"from and to need one unit, got {unit or 'none'!r} and {other or 'none'!r}", where=where)
    log = value.get("scale", "linear") == "log"
    if log and min(low, high) <= 0:
        raise InvalidInput("a logarithmic range needs positive ends", where=where)
    whole = isinstance(value["from"], int) and isinstance(value["to"], int)
    return Axis(key=key, low=low, high=high, unit=unit, log=log, whole=whole, steps=int(value.get("steps", 0)))


def _quantity(text: Any, where: str) -> tuple[float, str]:
    match = _NUMBER.match(str(text))
    if match is None:
        raise InvalidInput(f"cannot read {text!r} as a number", where=where)
    return float(match[1]), match[2]


def points(study: Study) -> list[dict[str, Any]]:
    """All points in order, each the base with one value per axis; the same list whenever and wherever it is made.

    Not of a Bayesian study, whose points depend on its results (``search.bayes``).
    """
    axes: Sequence[Axis] = study.axes
    if study.kind == "grid":
        rows = list(product(*(axis.grid() for axis in axes)))
    else:
        dice = np.random.default_rng(study.seed)
        shares = dice.random((study.count, len(axes)))
        if study.kind == "latin":  # one sample in each of ``count`` equal shares of each axis
            cells = np.array([dice.permutation(study.count) for _ in axes]).T.reshape(study.count, len(axes))
            shares = (cells + shares) / study.count
        rows = [tuple(axis.at(float(s)) for axis, s in zip(axes, line, strict=True)) for line in shares]
    keys = [axis.key for axis in axes]
    return [dict(study.base) | dict(zip(keys, row, strict=True)) for row in rows]
