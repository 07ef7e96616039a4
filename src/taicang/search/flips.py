"""What would flip the choice between machines: a price, a power, or more of a resource."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from taicang.search.points import Job
from taicang.search.result import Choice, Objective
from taicang.search.space import Space
from taicang.search.versus import level_ratio

FIGURES: Mapping[Objective, str] = MappingProxyType(
    {"per-watt": "power.load", "per-usd": "price.usd", "per-cny": "price.cny"}
)
"""The catalogue's figure that an objective divides by."""
RESOURCES = ("link bandwidth", "memory bandwidth", "arithmetic peak")
"""More of these is tried for machines that are behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """``level_ratio`` times its ``what``, all else as it is; ``None`` where that alone does not do it."""

    what: str
    level_ratio: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """What makes a machine level with another: the first with the second, the rest with the first."""

    machine: str
    other: str
    changes: tuple[Change, ...]


def flips(ranked: Sequence[tuple[Job, Choice, Space]], objective: Objective) -> list[Flip]:
    """A flip for each of the machines, best first; none where there is only one, or where whole chips are counted."""
    if len(ranked) < 2 or objective == "smallest":
        return []
    found = []
    for place, (job, choice, space) in enumerate(ranked):
        other = ranked[0 if place else 1][1]
        mine, theirs = choice.score(objective) or 0.0, other.score(objective) or 0.0
        if mine <= 0.0 or theirs <= 0.0:
            continue
        changes = [Change(what=FIGURES[objective], level_ratio=mine / theirs)] if objective in FIGURES else []
        if place:
            target = choice.output_tokens_per_s * theirs / mine
            changes += [
                Change(what=name, level_ratio=level_ratio(job, choice, target, name, space)) for name in RESOURCES
            ]
        found.append(Flip(machine=choice.machine, other=other.machine, changes=tuple(changes)))
    return found
