"""Laws of the serving simulator on random workloads: nothing is lost, time never goes back, fast-forward is exact."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.catalog.costing import cost_model
from taicang.catalog.models import model
from taicang.errors import InvalidInput
from taicang.plans import ServePlan
from taicang.serve import trouble
from taicang.serve.build import drafting
from taicang.serve.cache import Cache
from taicang.serve.cluster import Cluster
from taicang.serve.fleet import Fleet, Weights
from taicang.serve.held import Kit
from taicang.serve.instance import Instance
from taicang.serve.pace import Jitter, Link
from taicang.serve.request import FOREVER, SECOND, Request
from taicang.serve.router import ROUTERS, Router
from taicang.serve.scheduler import Limits
from taicang.serve.setup import Setup
from taicang.serve.simulate import simulate
from taicang.serve.steptable import GRAIN, StepTable
from taicang.serve.store import Shelf, Store


@cache
def table(drafts: int = 0) -> StepTable:
    machine, stack = catalog.machine("hgx-h100"), catalog.stack("vllm")
    setup = Setup(
        model=model("llama-2-7b"), plan=ServePlan(draft_tokens=drafts), machine=machine, stack=stack,
        price=cost_model(machine, stack).price,
    )  # fmt: skip
    return StepTable(setup, sequences=64, tokens=2048)


TROUBLE = ["fail", "fail", "drain", "slow", "switch"]


@st.composite
def workloads(draw: st.DrawFn) -> dict[str, object]:
    count = draw(st.integers(1, 40))
    rows: list[tuple[object, ...]] = []
    known: dict[int, list[int]] = {}
    now = 0
    for i in range(count):
        now += draw(st.sampled_from([0, 0, 1, SECOND // 1000, SECOND // 20, SECOND // 3]))
        prompt = draw(st.integers(1, 900))
        output = draw(st.one_of(st.just(1), st.integers(1, 200)))
        shared = draw(st.integers(0, prompt // 64))
        family = draw(st.integers(0, 2))
        blocks = [family * 1000 + j if j < shared else (i + 10) * 1000 + j for j in range(-(-prompt // 64))]
        wait = draw(st.sampled_from([0, SECOND // 10, SECOND]))
        rows.append((now, prompt, output, blocks, draw(st.integers(0, 2)), now + wait))
        if draw(st.booleans()):  # its answer's blocks are known, and prompts of its family may go on from them
            first = family if shared == prompt // 64 else i + 10
            known[i] = blocks[: prompt // 64] + [first * 1000 + j for j in range(prompt // 64, (prompt + output) // 64)]
    return {
        "rows": rows,
        "known": known,
        "policy": draw(st.sampled_from(["mixed", "prefill_first", "decode_first"])),
        "groups": draw(st.sampled_from([1, 1, 2, 3])),
        "instances": draw(st.integers(1, 2)),
        "split": draw(st.booleans()),
        "pages": draw(st.sampled_from([70, 90, 200, 5000])),
        "reserve": draw(st.booleans()),
        "by_chunk": draw(st.booleans()),
        "sequences": draw(st.sampled_from([1, 3, 64])),
        "tokens": draw(st.sampled_from([128, 2048])),
        "order": draw(st.sampled_from(["arrival", "priority", "deadline"])),
        "late": draw(st.sampled_from(["serve", "serve", "turn_away"])),
        "swap": draw(st.sampled_from([0, 500, 100_000])),
        "poll": draw(st.sampled_from([1, 1, 7])),
        "hold": draw(st.sampled_from([0, 0, 5])),
        "router": draw(st.sampled_from(ROUTERS)),
        "trouble": draw(st.lists(st.tuples(st.integers(1, 3000), st.sampled_from(TROUBLE)), max_size=4)),
        "retries": draw(st.sampled_from([None, None, 0, 1])),
        "jitter": draw(st.sampled_from([0.0, 1e-5, 1e-3])),
        "store": draw(st.sampled_from([(), (), (8,), (4, 1000), (2, 8, 50)])),
        "eviction": draw(st.sampled_from(["lru", "lfu"])),
        "ttl": draw(st.sampled_from([SECOND // 5, FOREVER])),
        "drafts": draw(st.sampled_from([0, 0, 2])),
        "models": draw(st.sampled_from([1, 1, 2, 3])),
        "asked": draw(st.lists(st.integers(0, 2), min_size=40, max_size=40)),
        "memory": draw(st.sampled_from([0.0, 1.0, 10.0])),
        "crowd": draw(st.sampled_from([0, 0, 2, 5])),
    }


def run(load: dict[str, object], *, single: bool) -> tuple[Cluster, list[Request], list[Request]]:
    cluster, made = built(load, single=single)
    return cluster, made, simulate(cluster, iter(made))


def built(load: dict[str, object], *, single: bool) -> tuple[Cluster, list[Request]]:
    drafts: int = load["drafts"]  # type: ignore[assignment]
    split = bool(load["split"])
    several = not split and load["models"] > 1  # type: ignore[operator]
    names = [f"model {i}" for i in range(load["models"])] if several else []  # type: ignore[call-overload]

    def limits(role: str) -> Limits:
        return Limits(
            policy="mixed" if role != "both" else load["policy"],  # type: ignore[arg-type]
            tokens=load["tokens"], sequences=load["sequences"], poll=load["poll"], hold=load["hold"], company_ratio=0.5,  # type: ignore[arg-type]
            by_chunk=bool(load["by_chunk"]),
            reserve=(bool(load["reserve"]) or drafts > 0) and role != "prefill",
            order=load["order"], late=load["late"], swap_tokens=load["swap"],  # type: ignore[arg-type]
        )  # fmt: skip

    def caches() -> list[Cache]:
        return [Cache(load["pages"], 16, 64, load["eviction"]) for _ in range(load["groups"])]  # type: ignore[arg-type,call-overload]

    def pool(role: str, first: int) -> list[Instance]:
        return [
            Instance(
                first + i, table(drafts), limits(role), caches(), role=role, pool="".join(names[:1]), single=single,
                steps_of=drafting(drafts, 0.7, first + i), swap=Link(base=SECOND // 5000, per_token=SECOND // 10**7),
                jitter=Jitter(load["jitter"], 8, i) if load["jitter"] else None,  # type: ignore[arg-type]
            )
            for i in range(load["instances"])  # type: ignore[call-overload]
        ]  # fmt: skip

    def kit(role: str, pace: float = 1.0) -> Kit:
        return Kit(table=table(drafts).slower(pace), limits=limits(role), cache=caches()[0], groups=load["groups"],  # type: ignore[arg-type]
                   draw=lambda name: drafting(drafts, 0.7, name))  # fmt: skip

    cluster = Cluster(
        pool("prefill" if split else "both", 0), decode=pool("decode", 10) if split else (),
        router=Router(load["router"], 3), link=Link(base=SECOND // 1000, per_token=SECOND // 10**6),
        store=store(load) if load["store"] and not several else None,
        retries=load["retries"],  # type: ignore[arg-type]
        kits={role: kit(role) for role in ("prefill", "decode", "both")}
        | {name: kit("both", 1.0 + i) for i, name in enumerate(names)},
        switch_ticks=SECOND // 50, fleet=fleet(names, load) if several else None,
    )  # fmt: skip
    made = [Request(i, *row[:3], blocks=row[3], priority=row[4], deadline=row[5]) for i, row in enumerate(load["rows"])]  # type: ignore[call-overload]
    for request, asked in zip(made, load["asked"], strict=False):  # type: ignore[call-overload]
        request.model = asked % len(names) if several else 0
        if request.id in load.get("known", ()):
            request.blocks, request.named = load["known"][request.id], request.input + request.output  # type: ignore[index]
    plan_trouble(cluster, load["trouble"])  # type: ignore[arg-type]
    return cluster, made


def fleet(names: list[str], load: dict[str, object]) -> Fleet:
    times = [dict.fromkeys(names, ticks) for ticks in (SECOND // 100, SECOND // 10)]
    weights = Weights(dict.fromkeys(names, 1.0), *times, load["memory"])  # type: ignore[arg-type]
    return Fleet(names, weights, load["crowd"])  # type: ignore[arg-type]


def plan_trouble(cluster: Cluster, planned: list[tuple[int, str]]) -> None:
    for i, (ms, kind) in enumerate(planned):
        victim, at = cluster.instances[i % len(cluster.instances)], ms * (SECOND // 1000)
        if kind == "slow":
            cluster.later(at, trouble.pace, victim, 1.7)
        elif kind == "switch":
            cluster.later(at, trouble.switch, victim)
        else:
            cluster.later(at, trouble.fail if kind == "fail" else trouble.drain, victim)
            cluster.later(at + SECOND // 2, trouble.repair, victim)


def store(load: dict[str, object]) -> Store:
    sizes: tuple[int, ...] = load["store"]  # type: ignore[assignment]
    links = [Link(base=(1 + i) * SECOND // 2000, per_token=SECOND // 10**7) for i in range(len(sizes))]
    shelves = [
        Shelf("", size, link, eviction=load["eviction"], ttl=load["ttl"], own=size == 4)  # type: ignore[arg-type]
        for size, link in zip(sizes, links, strict=True)
    ]
    return Store(shelves, 64)


def stamps(requests: list[Request]) -> list[tuple[int, ...]]:
    return [
        (r.id, r.started, r.first, r.moved, r.end, r.cached, r.preempted, r.swaps, r.place, r.retries, r.lost)
        for r in requests
    ]


@settings(max_examples=100, deadline=None)
@given(workloads())
def test_fast_forward_gives_the_very_timestamps_of_single_steps(load):
    _, fast, _ = run(load, single=False)
    _, slow, _ = run(load, single=True)
    assert stamps(fast) == stamps(slow)


@settings(max_examples=100, deadline=None)
@given(workloads())
def test_nothing_is_lost_and_time_never_goes_back(load):
    cluster, made, finished = run(load, single=False)
    assert sorted(r.id for r in finished) == [r.id for r in made]
    for r in made:
        if load["late"] == "turn_away" and r.started < 0:
            assert r.first < 0
            assert r.made == 0
            assert r.end > r.deadline
            continue
        assert r.failed == (r.made < r.output)
        if r.failed:
            assert r.retries == load["retries"] + 1
            continue
        assert load["retries"] is None or r.retries <= load["retries"]
        assert r.arrival <= r.started < r.first <= r.end
        assert 0 <= r.cached < r.input
    ends = [r.end for r in finished]
    assert ends == sorted(ends)
    for instance in cluster.instances:
        assert instance.requests == 0
        for group in instance.groups:
            cache = group.cache
            assert group.n == 0
            assert group.base == 0
            assert group.swapped == 0
            assert not any(group.residues)
            assert cache.spare == cache.pages
            assert cache.blocks * cache.per_block <= cache.pages - cache.free


@settings(max_examples=10, deadline=None)
@given(workloads())
def test_the_same_seed_gives_the_same_run(load):
    assert stamps(run(load, single=False)[1]) == stamps(run(load, single=False)[1])


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 64), st.integers(0, 10**6), st.integers(1, 3000))
def test_sums_of_steps_and_their_inverse(n, context, steps):
    row = table().row(n)
    start, growth = context * GRAIN, n * GRAIN
    one_by_one = sum(row.at(start + i * growth) for i in range(min(steps, 200)))
    assert row.sum(start, growth, min(steps, 200)) == one_by_one
    whole = row.sum(start, growth, steps)
    assert row.reach(start, growth, whole) == steps
    assert row.reach(start, growth, whole + 1) == steps + 1
    if steps > 1:
        assert row.reach(start, growth, whole - 1) == steps


def test_a_request_that_no_cache_holds_is_refused():
    cluster = Cluster([Instance(0, table(), Limits(), [Cache(10, 16)])])
    with pytest.raises(InvalidInput, match="needs 300 tokens of cache"):
        simulate(cluster, [Request(0, 0, 200, 100)])


@pytest.mark.parametrize(("drafts", "chance"), [(1, 0.6), (1, 0.99), (2, 0.8), (4, 0.5), (7, 0.9)])
def test_steps_that_drafts_need_are_those_of_drawing_them_one_by_one(drafts, chance):
    tokens, runs = 600, 1500
    accepted = np.minimum(np.random.default_rng(0).geometric(1.0 - chance, (runs, tokens)), drafts + 1)
    seen = (np.cumsum(accepted, axis=1) < tokens).sum(axis=1) + 1
    steps_of = drafting(drafts, chance, 0)
    drawn = np.array([steps_of(tokens) for _ in range(runs)])
    assert drawn.mean() == pytest.approx(seen.mean(), rel=0.01)
    assert drawn.std() == pytest.approx(seen.std(), rel=0.1)
    assert (-(-tokens // (drafts + 1)) <= drawn).all()
    assert all(steps_of(1) == 1 for _ in range(99))
    assert drafting(0, chance, 0) is None
