"""Random workloads, the steps that our scheduler makes of them, and the comparison with those of an engine's."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from taicang.serve.cache import Cache
from taicang.serve.instance import Instance
from taicang.serve.request import Request
from taicang.serve.scheduler import Limits
from taicang.serve.steptable import GRAIN

PAGE = 16
LONGEST = 4096


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One request: it comes before step ``at``; its prompt's tokens are ``prompt``."""

    at: int
    prompt: tuple[int, ...]
    output: int


@dataclass(frozen=True, kw_only=True)
class Load:
    """A workload and the limits that it meets."""

    tokens: int
    sequences: int
    pages: int
    share: bool
    asks: tuple[Ask, ...]


@dataclass(kw_only=True)
class Step:
    """What one step was."""

    tokens: dict[int, int] = field(default_factory=dict)
    preempted: tuple[int, ...] = ()
    hits: dict[int, int] = field(default_factory=dict)
    used: int = 0
    ended: tuple[int, ...] = ()


def draw(seed: int) -> Load:
    """A random workload; the cache holds the longest sequence for sure."""
    rng = random.Random(seed)

    def log_uniform(low: int, high: int) -> int:
        return round(low * (high / low) ** rng.random())

    sequences = log_uniform(1, 48)
    tokens = max(log_uniform(16, 1024), sequences)
    prefixes = [tuple(rng.randrange(1, 1000) for _ in range(log_uniform(8, 400))) for _ in range(rng.randrange(1, 5))]
    asks, at = [], 0
    gap = rng.choice((0.0, 0.5, 3.0, 20.0))
    for _ in range(log_uniform(2, 60)):
        at += int(rng.expovariate(1.0 / gap)) if gap else 0
        own = tuple(rng.randrange(1, 1000) for _ in range(log_uniform(1, 400)))
        prompt = (rng.choice(prefixes) + own) if rng.random() < 0.6 else own
        if asks and rng.random() < 0.1:
            prompt = rng.choice(asks).prompt
        asks.append(Ask(at=at, prompt=prompt, output=log_uniform(1, 150)))
    whole = max(-(-(len(ask.prompt) + ask.output) // PAGE) for ask in asks)
    pages = round(whole * rng.choice((1.0, 1.2, 2.0, 5.0, 40.0)))
    return Load(tokens=tokens, sequences=sequences, pages=pages, share=rng.random() < 0.7, asks=tuple(asks))


class Even:
    """Every step takes one tick."""

    growth = GRAIN
    query_len = 1

    def row(self, n: int) -> Even:
        """See ``StepTable``."""
        return self

    def sum(self, context: int, growth: int, k: int) -> int:
        """See ``Row``."""
        return k

    def reach(self, context: int, growth: int, ticks: int) -> int:
        """See ``Row``."""
        return max(ticks, 1)

    def mixed(self, *_: Any) -> int:
        """See ``StepTable``."""
        return 1


def ids_of(prompt: tuple[int, ...], known: dict[tuple[int, ...], int]) -> list[int]:
    """Block ids of a prompt."""
    return [known.setdefault(prompt[: (at + 1) * PAGE], len(known)) for at in range(len(prompt) // PAGE)]


def ours(load: Load, limits: Limits) -> list[Step]:
    """The steps that our instance makes within ``limits``."""
    table: Any = Even()
    cache = Cache(load.pages, PAGE, PAGE if load.share else 0)
    instance = Instance(0, table, limits, [cache], single=True)
    known: dict[tuple[int, ...], int] = {}
    asks = [
        (ask.at, Request(at, ask.at, len(ask.prompt), ask.output, blocks=ids_of(ask.prompt, known) * load.share))
        for at, ask in enumerate(load.asks)
    ]  # fmt: skip
    steps: list[Step] = []
    now, waiting, alive = 0, asks, {}
    while waiting or alive:
        while waiting and waiting[0][0] <= now:
            request = waiting[0][1]
            waiting = waiting[1:]
            alive[request.id] = request
            instance.submit(request, now)
        step = Step()
        before = {request.id: request.preempted for request in alive.values()}
        group = instance.groups[0]
        held = set(group.prefilling)
        if instance.begin(now) >= 0:
            step.tokens = {request.id: tokens for request, tokens in instance._work}
            if instance._rides:
                step.tokens |= {request.id: 1 for request in group.running}
            step.hits = {r.id: r.done for r, _ in instance._work if r not in held or r.preempted > before[r.id]}
            for request in instance.finish(now + 1):
                del alive[request.id]
                step.ended += (request.id,)
        step.preempted = tuple(sorted(n for n, r in alive.items() if r.preempted > before[n]))
        group.sync(instance.steps)
        step.used = group.cache.pages - group.cache.spare
        steps.append(step)
        now += 1
    return steps


def differs(mine: Step, theirs: Step) -> list[str]:
    """In what two steps differ."""
    found = [name for name in ("tokens", "preempted", "hits", "used") if getattr(mine, name) != getattr(theirs, name)]
    return found + ["ended"] * (sorted(mine.ended) != sorted(theirs.ended))


def cause(mine: Step, theirs: Step) -> str:
    """What tells two schedulers apart in the first step that differs."""
    if mine.preempted != theirs.preempted:
        return "who is pushed out"
    if mine.tokens.keys() != theirs.tokens.keys():
        return "theirs starts later" if mine.tokens.keys() > theirs.tokens.keys() else "what starts"
    found = differs(mine, theirs)
    says = {"tokens": "where a chunk ends", "hits": "what the cache holds", "used": "pages in use"}
    return says.get(found[0], "who ends")


def compare(
    theirs: Callable[[Load], list[Step]],
    limits_of: Callable[[Load], Limits],
    change: Callable[[Load], Load] = lambda x: x,
) -> dict[str, Any]:
    """Compare as many workloads as the first argument says; with a second one, show how that one goes."""
    if len(sys.argv) > 2:
        load = change(draw(int(sys.argv[2])))
        for at, (one, other) in enumerate(zip(ours(load, limits_of(load)), theirs(load), strict=False)):
            print(at, differs(one, other), "\n  ours  ", one, "\n  theirs", other)
        return {}
    steps = agree = 0
    kinds: Counter[str] = Counter()
    causes: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    seeds: list[int] = []
    for seed in range(int(sys.argv[1])):
        load = change(draw(seed))
        mine, other = ours(load, limits_of(load)), theirs(load)
        found = [differs(one, two) for one, two in zip(mine, other, strict=False)]
        steps += max(len(mine), len(other))
        agree += sum(not each for each in found)
        kinds.update(name for each in found for name in each)
        if any(found) or len(mine) != len(other):
            seeds.append(seed)
            at = next((at for at, each in enumerate(found) if each), -1)
            why = "how many steps" if at < 0 else cause(mine[at], other[at])
            causes[why] += 1
            lost[why] += max(len(mine), len(other)) - sum(not each for each in found)
    return {"workloads": int(sys.argv[1]), "steps": steps, "agree": agree, "differ": kinds, "first_difference": causes,
            "steps_that_differ_after_it": lost, "seeds": seeds}  # fmt: skip
