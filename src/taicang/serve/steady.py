"""Steady state of a serving instance in closed form.

TPOT is the mean time per output token of a request after its first: (end to end - TTFT) / (output tokens - 1).
A decode step gives each sequence ``plan.tokens_per_step`` tokens. In one turn of a closed loop every other request is
prefilled once. Of those prefills a request meets some before its first token (they are ahead of it in a burst) and the
rest while it decodes; which share is the stack's ``burst_ratio``, and both together are always all of them, so that the
throughput does not depend on it. Queueing noise is not priced (the simulator's job).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from taicang.plans import Batch, decode_batch, prefill_batch, scaled
from taicang.serve.door import through_s
from taicang.serve.setup import Setup, scheduled_ahead, step
from taicang.serve.uneven import EVEN, Spread, slowest_ratio
from taicang.stacks import Stack
from taicang.timeline import Timeline
from taicang.units import Count, Num


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A closed loop: ``concurrency`` requests of ``input_tokens`` and ``output_tokens`` in flight in one instance."""

    concurrency: Count
    input_tokens: Count
    output_tokens: Count
    cached_ratio: float = 0.0
    """Share of the prompt found in a prefix cache."""
    room: Count = np.inf
    """Sequences that one attention group can run at once (its memory); the others wait for a place."""
    spread: Spread = EVEN
    """How unequal the lengths are."""
    at_random: bool = False
    """Prompts come to the attention groups one by one, as from many users. Otherwise a balanced closed loop hands them
    prompts together (TensorRT-LLM waits for that, the others drift towards it)."""
    group: Count | None = None
    """Requests of one attention group, where they are given instead of following from ``concurrency``: a search prices
    groups of one size once, however many of them the layouts have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steady:
    """What the closed form gives; arrays where the load is one of arrays."""

    ttft_s: Num
    tpot_s: Num
    step_s: Num
    """One decode step."""
    prefill_s: Num
    """One prompt alone."""
    output_tokens_per_s: Num
    """Of the instance."""
    decode: Timeline


def together(first: Batch, second: Batch) -> Batch:
    """Both batches in one step."""
    return Batch(**{each.name: getattr(first, each.name) + getattr(second, each.name) for each in fields(Batch)})


def aggregated(setup: Setup, load: Load, exists: NDArray[np.bool_] | None = None) -> Steady:
    """Prefill and decode share the instance, as vLLM, SGLang and TensorRT-LLM run by default.

    A scheduler that mixes puts prompt chunks into decode steps; one that prefills first runs steps of their own in
    between. Of the other requests' prefills in a turn, half of the share that keeps in step (``in_step``) come before a
    request's first token: in a full burst of equal requests the mean one has half of the others ahead of it. Where
    prompts need more steps than answers, those beyond are waited for before the first token. ``exists``: which cells of
    all arrays together are candidates, where not all are; times of the others mean nothing.
    """
    plan, stack = setup.plan, setup.stack
    mixed = stack.scheduler == "mixed"
    group = np.maximum(load.concurrency / plan.dp if load.group is None else load.group, 1.0)
    mine = np.minimum(group, load.room)
    spread = load.spread
    mean_context = load.input_tokens + load.output_tokens * spread.output_ratio / 2
    decoding = decode_batch(sequences=mine, context=mean_context * spread.decode_ratio(plan.dp, mine))
    decode = step(setup, decoding)
    if not np.any(load.output_tokens > 1):
        return _prefilled(setup, load, decode, mine * 1.0, group / mine, exists)
    new = np.maximum(load.input_tokens * (1.0 - load.cached_ratio), 1.0)
    steps = np.maximum((load.output_tokens - 1) / plan.tokens_per_step, 1.0)
    budget = _left_to_prompts(stack, mine * plan.query_len, new / (new + steps * plan.query_len))
    chunk, chunks = _chunk(load, plan.dp, budget)
    length = new / chunks
    others = np.maximum(mine - 1.0, 0.0) * chunks
    everybody = (mine * plan.dp - 1.0) * chunks if load.at_random else None
    carried, mean, packed = _carried(others, everybody, steps, length, budget, groups=plan.dp, mixed=mixed)
    met = chunks * (1.0 - 1.0 / mean) if mixed else 0.0  # those beside its own prompt are behind a request by then
    several = scaled(chunk, packed)
    alone = step(setup, chunk)
    carrying = _spent(setup, together(decoding, several) if mixed else several, exists)
    device = carrying.seconds - carrying.launch_wait_s
    if load.at_random and setup.plan.microbatches == 1:  # else they overlap with something
        more = carrying.experts_s - decode.of_part("experts")
        device = device - np.maximum(more, 0.0) * (1.0 - np.minimum(others / np.maximum(carried * packed, 1e-9), 1.0))
    # a step that prompts ride in is no shorter, though graphs in pieces may take it where decode alone outgrew them
    during = np.maximum(np.maximum(device, carrying.launches_s) - (decode.seconds if mixed else 0.0), 0.0)
    late = np.maximum(carried - steps, 0.0) if mixed else 0.0
    # prompts ahead in a burst share steps up to the budget: their work is waited for, not the host for each of them;
    # none is where the host paces the decode step anyway
    added = np.maximum(device - (_unhidden(setup, decoding, load, decode) if mixed else 0.0), 0.0)
    waited = 0.5 * in_step(stack, load, steps) * added
    beside = np.maximum(carried - late - met, 0.0)
    ahead = beside * np.minimum(waited, during)
    busy = steps * decode.seconds + beside * during - ahead
    company = np.where(np.asarray(mine) > 1, 1.0, 0.0)
    own = chunks * np.maximum(alone.seconds, company * (decode.seconds + during) if mixed else 0.0)
    prompts_s = _spent(setup, several, exists).seconds if np.any(late) else 0.0
    turn = (0.5 + scheduled_ahead(setup)) * decode.seconds * company + own + ahead + late * prompts_s + busy
    # where more requests are in flight than run, each waits for a place: the turns of those before it
    turns: Num = turn * (group / mine)
    door = through_s(stack, load.input_tokens)
    return Steady(
        ttft_s=turns - busy + door,
        tpot_s=busy / np.maximum(load.output_tokens - 1, 1.0),
        step_s=decode.seconds,
        prefill_s=alone.seconds * chunks,
        # an instance of requests at random is full, whoever still stands at its door
        output_tokens_per_s=load.concurrency * load.output_tokens / (turns + (0.0 if load.at_random else door)),
        decode=decode,
    )


def _chunk(load: Load, groups: Count, budget: Num) -> tuple[Batch, Num]:
    """The mean step of a prompt in pieces of at most ``budget`` tokens, and how many it takes."""
    new = np.maximum(load.input_tokens * (1.0 - load.cached_ratio), 1.0)
    chunks = np.maximum(new / budget, 1.0)
    length = new / chunks
    keys = (load.input_tokens - new + new * load.spread.input_ratio / 2) * load.spread.prompts_ratio(groups, length)
    return prefill_batch(sequences=1.0, length=length, cached=keys - length / 2), chunks


def _prefilled(
    setup: Setup, load: Load, decode: Timeline, mine: Num, turns: Num, exists: NDArray[np.bool_] | None
) -> Steady:
    """Answers of one token: an instance computes prompts alone, as many together as there are and a step takes.

    Each of ``mine`` requests of a group is prefilled once a turn, in steps that all groups take together; who finds no
    room waits for ``turns``. ``decode`` is a step that none takes.
    """
    budget = setup.stack.chunk_tokens
    chunk, chunks = _chunk(load, setup.plan.dp, budget)
    most = np.maximum(budget / chunk.prefill_tokens, 1.0)
    packed = np.minimum(mine * chunks, most)
    turn = mine * chunks / packed * _spent(setup, scaled(chunk, packed), exists).seconds * turns
    door = through_s(setup.stack, load.input_tokens)
    return Steady(
        ttft_s=turn + door,
        tpot_s=turn * 0.0,
        step_s=decode.seconds,
        prefill_s=step(setup, chunk).seconds * chunks,
        output_tokens_per_s=load.concurrency * load.output_tokens / (turn + (0.0 if load.at_random else door)),
        decode=decode,
    )


def _carried(
    others: Num, everybody: Num | None, steps: Num, length: Num, budget: Num, *, groups: Count, mixed: bool
) -> tuple[Num, Num, Num]:
    """Of ``steps``, those that carry chunks of others' prompts, and how many of them in each attention group, in the
    mean and in the fullest.

    ``others`` are those of the own group, ``everybody`` those of all where they come at random; a chunk has ``length``
    tokens, a step takes ``budget``.
    """
    carried = np.minimum(others, steps)
    if everybody is not None:
        carried = steps_with_prompts(everybody, steps)
        # all wait for the group that has the most, up to what a step takes: the rest rides with the next ones, or takes
        # steps of its own where prompts come first
        fullest = fullest_of(groups, others / np.maximum(carried, 1e-9))
        carried = carried if mixed else carried * np.maximum(fullest * length / budget, 1.0)
    carried = np.maximum(carried, others * length / budget)
    mean = np.maximum(others / np.maximum(carried, 1e-9), 1.0)
    packed = mean if everybody is None else np.clip(fullest, mean, np.maximum(budget / length, mean))
    return carried, mean, packed


def _left_to_prompts(stack: Stack, decoding: Num, share_ratio: Num) -> Num:
    """Of a step's token budget, beside ``decoding`` tokens: where prompts join them these come first; with too many for
    that fewer decode at a time, and the budget is shared as the tokens of a request are."""
    budget: Num = stack.chunk_tokens
    return np.maximum(budget - decoding, budget * share_ratio) if stack.scheduler == "mixed" else budget


def _unhidden(setup: Setup, decoding: Batch, load: Load, decode: Timeline) -> Num:
    """Seconds of a decode step that prompts beside it leave as they are: where two microbatches overlap, reading the
    prompts' keys may hide behind them, and counted here would let those who wait for longer prompts wait less."""
    if setup.plan.microbatches == 1:
        return decode.seconds
    own = decoding.decode_sequences * load.output_tokens / 2
    return step(setup, replace(decoding, decode_context=own)).seconds


