"""Served end to end, by the simulator: each closed loop of the evidence is replayed client by client.

The load is taken to be that of common benchmark clients: all start at once, each sends its next prompt when its answer
has come, some prompts a client, and every request counts (the first burst too). The sources do not state this; of the
readings tried it is the one nearest to the calibrated-on rows. Public lengths are drawn as that source draws them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from taicang.evidence.score import Outcome
from taicang.evidence.served import Row
from taicang.evidence.suite_served import rows, setup, told
from taicang.serve.build import PAGE, cache_tokens, drafting, link
from taicang.serve.cache import Cache
from taicang.serve.clients import ClosedLoop
from taicang.serve.cluster import Cluster
from taicang.serve.gaps import overall
from taicang.serve.instance import Instance
from taicang.serve.log import Log
from taicang.serve.scheduler import Limits, preset
from taicang.serve.setup import Setup
from taicang.serve.simulate import simulate
from taicang.serve.steptable import StepTable
from taicang.serve.summary import columns
from taicang.traffic.generate import fixed

FEWEST = 32
"""Requests of a run, at least."""


def predict(row: Row, *, seed: int = 0) -> tuple[float, float]:
    """(TTFT, TPOT) in seconds: means over the requests, or the median time between tokens where the row states that."""
    found = row.settings
    clients = max(round(float(row.concurrency)), 1)
    cluster = _pools(row, clients, seed) if row.disaggregated else _one(row, clients, seed)
    trace = fixed(
        max(clients * found.rounds, FEWEST), round(row.input_tokens * row.length_ratio),
        round(row.output_tokens * row.length_ratio),
        spread=row.spread_ratio, seed=seed,
    )  # fmt: skip
    loop = ClosedLoop(trace, clients, seed=seed)
    if row.median_gap:
        cluster.log = Log(cluster.pools)
    done = columns(simulate(cluster, loop.arrivals(), after=loop.after))
    seen = done["ttft_s"] + found.door_s + found.door_token_s * done["input_tokens"]
    gaps = np.maximum(done["output_tokens"] - 1, 1)
    back = np.minimum(found.held_back + found.held_back_steps * float(row.decode.plan.tokens_per_step), gaps - 1)
    counted = done["id"] >= (clients if found.warm and len(trace) > clients else 0)
    ttft, tpot = seen + back * done["tpot_s"], done["tpot_s"] * (1 - back / gaps)
    mean_gap = float(np.mean(tpot[counted]))
    return float(np.mean(ttft[counted])), mean_gap if cluster.log is None else _median_gap(cluster.log)


def _median_gap(log: Log) -> float:
    values, weights = overall(log, log.names)
    upto = np.cumsum(weights)
    return float(values[int(np.searchsorted(upto, upto[-1] / 2))])


def _one(row: Row, clients: int, seed: int) -> Cluster:
    """One instance that does both."""
    made, said = setup(row, row.decode), row.settings
    plan = made.plan
    each = -(-clients // plan.dp)
    limits = preset(
        made.stack, sequences=1 << max(each - 1, 1).bit_length(), tokens=said.tokens,
        poll=said.poll if plan.dp == 1 else 1,
    )  # fmt: skip
    limits = replace(limits, hold=said.hold, company_ratio=said.company_ratio)
    if plan.draft_tokens and not limits.reserve:
        limits = replace(limits, reserve=True, reserve_ratio=0.5)
    context = (row.input_tokens + row.output_tokens / 2) * row.length_ratio
    whole = row.input_tokens + row.output_tokens + PAGE
    pages = int(cache_tokens(made, tokens=limits.tokens, context=context, whole=whole)) // PAGE
    return Cluster([_instance(0, row, made, limits, pages, seed=seed)])


def _pools(row: Row, clients: int, seed: int) -> Cluster:
    """Instances that prefill and others that decode; whole answers find room in the latter."""
    assert row.prefill is not None
    first, then = setup(row, row.prefill), setup(row, row.decode)
    prompts = preset(first.stack, policy="mixed", tokens=max(row.settings.tokens or 0, row.input_tokens), reserve=False)
    # some rows state a smaller batch than their clients make
    batch = max(row.decode.batch, -(-clients // (row.decode.instances * then.plan.dp)), 1)
    answers = preset(then.stack, policy="mixed", sequences=batch, reserve=True)
    whole = row.input_tokens + row.output_tokens + PAGE
    context = (row.input_tokens + row.output_tokens / 2) * row.length_ratio
    # a step's activations are those of one prompt, so that the tightest layouts that ran fit
    prompt = row.input_tokens
    near = int(cache_tokens(first, tokens=prompt, context=prompt, whole=prompt + PAGE)) // PAGE
    far = int(cache_tokens(then, tokens=answers.tokens, context=context, whole=whole)) // PAGE
    return Cluster(
        [_instance(i, row, first, prompts, near, role="prefill", seed=seed) for i in range(row.prefill.instances)],
        decode=[
            _instance(row.prefill.instances + i, row, then, answers, far, role="decode", seed=seed)
            for i in range(row.decode.instances)
        ],
        link=link(first, then, "scale_up"),
    )


def _instance(
    name: int, row: Row, made: Setup, limits: Limits, pages: int, *, role: str = "both", seed: int = 0
) -> Instance:
    table = _table((row.model, row.machine, row.stack.name, made.plan, limits.sequences, limits.tokens), made, limits)
    draw = drafting(int(made.plan.draft_tokens), made.plan.acceptance_ratio, seed + name)
    caches = [Cache(pages, PAGE) for _ in range(made.plan.dp)]
    return Instance(name, table, limits, caches, role=role, steps_of=draw)


_TABLES: dict[object, StepTable] = {}


def _table(key: object, made: Setup, limits: Limits) -> StepTable:
    """Rows that differ in concurrency alone share their step times."""
    found = _TABLES.get(key)
    if found is None:
        found = _TABLES[key] = StepTable(made, sequences=limits.sequences, tokens=limits.tokens)
    return found


def outcomes(folder: Path) -> Iterator[Outcome]:
    """TTFT and TPOT of every row; a refusal names its reason."""
    return told("replay", rows(folder), predict, ("ttft", "tpot"))
