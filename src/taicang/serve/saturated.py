"""Throughput of an instance whose queue never empties.

At saturation an instance keeps as many sequences in flight as memory, or the engine, allows. Over the life of one
sequence every other one is prefilled once, so a cycle of ``n`` decode steps costs n steps and one prompt of each; what
leaves is ``sequences x output_tokens``. Where prompts are long and answers short the cycle is prefill alone, which the
same sum covers. Attention groups are taken to prefill at the same time (a scheduler that balances them).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from taicang.plans import decode_batch, prefill_batch
from taicang.serve.memory import memory_use
from taicang.serve.queueing import wait_s
from taicang.serve.setup import Setup, step
from taicang.serve.steady import together
from taicang.units import Count, Num

ENGINE_SEQUENCES = 4096
"""Sequences of one attention group beyond which engines do not go by default."""
DRAIN_PIECES = 16
BUDGETS = 5
"""Token budgets of a step that are tried under a latency limit: the stack's own, halved up to four times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saturated:
    """Candidates by sequences of one attention group; arrays of one shape."""

    sequences: Num
    output_tokens_per_s: Num
    """Of the instance."""
    tpot_s: Num
    """Mean time per output token, with the prompts of others in between."""
    ttft_s: Num
    """A prompt's own chunks and the steps that they ride in, without queueing."""
    carrying_ratio: Num
    """Share of the time that goes to steps which carry prompts; above 1, more prompts than steps can carry."""


def most_sequences(setup: Setup, *, context: float, tokens: float, limit: int = ENGINE_SEQUENCES) -> int:
    """Sequences of one attention group that fit in memory with ``context`` tokens each; 0 where none does."""
    sizes: Any = np.arange(1.0, limit + 1.0)
    use = memory_use(
        setup.model, setup.plan, setup.machine.chip, setup.stack.memory,
        sequences=sizes, context=context, tokens=np.maximum(tokens, sizes),
    )  # fmt: skip
    fits = np.broadcast_to(np.asarray(use.spare_bytes) >= 0, sizes.shape)
    return int(fits.sum())


def saturated(
    setup: Setup, sequences: Count, *, input_tokens: float, output_tokens: float, spread: float = 0.0
) -> Saturated:
    """``sequences`` of each attention group always in flight; a float or an array of candidates.

    ``spread`` is the answers' standard deviation over their mean. A sequence in flight is more likely a long one
    (length-biased sampling), so the mean answer behind it is (1 + spread^2) / 2 of the mean answer.
    """
    plan, stack = setup.plan, setup.stack
    decoding = decode_batch(sequences=sequences, context=input_tokens + output_tokens * (1.0 + spread * spread) / 2)
    decode = step(setup, decoding).seconds
    budget = float(stack.chunk_tokens)
    # prompts are packed to the step's token budget; long ones are cut to it
    packed = max(budget / input_tokens, 1.0)
    chunks = max(input_tokens / budget, 1.0)
    length = input_tokens / chunks
    piece = prefill_batch(sequences=packed, length=length, cached=(input_tokens - length) / 2)
    alone = step(setup, piece).seconds
    shared = step(setup, together(decoding, piece)).seconds - decode
    carried = np.minimum(np.maximum(shared, 0.0), alone) if stack.scheduler == "mixed" else alone
    prompt = carried * chunks / packed
    steps = max((output_tokens - 1) / plan.tokens_per_step, 1.0)
    cycle = steps * decode + sequences * prompt
    return Saturated(
        sequences=sequences * 1.0,
        output_tokens_per_s=sequences * plan.dp * output_tokens / cycle,
        tpot_s=cycle / output_tokens,
        ttft_s=chunks * (decode + carried),
        carrying_ratio=sequences * (decode + carried) * chunks / packed / cycle,
    )


