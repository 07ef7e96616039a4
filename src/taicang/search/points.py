"""Price a space into columns: one row per layout and batch (and draft length, chunk size) that fits the memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from taicang.cost.cost import Cost
from taicang.errors import InvalidPlan, NotModelled
from taicang.hardware import Machine
from taicang.models.count import kv_cache_bytes
from taicang.models.types import Model
from taicang.ops import Operator, Transfer
from taicang.plans import Batch, ServePlan, decode_batch, prefill_batch
from taicang.search.groups import tables
from taicang.search.once import Once
from taicang.search.space import Space
from taicang.serve.memory import in_pages, memory_use
from taicang.serve.queueing import WITHIN
from taicang.serve.setup import Setup, step
from taicang.serve.steady import Load, Steady, aggregated
from taicang.serve.uneven import EVEN, Spread
from taicang.stacks import Stack
from taicang.units import Count, Num

Floats = NDArray[np.float64]
Role: TypeAlias = Literal["prefill", "decode", "both"]
BLOCKS = 8
"""Blocks that batches are cut to."""
USUAL_TOKENS = (4096, 256)
"""Of a prompt and its answer where a question names none (options: ``app/data/shared.yaml``)."""
CELLS = 65536
"""Candidates that are priced together: enough to drown the interpreter, few enough for the processor's caches."""


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
    within_ratio: float = WITHIN
    """Share of the requests that must keep the limits."""
    users: int | None = None
    """Who send their next request when an answer has come: the load, where there are so many."""
    skew: Count = 1.01
    acceptance_ratio: float = 0.7
    spread: Spread = EVEN
    """How unequal the lengths are."""

    @property
    def goes_on(self) -> bool:
        """Whether an answer has a second token, for which there is a TPOT."""
        return self.output_tokens > 1.0

    @property
    def context_tokens(self) -> float:
        """Mean context of a decoding sequence: of those in flight more are long ones."""
        return self.input_tokens + self.output_tokens * self.spread.output_ratio / 2

    @property
    def held_tokens(self) -> float:
        """What memory keeps room for: the whole length of a sequence in flight, in pages."""
        return in_pages(self.input_tokens + self.output_tokens * self.spread.output_ratio)

    def stay_s(self, ttft_s: Num, tpot_s: Num) -> Any:
        """What a request takes from end to end."""
        return ttft_s + max(self.output_tokens - 1.0, 0.0) * tpot_s

    def asked_per_s(self, ttft_s: Num, tpot_s: Num) -> Any:
        """Requests per second that the users send; without any, as many as are taken."""
        return np.inf if self.users is None else self.users / self.stay_s(ttft_s, tpot_s)

    def chunks(self, sequences: Count, budget: Count) -> Any:
        """Steps of at most ``budget`` tokens that ``sequences`` prompts take (a mean, so not whole)."""
        return np.maximum(sequences * self.input_tokens / budget, 1.0)

    def prompts(self, sequences: Count, groups: Count, chunks: Count = 1.0) -> Batch:
        """Prompts that prefill together in each of ``groups`` attention groups; pairs are those of the slowest.

        Of several ``chunks`` the mean one: later ones read what those before them left in the cache.
        """
        mean = prefill_batch(sequences=sequences, length=self.input_tokens, spread_ratio=self.spread.input_ratio)
        slowest = self.spread.prompts_ratio(groups, sequences * self.input_tokens)
        share = 1.0 / chunks
        return replace(
            mean,
            prefill_tokens=mean.prefill_tokens * share,
            prefill_pairs=mean.prefill_pairs * slowest * share,
            prefill_context=mean.prefill_context * (0.5 + 0.5 * share),
        )

    def decoding(self, sequences: Count, groups: Count) -> Batch:
        """Sequences that decode in each of ``groups`` attention groups, with the context of the slowest."""
        slowest = self.spread.decode_ratio(groups, sequences)
        return decode_batch(sequences=sequences, context=self.context_tokens * slowest)

    def setup(self, plan: ServePlan) -> Setup:
        """One instance of ``plan``."""
        full = replace(plan, acceptance_ratio=self.acceptance_ratio)
        return Setup(
            model=self.model, plan=full, machine=self.machine, stack=self.stack, price=self.price, skew=self.skew
        )


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


