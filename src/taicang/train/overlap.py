"""Overlap: what of a communication a step waits for, on a timeline of two engines.

One engine computes, the other communicates; a piece of work starts when the piece before it on its engine and the piece
whose result it takes are done. While both engines are busy, computing slows by ``tax``: the cores and the memory
bandwidth that a running collective takes (``Machine.overlap_tax_ratio``, or what an engine's own evidence says).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from taicang.cost.cost import Cost
from taicang.ops import Collective
from taicang.units import Num

Engine: TypeAlias = Literal["compute", "network"]


def beside(network: Num, compute: Num, *, pieces: Num | int, tax: Num) -> Num:
    """What ``network`` seconds add to ``compute`` seconds when they run in ``pieces`` beside them.

    One piece is outside (the first that computing waits for, or the last that waits for computing); the others are
    hidden as far as computing reaches, which they slow. The closed form of ``walk`` for equal pieces.
    """
    inside = network * (1.0 - 1.0 / pieces)
    return network / pieces + np.maximum(inside - compute, 0.0) + tax * np.minimum(inside, compute)


def busy_ratio(moved: Num, seconds: Num, price: Callable[[Collective], Cost]) -> Num:
    """How busy collectives that bring ``moved`` bytes to every rank in ``seconds`` keep the cores that copy: all the
    time at the rate of two neighbours' link, less where a slower network makes them wait."""
    near = price(Collective(kind="all_gather", payload_bytes=2.0 * moved, ranks=2, stride=1)).seconds
    return np.minimum(near / np.maximum(seconds, near), 1.0)


@dataclass(frozen=True, slots=True)
class Piece:
    """Work of one engine that waits for the pieces at the indices ``after``."""

    engine: Engine
    seconds: Num
    after: tuple[int, ...] = ()


def walk(pieces: Sequence[Piece]) -> list[Num]:
    """When each piece ends; engines take their pieces in the order listed."""
    ends: list[Num] = []
    free: dict[Engine, Num] = {"compute": 0.0, "network": 0.0}
    for piece in pieces:
        start = free[piece.engine]
        for index in piece.after:
            start = np.maximum(start, ends[index])
        end = start + piece.seconds
        ends.append(end)
        free[piece.engine] = end
    return ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Halves:
    """One pass of an expert layer: computing outside and inside the experts, and the exchanges to and from them."""

    outside_s: Num
    experts_s: Num
    there_s: Num
    back_s: Num

    @property
    def network_s(self) -> Num:
        """Both exchanges."""
        return self.there_s + self.back_s


ROUNDS = 4
"""Layers after which a pair of passes repeats itself."""


def paired_s(forward: Halves, backward: Halves, *, tax: Num) -> Num:
    """Seconds of one layer where one microbatch's forward pass runs beside another's backward pass.

    The exchanges of either run while the other computes, in the order of DeepSeek-V3's report (arXiv 2412.19437,
    figure 4): experts backward beside the forward dispatch, experts forward beside the backward one, attention backward
    beside the forward combine, attention forward beside the backward one. The period of many layers is counted.
    """
    pieces: list[Piece] = []
    lasts: list[Num] = []
    for layer in range(ROUNDS):
        at = 8 * layer
        before = () if not layer else (at - 1,)
        pieces += [
            Piece("network", forward.there_s, () if not layer else (at - 2,)),  # after attention forward
            Piece("compute", backward.experts_s, before),  # after the last backward exchange
            Piece("network", backward.there_s, (at + 1,)),
            Piece("compute", forward.experts_s, (at,)),
            Piece("network", forward.back_s, (at + 3,)),
            Piece("compute", backward.outside_s, (at + 2,)),
            Piece("compute", forward.outside_s, (at + 4,)),
            Piece("network", backward.back_s, (at + 5,)),
        ]
        ends = walk(pieces)
        lasts.append(np.maximum(ends[-1], ends[-2]))
    period = lasts[-1] - lasts[-2]
    computing = forward.outside_s + forward.experts_s + backward.outside_s + backward.experts_s
    return period + tax * np.minimum(forward.network_s + backward.network_s, computing)
