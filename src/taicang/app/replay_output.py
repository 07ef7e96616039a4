"""What ``taicang replay`` prints."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from taicang.app.render_bands import TITLE, band_lines
from taicang.app.terminal import counting, sparkline
from taicang.units import show as unit

if TYPE_CHECKING:
    from taicang.predict.replay import Replay
    from taicang.serve.summary import Limits, Summary
    from taicang.traffic.trace import Trace

WIDTH = 48


def progress_bar(total: int) -> AbstractContextManager[Callable[[int, int], None] | None]:
    """A line on the terminal that counts finished requests."""
    began = time.monotonic()

    def told(finished: int, now: int) -> str:
        spent = time.monotonic() - began
        left = f", {spent * (total / finished - 1):,.0f} s to go" if finished and spent > 5 else ""
        return f"{finished:,} of {total:,} requests, {now / 1e15:,.0f} s of traffic{left}"

    return counting(told)


def show(result: Replay, trace: Trace) -> None:
    """The terminal summary."""
    s = result.summary
    lines = []
    if s.partial:
        lines.append(f"PARTIAL: interrupted after {s.finished:,} of {s.requests:,} requests")
    lines += [
        f"{result.model} on {result.machine}: {', '.join(result.pools)}",
        f"  {result.stack}, scheduler {result.scheduler}, router {result.router}",
        f"  {result.trace}: {s.finished:,} requests in {s.span_s:,.1f} s",
        "",
        "             mean      p50      p90      p95      p99      max",
    ]
    for name in ("ttft", "tpot", "itl", "e2e", "queue"):
        each = getattr(s, name)
        cells = [each and getattr(each, f"{at}_s") for at in ("mean", "p50", "p90", "p95", "p99", "max")]
        lines.append(f"  {name.upper():<6}" + "".join(f" {unit(v, 's') if v != 0.0 else '0':>8}" for v in cells))
    lines += [
        "",
        f"  {s.requests_per_s:.4g} requests/s; {s.input_tokens_per_s:,.0f} prompt tokens/s, "
        f"{s.output_tokens_per_s:,.0f} output tokens/s",
    ]
    lines += _goodput(s, result.limits)
    if s.turned_away:
        lines.append(f"  {s.turned_away:,} requests turned away after their deadline")
    lines += _losses(s)
    lines += _models(s)
    if s.cached_ratio or s.tiers:
        lines.append("  prefix cache: " + ", ".join(_hits(s)))
    lines.append(
        f"  instances busy {s.busy_ratio:.1%}; {s.steps:,} steps; {s.preemptions:,} preemptions"
        + (f", {s.swaps:,} swapped back" if s.swaps else "")
    )
    if s.power_w is not None and s.energy_j is not None and s.output_tokens_per_j is not None:
        lines.append(
            f"  chips draw {unit(s.power_w, 'W')} in the mean, {s.energy_j / 3.6e6:,.3g} kWh in all; "
            f"{s.output_tokens_per_j:.3g} output tokens per joule"
        )
    lines += [f"  repaired: {count:,} {what}" for what, count in trace.repaired.items()]
    lines += [f"  note: {note}" for note in result.notes]
    known = {name: getattr(s, name) for name in ("ttft", "tpot", "itl")}
    means = {name: (each.mean_s, "s") for name, each in known.items() if each}
    lines += [f"  {TITLE}", *(f"    {line}" for line in band_lines(result.bands, means))]
    if s.finished:
        lines += ["", *_over_time(result)]
    lines.append(f"seed {result.seed}; catalogue {result.digest}; taicang {result.version}")
    click.echo("\n".join(lines))


def _losses(s: Summary) -> list[str]:
    lost = s.losses
    if not lost:
        return []
    lines = [
        f"  failures of instances: {lost.failures:,} ({unit(lost.down_s, 's') if lost.down_s else '0 s'} down in all); "
        f"{lost.retries:,} requests started over, {lost.lost_tokens:,} tokens of cache lost"
    ]
    if lost.given_up:
        lines.append(f"  {lost.given_up:,} requests given up")
    if lost.stranded:
        lines.append(f"  {lost.stranded:,} requests stranded: no instance is left for them")
    if lost.switches:
        lines.append(f"  instances that went over to the other pool: {lost.switches:,}")
    return lines


def _models(s: Summary) -> list[str]:
    lines = []
    for each in s.models:
        good = "" if each.goodput_ratio is None else f", {each.goodput_ratio:.1%} within the limits"
        first = ("-", "-") if each.ttft is None else (unit(each.ttft.p50_s, "s"), unit(each.ttft.p99_s, "s"))
        times = [*first, "-" if each.tpot is None else unit(each.tpot.p50_s, "s")]
        lines.append(
            f"  {each.model}: {each.requests:,} requests, TTFT {times[0]} (p99 {times[1]}), TPOT {times[2]}{good}"
        )
    if s.loads is not None and s.loads.warm + s.loads.cold:
        lines.append(
            f"  models loaded: {s.loads.warm:,} times from the hosts' memory, {s.loads.cold:,} from the store; "
            f"{unit(s.loads.load_s, 's')} in the mean"
        )
    return lines


def _hits(s: Summary) -> list[str]:
    found = [f"{s.cached_ratio:.1%} of prompt tokens from device memory"]
    for tier in s.tiers:
        over = f" over {tier.plane}" if tier.plane else ""
        took = f" ({tier.loads:,} loads{over}, {unit(tier.load_s, 's')} each)" if tier.loads else ""
        found.append(f"{tier.hit_ratio:.1%} from {tier.name}{took}")
    return found


def _goodput(s: Summary, limits: Limits) -> list[str]:
    if s.goodput_per_s is None or s.goodput_ratio is None:
        return []
    asked = [f"TTFT {unit(limits.ttft_s, 's')}"] if limits.ttft_s is not None else []
    asked += [f"TPOT {unit(limits.tpot_s, 's')}"] if limits.tpot_s is not None else []
    line = f"  goodput {s.goodput_per_s:.4g} requests/s ({s.goodput_ratio:.1%} within {' and '.join(asked)})"
    if s.slo_met is None or limits.within_ratio is None:
        return [line]
    verdict = "kept" if s.slo_met else "not kept"
    return [line, f"  {limits.name}, {limits.within_ratio:.0%} of requests within each limit: {verdict}"]


def _over_time(result: Replay) -> list[str]:
    table, usage = result.table, result.usage
    edges = np.linspace(0.0, float((table["arrival_s"] + table["e2e_s"]).max()) + 1e-9, WIDTH + 1)
    arrived, _ = np.histogram(table["arrival_s"], edges)
    late, _ = np.histogram(table["arrival_s"], edges, weights=np.nan_to_num(table["ttft_s"]))
    pools = list(dict.fromkeys(usage["pool"].tolist()))
    wide = max(8, *map(len, pools))
    lines = [
        f"  {'arrivals':<{wide}} {sparkline(arrived)}  up to {arrived.max() / (edges[1] - edges[0]):.3g}/s",
        f"  {'TTFT':<{wide}} {sparkline(late / np.maximum(arrived, 1))}  mean over time",
    ]
    for name in pools:
        busy = _coarse(usage["busy_ratio"][usage["pool"] == name])
        lines.append(f"  {'busy' if name == 'all' else name:<{wide}} {sparkline(busy)}  up to {busy.max():.0%}")
    power = sum(_coarse(usage["power_w"][usage["pool"] == name]) for name in pools)
    if not np.isnan(power).any():
        lines.append(f"  {'power':<{wide}} {sparkline(power)}  up to {unit(float(np.max(power)), 'W')}")
    return lines


def _coarse(values: Any) -> Any:
    """Means of as many neighbours as make the picture's width."""
    return np.asarray(values).reshape(WIDTH, -1).mean(axis=1)
