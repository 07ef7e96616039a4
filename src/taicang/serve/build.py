"""Instances from setups: step tables, pages of cache, the link between pools, and how long weights take to come.

Weights come from storage (cold), or from the memory pool of all hosts (warm), at the rates that CloudMatrix384's model
cache showed with 671 GB of weights (arXiv 2506.12708, section on model caching): 320 s from a bucket of the object
store, which all instances share; 5 s from pooled memory onto instances of 16 chips (assumed: those that compute its
prompts).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias, get_args

from taicang.errors import InvalidInput, NotModelled
from taicang.models.count import kv_cache_bytes
from taicang.ops import Transfer
from taicang.plans import ServePlan
from taicang.serve.cache import Cache, Eviction
from taicang.serve.cluster import Cluster
from taicang.serve.door import Rounds
from taicang.serve.fleet import Fleet, Weights
from taicang.serve.held import Kit
from taicang.serve.instance import Instance
from taicang.serve.memory import PAGE, cache_tokens, in_pages, memory_use
from taicang.serve.pace import NO_TIME, Jitter, Link
from taicang.serve.request import FOREVER, SECOND
from taicang.serve.router import Router
from taicang.serve.scheduler import Limits
from taicang.serve.setup import Setup, scheduled_ahead
from taicang.serve.steptable import StepTable
from taicang.serve.store import Shelf, Store

Source: TypeAlias = Literal["cold", "warm"]
SOURCES: Final[tuple[Source, ...]] = get_args(Source)
_MEASURED: Final = 671e9
STORE_BYTES_PER_S: Final = _MEASURED / 320.0
POOL_BYTES_PER_S: Final = _MEASURED / 16.0 / 5.0
"""Of one chip."""


def loading_s(setup: Setup, source: Source) -> float:
    """Seconds until all ranks of an instance of ``setup`` hold their weights; nothing else of a start is in it."""
    if source == "cold":  # the store is read once
        return stored_bytes(setup) / STORE_BYTES_PER_S
    return _weight_bytes(setup, setup.plan) * setup.machine.chip.dies / POOL_BYTES_PER_S


def stored_bytes(setup: Setup) -> float:
    """Weights of the model as they lie in a store, each once."""
    return _weight_bytes(setup, ServePlan(quant=setup.plan.quant))


def _weight_bytes(setup: Setup, plan: ServePlan) -> float:
    use = memory_use(setup.model, plan, setup.machine.chip, setup.stack.memory, sequences=0.0, context=0.0, tokens=0.0)
    return float(use.weights_bytes)


CACHE_PLANES = ("rdma", "scale_up", "vpc")
"""Planes that caches move on between pools: the first that the machine has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """``instances`` equal instances."""

    setup: Setup
    instances: int
    limits: Limits
    pages: int | None = None
    """Of cache, in each attention group (None: those that fit)."""
    table: StepTable | None = None
    """Times of its steps, where they were found before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """Memory beside the instances that keeps prompt blocks."""

    name: str
    size_bytes: float
    plane: str = ""
    """Plane of the machine that it is reached over."""
    bandwidth_bytes_per_s: float | None = None
    """What one instance reads from it, where it lies behind none of the machine's planes."""
    own: bool = False
    """Each instance has so much to itself; otherwise all share it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """How prompt blocks are kept for later prompts."""

    block_tokens: int = 0
    """Tokens that are shared at once (0: nothing is)."""
    tiers: tuple[Tier, ...] = ()
    """Beside device memory, the nearest first."""
    eviction: Eviction = "lru"
    ttl_s: float = math.inf
    """Blocks in ``tiers`` go when they have not been used for so long."""
    answers: bool = False
    """Instances that only decode write to ``tiers`` too."""


def kit(pool: Pool, *, context: float, keeping: Keeping, seed: int = 0) -> Kit:
    """What each instance of ``pool`` is made of."""
    setup, limits, block = pool.setup, pool.limits, keeping.block_tokens
    page = PAGE if block % PAGE == 0 else 1
    pages = pool.pages
    if pages is None:
        held = in_pages(context, page)  # a short sequence's page is not full, its state is whole
        pages = int(cache_tokens(setup, tokens=float(limits.tokens), context=held)) // page
    return Kit(
        table=step_table(pool),
        limits=replace(limits, ahead=limits.ahead and bool(scheduled_ahead(setup))),
        cache=Cache(pages, page, block, keeping.eviction),
        groups=setup.plan.dp,
        draw=lambda name: drafting(int(setup.plan.draft_tokens), setup.plan.acceptance_ratio, seed + name),
    )


def step_table(pool: Pool) -> StepTable:
    """Times of the steps that instances of ``pool`` may make."""
    return pool.table or StepTable(pool.setup, sequences=pool.limits.sequences, tokens=pool.limits.tokens)


def instances(
    pool: Pool, made_of: Kit, *, role: str, name: str = "", first: int = 0, seed: int = 0, single: bool = False,
    jitter_s: float = 0.0,
) -> list[Instance]:  # fmt: skip
    """The instances of ``pool``, numbered from ``first``; their hosts are late by ``jitter_s`` in the mean. ``name`` is
    that of the pool, where it is not the role."""
    setup = pool.setup
    swap = link(setup, setup, "host") if pool.limits.swap_tokens else NO_TIME
    return [
        Instance(
            number, made_of.table, made_of.limits, made_of.caches(), role=role, pool=name, single=single,
            steps_of=made_of.draw(number), swap=swap,
            jitter=Jitter(jitter_s, setup.plan.ranks, seed + number) if jitter_s else None,
        )
        for number in range(first, first + pool.instances)
    ]  # fmt: skip


def drafting(drafts: int, acceptance: float, seed: int) -> Callable[[int], int] | None:
    """Draws the steps that some tokens take when each of ``drafts`` drafted tokens is accepted with a chance.

    The number of tokens per step has mean m and variance v; n tokens take n / m steps with variance n v / m^3 (renewal
    theorem), and at least n / (drafts + 1).
    """
    if not drafts:
        return None
    chances = [acceptance**i * (1 - acceptance) for i in range(drafts)] + [acceptance**drafts]
    mean = sum((i + 1) * p for i, p in enumerate(chances))
    variance = sum((i + 1 - mean) ** 2 * p for i, p in enumerate(chances))
    cube, most = mean**3, drafts + 1
    gauss = random.Random(seed).gauss

    def steps(tokens: int) -> int:
        drawn = gauss(tokens / mean, (tokens * variance / cube) ** 0.5)
        count, least = round(drawn), -(-tokens // most)
        return least if count < least else min(count, tokens)

    return steps


def link(prefill: Setup, decode: Setup, plane: str = "", *, block_tokens: int = 0) -> Link:
    """The move of one prompt's cache: each rank of the instance moves its share at once.

    As one message, or (``block_tokens``) a message per block and layer, one after the other: pooled blocks are
    scattered, and a paged cache lies layer by layer.
    """
    plane = plane or next((each for each in CACHE_PLANES if each in prefill.machine.planes), "")
    if not plane:
        raise NotModelled(f"{prefill.machine.name} has no plane for caches to move on ({', '.join(CACHE_PLANES)})")

    def seconds(tokens: float) -> float:
        whole = float(kv_cache_bytes(decode.model, tokens, decode.plan.quant.kv))
        share = tokens / prefill.plan.tp
        messages = max(share / block_tokens * decode.model.layers, 1.0) if block_tokens else 1.0
        move = Transfer(
            payload_bytes=whole / prefill.plan.tp, plane=plane, distance=prefill.plan.ranks, messages=messages
        )
        return float(prefill.price(move, 1.0, 1.0).seconds)

    near, far = seconds(1024.0), seconds(9216.0)
    per_token = (far - near) / 8192.0
    return Link(base=round(max(near - 1024.0 * per_token, 0.0) * SECOND), per_token=round(per_token * SECOND))


def swap_tokens(setup: Setup, host_bytes: float) -> int:
    """Tokens of cache of one attention group that ``host_bytes`` of an instance's host memory hold."""
    each = float(kv_cache_bytes(setup.model, 1024.0, setup.plan.quant.kv)) / 1024.0
    return int(host_bytes / setup.plan.dp / each)