def offline(
    setup: Setup, *, input_tokens: float, output_tokens: float, requests: float = 0.0, spread: float = 0.0
) -> Saturated | None:
    """All requests queued: the largest batch that memory allows; ``None`` where nothing fits.

    The whole answer's cache is reserved when a request starts (no eviction), as TensorRT-LLM does by default. A queue
    of finitely many ``requests`` (0: no end) of one length runs in waves: the last one is not full.
    """
    most = most_sequences(setup, context=input_tokens + output_tokens, tokens=float(setup.stack.chunk_tokens))
    if most == 0:
        return None
    each = requests / setup.plan.dp
    full = float(min(most, each)) if requests else float(most)
    found = saturated(setup, full, input_tokens=input_tokens, output_tokens=output_tokens, spread=spread)
    waves = np.floor(each / full)
    rest = each - waves * full
    if not requests or rest < 1.0:
        return found
    last = saturated(setup, rest, input_tokens=input_tokens, output_tokens=output_tokens, spread=spread)
    seconds = waves * found.tpot_s * output_tokens + last.tpot_s * output_tokens
    return replace(found, output_tokens_per_s=requests * output_tokens / seconds)


def limited(
    setup: Setup, *, input_tokens: float, output_tokens: float, spread: float, tpot_s: float, ttft_s: float
) -> Saturated | None:
    """The batch and the step's token budget with the most tokens whose TPOT and TTFT hold; ``None`` where none does.

    Prompts arrive as a Poisson stream and are prefilled in order; 99 in 100 are to keep the limits.
    """
    context = input_tokens + output_tokens
    best: Saturated | None = None
    for halved in range(BUDGETS):
        stack = replace(setup.stack, chunk_tokens=setup.stack.chunk_tokens >> halved)
        small = replace(setup, stack=stack)
        most = most_sequences(small, context=context, tokens=float(stack.chunk_tokens))
        if most == 0:
            continue
        sizes: Any = np.unique(np.round(np.geomspace(1.0, float(most), 40)))
        found = saturated(small, sizes, input_tokens=input_tokens, output_tokens=output_tokens, spread=spread)
        tpot, ttft, rate = (np.asarray(each) for each in (found.tpot_s, found.ttft_s, found.output_tokens_per_s))
        busy = np.minimum(np.asarray(found.carrying_ratio), 0.999)
        wait = wait_s(busy, ttft, 0.99)
        meets = (tpot <= tpot_s) & (ttft + wait <= ttft_s)
        at = int(np.argmax(np.where(meets, rate, 0.0)))
        if meets.any() and (best is None or float(rate[at]) > float(np.max(best.output_tokens_per_s))):
            best = Saturated(
                sequences=float(sizes[at]),
                output_tokens_per_s=float(rate[at]),
                tpot_s=float(tpot[at]),
                ttft_s=float(ttft[at]),
                carrying_ratio=float(busy[at]),
            )
    return best


def drained(
    setup: Setup, full: Saturated, *, requests: float, input_tokens: float, output_tokens: float, longest: float
) -> float:
    """Output tokens per second of a whole run of ``requests`` with exponential answers of at most ``longest`` tokens.

    When the queue is empty the sequences in flight leave one by one, ``n exp(-s / mean)`` being left after s more
    tokens: what remains is as much work as before (no memory), at steps that are hardly shorter for smaller batches.
    """
    plan = setup.plan
    each = requests / plan.dp
    flying = float(np.minimum(np.max(full.sequences), each))
    start = saturated(setup, flying, input_tokens=input_tokens, output_tokens=output_tokens, spread=1.0)
    ahead = (each - flying) * plan.dp * output_tokens / float(np.max(start.output_tokens_per_s))
    edges = np.linspace(0.0, longest, DRAIN_PIECES + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    left: Any = np.maximum(flying * np.exp(-middle / output_tokens), 1.0)
    context = input_tokens + output_tokens + middle / 2
    steps: Any = step(setup, decode_batch(sequences=left, context=context)).seconds
    tail = float((steps * np.diff(edges) / plan.tokens_per_step).sum())
    first = flying * input_tokens / max(float(setup.stack.chunk_tokens), 1.0)
    prompts = float(
        step(setup, prefill_batch(sequences=setup.stack.chunk_tokens / input_tokens, length=input_tokens)).seconds
    )
    return requests * output_tokens / (ahead + tail + first * prompts)
