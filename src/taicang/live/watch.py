"""What the page shows of a machine at work: figures of the last seconds, who ended, each rank of a node, the links."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from taicang.errors import MissingFigure, NotModelled
from taicang.live.admin import at_work, state, used
from taicang.live.asked import Refused
from taicang.live.supernode import Supernode
from taicang.page.traffic import live_charts
from taicang.predict.links import Links
from taicang.predict.standing import Standing
from taicang.serve.instance import Instance
from taicang.serve.log import Log, token_gaps
from taicang.serve.record import COARSE, STAMP
from taicang.serve.request import SECOND
from taicang.serve.summary import Limits
from taicang.serve.usage import usage
from taicang.units import digits

WINDOW_S = 5.0
"""Of the machine: figures are of the time since then."""
MOST_ENDED = 5000
"""Requests that are told of at once."""
MOST_S = 60.0
"""Of steps that are told of at once."""
MOST_NAMED = 12
"""Requests of a rank that are named."""
REST_S = 0.2
"""Of the clock, in which the figures that take a price are not made again."""


class Watch:
    """Views of ``machine``, whose system is ``standing``."""

    def __init__(self, machine: Supernode, standing: Standing, limits: Limits) -> None:
        self.machine = machine
        self.standing = standing
        self.limits = limits
        self.parts = standing.parts
        self._links: Links | str | None = None
        self._kept: dict[str, tuple[float, Any]] = {}

    @property
    def views(self) -> Mapping[str, Callable[[Mapping[str, str]], Any]]:
        """By name, what each gives for the parameters of a question."""
        return {
            "watch": self._watch,
            "running": lambda _: self.running(),
            "links": lambda _: self._rarely("links", self.links),
            "node": lambda asked: self.node(_whole(asked, "number")),
            "charts": lambda _: live_charts(self.limits.ttft_s, self.limits.tpot_s, [each.name for each in self.parts]),
        }

    def _watch(self, asked: Mapping[str, str]) -> dict[str, Any]:
        rarely = self._rarely("usage", self._used)
        shown = state(self.machine)
        for each in shown["instances"]:
            each["load_ratio"] = rarely["load"].get(each["instance"], 0.0)
            each["groups"] = [[at_work(group), len(group.waiting), round(used(group), 3)]
                              for group in self.machine.instances[each["instance"]].groups]  # fmt: skip
        traffic = self.traffic() | rarely["figures"]
        return shown | {"traffic": traffic, **self.ended(_whole(asked, "since"), _whole(asked, "after"))}

    def _rarely(self, name: str, make: Callable[[], Any]) -> Any:
        now = self.machine.pace.clock.time()
        if name not in self._kept or now - self._kept[name][0] > REST_S:
            self._kept[name] = now, make()
        return self._kept[name][1]

    def _span(self) -> tuple[int, int]:
        """The window, in stamps."""
        now = self.machine.now >> COARSE
        return max(now - round(WINDOW_S * STAMP), 0), max(now, 1)

    def _log(self, begin: int) -> Log:
        """What the instances did since ``begin``, and are doing."""
        log = (self.machine.cluster.log or Log(self.machine.cluster.pools)).since(begin)
        for each in self.machine.instances.values():
            if each.end >= 0:
                log.step(each, each.end)
        return log

    def traffic(self) -> dict[str, float | None]:
        """Of the requests that ended in the window, and of those that are here."""
        begin, now = self._span()
        machine, span_s = self.machine, (now - begin) / STAMP
        table = machine.served.since(machine.served.ended(begin)).columns()
        served = ~np.isnan(table["ttft_s"])
        several = served & (table["output_tokens"] > 1)
        good = served.copy()
        for name, limit in (("ttft_s", self.limits.ttft_s), ("tpot_s", self.limits.tpot_s)):
            if limit is not None:
                good &= table[name] <= limit
        prompt = float(table["input_tokens"][served].sum())
        groups = [group for each in machine.instances.values() for group in each.groups]
        return {
            **_quantiles("ttft", table["ttft_s"][served]), **_quantiles("tpot", table["tpot_s"][several]),
            "requests_per_s": float(served.sum()) / span_s,
            "goodput_per_s": float(good.sum()) / span_s if self.limits else None,
            "waiting": float(machine.waiting()),
            "running": float(at_work(*groups)),
            "hit_ratio": float(table["cached_tokens"][served].sum()) / prompt if prompt else None,
            "cache_ratio": used(*groups),
        }  # fmt: skip

    def _used(self) -> dict[str, Any]:
        """Figures of the log: time between tokens, tokens, load and power."""
        begin, now = self._span()
        log = self._log(begin)
        edges = np.array([begin, now], dtype=float)
        empty = dict.fromkeys(("arrival", "started", "end"), np.zeros(0, dtype=np.int64))
        rows = usage(log, self.parts, empty, edges)
        values, counts = token_gaps(log, log.names)
        figures: dict[str, float | None] = {"itl_p50": None, "itl_p99": None}
        if len(values):
            reached = np.cumsum(counts) / counts.sum()
            figures = {f"itl_p{q}": float(values[int(np.searchsorted(reached, q / 100))]) for q in (50, 99)}
        for number, part in enumerate(self.parts):
            power = float(rows["power_w"][number])
            figures[f"power {part.name}"] = None if np.isnan(power) else power
            figures[f"busy {part.name}"] = float(rows["busy_ratio"][number])
        figures["prompt_tokens_per_s"] = float(rows["prompt_tokens_per_s"].sum())
        figures["output_tokens_per_s"] = float(rows["decoded_tokens_per_s"].sum())
        load = {}
        for name in log.names:
            one = log.of(name)
            inside = np.minimum(one["end"], now) - np.maximum(one["start"], begin)
            load[name] = round(min(float(np.clip(inside, 0, None).sum()) / (now - begin), 1.0), 3)
        return {"figures": figures, "load": load}

    def ended(self, since: int, after: int) -> dict[str, Any]:
        """Requests that ended after the first ``since`` as rows of first step, first token, end and instance; and the
        steps, since ``after``, of instances that only read prompts."""
        machine, now = self.machine, self.machine.now >> COARSE
        record = machine.served
        table = record.since(max(since, len(record) - MOST_ENDED)).ticks()
        told = (table["first"] >= 0) & (table["failed"] == 0)
        rows = np.stack([table[name][told] / STAMP for name in ("started", "first", "end")] + [table["place"][told]], 1)
        if machine.cluster.log is not None:
            steps = machine.cluster.log.since(max(after, now - round(MOST_S * STAMP))).worked("prefill")
            rows = np.concatenate([rows, steps[:, [0, 1, 1, 2]]])
        return {"ended_rows": np.round(rows, 6).tolist(), "next": len(record), "after": now}

    def running(self) -> list[tuple[float, float, float, int]]:
        """Requests that instances answer now, up to now, in the same form."""
        now = self.machine.now / SECOND
        found = [
            (each.started / SECOND, each.first / SECOND if each.first >= 0 else now, now, instance.name)
            for instance in self.machine.instances.values() if instance.pool != "prefill"
            for group in instance.groups for each in [*group.running, *group.prefilling] if each.started >= 0
        ]  # fmt: skip
        return sorted(found)[:MOST_ENDED]

    def node(self, number: int) -> dict[str, Any]:
        """The ranks of a node: who holds each, and the requests and the cache there."""
        machine = self.standing.machine
        if number * machine.chips_per_node >= machine.chips:
            raise Refused(f"there is no node {number}", param="number")
        dies = machine.chip.dies
        first = number * machine.chips_per_node * dies
        ranks = [self._rank(rank) for rank in range(first, min(first + machine.chips_per_node * dies, machine.ranks))]
        return {"node": number, "dies": dies, "ranks": ranks}

    def _rank(self, rank: int) -> dict[str, Any]:
        for instance, span in self.standing.breakage.spans.items():
            if rank in span:
                return {"rank": rank, "instance": instance.name, **_share(instance, rank - span.start, len(span))}
        return {"rank": rank, "instance": None}

    def links(self) -> dict[str, Any]:
        """Load of the links over the window."""
        if self._links is None:
            try:
                self._links = Links(self.standing)
            except (MissingFigure, NotModelled) as error:
                self._links = str(error)
        if isinstance(self._links, str):
            return {"reason": self._links}
        begin, now = self._span()
        return self._links.shown(self._links.busy(self._log(begin), begin, now))


def _share(instance: Instance, place: int, ranks: int) -> dict[str, Any]:
    """What is at one of the ranks of ``instance``."""
    at = place * len(instance.groups) // ranks
    group = instance.groups[at]
    return {
        "group": at,
        "running": at_work(group),
        "waiting": len(group.waiting),
        "cache_ratio": used(group),
        "requests": [
            {"request": each.id, "prompt_tokens": each.input, "answer_tokens": each.output}
            for each in [*group.prefilling, *group.running][:MOST_NAMED]
        ],
    }


def _quantiles(name: str, values: Any) -> dict[str, float | None]:
    found = np.quantile(values, (0.5, 0.99)).tolist() if len(values) else (None, None)
    return dict(zip((f"{name}_p50", f"{name}_p99"), found, strict=True))


def _whole(asked: Mapping[str, str], name: str) -> int:
    text = asked.get(name, "0")
    if not digits(text) or len(text) > 18:
        raise Refused(f"{name}: expected a whole number", param=name)
    return int(text)
