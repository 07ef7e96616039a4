"""How far the time of a collective may be off, and where its figures come from."""

from __future__ import annotations

from collections.abc import Mapping

from taicang.catalog.trust import Band, links_band, links_key, met, unvalidated
from taicang.hardware import Machine
from taicang.search.collective import EXCHANGES, Ask, flavour


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
