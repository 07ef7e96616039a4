"""What a search finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

from taicang.catalog.trust import Band
from taicang.plans import ServePlan
from taicang.search.points import Role

Mode: TypeAlias = Literal["aggregated", "disaggregated", "decode"]
"""Decode is an instance that only decodes, judged over its own chips: what published decode figures are of."""
Objective: TypeAlias = Literal["tokens/s/chip", "per-watt", "per-usd", "per-cny", "smallest"]
MODES: tuple[Mode, ...] = ("aggregated", "disaggregated")


FIGURES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "per-watt": ("power.load", "power_w"),
        "per-usd": ("price.usd", "price_usd"),
        "per-cny": ("price.cny", "price_cny"),
    }
)
"""The figure that an objective divides by, as the catalogue and as ``Machine`` names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is best: the objective and, for the smallest machine, the load that it must carry."""

    objective: Objective = "tokens/s/chip"
    modes: Sequence[Mode] = MODES
    load_per_s: float | None = None
    """Requests per second (objective "smallest")."""
    top: int = 5
    front: bool = True
    """Whether the front is wanted too, and how many pairings the answer is of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """``instances`` equal instances of one role."""

    role: Role
    plan: ServePlan
    instances: int
    chips: int
    """Of one instance."""
    sequences: float
    """In flight in one attention group (prefill: prompts in a batch)."""
    chunk_tokens: int = 0
    """Token budget of a step of an aggregated instance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A way to run the model on the whole machine."""

    machine: str
    stack: str
    quant: str
    mode: Mode
    pools: tuple[Pool, ...]
    ttft_s: float
    tpot_s: float | None
    """None where an answer has no second token."""
    requests_per_s: float
    output_tokens_per_s: float
    chips: int
    """In use."""
    machine_chips: int
    output_tokens_per_s_per_chip: float
    """Over all chips of the machine, idle ones too (smallest: over the chips in use)."""
    output_tokens_per_s_per_w: float | None
    output_tokens_per_s_per_usd: float | None
    output_tokens_per_s_per_cny: float | None = None
    bands: Mapping[str, Band]
    """How far each figure may be off: "tpot", "ttft", "throughput", "memory", "power"."""

    @property
    def user_tokens_per_s(self) -> float | None:
        """Speed that one user sees."""
        return None if self.tpot_s is None else 1.0 / self.tpot_s

    @property
    def stay_s(self) -> float:
        """What a request takes from end to end, by the closed form."""
        return self.ttft_s + max(self.output_tokens_per_s / self.requests_per_s - 1.0, 0.0) * (self.tpot_s or 0.0)

    @property
    def users(self) -> float:
        """Requests under way at a time."""
        return self.requests_per_s * self.stay_s

    def score(self, objective: Objective) -> float | None:
        """Higher is better; ``None`` where the machine's power or price is not public."""
        if objective == "smallest":
            return -float(self.chips)
        return {
            "per-watt": self.output_tokens_per_s_per_w,
            "per-usd": self.output_tokens_per_s_per_usd,
            "per-cny": self.output_tokens_per_s_per_cny,
            "tokens/s/chip": self.output_tokens_per_s_per_chip,
        }[objective]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How large the space was."""

    layouts: int
    priced: int
    """Rows (layout, batch, drafts, chunk) of all phases; those over memory are refused by their bytes alone."""
    fitting: int
    combinations: int
    """Pairs of prefill and decode rows with their instance counts, answered for by exact pruning."""
    refused: int
    """Layouts that the model or the cost model refuses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Outcome on one machine: the best of each layout, best first, and the front of speed against throughput."""

    machine: str
    best: tuple[Choice, ...]
    front: tuple[Choice, ...]
    counts: Counts
    nearest: tuple[str, ...] = ()
    """Where nothing meets the limits: what came closest."""
    takes_chips: int | None = None
    """Chips that the load takes (objective "smallest") where the machine has fewer."""
