"""Trace events, as Perfetto and chrome://tracing read them: what ran on which thread of which process, from when to
when, and counters. Times are seconds here and microseconds there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Event = dict[str, Any]


def process(number: int, name: str) -> Event:
    """What a process is called."""
    return {"name": "process_name", "ph": "M", "pid": number, "tid": 0, "args": {"name": name}}


def thread(at: int, number: int, name: str) -> Event:
    """What a thread of process ``at`` is called."""
    return {"name": "thread_name", "ph": "M", "pid": at, "tid": number, "args": {"name": name}}


def span(place: tuple[int, int], name: str, begin_s: float, end_s: float, kind: str = "", **about: Any) -> Event:
    """Something that takes a while on a process and thread; spans of one ``kind`` share a colour and a filter."""
    times = {"ts": float(begin_s) * 1e6, "dur": float(end_s - begin_s) * 1e6}
    return {"name": name, "cat": kind or name, "ph": "X", **times, "pid": place[0], "tid": place[1], "args": about}


def mark(place: tuple[int, int], name: str, when_s: float) -> Event:
    """A moment of a process, seen on one of its threads."""
    return {"name": name, "ph": "i", "s": "p", "pid": place[0], "tid": place[1], "ts": when_s * 1e6}


def counter(at: int, name: str, when_s: float, **values: float) -> Event:
    """What a track of process ``at`` shows from ``when_s`` on."""
    return {"name": name, "ph": "C", "pid": at, "tid": 0, "ts": when_s * 1e6, "args": values}


def file(events: Iterable[Event], about: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The whole file as plain data."""
    return {"traceEvents": list(events), "displayTimeUnit": "ms", "otherData": dict(about or {})}
