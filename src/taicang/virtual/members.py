"""Who takes part in a collective: the ranks of a group as its name tells them, and what it moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from taicang.ops import Collective, CollectiveKind, Operator, Transfer
from taicang.virtual.capture import MEET

LIKE: Mapping[str, CollectiveKind] = MappingProxyType(
    {
        "all_reduce": "all_reduce", "all_gather": "all_gather", "reduce_scatter": "reduce_scatter",
        "all_to_all": "all_to_all", "broadcast": "all_gather", "reduce": "reduce_scatter", "gather": "all_gather",
        "scatter": "reduce_scatter", "barrier": "all_reduce",
    }
)  # fmt: skip
"""The operator that prices each collective: one root moves what an all-gather or a reduce-scatter moves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """The ranks of a group, and its name in tables."""

    name: str
    ranks: tuple[int, ...]

    def operator(self, name: str, payload: float) -> Operator:
        """A collective of this group."""
        return Collective(kind=LIKE[name], payload_bytes=payload, ranks=len(self.ranks), stride=stride(self.ranks))

    @staticmethod
    def hop(payload: float, distance: int) -> Operator:
        """A message between two ranks."""
        return Transfer(payload_bytes=payload, plane="scale_up", distance=distance)


def stride(ranks: Sequence[int]) -> int:
    """How far apart neighbours lie (of an irregular group, on average)."""
    return max(round((ranks[-1] - ranks[0]) / (len(ranks) - 1)), 1) if len(ranks) > 1 else 1


def label(said: str, ranks: Sequence[int], world: int) -> str:
    """A group's name: what the program calls it, and its ranks as "first+stride*count" or a list."""
    name = said.replace(":", "_") or ("world" if len(ranks) == world else f"{len(ranks)} ranks")
    if name in ("default_pg",):
        name = "world"
    step = stride(ranks)
    if list(ranks) == list(range(ranks[0], ranks[0] + step * len(ranks), step)):
        return f"{name}:{ranks[0]}+{step}*{len(ranks)}"
    return f"{name}:{','.join(map(str, ranks))}"


def members_of(group: str) -> tuple[int, ...]:
    """The ranks of a group from its label; of a message, its two ends."""
    name, _, text = group.rpartition(":")
    if name == MEET:
        return tuple(int(each) for each in text.split(">"))
    if "+" in text:
        first, _, rest = text.partition("+")
        step, _, count = rest.partition("*")
        return tuple(range(int(first), int(first) + int(step) * int(count), int(step)))
    return tuple(int(each) for each in text.split(",") if each)
