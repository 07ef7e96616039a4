"""Rows of a user's file as what ``calibrate`` fits; a line that cannot be used is named with its reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from taicang import catalog
from taicang.errors import InvalidInput
from taicang.evidence import fit_stacks, leave_out, served, suite_served, suite_training, training_rows
from taicang.evidence.calibrate import Item, Space, ratios_of
from taicang.evidence.intake import reason, table
from taicang.evidence.suites import Kind
from taicang.stacks import Stack

HOST: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {n: (low, high, width) for n, low, high, width in zip(
        fit_stacks.HOST, fit_stacks.LOW, fit_stacks.HIGH, fit_stacks.SCALE, strict=True)}
)  # fmt: skip
"""Field of ``Stack`` -> least, most and width, of serving."""
TRAINED: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {"eager_kernel_s": (0.0, 2e-4, 2e-5), "overlap_tax_ratio": (0.0, 1.0, 0.1)}
)
"""The same of training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What a file gives."""

    base: Stack
    items: tuple[Item, ...]
    space: Space
    measured: str
    """ "tpot" or "step_time"."""
    refused: tuple[str, ...]
    """A line each: file, number and reason."""
    rows: int


def read(path: Path, base: str = "") -> Read:
    """Rows of serving or of training; those of other engines than ``base`` (else the first row's) are refused."""
    kinds, lines = table(path)
    kind = _kind(kinds, lines, path)
    served_rows = kind.file == suite_served.FILE
    items, refused = [], []
    stack = catalog.stack(base) if base else None
    for number, cells in enumerate(lines, start=2):
        where = f"{path}:{number}"
        try:
            if kind.says and cells["kind"] != kind.says:
                raise InvalidInput(f"rows of {cells['kind']!r} say nothing of a stack")
            silent = {"stack": base} if base and served_rows and not cells.get("backend") else {}
            item, own = (_served if served_rows else _trained)(cells | silent | {"line": str(number)})
            stack = stack or own
            if own.engine != stack.engine:
                raise InvalidInput(f"ran on {own.engine}, not {stack.engine}: --base names the stack")
            times = item.times(stack)
            if not any(math.isfinite(each) for each in times) or 0.0 in times:
                raise InvalidInput("states no positive measured time")
            items.append(replace(item, run=replace(item.run, engine=stack.engine, version=stack.version)))
        except Exception as error:  # a row that cannot be read must not take the others with it
            refused.append(f"{where}: {reason(error)}")
    if stack is None or not items:
        raise InvalidInput("; ".join(refused[:3]) or "no rows", where="" if refused else str(path))
    space = Space(fields=HOST if served_rows else TRAINED, ratios=_ratios(stack, items if served_rows else ()))
    return Read(
        base=stack, items=tuple(items), space=space, measured="tpot" if served_rows else "step_time",
        refused=tuple(refused), rows=len(lines),
    )  # fmt: skip


def _ratios(stack: Stack, items: Sequence[Item]) -> tuple[str, ...]:
    """Ratios of kernels that may move: of families, and of the formats that served rows are in."""
    formats = {str(getattr(item.row.decode.plan.quant, name)) for item in items for name in ("dense", "experts")}
    return tuple(name for name in ratios_of(stack) if not items or name.partition("/")[2] in ("", *formats))


def _kind(kinds: Sequence[Kind], lines: Sequence[Mapping[str, str]], path: Path) -> Kind:
    said = {line.get("kind", "") for line in lines}
    for kind in kinds:
        if kind.file == suite_served.FILE or (kind.file == training_rows.FILE and kind.says in said):
            return kind
    raise InvalidInput(
        f"rows of {kinds[0].file} tell nothing of a stack: it takes served end-to-end or training rows", where=str(path)
    )


def _served(cells: dict[str, str]) -> tuple[Item, Stack]:
    row = served.row_of(cells)
    if not row.tpot_s > 0.0:
        raise InvalidInput("states no positive silicon_tpot_ms")
    timed = row.ttft_s > 0.0

    def times(stack: Stack) -> tuple[float, float]:
        ttft, tpot = leave_out.ratios(row if timed else replace(row, ttft_s=math.nan), stack)
        return ttft, tpot

    suite_served.predict(row)  # says why, where it cannot be
    return Item(key=row.key, row=row, run=suite_served.run_of(row), times=times), row.stack


def _trained(cells: dict[str, str]) -> tuple[Item, Stack]:
    row = training_rows.row_of(training_rows.parsed(cells))
    suite_training.predict(row)  # likewise
    own = catalog.stack(training_rows.stack_of(row))
    key = (row.model, row.chip, row.count, row.raw["dtype"], row.seq, str(row.raw["par"]))
    return Item(key=key, row=row, run=suite_training.run_of(row), times=partial(_step, row)), own


def _step(row: training_rows.Row, stack: Stack) -> tuple[float, float]:
    return math.nan, suite_training.predict(row, stack).seconds / row.step_s
