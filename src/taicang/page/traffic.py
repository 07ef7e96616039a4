"""Traffic: what users saw and how the system was, of a run that is over and of a machine at work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any, TypeAlias

from taicang.page.parts import Chart, Lines, Part, Spans, Table, Unit, Words, cell, packed, words

Result: TypeAlias = Mapping[str, Any]
MOST_POINTS = 20_000
"""Requests that a chart shows; of more, every so manyth."""
MOST_SPANS = 100_000
"""Requests of the timeline; likewise."""
STATS = ("mean_s", "p50_s", "p90_s", "p95_s", "p99_s", "max_s")
TOTALS = words("totals")
USAGE = words("usage")
TIME = ("s of the machine", "机器时间 / s")


def traffic(result: Result) -> tuple[Part, ...]:
    """What users saw in all, the requests by arrival, and the system over time where the tables are there."""
    summary = result["summary"]
    rows = tuple(
        (name.upper(), *(cell(summary[name] and summary[name][stat], "s") for stat in STATS))
        for name in ("ttft", "tpot", "itl", "e2e", "queue")
    )
    columns = (("latency", "延迟"), *((stat.removesuffix("_s"),) * 2 for stat in STATS))
    what = f"{result['model']} on {result['machine']}: {', '.join(result['pools'])}"
    totals = tuple(
        (words, cell(summary.get(name), unit)) for name, words, unit in TOTALS if summary.get(name) is not None
    )
    parts: list[Part] = [
        Table(title=(what, what), columns=columns, rows=rows),
        Table(title=("totals", "合计"), columns=(("figure", "指标"), ("value", "数值")), rows=totals),
    ]
    parts += [*_requests(result.get("table"), result.get("limits") or {}), *_usage(result.get("usage") or {})]
    if result.get("notes"):
        parts.append(Lines(title=("notes", "说明"), lines=tuple(result["notes"])))
    return tuple(parts)


def spans(result: Result) -> tuple[Part, ...]:
    """Every request as a span on the instance that answered it, and the steps of those that only read prompts, where
    the tables are there."""
    table = result.get("table")
    if not table:
        return ()
    keys = ("arrival_s", "queue_s", "ttft_s", "e2e_s", "instance")
    rows = [
        (arrival + queue, arrival + ttft, arrival + whole, place)
        for arrival, queue, ttft, whole, place in zip(*(table[key] for key in keys), strict=True)
        if ttft is not None and not isnan(ttft)
    ]
    rows += [(start, end, end, place) for start, end, place in result.get("prompt_steps") or ()]
    rows = sorted(rows[:: -(-len(rows) // MOST_SPANS) or 1], key=lambda row: row[2])
    names = sorted({int(row[3]) for row in rows})
    lane = {name: number for number, name in enumerate(names)}
    title = ("requests on their instances", "各实例的请求时间线")
    data = packed([(*row[:3], lane[int(row[3])]) for row in rows])
    return (Spans(title=title, lanes=tuple(map(str, names)), data=data),) if rows else ()


def _requests(table: Any, limits: Result) -> list[Part]:
    if not table:
        return []
    every = -(-len(table["arrival_s"]) // MOST_POINTS)
    made: list[Part] = []
    for key, name in (("ttft_s", "TTFT"), ("tpot_s", "TPOT")):
        pairs = zip(table["arrival_s"][::every], table[key][::every], strict=True)
        points = [[float(at), float(value)] for at, value in pairs if value is not None and not isnan(value)]
        made.append(
            Chart(
                title=(f"{name} by arrival", f"{name}（按到达时间）"), kind="points", unit="s",
                series=({"name": name, "data": points},), x=("arrival, s", "到达时间 / s"),
                limits=_limit(limits.get(key)),
            )
        )  # fmt: skip
    return made


def _limit(limit: Any) -> tuple[tuple[str, float], ...]:
    return (("SLO", float(limit)),) if limit else ()


def _usage(usage: Result) -> list[Part]:
    """The usage table over time."""
    made: list[Part] = []
    for title, unit, keys in USAGE:
        series: dict[str, list[list[float]]] = {}
        for key in keys:
            pools = usage.get("pool", ()) if len(keys) == 1 else [key] * len(usage.get(key, ()))
            rows = zip(usage.get("time_s", ()), pools, usage.get(key, ()), strict=False)
            for at, pool, value in rows:
                if value is None or isnan(float(value)):
                    continue
                line = series.setdefault(str(pool), [])
                if len(keys) == 1 or not line or line[-1][0] < float(at):  # the whole system's stand in each pool's row
                    line.append([float(at), float(value)])
        lines = tuple({"name": name, "data": data} for name, data in series.items())
        if any(point[1] for each in lines for point in each["data"]):
            made.append(Chart(title=title, kind="lines", unit=unit, x=TIME, series=lines))
    return made


def live_charts(ttft_s: float | None, tpot_s: float | None, pools: Sequence[str]) -> list[dict[str, Any]]:
    """The charts of a machine at work; each series says which figure of ``live.watch`` it shows over time."""

    def chart(title: Words, unit: Unit, names: Mapping[str, str], limit: float | None = None) -> dict[str, Any]:
        series = [{"name": name, "key": key, "data": []} for key, name in names.items()]
        return {
            "kind": "lines", "title": title, "unit": unit, "series": series, "x": TIME, "y": ("", ""),
            "categories": (), "limits": _limit(limit),
        }  # fmt: skip

    def both(name: str) -> dict[str, str]:
        return {f"{name}_p50": "p50", f"{name}_p99": "p99"}

    return [
        chart(("TTFT", "TTFT"), "s", both("ttft"), ttft_s),
        chart(("TPOT", "TPOT"), "s", both("tpot"), tpot_s),
        chart(("time between tokens (ITL)", "token 间隔（ITL）"), "s", both("itl")),
        chart(
            ("requests/s that end, and within the limits (goodput)", "每秒完成的请求，及满足 SLO 的（goodput）"), "",
            {"requests_per_s": "ended", "goodput_per_s": "goodput"},
        ),
        chart(("requests in the system", "系统中的请求"), "", {"waiting": "waiting", "running": "running"}),
        chart(
            ("hits of the prefix cache, and cache in use", "前缀缓存命中率与 KV 占用"), "ratio",
            {"hit_ratio": "hits", "cache_ratio": "in use"},
        ),
        chart(("tokens/s", "tokens/s"), "", {"prompt_tokens_per_s": "prompt", "output_tokens_per_s": "output"}),
        chart(("power of the chips", "芯片功率"), "W", {f"power {pool}": pool for pool in pools}),
        chart(("instances busy", "实例忙碌占比"), "ratio", {f"busy {pool}": pool for pool in pools}),
    ]  # fmt: skip
