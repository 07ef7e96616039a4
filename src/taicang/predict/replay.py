"""Traffic through a serving system on a machine: choose the layout, build the pools, run, summarise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from taicang.catalog.grounds import at_once, ground
from taicang.catalog.trust import REPLAYED, Band, bands, unvalidated
from taicang.errors import InvalidInput
from taicang.hardware import Machine
from taicang.models.types import Model
from taicang.plans import describe
from taicang.predict.standing import Standing, Tenant, context_of, stand
from taicang.predict.system import System
from taicang.search.trusted import Prediction, assumptions, cannot_run, one_token, sources
from taicang.serve.build import Pool
from taicang.serve.clients import ClosedLoop, OpenLoop
from taicang.serve.cluster import Cluster
from taicang.serve.door import through_s
from taicang.serve.log import Log, request_gaps
from taicang.serve.record import Record
from taicang.serve.request import SECOND
from taicang.serve.simulate import serve
from taicang.serve.summary import Limits, Summary, summarise
from taicang.serve.usage import usage
from taicang.traffic.change import for_models
from taicang.traffic.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay(Prediction):
    """One run: what it was, what came of it, and the finished requests as columns."""

    trace: str
    pools: tuple[str, ...]
    scheduler: str
    router: str
    seed: int
    limits: Limits
    summary: Summary
    notes: tuple[str, ...]
    """What the traffic's reader left out or assumed, and what is not known."""
    outages: tuple[Down, ...]
    table: dict[str, Any]
    """A row per finished request (see docs/reference/results.md)."""
    usage: dict[str, Any]
    """A row per bin of time and pool."""
    log: Log
    """A row per step of each instance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Down:
    """A time in which an instance did not serve (``until_s`` None: to the end)."""

    instance: int
    from_s: float
    until_s: float | None


def replay(
    model: str | Model,
    on: str | Machine,
    trace: Trace,
    system: System,
    *,
    also: Sequence[Tenant] = (),
    model_cache_bytes: float = 0.0,
    crowd: int = 0,
    clients: int = 0,
    think_s: float = 0.0,
    random_think: bool = False,
    limits: Limits | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    keep: bool = False,
) -> Replay:
    """Serve ``trace`` (in its own time, or by ``clients`` in a closed loop) and say what users saw.

    Sessions that ask for the models ``also`` are drawn at random; all share the instances, and ``model_cache_bytes`` of
    host memory keep the weights that none holds. ``crowd`` requests on each of a model's instances bring it another.
    ``keep``: an interrupt by the user ends the run with what has finished until then.

    Raises ``InvalidInput`` for a system that does not fit the machine or a request that fits no instance.
    """
    if (system.order == "deadline" or system.late != "serve") and trace.deadline_s is None:
        raise InvalidInput(f"{trace.name} has no deadlines", where="--order, --late")
    if system.order == "priority" and trace.priority is None:
        raise InvalidInput(f"{trace.name} has no priorities", where="--order")
    if also:
        trace = for_models(trace, [each.share_ratio for each in also], seed)
    standing = stand(
        model, on, system, also=also, model_cache_bytes=model_cache_bytes, crowd=crowd,
        context=context_of(trace), block_tokens=trace.block, burst=(burst := at_once(len(trace), clients)), seed=seed,
    )  # fmt: skip
    finished = Record()
    if not clients and not len(trace.arrival_s):
        raise InvalidInput(f"{trace.name} has no times: give --rate or --closed-loop")
    loop: OpenLoop | ClosedLoop = OpenLoop(trace)
    if clients:
        loop = ClosedLoop(trace, clients, think_s=think_s, random_think=random_think, seed=seed)
    after = loop.after if clients or loop.waits else None
    try:
        whole = serve(standing.cluster, loop.arrivals(), finished, after=after, progress=progress)
    except KeyboardInterrupt:
        if not keep:
            raise
        whole = False
    return outcome(standing, trace, finished, limits=limits or Limits(), partial=not whole, burst=burst)


def outcome(
    standing: Standing,
    trace: Trace,
    finished: Record,
    *,
    limits: Limits,
    partial: bool,
    requests: int | None = None,
    burst: bool = False,
) -> Replay:
    """What came of serving ``trace``, of which ``finished`` have ended, of ``requests`` (None: all of it).

    ``burst``: see ``Ground.use``.
    """
    pools, machine, engine, made = standing.pools, standing.machine, standing.engine, standing.cluster
    log = made.log or Log(made.pools)
    table = finished.columns() | request_gaps(log, finished.ticks())
    if "prefill" not in pools:
        passed = through_s(next(iter(pools.values())).setup.stack, table["input_tokens"])
        table |= {name: table[name] + passed for name in ("ttft_s", "e2e_s")}
    if trace.session is not None:
        table["session"] = trace.session[table["id"]]
    if trace.model is not None:
        table["model"] = np.asarray(list(pools))[trace.model[table["id"]]]
    busy = usage(log, standing.parts, finished.ticks())
    energy_j = float(busy["energy_j"].sum())
    summary = summarise(
        table,
        made,
        requests=len(trace) if requests is None else requests,
        limits=limits,
        energy_j=None if np.isnan(energy_j) else energy_j,
        partial=partial,
    )
    once = (one_token(limits.tpot_s or np.inf),) if summary.finished and summary.tpot is None else ()
    told = _bands(pools, shared=len(standing.models) > 1, burst=burst)
    return Replay(
        trace=trace.name,
        model=" + ".join(standing.models),
        machine=machine.name,
        stack=f"{engine.name} ({engine.epoch})",
        pools=tuple(
            f"{p.instances} x {describe(p.setup.plan)}{f' {name}' if len(standing.models) > 1 else ''}"
            for name, p in pools.items()
        ),
        scheduler=[pool.limits.policy for pool in pools.values()][-1],
        router=made.router.kind,
        seed=standing.seed,
        limits=limits,
        summary=summary,
        notes=(*trace.notes, *_unable(standing), *once, *_unknown(machine), *_switched(made)),
        outages=tuple(
            Down(instance=name, from_s=begun / SECOND, until_s=back / SECOND if back >= 0 else None)
            for name, begun, back in made.outages
        ),
        assumptions=_assumptions(standing, trace),
        sources=sources(standing.net, machine),
        bands={name: band for name, band in told.items() if getattr(summary, name, band) is not None},
        table=table,
        usage=busy,
        log=log,
    )


def _assumptions(standing: Standing, trace: Trace) -> tuple[str, ...]:
    feeding, serving = ([*standing.pools.values()][at].setup for at in (0, -1))
    apart = len(standing.models) < len(standing.pools)
    longest = int(np.max(trace.input_tokens + trace.output_tokens, initial=0))
    limited = [*standing.pools.values()][-1].limits.sequences
    said = assumptions(serving, feeding, length=longest, given=standing.given, apart=apart, queued=True)
    if serving.clock_ratio < 1.0:
        said += (f"prompts come at once: dense arithmetic at {serving.clock_ratio:.0%} of its clock, as in training",)
    if serving.plan.draft_tokens and limited * serving.plan.dp <= serving.stack.drafting_sequences:
        said += (f"{limited} sequences at a time in each attention group, as {serving.stack.engine} drafts by default",)
    return said


def _unable(standing: Standing) -> tuple[str, ...]:
    """What the engine cannot be told to run."""
    apart = "prefill" in standing.pools
    found: list[str] = []
    for name, pool in standing.pools.items():
        setup, role = pool.setup, name if apart else "both"
        found += cannot_run(setup.model, setup.machine, setup.stack, [(role, setup.plan)])
    return tuple(dict.fromkeys(found))


def _switched(made: Cluster) -> tuple[str, ...]:
    if not made.switches:
        return ()
    return ("idle power of an instance that changed its pool counts to the one where it began",)


def _unknown(machine: Machine) -> tuple[str, ...]:
    if machine.chip.tdp_w is not None:
        return ()
    if machine.power_w is None:
        return (f"{machine.chip.name}: no public power limit, so no power and energy",)
    return (
        f"{machine.chip.name}: no public power limit; each chip's share of the machine's published power under load "
        "stands for it at all times",
    )


def _bands(pools: Mapping[str, Pool], *, shared: bool, burst: bool) -> Mapping[str, Band]:
    if shared:
        return dict.fromkeys(REPLAYED, unvalidated("no run of several models on shared instances was measured"))
    made = [*pools.values()][-1].setup
    run = ground(
        made.model, made.machine, made.stack,
        use="burst" if burst else "disaggregated" if len(pools) > 1 else "aggregated",
        ranks=int(made.plan.ranks), quant=made.plan.quant, plan=made.plan,
    )  # fmt: skip
    return bands(run, REPLAYED, replay=True)