def store(setup: Setup, keeping: Keeping) -> Store | None:
    """The memory beside instances of ``setup``; None without tiers.

    Raises ``InvalidInput`` where nothing is shared, ``NotModelled`` where the machine lacks a tier's plane.
    """
    if not keeping.tiers:
        return None
    if not keeping.block_tokens:
        raise InvalidInput("the requests have no prefix hashes, so no memory beside the instances is of use to them")
    each = float(kv_cache_bytes(setup.model, float(keeping.block_tokens), setup.plan.quant.kv))
    ttl = FOREVER if math.isinf(keeping.ttl_s) else round(keeping.ttl_s * SECOND)

    def way(tier: Tier) -> Link:
        if tier.bandwidth_bytes_per_s is None:
            return link(setup, setup, tier.plane, block_tokens=keeping.block_tokens)
        return Link(base=0, per_token=round(each / keeping.block_tokens / tier.bandwidth_bytes_per_s * SECOND))

    shelves = [
        Shelf(
            tier.name, int(tier.size_bytes / each), way(tier), plane=tier.plane, eviction=keeping.eviction, ttl=ttl,
            own=tier.own,
        )
        for tier in keeping.tiers
    ]  # fmt: skip
    return Store(shelves, keeping.block_tokens, answers=keeping.answers)


