"""Price a space into columns: one row per layout and batch (and draft length, chunk size) that fits the memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taicang.cost.cost import Cost
from taicang.errors import InvalidPlan, NotModelled
from taicang.hardware import Machine
from taicang.models.count import kv_cache_bytes
from taicang.models.types import Model
from taicang.ops import Operator, Transfer
from taicang.plans import ServePlan, decode_batch, prefill_batch
from taicang.search.once import Once
from taicang.search.space import Space
from taicang.serve.memory import memory_use
from taicang.serve.setup import Setup, step
from taicang.serve.steady import Load, aggregated
from taicang.stacks import Stack

Floats = NDArray[np.float64]
BLOCK = 16
"""Batches are cut to whole blocks of this many, so that layouts of unlike memory still share operators."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is searched for: a model under a load on a machine with its software."""

    model: Model
    machine: Machine
    stack: Stack
    price: Callable[[Operator, float, float], Cost]
    input_tokens: float
    output_tokens: float
    ttft_s: float = np.inf
    tpot_s: float = np.inf
    skew: float = 1.01
    acceptance_ratio: float = 0.7

    def setup(self, plan: ServePlan) -> Setup:
        """One instance of ``plan``; replicas of hot experts even out what skew makes."""
        full = replace(plan, acceptance_ratio=self.acceptance_ratio)
        skew = 0.0 if plan.redundant else self.skew
        return Setup(model=self.model, plan=full, machine=self.machine, stack=self.stack, price=self.price, skew=skew)


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """Priced candidates as columns of one length; ``layout`` indexes ``plans``."""

    plans: tuple[ServePlan, ...]
    layout: NDArray[np.int64]
    sequences: Floats
    """Of one attention group: decoding, or prompts that prefill together."""
    drafts: Floats
    chunk: Floats
    """Token budget of a step (aggregated; else 0)."""
    ttft_s: Floats
    tpot_s: Floats
    requests_per_s: Floats
    """Of one instance."""
    chips: Floats
    """Of one instance."""
    considered: int
    """Rows before memory was looked at."""
    refused: tuple[str, ...] = ()
    """Layouts that lowering or pricing refused, with the reason."""

    @property
    def size(self) -> int:
        """Rows."""
        return int(self.layout.size)

    def take(self, rows: Any) -> Points:
        """The rows of a mask or an index."""
        return replace(self, **{name: getattr(self, name)[rows] for name in COLUMNS})


COLUMNS = ("layout", "sequences", "drafts", "chunk", "ttft_s", "tpot_s", "requests_per_s", "chips")


