"""Served end to end, by the simulator: each closed loop of the evidence is replayed client by client.

The load is taken to be that of common benchmark clients: all start at once, each sends its next prompt when its answer
has come, some prompts a client, and every request counts (the first burst too). The sources do not state this; of the
readings tried it is the one nearest to the calibrated-on rows. Public lengths are drawn as that source draws them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from taicang.evidence.served import Role, Row
from taicang.evidence.suite_served import held_back, setup
from taicang.evidence.systems import machine_for
from taicang.predict.replay import replay
from taicang.predict.standing import context_of
from taicang.predict.system import System, running
from taicang.serve.build import Pool, step_table
from taicang.serve.log import Log, token_gaps
from taicang.serve.memory import PAGE, cache_tokens
from taicang.serve.scheduler import Limits, preset
from taicang.serve.setup import Setup
from taicang.serve.steptable import StepTable
from taicang.traffic.generate import fixed
from taicang.traffic.trace import Trace

FEWEST = 32
"""Requests of a run, at least."""


def predict(row: Row, *, seed: int = 0) -> tuple[float, float]:
    """(TTFT, TPOT) in seconds: means over the requests, or the median time between tokens where the row states that."""
    found = row.settings
    clients = max(round(float(row.concurrency)), 1)
    trace = fixed(
        found.prompts or max(clients * found.rounds, FEWEST), round(row.input_tokens * row.length_ratio),
        round(row.output_tokens * row.length_ratio),
        spread=row.spread_ratio, seed=seed,
    )  # fmt: skip
    pools = _pools(row, clients, trace) if row.disaggregated else (_both(row, clients, trace),)
    machine = machine_for(row.machine, sum(pool.instances * pool.setup.plan.ranks for pool in pools))
    system = System(stack=pools[-1].setup.stack, pools=pools)
    ran = replay(row.net, machine, trace, system, clients=clients, seed=seed)
    done = ran.table
    gaps = np.maximum(done["output_tokens"] - 1, 1)
    back = held_back(row, gaps)
    counted = done["id"] >= (clients if found.warm and len(trace) > clients else 0)
    ttft, tpot = done["ttft_s"] + back * done["tpot_s"], done["tpot_s"] * (1 - back / gaps)
    gap = _median_gap(ran.log) if row.median_gap else float(np.mean(tpot[counted]))
    return float(np.mean(ttft[counted])), gap


def _median_gap(log: Log) -> float:
    values, weights = token_gaps(log, log.names)
    upto = np.cumsum(weights)
    return float(values[int(np.searchsorted(upto, upto[-1] / 2))])


def _both(row: Row, clients: int, trace: Trace) -> Pool:
    """One instance that does both."""
    made, said = setup(row, row.decode), row.settings
    plan = made.plan
    each = -(-clients // plan.dp)
    fitting = 1 << max(each - 1, 1).bit_length()
    bound = running(System(stack=made.stack, tokens=said.tokens), made) if said.bounded else fitting
    limits = preset(
        made.stack, sequences=min(fitting, bound), tokens=said.tokens,
        poll=said.poll if plan.dp == 1 else 1,
    )  # fmt: skip
    limits = replace(limits, hold=said.hold, company_ratio=said.company_ratio)
    if plan.draft_tokens and not limits.reserve:
        limits = replace(limits, reserve=True, reserve_ratio=0.5)
    return _pool(row, row.decode, made, limits, trace, tokens=limits.tokens)


def _pools(row: Row, clients: int, trace: Trace) -> tuple[Pool, ...]:
    """Instances that prefill and others that decode; whole answers find room in the latter."""
    assert row.prefill is not None
    first, then = setup(row, row.prefill), setup(row, row.decode)
    prompts = preset(first.stack, policy="mixed", tokens=max(row.settings.tokens or 0, row.input_tokens), reserve=False)
    # some rows state a smaller batch than their clients make
    batch = max(row.decode.batch, -(-clients // (row.decode.instances * then.plan.dp)), 1)
    answers = preset(then.stack, policy="mixed", sequences=batch, reserve=True)
    # a step's activations are those of one prompt, so that the tightest layouts that ran fit
    near = _pool(row, row.prefill, first, prompts, trace, tokens=row.input_tokens, prompt=True)
    return near, _pool(row, row.decode, then, answers, trace, tokens=answers.tokens)


def _pool(
    row: Row, role: Role, made: Setup, limits: Limits, trace: Trace, *, tokens: int, prompt: bool = False
) -> Pool:
    """The instances of one role, whose cache lies beside a step of so many ``tokens``."""
    if prompt:
        trace = replace(trace, output_tokens=np.zeros_like(trace.output_tokens))
    whole = int(np.max(trace.input_tokens + trace.output_tokens)) + PAGE
    context = context_of(trace)
    pages = int(cache_tokens(made, tokens=tokens, context=context, whole=whole)) // PAGE
    pool = Pool(setup=made, instances=role.instances, limits=limits, pages=pages)
    # rows that differ in concurrency alone share their step times
    key = (row.model, row.machine, row.stack.name, made.plan, limits.sequences, limits.tokens)
    if key not in _TABLES:
        _TABLES[key] = step_table(pool)
    return replace(pool, table=_TABLES[key])


_TABLES: dict[object, StepTable] = {}
