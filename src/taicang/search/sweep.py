"""Run a study to its end: what has a row in the journal is not done again.

Points of a Bayesian study are chosen through Optuna, in rounds. Each round is chosen by a new sampler, seeded by the
round, from the results of all rounds before: so a study that was killed goes on with the very points that it would have
had.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any

from taicang.errors import InvalidInput, NotModelled
from taicang.search.journal import Journal
from taicang.search.study import Study, points
from taicang.search.workers import Row, Task

ROUND = 16
"""Points that are chosen together."""


def fewest(figure: str) -> bool:
    """Whether less of a figure is better: of times, chips and memory."""
    return figure.endswith(("chips", "bytes_per_rank")) or (figure.endswith("_s") and "_per_" not in figure)


def sampling() -> Any:
    """Optuna, quiet. Raises ``NotModelled`` without it."""
    try:
        optuna: Any = import_module("optuna")
    except ImportError:
        raise NotModelled("Bayesian sampling needs Optuna: pip install 'taicang[bayesian]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def chosen(study: Study, numbers: range, done: Mapping[int, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The points ``numbers``, given the rows of all points before them. Raises ``NotModelled`` without Optuna."""
    optuna = sampling()
    spread = {axis.key: _distribution(optuna, len(axis.values)) for axis in study.axes}
    sampler = optuna.samplers.TPESampler(
        seed=study.seed + numbers.start, n_startup_trials=ROUND, multivariate=True, constant_liar=True
    )
    less = fewest(study.objective)
    search = optuna.create_study(direction="minimize" if less else "maximize", sampler=sampler)
    for number in range(numbers.start):
        row = done[number]
        search.add_trial(
            optuna.trial.create_trial(
                params={
                    axis.key: int(at) if axis.values else at for axis, at in zip(study.axes, row["at"], strict=False)
                },
                distributions=spread,
                value=_value(study.objective, row, less=less),
            )
        )
    made = []
    for _ in numbers:
        trial = search.ask(fixed_distributions=spread)
        at = [float(trial.params[axis.key]) for axis in study.axes]
        shares = [(a + 0.5) / len(axis.values) if axis.values else a for a, axis in zip(at, study.axes, strict=True)]
        values = {axis.key: axis.at(share) for axis, share in zip(study.axes, shares, strict=True)}
        made.append(dict(study.base) | values | {"at": at})
    return made


def _distribution(optuna: Any, listed: int) -> Any:
    if listed:
        return optuna.distributions.CategoricalDistribution(range(listed))
    return optuna.distributions.FloatDistribution(0.0, 1.0)


def _value(objective: str, row: Mapping[str, Any], *, less: bool) -> float:
    """The figure of a row; the worst there is where the point has none."""
    worst = float("inf") if less else 0.0
    if not row.get("feasible"):
        return worst
    if objective not in row:
        raise InvalidInput(f"no figure {objective!r}; there are {', '.join(map(str, row))}", where="sample.objective")
    return worst if row[objective] is None else float(row[objective])


STREAM = 200
"""Finished points between two looks at whether a part of the results is whole."""


def run(study: Study, journal: Journal, rows_of: Callable[[list[Task]], Iterable[Row]]) -> Iterator[Row]:
    """Evaluate what is left of ``study`` with ``rows_of`` (``search.workers``): note each row and give it."""
    count = 0
    for tasks in _rounds(study, journal):
        left = [task for task in tasks if task[0] not in journal.done]
        for row in rows_of(left) if left else ():
            journal.add(row)
            count += 1
            if count % STREAM == 0:
                journal.stream()
            yield row


def _rounds(study: Study, journal: Journal) -> Iterator[list[Task]]:
    if study.kind != "bayesian":
        yield list(enumerate(points(study)))
        return
    for start in range(0, study.count, ROUND):
        numbers = range(start, min(start + ROUND, study.count))
        if not all(number in journal.done for number in numbers):
            yield list(zip(numbers, chosen(study, numbers, journal.done), strict=True))