def gather(plans: Sequence[ServePlan], job: Job, rows: Callable[[Setup], tuple[int, dict[str, Any]] | None]) -> Points:
    """Run ``rows`` over ``plans`` (in an order in which neighbours share operators) and stack what it gives."""
    order = sorted(plans, key=lambda p: (p.tp, p.pp, p.sp, p.microbatches, p.dp, p.ep))
    once = Once(costs=job.price)
    known = replace(job, price=once.price)
    parts: list[dict[str, Any]] = []
    considered, refused, group = 0, [], None
    for index, plan in enumerate(order):
        if group != (plan.tp, plan.pp, plan.sp, plan.microbatches):
            group = (plan.tp, plan.pp, plan.sp, plan.microbatches)
            once.forget()
        try:
            found = rows(known.setup(plan))
        except (InvalidPlan, NotModelled) as error:
            refused.append(f"{plan}: {error}")
            continue
        if found is None:
            continue
        considered += found[0]
        chips = float(-(-plan.ranks // job.machine.chip.dies))
        parts.append(found[1] | {"layout": index, "chips": chips})
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for part in parts:
        size = part["tpot_s"].size
        for name in COLUMNS:
            columns[name].append(np.broadcast_to(np.asarray(part[name]), (size,)))
    stacked: dict[str, Any] = {name: np.concatenate(found or [np.zeros(0)]) for name, found in columns.items()}
    stacked["layout"] = stacked["layout"].astype(np.int64)
    return Points(plans=tuple(order), considered=considered, refused=tuple(refused), **stacked)


def _fitting(setup: Setup, batches: Floats, *, context: float, tokens: float) -> Floats:
    """The smallest batches, in whole blocks, up to the largest that can fit (memory grows with the batch)."""
    use = memory_use(
        setup.model,
        setup.plan,
        setup.machine.chip,
        sequences=batches,
        context=context,
        tokens=np.maximum(batches * tokens, 1.0),
    )
    fits = int(np.count_nonzero(np.broadcast_to(use.spare_bytes >= 0, batches.shape)))
    return batches[: -(-fits // BLOCK) * BLOCK]


def _spread(space: Space, job: Job) -> tuple[Floats, Floats]:
    return np.array(space.batches, dtype=float), np.array(space.drafts_of(job.model), dtype=float)


def decode_points(plans: Sequence[ServePlan], job: Job, space: Space) -> Points:
    """Decode instances of their own: batches x draft lengths for each layout."""
    batches, drafts = _spread(space, job)

    def rows(setup: Setup) -> tuple[int, dict[str, Any]] | None:
        context = job.input_tokens + job.output_tokens
        some = _fitting(setup, batches, context=context, tokens=1.0)
        if not some.size:
            return batches.size * drafts.size, _empty()
        sequences, depth = (grid.ravel() for grid in np.meshgrid(some, drafts, indexing="ij"))
        drafting = replace(setup, plan=replace(setup.plan, draft_tokens=depth))
        plan = drafting.plan
        use = memory_use(
            job.model, plan, job.machine.chip, sequences=sequences, context=context, tokens=sequences * plan.query_len
        )
        seconds = step(
            drafting, decode_batch(sequences=sequences, context=job.input_tokens + job.output_tokens / 2)
        ).seconds
        steps = np.maximum((job.output_tokens - 1) / plan.tokens_per_step, 1.0)
        keep = (use.spare_bytes >= 0) & (sequences >= plan.pp * plan.microbatches)
        found = {
            "sequences": sequences,
            "drafts": depth,
            "tpot_s": seconds / plan.tokens_per_step,
            "requests_per_s": sequences * plan.dp / (steps * seconds),
        }
        return batches.size * drafts.size, _kept(found, keep)

    return gather(plans, job, rows)


def prefill_points(plans: Sequence[ServePlan], job: Job, space: Space) -> Points:
    """Prefill instances of their own; TTFT is a batch of prompts alone and the move of one cache, without queueing."""
    prompts: Floats = np.array(space.prompts, dtype=float)

    def rows(setup: Setup) -> tuple[int, dict[str, Any]] | None:
        plan = setup.plan
        budget = np.maximum(setup.stack.chunk_tokens * (plan.tp if plan.sp else 1.0), job.input_tokens)
        use = memory_use(
            job.model,
            plan,
            job.machine.chip,
            sequences=prompts,
            context=job.input_tokens,
            tokens=np.minimum(prompts * job.input_tokens, budget),
        )
        keep = np.broadcast_to(use.spare_bytes >= 0, prompts.shape) & (prompts >= plan.pp * plan.microbatches)
        if not keep.any():
            return prompts.size, _empty()
        seconds: Any = step(setup, prefill_batch(sequences=prompts, length=job.input_tokens)).seconds
        found = {
            "sequences": prompts,
            "ttft_s": seconds + handover_s(setup, job),
            "requests_per_s": prompts * plan.dp / seconds,
            "tpot_s": np.zeros(prompts.size),
        }
        return prompts.size, _kept(found, keep)

    return gather(plans, job, rows)


def handover_s(setup: Setup, job: Job) -> float:
    """Seconds to move one prompt's cache from a prefill rank group to decode."""
    size = float(kv_cache_bytes(setup.model, job.input_tokens, setup.plan.quant.kv)) / setup.plan.tp
    plane = "rdma" if "rdma" in setup.machine.planes else "scale_up"
    return float(job.price(Transfer(payload_bytes=size, plane=plane, distance=setup.plan.ranks), 1.0, 1.0).seconds)


def aggregated_points(plans: Sequence[ServePlan], job: Job, space: Space) -> Points:
    """Instances that do both: batches x draft lengths x chunk sizes for each layout."""
    batches, drafts = _spread(space, job)
    chunks: Floats = np.array(space.chunks, dtype=float)
    cells = batches.size * drafts.size * chunks.size

    def rows(setup: Setup) -> tuple[int, dict[str, Any]] | None:
        context = job.input_tokens + job.output_tokens
        some = _fitting(setup, batches, context=context, tokens=1.0)
        if not some.size:
            return cells, _empty()
        sequences, depth = (grid.reshape(-1, 1) for grid in np.meshgrid(some, drafts, indexing="ij"))
        mixing = replace(
            setup,
            plan=replace(setup.plan, draft_tokens=depth),
            stack=replace(setup.stack, chunk_tokens=chunks),  # type: ignore[arg-type]
        )
        plan = mixing.plan
        use = memory_use(
            job.model,
            plan,
            job.machine.chip,
            sequences=sequences,
            context=context,
            tokens=sequences * plan.query_len + np.minimum(chunks, job.input_tokens),
        )
        load = Load(concurrency=sequences * plan.dp, input_tokens=job.input_tokens, output_tokens=job.output_tokens)
        steady = aggregated(mixing, load)
        shape = (sequences.size, chunks.size)
        keep = (use.spare_bytes >= 0) & (sequences >= plan.pp * plan.microbatches)
        found = {
            "sequences": sequences,
            "drafts": depth,
            "chunk": chunks,
            "ttft_s": steady.ttft_s,
            "tpot_s": steady.tpot_s,
            "requests_per_s": steady.output_tokens_per_s / job.output_tokens,
        }
        flat = {name: np.broadcast_to(value, shape).ravel() for name, value in found.items()}
        return cells, _kept(flat, np.broadcast_to(keep, shape).ravel())

    return gather(plans, job, rows)


def _kept(found: dict[str, Any], keep: Any) -> dict[str, Any]:
    return {name: value[keep] for name, value in ({"ttft_s": 0.0 * found["tpot_s"]} | found).items()} | {
        name: 0.0 for name in ("drafts", "chunk") if name not in found
    }


def _empty() -> dict[str, Any]:
    return dict.fromkeys(COLUMNS, np.zeros(0))
