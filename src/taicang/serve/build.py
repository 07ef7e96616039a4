"""Instances from setups: step tables, pages of cache, the link between pools."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from taicang.errors import InvalidInput
from taicang.models.count import kv_cache_bytes
from taicang.ops import Transfer
from taicang.serve.cache import Cache
from taicang.serve.cluster import Cluster
from taicang.serve.instance import Instance
from taicang.serve.memory import memory_use
from taicang.serve.request import SECOND
from taicang.serve.router import Router
from taicang.serve.scheduler import Limits
from taicang.serve.setup import Setup
from taicang.serve.steptable import StepTable
from taicang.serve.store import Link, Store
from taicang.units import show

PAGE = 16
"""Tokens of a page, as most engines have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """``instances`` equal instances."""

    setup: Setup
    instances: int
    limits: Limits


def cache_tokens(setup: Setup, limits: Limits, context: float) -> int:
    """Tokens of cache that fit in one attention group, for sequences of about ``context`` tokens.

    Raises ``InvalidInput`` where the weights alone do not fit.
    """
    chip = setup.machine.chip
    tokens = float(limits.tokens)
    empty = memory_use(setup.model, setup.plan, chip, sequences=0.0, context=context, tokens=tokens)
    each = memory_use(setup.model, setup.plan, chip, sequences=1.0, context=context, tokens=tokens).cache_bytes
    if empty.spare_bytes <= 0:
        raise InvalidInput(
            f"{setup.model.name} does not fit on {setup.plan.ranks} ranks of {setup.machine.name}: "
            f"{show(float(-empty.spare_bytes), 'B')} short per rank"
        )
    return int(float(empty.spare_bytes) / float(each) * context)


def instances(pool: Pool, *, context: float, block: int, role: str = "both", first: int = 0, seed: int = 0,
              single: bool = False) -> list[Instance]:  # fmt: skip
    """The instances of ``pool``; ``block`` tokens are shared at once in the prefix cache (0: nothing is)."""
    setup, limits = pool.setup, pool.limits
    page = PAGE if block % PAGE == 0 else 1
    pages = cache_tokens(setup, limits, context) // page
    table = StepTable(setup, sequences=limits.sequences, tokens=limits.tokens)
    made = []
    for at in range(pool.instances):
        caches = [Cache(pages, page, block) for _ in range(setup.plan.dp)]
        draw = drafting(int(setup.plan.draft_tokens), setup.plan.acceptance_ratio, seed + first + at)
        made.append(Instance(first + at, table, limits, caches, role=role, single=single, steps_of=draw))
    return made


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
    gauss = random.Random(seed).gauss

    def steps(tokens: int) -> int:
        drawn = gauss(tokens / mean, (tokens * variance / mean**3) ** 0.5)
        return min(max(round(drawn), -(-tokens // (drafts + 1)), 1), tokens)

    return steps


def link(prefill: Setup, decode: Setup, plane: str = "") -> Link:
    """The move of one prompt's cache: each rank of the instance moves its share at once."""
    plane = plane or ("rdma" if "rdma" in prefill.machine.planes else "scale_up")

    def seconds(tokens: float) -> float:
        whole = float(kv_cache_bytes(decode.model, tokens, decode.plan.quant.kv))
        move = Transfer(payload_bytes=whole / prefill.plan.tp, plane=plane, distance=prefill.plan.ranks)
        return float(prefill.price(move, 1.0, 1.0).seconds)

    near, far = seconds(1024.0), seconds(9216.0)
    per_token = (far - near) / 8192.0
    return Link(base=round(max(near - 1024.0 * per_token, 0.0) * SECOND), per_token=round(per_token * SECOND))


def cluster(entry: Pool, decode: Pool | None = None, *, context: float, block: int = 0, router: str = "least-loaded",
            seed: int = 0, single: bool = False, pool_bytes: float = 0.0, pool_plane: str = "") -> Cluster:  # fmt: skip
    """A serving system: one pool that does both, or prompts in ``entry`` and answers in ``decode``.

    ``pool_bytes`` of memory beside them keep prompt blocks, reached over ``pool_plane``.
    """
    role = "both" if decode is None else "prefill"
    first = instances(entry, context=context, block=block, role=role, seed=seed, single=single)
    store = None
    if pool_bytes and block:
        each = float(kv_cache_bytes(entry.setup.model, float(block), entry.setup.plan.quant.kv))
        store = Store(int(pool_bytes / each), block, link(entry.setup, entry.setup, pool_plane or "scale_up"))
    if decode is None:
        return Cluster(first, router=Router(router, seed), store=store)
    second = instances(decode, context=context, block=block, first=len(first), seed=seed, single=single)
    return Cluster(first, decode=second, router=Router(router, seed), link=link(entry.setup, decode.setup), store=store)