class _Spent(NamedTuple):
    """Seconds of a step."""

    seconds: Num
    launches_s: Num
    launch_wait_s: Num
    experts_s: Num


def _spent(setup: Setup, batch: Batch, exists: NDArray[np.bool_] | None) -> _Spent:
    """A step in which the counts of every candidate differ: only those that exist are priced, one after another."""
    if exists is not None:
        setup = replace(setup, plan=_at(setup.plan, exists))
        batch = _at(batch, exists)
    run = step(setup, batch)
    spent = _Spent(run.seconds, run.launches_s, run.launch_wait_s, run.of_part("experts"))
    return spent if exists is None else _Spent(*(_spread(seconds, exists) for seconds in spent))


def _at(counts: Any, exists: NDArray[np.bool_]) -> Any:
    """A plan or batch of the candidates alone."""
    values = {each.name: getattr(counts, each.name) for each in fields(counts)}
    arrays = {name: v for name, v in values.items() if isinstance(v, np.ndarray)}
    return replace(counts, **{name: np.broadcast_to(v, exists.shape)[exists] for name, v in arrays.items()})


def _spread(seconds: Num, exists: NDArray[np.bool_]) -> Num:
    whole = np.ones(exists.shape)
    whole[exists] = seconds
    return whole


def in_step(stack: Stack, load: Load, steps: Num) -> Num:
    """Share of a closed loop whose prompts come as one burst.

    Where prompts come first, answers that began together and are equally long end in one step, and their clients send
    the next prompts together: the loop stays a burst. Lengths that differ spread the ends over so many of the
    ``steps``; then, and where prompts share steps with answers, it is what the stack was fitted at.
    """
    if stack.scheduler == "mixed" or load.at_random:
        return stack.burst_ratio
    ends = 1.0 + steps * np.sqrt(12.0 * (load.spread.output_ratio - 1.0))  # an even spread is so many deviations wide
    share: Num = stack.burst_ratio + (1.0 - stack.burst_ratio) / ends
    return share


