"""A benchmark of one's own against the prediction: its load replayed, figure by figure, and what may explain a gap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taicang.errors import InvalidInput, TaicangError
from taicang.predict.replay import Replay, replay
from taicang.predict.system import System
from taicang.search.door import settle
from taicang.traffic.change import take
from taicang.traffic.generate import arriving
from taicang.traffic.trace import Trace

QUANTITIES = ("ttft_s", "tpot_s", "e2e_s")
STATS: Mapping[str, Callable[[NDArray[Any]], Any]] = {
    "mean": np.mean,
    "p50": lambda values: np.quantile(values, 0.5),
    "p90": lambda values: np.quantile(values, 0.9),
    "p95": lambda values: np.quantile(values, 0.95),
    "p99": lambda values: np.quantile(values, 0.99),
}
FEW = 1000
"""Requests with which each possible cause is tried."""
HELPS_RATIO = 0.9
"""A change is told where it leaves at most this share of the gap."""
CHUNKS = (2048, 8192, 16384)
"""Token budgets of a step that engines have by default."""
SHARES = (0.8, 0.9, 0.95)
"""Shares of device memory that scripts give."""
CLIENTS_RATIO = 2.0
HOST_S = (1e-3, 4e-3)
"""Waits of the host before a step that a busy or slow CPU adds, in the mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One figure, both ways; times in seconds, rates per second."""

    metric: str
    """"ttft_s mean", "output_tokens_per_s"..."""
    measured: float
    predicted: float

    @property
    def error_ratio(self) -> float:
        """Signed error of the prediction, relative to the measurement."""
        return self.predicted / self.measured - 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """A change of the set-up under which the figures come nearer."""

    change: str
    gap_ratio: float
    """What remains of the gap (mean absolute logarithm of predicted over measured), 0 to 1."""
    figures: tuple[Compared, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A benchmark and its replay."""

    clients: int
    """Of the closed loop; 0 where requests came in their own time."""
    figures: tuple[Compared, ...]
    causes: tuple[Cause, ...]
    """The best first."""
    tried: int
    """Changes that were tried."""
    replay: Replay
    notes: tuple[str, ...]


