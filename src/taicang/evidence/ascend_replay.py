"""Published figures of CloudMatrix384 that the serving simulator answers: the context cache, and a full decode pool.

Context cache (CloudMatrix-Infer, arXiv 2506.12708 section 5.4.3): two prefill instances share a memory pool. A first
round computes the heads of all prompts; in the second, every prompt goes to the instance that has not seen its head and
fetches it from the pool over the plane. The batch is the source's: 16,384 prompt tokens per chip, all at once.

Decode pool (xDeepServe, arXiv 2508.02520 section 6): requests whose prompt is in the cache keep every group full; each
that ends is followed by the next. Nothing is fitted on these rows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import MappingProxyType

import numpy as np

from taicang import catalog
from taicang.evidence import ascend_serving
from taicang.evidence.measured import attempt
from taicang.evidence.score import Outcome
from taicang.serve.build import Keeping, Pool, Tier, cluster
from taicang.serve.request import SECOND, Request
from taicang.serve.scheduler import Limits
from taicang.serve.setup import Setup
from taicang.serve.simulate import simulate

PROMPT = 4096
BATCH = 64
"""Prompts of one instance: 16,384 tokens on each of 16 chips."""
BLOCK = 128
"""Tokens of a block; the source has 128 to 512."""
POOL_BYTES = 1e12
LATER = 1000 * SECOND
"""When the second round comes: the first is long over."""


def _setup(row: ascend_serving.Row, microbatches: int) -> Setup:
    return ascend_serving.setup_of(row, catalog.stack(row.stack), microbatches)


def _row(name: str) -> ascend_serving.Row:
    return next(row for row in ascend_serving.rows() if row.id == name)


@cache
def prefill_round(reuse_ratio: float, plane: str) -> tuple[float, float]:
    """(mean TTFT, time until all prompts are through) of a batch of which ``reuse_ratio`` comes from the pool."""
    setup = _setup(_row("cm_v2/t3/prefill"), 2)
    limits = Limits(tokens=BATCH * PROMPT, sequences=BATCH)
    made = cluster(
        Pool(setup=setup, instances=2, limits=limits), context=float(PROMPT), router="round-robin",
        keeping=Keeping(block_tokens=BLOCK, tiers=(Tier(name="pool", size_bytes=POOL_BYTES, plane=plane),)),
    )  # fmt: skip
    held = round(PROMPT * reuse_ratio / BLOCK)
    heads = [list(range(i * held, (i + 1) * held)) for i in range(2 * BATCH)]
    first = [Request(i, 0, held * BLOCK, 1, blocks=head) for i, head in enumerate(heads) if held]
    # one prompt more, so that the turns of the router come round the other way
    odd = [Request(2 * BATCH, 0, BLOCK, 1)] if held else []
    last = 2 * BATCH * held
    second = [
        Request(2 * BATCH + 1 + i, LATER, PROMPT, 1, blocks=[*head, *range(last + 32 * i, last + 32 * i + 32 - held)])
        for i, head in enumerate(heads)
    ]
    simulate(made, iter([*first, *odd, *second]))
    waits = np.asarray([request.first - LATER for request in second], dtype=float) / SECOND
    return float(waits.mean()), float(waits.max())


def reuse_gain() -> float:
    """Prefill throughput at half of the tokens from the cache, over that at an eighth."""
    return prefill_round(0.125, "scale_up")[1] / prefill_round(0.5, "scale_up")[1]


def plane_gain() -> float:
    """The most that loading over UB gains in throughput over loading through VPC, by share of reuse.

    Here an instance begins with the prompts that have come and loads the others meanwhile; an engine whose batch waits
    for its last block, or whose VPC stays below the line rate, gains more.
    """
    shares = (0.125, 0.25, 0.5, 0.9)
    return max(prefill_round(share, "vpc")[1] / prefill_round(share, "scale_up")[1] for share in shares)


def first_token(reuse_ratio: float) -> Callable[[], float]:
    """TTFT with that share of the prompt from the cache, over that without a cache."""
    return lambda: prefill_round(reuse_ratio, "scale_up")[0] / prefill_round(0.0, "scale_up")[0]


@cache
def decode_pool() -> tuple[float, float]:
    """(TPOT, output tokens per second and chip) of xDeepServe's colocated pool, all groups full."""
    row = _row("xds_v6/s6/rate")
    setup = _setup(row, 1)
    limits = Limits(tokens=row.batch * 2, sequences=row.batch, reserve=True)
    context = row.input_tokens + row.output_tokens / 2
    made = cluster(Pool(setup=setup, instances=1, limits=limits), context=context)
    draw = random.Random(0)
    slots = row.batch * row.dies

    def ready(number: int, now: int, cached: int, left: int) -> Request:
        request = Request(number, now, cached, left + 1)
        request.done, request.made, request.started, request.first = cached, 1, now, now
        return request

    def following(request: Request, now: int) -> Request | None:
        return ready(request.id + slots, now, row.input_tokens, row.output_tokens) if request.id < 2 * slots else None

    # the first answers are under way: each slot somewhere in its answer
    passed = [draw.randrange(row.output_tokens) for _ in range(slots)]
    started = [ready(i, 0, row.input_tokens + at, row.output_tokens - at) for i, at in enumerate(passed)]
    finished = simulate(made, iter(started), after=following)
    whole = [request for request in finished if slots <= request.id < 2 * slots]
    tpot = float(np.mean([(r.end - r.first) / row.output_tokens for r in whole])) / SECOND
    ends = np.sort(np.asarray([r.end for r in whole], dtype=float)) / SECOND
    middle = ends[slots // 10 : -(slots // 10)]
    rate = (len(middle) - 1) * row.output_tokens / (middle[-1] - middle[0])
    return tpot, float(rate) / (row.dies / 2)


ROWS: Mapping[str, tuple[float, str, Callable[[], float]]] = MappingProxyType(
    {
        "cm_v2/5.4.3/reuse": (1.42, "ratio", reuse_gain),
        "cm_v2/5.4.3/ttft/half": (1.0 - 0.34, "ratio", first_token(0.5)),
        "cm_v2/5.4.3/planes": (1.52, "ratio", plane_gain),
        "xds_v6/s6/replay/tpot": (50.0, "ms", lambda: decode_pool()[0] * 1e3),
        "xds_v6/s6/replay/rate": (2400.0, "tok/s", lambda: decode_pool()[1]),
    }
)
"""Published value, its unit, and what the simulator says of it."""


def outcomes() -> Iterator[Outcome]:
    """All rows, held out: no constant was chosen with them."""
    for name, (measured, unit, predict) in ROWS.items():
        predicted, why = attempt(predict)
        yield Outcome(
            id=name, suite="ascend_replay", group=name.rsplit("/", 1)[0], measured=measured, predicted=predicted,
            unit=unit, held_out=True, refused=why,
        )  # fmt: skip