def gather(
    plans: Sequence[ServePlan],
    job: Job,
    cells: Mapping[Role, int],
    rows: Callable[[Once, ServePlan, NDArray[np.bool_]], Mapping[Role, dict[str, Any]]],
    dimensions: int,
) -> dict[Role, Points]:
    """Run ``rows`` over tables of ``plans`` of one structure and stack what it gives for each role.

    ``rows`` takes a cost model that remembers, the plan of arrays with ``dimensions`` axes for its candidates, and
    which of the first two axes' cells are layouts. It returns for each role "keep" and the columns, each of a shape
    that broadcasts to [rows, columns, ...]; ``cells`` is how many candidates a layout has.
    """
    columns: dict[Role, dict[str, list[Any]]] = {role: {name: [] for name in COLUMNS} for role in cells}
    refused: list[str] = []
    chips = np.array([-(-plan.ranks // job.machine.chip.dies) for plan in plans], dtype=float)
    once, last = Once(costs=job.price), 0
    for table in tables(plans):
        if last not in (0, table.like.microbatches):
            once.forget()
        last = table.like.microbatches
        for piece in table.pieces(max(CELLS // (table.index.shape[0] * max(cells.values())), 1)):
            layout = piece.index.reshape(*piece.index.shape, *(1,) * dimensions)
            try:
                found = rows(once, piece.plan(dimensions), layout >= 0)
            except (InvalidPlan, NotModelled) as error:
                refused += [str(error)] * int((layout >= 0).sum())
                continue
            for role, part in found.items():
                shape, kept = part["keep"].shape, np.flatnonzero(part["keep"])
                part |= {"layout": layout, "chips": chips[layout]}
                for name, values in columns[role].items():
                    values.append(np.broadcast_to(part.get(name, 0.0), shape).ravel()[kept])
    return {role: _table(plans, columns[role], len(plans) * count, refused) for role, count in cells.items()}


def _table(plans: Sequence[ServePlan], columns: dict[str, list[Any]], considered: int, refused: list[str]) -> Points:
    stack: dict[str, Any] = {name: np.concatenate(parts or [np.zeros(0)]) for name, parts in columns.items()}
    stack["layout"] = stack["layout"].astype(np.int64)
    return Points(plans=tuple(plans), considered=considered, refused=tuple(refused), **stack)


def _largest(fits: Any) -> int:
    """How many of the first batches (the axis before the last) hold all that fit in any layout.

    Memory grows with them. In whole blocks, so that pieces of unlike memory still share operators.
    """
    rows = np.flatnonzero(fits.any(axis=(0, 1, 2, 4)))
    most = int(rows[-1]) + 1 if rows.size else 0
    block = -(-fits.shape[3] // BLOCKS)
    return int(min(-(-most // block) * block, fits.shape[3]))


def serving_points(
    plans: Sequence[ServePlan], job: Job, space: Space, roles: Collection[Role] = ("both", "decode")
) -> dict[Role, Points]:
    """Instances that decode: with chunks of prompts in between ("both": draft lengths x batches x chunk sizes for each
    layout), or on their own ("decode": draft lengths x batches). One pass prices the decode step of both.
    """
    drafts: Floats = np.array(space.drafts_of(job.model), dtype=float)[:, None, None]
    batches: Floats = np.array(space.batches, dtype=float)[:, None]
    chunks: Floats = np.array(space.chunks, dtype=float)
    budgets: dict[Role, Floats] = {"both": chunks, "decode": np.zeros(1)}
    pairs = drafts.size * batches.size
    cells = {role: pairs * (chunks.size if role == "both" else 1) for role in roles}

    def rows(once: Once, plan: ServePlan, exists: Any) -> dict[Role, dict[str, Any]]:
        plan = replace(plan, draft_tokens=drafts)
        # steps of each role are of other sizes, beside the same weights
        ends = np.cumsum([budgets[role].size for role in roles])[:-1]
        tokens = np.maximum(batches * plan.query_len, np.concatenate([budgets[role] for role in roles]))
        fits = _fits(plan, job, batches, job.held_tokens, tokens) & exists
        if not space.staged_drafts:
            fits = fits & ((np.asarray(plan.pp) == 1) | (drafts == 0.0))
        fits = np.split(fits, ends, axis=-1)
        keep: dict[Role, Any] = dict(zip(roles, fits, strict=True))
        most = max(_largest(mask) for mask in keep.values())
        keep = {role: mask[..., :most, :] for role, mask in keep.items()}
        found: dict[Role, dict[str, Any]] = {role: {"keep": mask} for role, mask in keep.items()}
        if not most:
            return found
        sequences, any_role = batches[:most], np.logical_or.reduce([*np.broadcast_arrays(*keep.values())])
        setup = replace(job, price=replace(once, exists=any_role).price).setup(plan)
        gained = setup.plan.tokens_per_step
        if "both" in roles:
            steady = _at_random(setup, job, sequences, chunks, any_role)
            seconds = steady.step_s
            found["both"] |= {
                "sequences": sequences,
                "drafts": drafts,
                "chunk": chunks,
                "ttft_s": steady.ttft_s,
                "tpot_s": steady.tpot_s * job.goes_on,
                "requests_per_s": steady.output_tokens_per_s / job.output_tokens,
            }
        else:
            seconds = step(setup, job.decoding(sequences, plan.dp)).seconds
        if "decode" in roles:
            steps = np.maximum((job.output_tokens - 1) / gained, 1.0)
            found["decode"] |= {
                "sequences": sequences,
                "drafts": drafts,
                "tpot_s": seconds / gained * job.goes_on,
                "requests_per_s": sequences * plan.dp / (steps * seconds),
            }
        return found

    return gather(plans, job, cells, rows, 3)


def _at_random(setup: Setup, job: Job, sequences: Floats, chunks: Floats, exists: Any) -> Steady:
    """Instances that do both, under requests that come at random times."""
    mixing: Any = replace(setup.stack, chunk_tokens=chunks)  # type: ignore[arg-type]
    load = Load(
        concurrency=sequences * setup.plan.dp, group=sequences, input_tokens=job.input_tokens,
        output_tokens=job.output_tokens, spread=job.spread, at_random=True,
    )  # fmt: skip
    return aggregated(replace(setup, stack=mixing), load, exists)


def _fits(plan: ServePlan, job: Job, sequences: Floats, context: float, tokens: Any) -> Any:
    """Whether ``sequences`` of ``context`` tokens fit the memory beside steps of ``tokens``, and fill the plan."""
    use = memory_use(
        job.model, plan, job.machine.chip, job.stack.memory, sequences=sequences, context=context, tokens=tokens
    )
    return (use.spare_bytes >= 0) & (sequences >= plan.pp * plan.microbatches)  # one for each microbatch of each stage


def prefill_points(plans: Sequence[ServePlan], job: Job, space: Space) -> Points:
    """Prefill instances of their own; TTFT is a batch of prompts alone and the move of one cache, without queueing.

    An instance sends one cache after the other, which bounds its rate where prompts are short.
    """
    prompts: Floats = np.array(space.prompts, dtype=float)

    def rows(once: Once, plan: ServePlan, exists: Any) -> dict[Role, dict[str, Any]]:
        budget = chunk_budget(plan, job, space)
        within = prompts * job.input_tokens <= step_tokens(plan, job, space)
        tokens = np.minimum(prompts * job.input_tokens, budget)
        keep = _fits(plan, job, prompts, job.input_tokens, tokens) & within & exists
        if not keep.any():
            return {"prefill": {"keep": keep[..., :0]}}
        setup = replace(job, price=replace(once, exists=keep).price).setup(plan)
        chunks = job.chunks(prompts, budget)
        seconds: Any = chunks * step(setup, job.prompts(prompts, plan.dp, chunks)).seconds
        move: Any = handover_s(setup, job)
        found = {
            "keep": keep,
            "sequences": prompts,
            "ttft_s": seconds + move,
            "requests_per_s": np.minimum(prompts * plan.dp / seconds, 1.0 / move),
        }
        return {"prefill": found}

    return gather(plans, job, {"prefill": prompts.size}, rows, 1)["prefill"]


def step_tokens(plan: ServePlan, job: Job, space: Space) -> Any:
    """Prompt tokens that one group prefills together: those of a step, or one longer prompt in several."""
    return np.maximum(chunk_budget(plan, job, space), job.input_tokens)


def chunk_budget(plan: ServePlan, job: Job, space: Space) -> Any:
    """Most prompt tokens of one group's step: the space's largest budget, under SP of each rank."""
    return max(job.stack.chunk_tokens, *space.chunks) * (plan.tp if plan.sp else 1)


def handover_s(setup: Setup, job: Job) -> Num:
    """Seconds to move one prompt's cache from a prefill rank group to decode."""
    size = float(kv_cache_bytes(setup.model, job.input_tokens, setup.plan.quant.kv)) / setup.plan.tp
    plane = "rdma" if "rdma" in setup.machine.planes else "scale_up"
    return job.price(Transfer(payload_bytes=size, plane=plane, distance=setup.plan.ranks), 1.0, 1.0).seconds
