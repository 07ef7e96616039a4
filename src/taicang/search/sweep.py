"""Run a study to its end: what has a row in the journal is not done again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from taicang.search import bayes
from taicang.search.journal import Journal
from taicang.search.study import Study, points
from taicang.search.workers import Row, Task

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
    for numbers in bayes.rounds(study):
        if all(number in journal.done for number in numbers):
            continue
        yield list(zip(numbers, bayes.chosen(study, numbers, journal.done), strict=True))