def cluster(
    entry: Pool,
    decode: Pool | None = None,
    *,
    context: float,
    keeping: Keeping | None = None,
    router: str = "least-loaded",
    seed: int = 0,
    single: bool = False,
    jitter_s: float = 0.0,
) -> Cluster:
    """A serving system: one pool that does both, or prompts in ``entry`` and answers in ``decode``."""
    keeping = keeping or Keeping()
    pools = {"both": entry} if decode is None else {"prefill": entry, "decode": decode}
    kits = {role: kit(pool, context=context, keeping=keeping, seed=seed) for role, pool in pools.items()}
    made: list[list[Instance]] = []
    first = 0
    for role, pool in pools.items():
        made.append(instances(pool, kits[role], role=role, first=first, seed=seed, single=single, jitter_s=jitter_s))
        first += pool.instances
    way = link(entry.setup, decode.setup) if decode is not None else None
    return Cluster(
        made[0], decode=made[1] if decode is not None else (), router=Router(router, seed), link=way,
        store=store(entry.setup, keeping), kits=kits, door=None if decode else Rounds(entry.setup.stack),
    )  # fmt: skip


def fleet(
    pools: Mapping[str, Pool],
    *,
    context: float,
    keeping: Keeping | None = None,
    router: str = "least-loaded",
    seed: int = 0,
    jitter_s: float = 0.0,
    cache_bytes: float = 0.0,
    crowd: int = 0,
) -> Cluster:
    """Several models, by name, on instances that change from one to another; ``pools`` say who holds what at first.

    Their weights lie in an object store, and in ``cache_bytes`` of the hosts' memory. ``crowd``: see ``Fleet``.
    """
    keeping = keeping or Keeping()
    kits = {name: kit(pool, context=context, keeping=keeping, seed=seed) for name, pool in pools.items()}
    made: list[Instance] = []
    for name, pool in pools.items():
        made += instances(pool, kits[name], role="both", name=name, first=len(made), seed=seed, jitter_s=jitter_s)
    ticks = {
        source: {name: round(loading_s(pool.setup, source) * SECOND) for name, pool in pools.items()}
        for source in SOURCES
    }
    sizes = {name: stored_bytes(pool.setup) for name, pool in pools.items()}
    weights = Weights(sizes, ticks["warm"], ticks["cold"], cache_bytes)
    for name, pool in pools.items():
        if pool.instances:  # they came that way
            weights.keep(name)
    return Cluster(made, router=Router(router, seed), kits=kits, fleet=Fleet(list(pools), weights, crowd))
