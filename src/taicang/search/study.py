"""A design-space study: axes over a base point, sampled as a grid, at random, as a Latin hypercube or adaptively."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from taicang.catalog import files
from taicang.errors import InvalidInput, UnknownName
from taicang.search import study_values
from taicang.search.journal import inputs_of
from taicang.search.study_values import Asks, Axis, axis

Kind: TypeAlias = Literal["grid", "random", "latin", "bayesian"]
KINDS = ("grid", "random", "latin", "bayesian")
SECTIONS = ("ask", "base", "axes", "sample")
SAMPLE = ("kind", "points", "seed", "objective")
SERVE = "search"
"""What the points of a study ask unless it says otherwise."""
MOST = 1_000_000
"""Points of a study, which one process holds in memory: a gigabyte with their rows."""
LARGEST = 2**31
"""Of a seed or a number of points."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """``inputs`` are digests by name of what rows come from: those of other inputs are never taken for its own."""

    asks: Asks
    base: Mapping[str, Any]
    axes: tuple[Axis, ...]
    kind: Kind
    count: int
    seed: int
    inputs: Mapping[str, str]
    objective: str = "output_tokens_per_s_per_chip"
    """Figure of the results that Bayesian sampling looks for."""


def read_study(path: str | Path, known: Mapping[str, Callable[[], Asks]]) -> Study:
    """The study of a YAML file, whose points ask how to serve or what else of ``known`` its key "ask" names.

    Raises ``InvalidInput`` (with file, line and key) for what is not understood.
    """
    data = files.read(Path(path))

    def where(*keys: str) -> str:
        return files.where(Path(path), keys)

    for key in data:
        if key not in SECTIONS:
            raise UnknownName("key", str(key), SECTIONS, where=str(path))
    ask = str(data.get("ask", SERVE))
    if ask not in known:
        raise UnknownName("question", ask, known, where=where("ask"))
    asks = known[ask]()
    base, axes, sample = (_mapping(data, key, where(key)) for key in SECTIONS[1:])
    for section, keys in (("base", base), ("axes", axes)):
        for key in keys:
            if key not in asks.keys and "." not in key:
                raise UnknownName("key", key, asks.keys, where=where(section))
    kind = sample.get("kind", "grid")
    if kind not in KINDS:
        raise UnknownName("sampling", str(kind), KINDS, where=where("sample", "kind"))
    for key in sample:
        if key not in SAMPLE:
            raise UnknownName("key", key, SAMPLE, where=where("sample"))
    objective = str(sample.get("objective", asks.figures[-1]))
    if objective not in asks.figures:
        raise UnknownName("figure", objective, asks.figures, where=where("sample", "objective"))
    text = json.dumps([base, axes, sample, *([] if ask == SERVE else [ask])], sort_keys=True, default=str)
    study = Study(
        asks=asks,
        base={key: study_values.read(asks.keys, key, value, where("base", key)) for key, value in base.items()},
        axes=tuple(axis(asks.keys, key, value, where("axes", key)) for key, value in axes.items()),
        kind=kind,
        count=0 if kind == "grid" else _whole(sample, "points", 1, where("sample", "points")),
        seed=_whole({"seed": 0} | sample, "seed", 0, where("sample", "seed")),
        objective=objective,
        inputs={"study": hashlib.sha256(text.encode()).hexdigest()[:16], **inputs_of([base, axes])},
    )
    _check(study, where)
    return study


def _check(study: Study, where: Callable[..., str]) -> None:
    """What values break together. Raises ``InvalidInput``."""
    values: dict[str, list[Any]] = {key: [value] for key, value in study.base.items()}
    values |= {axis.key: list(axis.values) or [axis.at(0.0), axis.at(1.0)] for axis in study.axes}
    for key in study.asks.needs:
        if key not in values:
            raise InvalidInput(f"a study needs {key!r} here or among its axes", where=where("base"))
    for key in ("input", "output"):
        if key in values and None not in values.get("profile", [None]):
            raise InvalidInput(f"a profile has lengths of its own; drop {key!r}", where=where("base"))
    if "smallest" in values.get("objective", ()) and None in values.get("load", [None]):
        raise InvalidInput("the smallest machine needs the load that it must carry", where=where("base", "load"))

    def place(key: str) -> str:
        return where("axes" if key in {axis.key for axis in study.axes} else "base", key)

    for each in study.axes if study.kind == "grid" else ():
        if not each.values and each.steps < 2:
            raise InvalidInput("a range needs steps of at least 2 in a grid", where=where("axes", each.key))
    machines = values[study.asks.needs[-1]]
    study_values.fields({key: tried for key, tried in values.items() if "." in key}, machines, place)
    for key in study.base:
        if key in {axis.key for axis in study.axes}:
            raise InvalidInput("stands in axes as well: this one would change nothing", where=where("base", key))
    if size(study) > MOST:
        raise InvalidInput(f"{size(study):,} points are more than {MOST:,}; split the study", where=where("sample"))


def _mapping(data: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    found = {} if data.get(key) is None else data[key]
    if not isinstance(found, dict):
        raise InvalidInput("expected a mapping", where=where)
    return {str(name): value for name, value in found.items()}


def _whole(given: Mapping[str, Any], key: str, least: int, where: str) -> int:
    value = given.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LARGEST:
        raise InvalidInput(f"needs a whole number from {least} to {LARGEST:,}, got {value!r}", where=where)
    return value


def size(study: Study) -> int:
    """Points of the study."""
    return math.prod(axis.many for axis in study.axes) if study.kind == "grid" else study.count


def points(study: Study) -> list[dict[str, Any]]:
    """All points in order, each the base with one value per axis; the same list whenever and wherever it is made.

    Not of a Bayesian study, whose points depend on its results (``search.sweep``).
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
