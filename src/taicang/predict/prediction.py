"""What a prediction says: figures, what they are made of, and why to believe them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from taicang.plans import ServePlan
from taicang.search.trusted import Prediction
from taicang.serve.memory import MemoryUse
from taicang.timeline import Timeline
from taicang.units import Count

__all__ = ["Infeasible", "PhasePrediction", "Prediction", "Served"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasePrediction:
    """One phase (prefill or decode) as one instance runs it, without the other: an aggregated one runs both in turn."""

    phase: str
    plan: ServePlan
    instances: int
    """Whole ones on the machine."""
    chips: int
    """Of one instance."""
    sequences: float
    """In one attention group's batch."""
    step: Timeline
    level_bytes: Mapping[str, float]
    """What a rank sends in a step, by the level of the scale-up plane at which its receiver is met."""
    expert_bytes: Mapping[str, float]
    """Of that, what goes to experts and back."""
    step_s: float
    """Of prompts beyond the token budget of a step: the step of one chunk."""
    tokens_per_s: float
    """Of the instance: prompt tokens in prefill, output tokens in decode."""
    tokens_per_s_per_chip: float
    tokens_per_s_per_rank: float
    tokens_per_j: float | None
    memory: MemoryUse
    weights_bytes_per_rank: float
    cache_room_tokens: float
    """Cached tokens of its attention group for which a rank has room as its engine counts, beside a full step."""
    instance_cache_room_tokens: float
    """Of all attention groups of the instance."""
    binds: str
    binds_ratio: float
    """Share of busy time that the binding resource accounts for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """Means over the requests of a closed loop on one instance, those at its start too, in closed form."""

    clients: Count
    ttft_s: float
    tpot_s: float | None
    output_tokens_per_s: float
    output_tokens_per_s_per_chip: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Served(Prediction):
    """A served model on a machine. Times in seconds, rates per instance, chip (package) and rank (die)."""

    input_tokens: int
    output_tokens: int
    mode: str
    ttft_s: float
    """What a lone request sees: one prompt through prefill, and the move of its cache if decode is elsewhere."""
    loaded_ttft_s: float
    """With the batch of prompts that gives the throughput (aggregated: with the others' prompts and steps in between),
    without queueing; what ``ttft_s`` limits."""
    tpot_s: float | None
    """None where an answer has no second token, as the speed that follows from it."""
    requests_per_s: float
    """Of the whole machine."""
    users: Count
    """Requests under way at a time."""
    user_tokens_per_s: float | None
    """What one of them sees while it is answered."""
    decode: PhasePrediction
    prefill: PhasePrediction
    prefill_chips_ratio: float
    """Share of the chips in use that are prefill instances (0 where instances do both)."""
    chips: int
    """In use by whole instances."""
    machine_chips: int
    output_tokens_per_s_per_chip: float
    """Over all chips of the machine, idle ones too."""
    machine_output_tokens_per_s: float
    power_w_per_chip: float | None
    """IT power of one chip's share of the machine."""
    output_tokens_per_s_per_w: float | None
    output_tokens_per_s_per_usd: float | None
    """Over the machine's price."""
    output_tokens_per_s_per_cny: float | None
    candidates: int
    loop: Loop | None = None
    """What the clients of a closed loop see, where there are some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Infeasible:
    """No plan fits: why, by how much, and the cheapest remedies."""

    model: str
    machine: str
    reason: str
    needed: str
    available: str
    remedies: tuple[str, ...] = ()