def fullest_of(groups: Count, each: Num) -> Num:
    """Prompts in the fullest of ``groups`` where ``each`` has so many in the mean, which come one by one."""
    ratio = slowest_ratio(groups, 1.0 / np.maximum(each, 1e-9))
    found: Num = each * np.where(np.asarray(groups) > 1, ratio, 1.0)
    return found


def steps_with_prompts(chunks: Num, steps: Num) -> Num:
    """Of ``steps`` decode steps those that carry some of the ``chunks`` of prompts, which come at random times: a step
    has none with the chance of a Poisson count."""
    return -steps * np.expm1(-chunks / steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pools:
    """Prefill instances that feed decode instances."""

    prefill: Setup
    prefill_instances: Count
    prefill_sequences: Count
    """Prompts that one attention group prefills together."""
    decode: Setup
    decode_instances: Count


def disaggregated(pools: Pools, load: Load, transfer_s: Num) -> Steady:
    """Prefill and decode in instances of their own; ``transfer_s`` moves one prompt's cache.

    A burst of the loop's requests queues at the prefill instances, half of it ahead of the mean request; the stack's
    ``burst_ratio`` is the share of the loop that keeps in step.
    """
    groups = pools.decode.plan.dp * pools.decode_instances
    new = np.maximum(load.input_tokens * (1.0 - load.cached_ratio), 1.0)
    batch = prefill_batch(sequences=pools.prefill_sequences, length=new, cached=load.input_tokens - new)
    prompt = step(pools.prefill, batch)
    mean_context = load.input_tokens + load.output_tokens / 2
    steps = np.maximum((load.output_tokens - 1) / pools.decode.plan.tokens_per_step, 1.0)
    # requests in prefill are not in a decode batch: solve n_decode = concurrency * t_decode / (t_decode + t_prefill)
    entering = pools.prefill_instances * pools.prefill.plan.dp * pools.prefill_sequences
    rounds = np.maximum(load.concurrency / entering - 1.0, 0.0)
    queued = (0.5 * pools.prefill.stack.burst_ratio) * rounds * prompt.seconds
    first = prompt.seconds + queued + transfer_s
    decoding: Num = load.concurrency * 1.0
    for _ in range(12):
        per_group = np.maximum(decoding / groups, 1.0)
        decode = step(pools.decode, decode_batch(sequences=per_group, context=mean_context))
        stay = steps * decode.seconds
        rate = np.minimum(entering / prompt.seconds, load.concurrency / (stay + first))
        decoding = 0.5 * decoding + 0.5 * rate * stay
    in_prefill = np.maximum(load.concurrency - decoding - rate * transfer_s, 0.0)
    ttft = np.maximum(in_prefill / np.maximum(rate, 1e-12) + transfer_s, first)
    return Steady(
        ttft_s=ttft,
        tpot_s=stay / np.maximum(load.output_tokens - 1, 1.0),
        step_s=decode.seconds,
        prefill_s=prompt.seconds,
        output_tokens_per_s=rate * load.output_tokens,
        decode=decode,
    )