def check(
    model: str,
    on: str,
    trace: Trace,
    system: System,
    *,
    clients: int = 0,
    causes: bool = True,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Check:
    """Replay the load of a benchmark (``trace``, with what it measured) and compare.

    ``clients`` is its concurrency, where the file does not state it. Raises ``InvalidInput`` where the file has no
    measurements.
    """
    if not trace.measured and not any(" " in name or name == "output_tokens_per_s" for name in trace.stated):
        raise InvalidInput(
            "has lengths, but nothing that was measured (TTFT, TPOT, whole latencies or tokens/s)", where=trace.name
        )
    stated = clients or _clients(trace)
    clients = stated or _in_flight(trace)
    whole, notes = _load(trace, clients, seed, stated=bool(stated))

    def run(of: Trace, with_system: System, many: int) -> Replay:
        return replay(model, on, of, with_system, clients=many, seed=seed, progress=progress)

    first = run(whole, system, clients)
    figures = _figures(trace, first)
    if not figures:
        raise InvalidInput("nothing that it measured can be compared", where=trace.name)
    found: list[Cause] = []
    tried = 0
    if causes:
        part, _ = _load(take(trace, FEW), clients, seed, stated=True) if len(trace) > FEW else (whole, ())
        base = _figures(trace, run(part, system, clients)) if part is not whole else figures
        for change, other, many in _changes(model, on, system, clients):
            try:
                seen = _figures(trace, run(part, other, many))
            except TaicangError:
                continue  # this set-up cannot be
            tried += 1
            left = _gap(seen) / max(_gap(base), 1e-12)
            if left <= HELPS_RATIO:
                found.append(Cause(change=change, gap_ratio=left, figures=seen))
    found.sort(key=lambda cause: cause.gap_ratio)
    return Check(
        clients=clients,
        figures=figures,
        causes=tuple(found),
        tried=tried,
        replay=first,
        notes=(*trace.notes, *notes),
    )


def _clients(trace: Trace) -> int:
    """Clients of the loop that a file states; 0 where a rate that it states too was nearer to being the limit.

    Benchmarks take both: a rate, and the most requests under way. The one that a run came nearer to held it back.
    """
    clients, rate = int(trace.stated.get("clients", 0)), trace.stated.get("rate_per_s")
    done = (trace.stated.get("output_tokens_per_s") or _rate(trace)) / float(np.mean(trace.output_tokens))
    stay = _stay(trace)
    if not clients or not rate or not done or not stay:
        return clients
    return 0 if done / rate >= done * stay / clients else clients


def _stay(trace: Trace) -> float:
    """Mean time of a request from its sending to its end, 0 where it is not known."""
    first, gap, whole = (
        float(np.nanmean(values)) if (values := trace.measured.get(name)) is not None and not np.isnan(values).all()
        else trace.stated.get(f"{name} mean", 0.0)
        for name in ("ttft_s", "tpot_s", "e2e_s")
    )  # fmt: skip
    return whole or (first + gap * (float(np.mean(trace.output_tokens)) - 1.0) if first and gap else 0.0)


def _in_flight(trace: Trace) -> int:
    """Requests under way at a time where a file has no times and names no load: its rate times their stay (Little)."""
    stay, rate = _stay(trace), trace.stated.get("output_tokens_per_s")
    if len(trace.arrival_s) or trace.stated.get("rate_per_s") or not stay or not rate:
        return 0
    return max(1, round(rate / float(np.mean(trace.output_tokens)) * stay))


def _load(trace: Trace, clients: int, seed: int, *, stated: bool) -> tuple[Trace, tuple[str, ...]]:
    """``trace`` with times, where neither its own nor a closed loop give them."""
    if clients and not stated:
        return trace, (f"a closed loop of {clients} clients: so many its throughput and latency come to",)
    if clients:
        return trace, (f"a closed loop of {clients} clients, as the file or --clients says",)
    if len(trace.arrival_s):
        return trace, ("requests come at the times in the file",)
    rate = trace.stated.get("rate_per_s")
    if rate:
        spread = trace.stated.get("arrivals_cv", 1.0)
        how = {0.0: "evenly", 1.0: "at random"}.get(spread, f"in bursts (coefficient of variation {spread:.3g})")
        made = arriving(trace, rate, process="poisson" if spread == 1.0 else "gamma", cv=spread, seed=seed)
        return made, (f"requests come {how}, {rate:g} a second, as the file says",)
    said = "all requests come at once: the file has no times (--clients gives a concurrency)"
    return replace(trace, arrival_s=np.zeros(len(trace))), (said,)


def _figures(trace: Trace, result: Replay) -> tuple[Compared, ...]:
    """What both the benchmark and the replay know."""
    found = []
    for quantity in QUANTITIES:
        values = trace.measured.get(quantity, np.zeros(0))
        values = values[~np.isnan(values)]
        for stat, of in STATS.items():
            said = float(of(values)) if len(values) else trace.stated.get(f"{quantity} {stat}")
            if said:
                predicted = getattr(getattr(result.summary, quantity.removesuffix("_s")), f"{stat}_s")
                found.append(Compared(metric=f"{quantity} {stat}", measured=said, predicted=float(predicted)))
    rate = trace.stated.get("output_tokens_per_s") or _rate(trace)
    if rate:
        found.append(
            Compared(metric="output_tokens_per_s", measured=rate, predicted=result.summary.output_tokens_per_s)
        )
    return tuple(each for each in found if each.predicted > 0)


def _rate(trace: Trace) -> float:
    ends = trace.measured.get("e2e_s")
    if ends is None or not len(trace.arrival_s) or np.isnan(ends).any():
        return 0.0
    span = float(np.max(trace.arrival_s + ends))
    return float(trace.output_tokens.sum()) / span if span else 0.0


def _gap(figures: Sequence[Compared]) -> float:
    return float(np.mean([abs(np.log(each.predicted / each.measured)) for each in figures]))


def _changes(model: str, on: str, system: System, clients: int) -> Iterator[tuple[str, System, int]]:
    """Set-ups that benchmarks have without saying so, each differing in one thing from what was asked."""
    net, _, engine = settle(system, model, on)
    for tokens in CHUNKS:
        if tokens != (system.tokens or engine.chunk_tokens):
            yield f"steps of at most {tokens:,} tokens (--max-tokens {tokens})", replace(system, tokens=tokens), clients
    for share in SHARES:
        if share != engine.memory.usable_ratio:
            changed = replace(system, memory_ratio=share)
            yield f"{share:.0%} of device memory (--memory-fraction {share:g})", changed, clients
    if net.mtp_layers:
        drafts = 0 if system.drafts != 0 else 1
        words = "without drafted tokens" if not drafts else "with drafted tokens"
        yield f"{words} (--mtp {drafts})", replace(system, drafts=drafts), clients
    if system.kv == "auto":
        yield "a cache in fp8 (--kv fp8)", replace(system, kv="fp8"), clients
    for wait in HOST_S:
        faults = replace(system.faults, jitter_s=wait)
        yield f"a host that is {wait * 1e3:g} ms late before each step", replace(system, faults=faults), clients
    for many in {round(clients * CLIENTS_RATIO), round(clients / CLIENTS_RATIO)} - {0} if clients else ():
        yield f"{many} clients in place of {clients}", system, many
