"""Ascend: what is said of the carried rows of its operators and of its bus, and its serving by the simulator."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType

import numpy as np

from taicang import catalog
from taicang.catalog import calibration
from taicang.cost.attend_mla import attend_mla
from taicang.evidence import ascend_serving, suite_collective
from taicang.evidence.fitting import Fitted
from taicang.evidence.kernels import ASCEND, absorbed, ascend_gemm_rows, mla_constants, price
from taicang.evidence.score import Outcome
from taicang.evidence.tables import CARRIED, Cells, lines
from taicang.fabric.links import VerbFit, message_s
from taicang.serve.build import Keeping, Pool, Tier, cluster
from taicang.serve.request import SECOND, Request
from taicang.serve.scheduler import Limits
from taicang.serve.setup import Setup
from taicang.serve.simulate import simulate


def calls() -> Iterator[Outcome]:
    """Grouped int8 products, dispatch and combine."""
    rows = ascend_gemm_rows()
    priced = partial(price, rows)
    names = tuple(name.replace(" int8 ", "/gemm/") for name in rows.ids)
    rows = replace(rows, suite="ascend_operators", kernel="gemm int8", ids=names)
    yield from rows.outcomes(priced)
    yield from suite_collective.carried_calls("ascend_operators")


def latent_rate(row: Cells) -> float:
    """FLOP or bytes per second of latent attention far on either side of the ridge.

    The paper names no shapes: 128 heads with four query tokens (three drafts) stand for "compute bound", 16 heads with
    one for "memory bound", each 96 sequences of 32,768 tokens, so that the launch floor does not matter.
    """
    chip = catalog.chip(ASCEND)
    heads, queries = (128.0, 4.0) if row["bound"] == "compute" else (16.0, 1.0)
    op = absorbed(96.0, 32768.0, heads, row["kv_dtype"], dtype=row["dtype"], queries=queries)
    cost = attend_mla(op, chip, mla_constants(chip, op))
    done = cost.flop if row["bound"] == "compute" else op.context * op.qk_dim * 2.0
    return float(done / cost.seconds)


PROMPT = 4096
BATCH = 64
"""Prompts of one instance: 16,384 tokens on each of 16 chips."""
BLOCK = 128
"""Tokens of a block; the source has 128 to 512."""
POOL_BYTES = 1e12
LATER = 1000 * SECOND
"""When the second round comes: the first is long over."""


def _row(name: str, microbatches: int) -> tuple[ascend_serving.Row, Setup]:
    row = next(row for row in ascend_serving.rows() if row.id == name)
    return row, ascend_serving.setup_of(row, catalog.stack(row.stack), microbatches)


@cache
def prefill_round(reuse_ratio: float, plane: str) -> tuple[float, float]:
    """(mean TTFT, time until all prompts are through) of a batch of which ``reuse_ratio`` comes from the pool.

    Two prefill instances share it (CloudMatrix-Infer, arXiv 2506.12708 section 5.4.3). A first round computes the heads
    of all prompts; in the second, every prompt goes to the instance that has not seen its head and fetches it from the
    pool over the plane. The batch is the source's: 16,384 prompt tokens per chip, all at once.
    """
    _, setup = _row("cm_v2/t3/prefill", 2)
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


def first_token(reuse_ratio: float) -> float:
    """TTFT with that share of the prompt from the cache, over that without a cache."""
    return prefill_round(reuse_ratio, "scale_up")[0] / prefill_round(0.0, "scale_up")[0]


@cache
def decode_pool() -> tuple[float, float]:
    """(TPOT, output tokens per second and chip) of xDeepServe's colocated pool (arXiv 2508.02520 section 6).

    Requests whose prompt is in the cache keep every group full; each that ends is followed by the next.
    """
    row, setup = _row("xds_v6/s6/rate", 1)
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


FIGURES: Mapping[str, Callable[[], float]] = MappingProxyType(
    {
        "reuse": reuse_gain,
        "planes": plane_gain,
        "ttft at half": partial(first_token, 0.5),
        "tpot": lambda: decode_pool()[0] * 1e3,
        "rate": lambda: decode_pool()[1],
    }
)


def replayed(row: Cells) -> float:
    """What the simulator says of a row of ``data/ascend_replay.csv``."""
    return FIGURES[row["figure"]]()


LINKS = CARRIED / "ub_links.csv"
LINKS_PROFILE = "ub-a3"
SMALL_BYTES, LARGE_BYTES = 512.0, 1e12
"""Latency was measured with 512 bytes; bandwidth is that of a message without end."""
TIERS = {"node": 1, "supernode": 2}


def rate_bytes_per_s() -> float:
    """Line rate of a die."""
    return catalog.machine("cloudmatrix384").plane("scale_up").levels[1].bandwidth_bytes_per_s


def fit_links(folder: Path) -> Fitted:
    """Each verb from its row inside a node; one crossing from both verbs between NPUs of two nodes."""
    del folder  # the rows are carried
    rows = {row["id"]: row for row in lines(LINKS)}
    crossings = [
        (float(rows[f"npu/{verb}/supernode"]["latency_us"]) - float(rows[f"npu/{verb}/node"]["latency_us"])) * 1e-6
        for verb in ("read", "write")
    ]
    keyed = {}
    for key in ("npu/read", "npu/write", "cpu/read", "cpu/write"):
        near = rows[f"{key}/node"]
        reached = float(near["bandwidth_gb_s"]) * 1e9
        keyed[key] = {
            "efficiency_ratio": reached / rate_bytes_per_s(),
            "latency_s": float(near["latency_us"]) * 1e-6 - SMALL_BYTES / reached,
            "crossing_s": float(np.mean(crossings)),
        }
    return Fitted(files={"links": {LINKS_PROFILE: keyed}}, rows=len(keyed))


def _link_s(row: Cells, size_bytes: float) -> float:
    fit = calibration.fits("links", VerbFit)[LINKS_PROFILE][f"{row['memory']}/{row['verb']}"]
    return float(message_s(fit, size_bytes, rate_bytes_per_s(), TIERS[row["scope"]]))


def link_latency_us(row: Cells) -> float:
    """Latency of a small message over the bus."""
    return _link_s(row, SMALL_BYTES) * 1e6


def link_gb_s(row: Cells) -> float:
    """Bandwidth of a large one."""
    return LARGE_BYTES / _link_s(row, LARGE_BYTES) / 1e9


def between_nodes(row: Cells) -> bool:
    """Whether a row crosses the supernode: its bandwidth was seen by no fit."""
    return row["scope"] == "supernode"


def unseen_latency(row: Cells) -> bool:
    """Latencies between NPUs of two nodes tell what a crossing takes."""
    return between_nodes(row) and row["memory"] != "npu"
