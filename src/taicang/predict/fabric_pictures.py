"""A collective on the links as a picture, and over time as trace events."""

from __future__ import annotations

from typing import Any

from taicang.fabric.draw import svg
from taicang.predict.fabric import Answer, Place, drawn
from taicang.search.collective import Ask
from taicang.trace_events import counter, file, process, span, thread


def picture(machine: Place, ask: Ask) -> str:
    """Topology and link load of the first seed as SVG."""
    net, carried, wire, title = drawn(machine, ask)
    return svg(net, carried, wire, title)


def trace(found: Answer) -> dict[str, Any]:
    """A thread for the phases and one for each collective at the same time; a counter for each level's links."""
    rows = [(0, moment.phase, moment.begin_s, moment.end_s) for moment in found.course if not found.beside]
    rows += [(place, each.kind, 0.0, each.together_s) for place, each in enumerate(found.beside)]
    threads = {place: name if found.beside else "phases" for place, name, *_ in rows}
    events = [process(0, found.machine), *(thread(0, place, name) for place, name in threads.items())]
    events += [span((0, place), name, begin, end) for place, name, begin, end in rows]
    end = found.course[-1].end_s if found.course else 0.0
    at = [(moment.begin_s, moment.used_ratio) for moment in found.course]
    for begin, busy in [*at, (end, dict.fromkeys(found.course[-1].used_ratio, 0.0))] if at else []:
        events += [counter(0, f"{level} links busy", begin, ratio=share) for level, share in busy.items()]
    return file(events)
