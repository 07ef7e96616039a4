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
from taicang.serve.setup import Setup, step
from taicang.serve.steady import Load, together
from taicang.units import Count, Num

ENGINE_SEQUENCES = 4096
"""Sequences of one attention group beyond which engines do not go by default."""
TAIL_RATIO = 4.6
"""The 99th percentile of an exponential wait over its mean: ln 100."""


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


def most_sequences(setup: Setup, *, context: float, tokens: float, limit: int = ENGINE_SEQUENCES) -> int:
    """Sequences of one attention group that fit in memory with ``context`` tokens each; 0 where none does."""
    sizes: Any = np.arange(1.0, limit + 1.0)
    use = memory_use(
        setup.model, setup.plan, setup.machine.chip, sequences=sizes, context=context, tokens=np.maximum(tokens, sizes)
    )
    fits = np.broadcast_to(np.asarray(use.spare_bytes) >= 0, sizes.shape)
    return int(fits.sum())


def saturated(setup: Setup, sequences: Count, *, input_tokens: float, output_tokens: float) -> Saturated:
    """``sequences`` of each attention group always in flight; a float or an array of candidates."""
    plan, stack = setup.plan, setup.stack
    decoding = decode_batch(sequences=sequences, context=input_tokens + output_tokens / 2)
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
    )


def offline(setup: Setup, *, input_tokens: float, output_tokens: float, requests: float = 0.0) -> Saturated | None:
    """All requests queued: the largest batch that memory allows; ``None`` where nothing fits.

    The whole answer's cache is reserved when a request starts (no eviction), as TensorRT-LLM does by default. A queue
    of finitely many ``requests`` (0: no end) of one length runs in waves: the last one is not full.
    """
    most = most_sequences(setup, context=input_tokens + output_tokens, tokens=float(setup.stack.chunk_tokens))
    if most == 0:
        return None
    each = requests / setup.plan.dp
    full = float(min(most, each)) if requests else float(most)
    found = saturated(setup, full, input_tokens=input_tokens, output_tokens=output_tokens)
    waves = np.floor(each / full)
    rest = each - waves * full
    if not requests or rest < 1.0:
        return found
    last = saturated(setup, rest, input_tokens=input_tokens, output_tokens=output_tokens)
    seconds = waves * found.tpot_s * output_tokens + last.tpot_s * output_tokens
    return replace(found, output_tokens_per_s=requests * output_tokens / seconds)


def limited(setup: Setup, load: Load, *, tpot_s: float, ttft_s: float) -> Saturated | None:
    """The batch with the most tokens whose TPOT and TTFT hold at the 99th percentile; ``None`` where none does.

    Arrivals are Poisson: the tail of the waiting time is taken as exponential (M/G/1 in heavy traffic), so a prompt's
    wait of ``ttft_s`` at the 99th percentile allows a mean wait of a ``TAIL_RATIO``-th of it.
    """
    isl, osl = float(np.max(load.input_tokens)), float(np.max(load.output_tokens))
    most = most_sequences(setup, context=isl + osl, tokens=float(setup.stack.chunk_tokens))
    if most == 0:
        return None
    sizes: Any = np.unique(np.round(np.geomspace(1.0, float(most), 40)))
    found = saturated(setup, sizes, input_tokens=isl, output_tokens=osl)
    served = np.asarray(found.output_tokens_per_s)
    own = np.asarray(found.ttft_s)
    meets = (np.asarray(found.tpot_s) <= tpot_s) & (own <= ttft_s / 2.0)
    if not meets.any():
        return None
    at = int(np.argmax(np.where(meets, served, 0.0)))
    return Saturated(
        sequences=float(sizes[at]),
        output_tokens_per_s=float(served[at]),
        tpot_s=float(np.asarray(found.tpot_s)[at]),
        ttft_s=float(own[at]),
    )
