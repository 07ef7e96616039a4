"""Layouts of one structure as one plan of arrays.

Layouts that run the same operators differ only in counts. Those that exchange tokens between attention groups form a
table: a row for each way to run attention (tensor-parallel ranks, pipeline stages), a column for each way to lay out
the experts of a stage. One plan of arrays of shape [rows, columns, ...] is lowered and priced for all of them together;
what depends on rows alone (attention) is priced once per row, by broadcasting. Not every cell of a table is a layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taicang.plans import ServePlan

ROW = ("tp", "pp")
COLUMN = ("ep", "moe_tp", "redundant", "shared_ranks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """``index[row, column]`` is the place of a layout in the list that the table was made from, -1 where there is none.

    ``rows`` and ``columns`` hold the counts of ``ROW`` and ``COLUMN``; a table of one column has a layout in each row
    and all counts along rows.
    """

    like: ServePlan
    rows: NDArray[np.float64]
    columns: NDArray[np.float64]
    index: NDArray[np.int64]

    def plan(self, dimensions: int) -> ServePlan:
        """The layouts as arrays of shape [rows, columns, 1, ...] with ``dimensions`` axes after the first two."""
        tail = (1,) * dimensions
        counts: dict[str, Any] = {name: v.reshape(-1, 1, *tail) for name, v in zip(ROW, self.rows, strict=True)}
        shape = (-1, 1, *tail) if self.index.shape[1] == 1 else (1, -1, *tail)
        counts |= {name: v.reshape(shape) for name, v in zip(COLUMN, self.columns, strict=True)}
        if self.like.dp > 1:
            counts["dp"] = counts["ep"] * counts["moe_tp"] / counts["tp"]
        return replace(self.like, **counts)

    def pieces(self, columns: int) -> Iterator[Table]:
        """The table cut into tables of at most ``columns`` columns."""
        if self.index.shape[1] == 1:
            yield self
            return
        for start in range(0, self.index.shape[1], columns):
            mine = slice(start, start + columns)
            yield replace(self, columns=self.columns[:, mine], index=self.index[:, mine])


def structure(plan: ServePlan) -> tuple[Any, ...]:
    """What decides which operators run and with what kernels; layouts that agree in it may be one plan of arrays."""
    return (
        plan.microbatches,
        plan.sp,
        plan.dp > 1,
        plan.ep > 1 or plan.moe_tp > 1,
        plan.redundant > 0,
        plan.shared_ranks > 0,
        plan.exchange,
        plan.quant,
    )


def tables(plans: Sequence[ServePlan]) -> list[Table]:
    """``plans`` by structure; tables that share attention operators follow each other."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for place, plan in enumerate(plans):
        found.setdefault(structure(plan), []).append(place)
    # one set of rows for all tables, so that all of them share attention
    rows = sorted({_counts(plan, ROW) for plan in plans if plan.dp > 1})
    made = []
    for _, places in sorted(found.items(), key=lambda item: item[0][:-1]):
        like = plans[places[0]]
        made.append(_table(plans, places, rows) if like.dp > 1 else _list(plans, places))
    return made


def _counts(plan: ServePlan, names: Sequence[str]) -> tuple[int, ...]:
    return tuple(getattr(plan, name) for name in names)


def _list(plans: Sequence[ServePlan], places: Sequence[int]) -> Table:
    mine = [plans[i] for i in places]
    rows, columns = ([_counts(plan, names) for plan in mine] for names in (ROW, COLUMN))
    return _made(mine[0], rows, columns, np.array(places, dtype=np.int64)[:, None])


def _table(plans: Sequence[ServePlan], places: Sequence[int], rows: list[tuple[int, ...]]) -> Table:
    columns = sorted({_counts(plans[i], COLUMN) for i in places})
    at_row = {row: n for n, row in enumerate(rows)}
    at_column = {column: n for n, column in enumerate(columns)}
    # two columns at least: a single one would be taken for a list
    columns += columns[:1] * (len(columns) == 1)
    index = np.full((len(rows), len(columns)), -1, dtype=np.int64)
    for i in places:
        index[at_row[_counts(plans[i], ROW)], at_column[_counts(plans[i], COLUMN)]] = i
    return _made(plans[places[0]], rows, columns, index)


def _made(like: ServePlan, rows: Sequence[Any], columns: Sequence[Any], index: NDArray[np.int64]) -> Table:
    return Table(like=like, rows=np.array(rows, dtype=float).T, columns=np.array(columns, dtype=float).T, index=index)
