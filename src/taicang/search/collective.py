"""The one door of collectives: a question as it is asked, what it is to a cost model, its price and its band."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from taicang import catalog
from taicang.catalog.costing import cost_model
from taicang.catalog.trust import Band, unvalidated
from taicang.catalog.trust_links import links_band, links_key, met
from taicang.cost.collective import Fits
from taicang.cost.model import CostModel
from taicang.fabric.routing import Routing
from taicang.hardware import Machine
from taicang.ops import Collective, Exchange, Operator, Transfer
from taicang.stacks import BARE
from taicang.units import Count

EXCHANGES = ("dispatch", "combine")
LIBRARY = "nccl"
"""Flavour of the vendor's collective library."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One collective. ``payload_bytes`` is a rank's whole buffer; of dispatch and combine, one token."""

    kind: str
    payload_bytes: float
    ranks: int = 0
    """0: all."""
    stride: int = 1
    algorithm: str = ""
    skew: Count = 0.0
    """Exponent of Zipf's law of receivers, or of experts."""
    tokens: int = 128
    topk: int = 8
    experts: int = 256
    routing: Routing = "adaptive"
    seed: int = 0
    seeds: int = 1
    failed: tuple[str, ...] = ()
    plane: str = "scale_up"
    verb: str = ""
    """Of a send, where it was measured: npu/read, npu/write, cpu/read or cpu/write."""
    beside: tuple[tuple[str, float], ...] = ()
    """Collectives (kind, bytes) that begin at the same time on the same ranks."""
    shuffled: bool = False
    """Ranks lie at random places of the machine."""
    stack: str = ""
    """Whose all-reduce kernels run, where it is not the vendor's library."""


def operator(ask: Ask, count: int) -> Operator:
    """What ``ask`` is to a cost model when ``count`` ranks take part."""
    kind = ask.kind.replace("-", "_")
    if kind in EXCHANGES:
        return Exchange(kind=kind, tokens=ask.tokens, token_bytes=ask.payload_bytes, topk=ask.topk,  # type: ignore[arg-type]
                        experts=ask.experts, ranks=count, stride=ask.stride)  # fmt: skip
    if kind == "send":
        return Transfer(payload_bytes=ask.payload_bytes, plane=ask.plane, distance=(count - 1) * ask.stride)
    return Collective(kind=kind, payload_bytes=ask.payload_bytes, ranks=count, stride=ask.stride, plane=ask.plane)  # type: ignore[arg-type]


def flavour(ask: Ask) -> str:
    """Whose kernels run."""
    return catalog.stack(ask.stack).all_reduce if ask.stack else LIBRARY


def costs(machine: Machine, ask: Ask, fits: Fits | None = None) -> CostModel:
    """Who prices ``ask``: a library on ``machine``, with ``fits`` in place of its calibrated constants."""
    if ask.stack:
        catalog.fit_for(catalog.stack(ask.stack), "", machine.chip)
    made = cost_model(machine, replace(BARE, all_reduce=flavour(ask)))
    return made if fits is None else replace(made, book=replace(made.book, collective=fits))


def closed_s(machine: Machine, ask: Ask, count: int, fits: Fits | None = None) -> float:
    """Seconds of ``ask`` among ``count`` ranks in closed form, which knows neither faults nor collisions nor skew."""
    return float(costs(machine, ask, fits).price(operator(ask, count)).seconds)


def bands_of(machine: Machine | None, ask: Ask, count: int) -> Mapping[str, Band]:
    """Closed forms were measured: on whole links that are shared evenly the library's time is theirs."""
    if machine is None:
        return dict.fromkeys(("library", "closed form"), unvalidated("nobody measured the links of this graph"))
    level = met(machine, (count - 1) * ask.stride + 1, ask.plane)
    exchanged = ask.kind in EXCHANGES
    closed = links_band(
        links_key(ask.kind, level, "" if exchanged else flavour(ask)), ranks=count,
        sent_bytes=ask.payload_bytes * (ask.tokens if exchanged else 1), bytes_per_s=level.bandwidth_bytes_per_s,
    )  # fmt: skip
    if ask.stride > 1:
        closed = unvalidated(f"nobody measured it among ranks {ask.stride} apart")
    changed = [
        what
        for what, is_so in (
            ("failed parts", ask.failed), ("skew", ask.skew), ("ranks at random places", ask.shuffled),
            ("others at the same time", ask.beside), (f"{ask.routing} routes", ask.routing != "adaptive"),
            (ask.algorithm, ask.algorithm),
        )
        if is_so
    ]  # fmt: skip
    library = unvalidated(f"nobody measured it with {', '.join(changed)}") if changed else closed
    return {"library": library, "closed form": closed}


def sources_of(machine: Machine | None, name: str) -> tuple[str, ...]:
    """Where the figures of a fabric come from; None: it is a user's graph."""
    if machine is None:
        return (f"{name}: a graph of yours",)
    fits = "constants of libraries and exchanges: calibrated (`taicang score` gives their held-out errors)"
    return (f"machine {name}: `taicang catalog show` lists each figure with its source", fits)
