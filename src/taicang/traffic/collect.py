"""Checks the rows of a trace one after the other, keeps what is right, and makes the trace."""

from __future__ import annotations

from array import array
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taicang.errors import InvalidInput
from taicang.traffic import cells
from taicang.traffic.formats import Format, Row
from taicang.traffic.texts import Counter, text_of
from taicang.traffic.trace import Trace

GAP_S = 30 * 86400.0
"""A silence longer than this is taken for a change of the unit of time."""
SHIFT = 300.0
"""Gaps that all grow by this factor at once are taken for a change of the unit of time."""
WINDOW = 32
"""Rows on either side of a step back that say whether the unit changed there."""
LARGEST = 2**62
"""Of a priority."""
NO_COUNTER = "has text, not lengths: give --tokenizer FILE, or --chars-per-token, to count its tokens"


def _units(ratio: float) -> bool:
    """Whether two times that should be near each other differ as seconds, ms, µs and ns do."""
    return any(0.5 < ratio / each < 2.0 for each in (1e3, 1e6, 1e9))


class Collector:
    """Takes rows; faulty ones raise, or are dropped and counted with ``repair``."""

    def __init__(
        self, path: Path, form: Format, block: int, repair: bool, count: Counter | None, missing_output: int | None
    ) -> None:
        self.path, self.form, self.block, self.repair = path, form, block, repair
        self.count, self.missing = count, missing_output
        self.mended: dict[str, int] = {}
        self.notes: dict[str, int] = {}
        self._at, self._delay, self._deadline = array("d"), array("d"), array("d")
        self._priority = array("q")
        self._inputs, self._outputs, self._lines = array("q"), array("q"), array("q")
        self._measured = {name: array("d") for name in form.measured}
        self._blocks: list[list[int]] = []
        self._sessions = array("q")
        self._names: dict[str, int] = {}
        self._timed: bool | None = None
        self._zoned: bool | None = None
        self._latest = float("-inf")
        self._unsorted = self._hashed = False

    def __len__(self) -> int:
        return len(self._inputs)

    def take(self, number: int, row: Row) -> None:
        """One row of the file; raises ``InvalidInput`` for a faulty one, or drops and counts it."""
        if not row:
            self._note("conversations without an answer left out")
            return
        left = next((why for name in self.form.outcome if (why := cells.left_out(row.get(name)))), "")
        if left or any(row.get(name) for name in self.form.failed):
            self._note(f"{left or 'failed'} requests left out")
            return
        try:
            self._take(number, row)
        except ValueError as error:
            if not self.repair:
                raise InvalidInput(f"{error} (--repair drops such rows)", where=f"{self.path}:{number}") from None
            self._mend("rows dropped")

    def _take(self, number: int, row: Row) -> None:
        form = self.form
        if row.get(""):
            raise ValueError(row[""])
        ids = row.get(form.blocks) or []
        inp, out = self._input(number, row), self._output(row)
        cells.check(inp, out, ids, self.block)
        delay, at = self._times(number, row)
        session = self._session(row, delay)
        priority, deadline = self._urgency(row)
        if at < self._latest:
            self._backwards(number, at)
        self._latest = max(self._latest, at)
        self._at.append(at)
        self._delay.append(delay)
        self._priority.append(priority)
        for name, (column, unit_s) in form.measured.items():
            self._measured[name].append(cells.measured(row.get(column)) * unit_s)
        self._deadline.append(deadline)
        self._inputs.append(inp)
        self._outputs.append(out)
        self._lines.append(number)
        self._blocks.append(ids)
        self._hashed = self._hashed or bool(ids)
        if session >= 0:
            self._sessions.append(session)

    def _input(self, number: int, row: Row) -> int:
        form = self.form
        inp = cells.length(row, form.input)
        text = text_of(row) if form.text else None
        if inp is not None and text is not None:
            raise ValueError(f"has both {form.input} and a text: exactly one is expected")
        if inp is None and text is not None:
            if self.count is None:
                raise InvalidInput(NO_COUNTER, where=f"{self.path}:{number}")
            inp = self.count(text)
        if inp is None:
            raise ValueError(f"{form.input} is missing")
        return inp

    def _output(self, row: Row) -> int:
        out = cells.length(row, self.form.output)
        if out is None:
            if self.missing is None:
                raise ValueError(f"{self.form.output} is missing (--missing-output gives one)")
            self._note(f"outputs of {self.missing} tokens assumed")
            out = self.missing
        return out

    def _times(self, number: int, row: Row) -> tuple[float, float]:
        """(delay after the request before or NaN, arrival)."""
        form = self.form
        wait, when = row.get(form.delay) if form.delay else None, row.get(form.time)
        if wait is not None and when in (None, ""):
            return cells.seconds(wait, form.delay, form), max(self._latest, 0.0)
        has = when not in (None, "")
        if self._timed is not None and has != self._timed:
            raise ValueError(f"{form.time} is {'missing' if self._timed else 'given'}, unlike in the rows before")
        at = cells.seconds(when, form.time, form) if has else 0.0
        if has and form.unit_s == 0.0:
            zoned = len(str(when)) > 19 and ("+" in str(when)[19:] or "-" in str(when)[19:])
            if self._zoned not in (None, zoned):
                raise ValueError(f"{form.time} has {'a' if zoned else 'no'} time zone, unlike the rows before")
            self._zoned = zoned
        if has and at - self._latest > GAP_S and len(self._at):
            if self._latest > 0 and _units(at / self._latest):
                why = (
                    f"{form.time} jumps by {(at - self._latest) / 86400:.0f} days: mixed units? That is never repaired"
                )
                raise InvalidInput(why, where=f"{self.path}:{number}")
            raise ValueError(f"{form.time} jumps by {(at - self._latest) / 86400:.0f} days: mixed units?")
        self._timed = has
        return float("nan"), at

    def _urgency(self, row: Row) -> tuple[int, float]:
        """(priority, deadline after the arrival or NaN)."""
        form = self.form
        priority, deadline = row.get(form.priority), row.get(form.deadline)
        try:
            rank = 0 if priority in (None, "") else int(priority)
            if (isinstance(priority, float) and rank != priority) or abs(rank) > LARGEST:
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{form.priority} must be a whole number, got {priority!r}") from None
        return rank, float("nan") if deadline in (None, "") else cells.seconds(deadline, form.deadline, form)

    def _session(self, row: Row, delay: float) -> int:
        form, names = self.form, self._names
        if not form.session or row.get(form.session) is None:
            if not isnan(delay):
                raise ValueError(f"{form.delay} without {form.session}: the delay after which request?")
            return -1
        name = str(row[form.session])
        if not isnan(delay) and name not in names:
            raise ValueError(f"{form.delay} in the first request of session {name}: give its {form.time}")
        if form.parent:
            parent = names.get(str(row.get(form.parent)))
            return names.setdefault(name, len(names) if parent is None else parent)
        return names.setdefault(name, len(names))

    def _backwards(self, number: int, at: float) -> None:
        if self.form.measured and not self.repair:  # benchmarks write a request down when it ends
            self._note("requests put in the order of their times")
            self._unsorted = True
            return
        if not self.repair:
            units = "; mixed units?" if at > 0 and _units(self._latest / at) else ""
            raise InvalidInput(
                f"time goes back by {self._latest - at:g} s (--repair sorts the rows){units}",
                where=f"{self.path}:{number}",
            )
        self._mend("rows out of order")
        self._unsorted = True

    def _mend(self, what: str) -> None:
        self.mended[what] = self.mended.get(what, 0) + 1

    def _note(self, what: str) -> None:
        self.notes[what] = self.notes.get(what, 0) + 1

    def trace(self) -> Trace:
        """What was read, in order of time."""
        if not self._inputs:
            raise InvalidInput("no requests", where=str(self.path))
        form, count = self.form, len(self._inputs)
        arrival = np.asarray(self._at) if self._timed else np.zeros(0)
        if self._unsorted:
            self._one_unit(arrival)
        order = np.argsort(arrival, kind="stable") if self._unsorted else np.arange(count)
        arrival = arrival[order] if len(arrival) else arrival
        self._steady(arrival, np.asarray(self._lines)[order])
        delay, deadline = np.asarray(self._delay)[order], np.asarray(self._deadline)[order]
        known = len(self._sessions) == count
        return Trace(
            name=self.path.name,
            kind=form.kind,
            arrival_s=arrival - arrival[0] if len(arrival) else arrival,
            input_tokens=np.asarray(self._inputs)[order],
            output_tokens=np.asarray(self._outputs)[order],
            blocks=[self._blocks[i] for i in order] if self._hashed else (),
            block=self.block if self._hashed else 0,
            session=np.asarray(self._sessions)[order] if known else None,
            priority=np.asarray(self._priority)[order] if any(self._priority) else None,
            deadline_s=deadline if not np.isnan(deadline).all() else None,
            measured={name: np.asarray(values)[order] for name, values in self._measured.items()},
            stated=form.stated,
            delay_s=delay if known and not np.isnan(delay).all() else None,
            repaired=self.mended,
            notes=(
                *(f"{number:,} {what}" for what, number in self.notes.items()),
                *(f"{name} is not used" for name in form.ignored),
            ),
        )

    def _one_unit(self, arrival: NDArray[Any]) -> None:
        """Refuse rows out of order that are in order but for their unit of time: ``repair`` would mix the two."""
        before, after = arrival[:-1], arrival[1:]
        back = np.flatnonzero(after < before)
        ratio = before[back] / np.maximum(after[back], 1e-12)
        like = np.array([_units(each) for each in ratio.tolist()])
        at = back[like][:1] if like.sum() > 0.2 * len(back) else back[:0]
        for step in (back[ratio > SHIFT][:1000] if not len(at) else back[:0]).tolist():
            gaps = [np.abs(np.diff(part)) for part in (arrival[max(step - WINDOW, 0) : step + 1],
                                                       arrival[step + 1 : step + 2 + WINDOW])]  # fmt: skip
            if min(map(len, gaps)) >= 4 and np.median(gaps[0]) > SHIFT * max(float(np.median(gaps[1])), 1e-9):
                at = np.array([step])
                break
        if len(at):
            raise InvalidInput(
                "from here on times are in another unit than in the row before: mixed units? That is never repaired",
                where=f"{self.path}:{self._lines[int(at[0]) + 1]}",
            )

    def _steady(self, arrival: NDArray[Any], lines: NDArray[Any]) -> None:
        """A file whose times are in seconds up to some line and in milliseconds from there on is refused."""
        if len(arrival) < 12:
            return
        since = arrival - arrival[0]
        gaps = np.diff(arrival)
        at = int(np.argmax(since[1:] / np.maximum(since[:-1], 1.0))) + 1
        before, after = gaps[: at - 1], gaps[at:]
        if len(before) < 5 or len(after) < 5 or since[at] < SHIFT * max(since[at - 1], 1.0):
            return
        if np.mean(after) > SHIFT * max(float(np.mean(before)), 1e-9):
            raise InvalidInput(
                f"from here on all times are some {np.mean(after) / np.mean(before):.0f} times as far apart: "
                "mixed units? Split the file",
                where=f"{self.path}:{lines[at]}",
            )
