"""What ``taicang replay`` prints and writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from taicang.records import plain
from taicang.units import show as unit

if TYPE_CHECKING:
    from taicang.predict.replay import Replay
    from taicang.traffic.trace import Trace

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 48


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[int, int], None] | None]:
    """A line on the terminal that counts finished requests; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return

    def tell(finished: int, now: int) -> None:
        click.echo(f"\r{finished:,} of {total:,} requests, {now / 1e15:,.0f} s of traffic", nl=False, err=True)

    yield tell
    click.echo("\r" + " " * 60 + "\r", nl=False, err=True)


def sparkline(values: Any) -> str:
    """Bars from zero to the largest value."""
    top = max(float(np.max(values)), 1e-30)
    return "".join(BARS[min(int(v / top * 8), 7)] for v in np.asarray(values).tolist())


def show(result: Replay, trace: Trace) -> None:
    """The terminal summary."""
    s, table = result.summary, result.table
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
        cells = (each.mean_s, each.p50_s, each.p90_s, each.p95_s, each.p99_s, each.max_s)
        lines.append(f"  {name.upper():<6}" + "".join(f"{unit(v, 's') if v else '0':>9}" for v in cells))
    lines += [
        "",
        f"  {s.requests_per_s:.4g} requests/s; {s.input_tokens_per_s:,.0f} prompt tokens/s, "
        f"{s.output_tokens_per_s:,.0f} output tokens/s",
    ]
    if s.goodput_per_s is not None and s.goodput_ratio is not None:
        lines.append(f"  goodput {s.goodput_per_s:.4g} requests/s ({s.goodput_ratio:.1%} within the SLO)")
    if s.cached_ratio or s.pooled_ratio:
        lines.append(
            f"  prefix cache: {s.cached_ratio:.1%} of prompt tokens from HBM, {s.pooled_ratio:.1%} from the pool"
        )
    lines.append(f"  instances busy {s.busy_ratio:.1%}; {s.steps:,} steps; {s.preemptions:,} preemptions")
    for what, count in trace.repaired.items():
        lines.append(f"  repaired: {count:,} {what}")
    if s.finished:
        edges = np.linspace(0.0, float((table["arrival_s"] + table["e2e_s"]).max()) + 1e-9, WIDTH + 1)
        arrived, _ = np.histogram(table["arrival_s"], edges)
        late, _ = np.histogram(table["arrival_s"], edges, weights=table["ttft_s"])
        lines += [
            "",
            f"  arrivals {sparkline(arrived)}  up to {arrived.max() / (edges[1] - edges[0]):.3g}/s",
            f"  TTFT     {sparkline(late / np.maximum(arrived, 1))}  mean over time",
        ]
    lines.append(f"seed {result.seed}; catalogue {result.digest}; taicang {result.version}")
    click.echo("\n".join(lines))


def write(result: Replay, folder: str) -> None:
    """``summary.json`` and ``requests.csv`` in ``folder``."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    kept = {name: plain(getattr(result, name)) for name in result.__slots__ if name != "table"}
    (out / "summary.json").write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    columns = {
        name: [f"{v:.9f}" for v in values.tolist()] if values.dtype.kind == "f" else [str(v) for v in values.tolist()]
        for name, values in result.table.items()
    }
    rows = (",".join(cells) for cells in zip(*columns.values(), strict=True))
    (out / "requests.csv").write_text("\n".join([",".join(columns), *rows, ""]), encoding="utf-8")
