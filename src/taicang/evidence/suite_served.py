"""Served end to end: TPOT and TTFT of closed-loop measurements on vLLM, SGLang and TensorRT-LLM, in closed form and
replayed.

A replay serves each closed loop of the evidence client by client, on a load that is taken to be that of common
benchmark clients: all start at once, each sends its next prompt when its answer has come, some prompts a client, and
every request counts (the first burst too). The sources do not state this; of the readings tried it is the one nearest
to the calibrated-on rows. Public lengths are drawn as that source draws them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from taicang.catalog.grounds import Ground, at_once, ground
from taicang.errors import InvalidInput, NotModelled, TaicangError
from taicang.evidence.served import Role, Row, read
from taicang.evidence.systems import machine_for
from taicang.evidence.tables import Cells
from taicang.plans import ServePlan
from taicang.predict.replay import replay
from taicang.predict.serving import closed_loop, room
from taicang.predict.standing import context_of
from taicang.predict.system import System, running
from taicang.search.door import Run, job_of
from taicang.search.points import Job, handover_s
from taicang.serve.build import Pool, step_table
from taicang.serve.log import Log, token_gaps
from taicang.serve.memory import MOST_RATIO, PAGE, cache_room, cache_tokens, in_pages
from taicang.serve.scheduler import Limits, preset
from taicang.serve.setup import Setup
from taicang.serve.steady import Load, Pools, Steady, disaggregated
from taicang.serve.steptable import StepTable
from taicang.serve.uneven import EVEN, Spread, spread
from taicang.stacks import Stack
from taicang.traffic.generate import fixed
from taicang.traffic.trace import Trace
from taicang.units import Num

FILE = "served_e2e.csv"


def rows(folder: Path) -> list[Row]:
    """All rows of the evidence folder."""
    return ran(folder / FILE)


def ran(file: Path) -> list[Row]:
    """Rows of a file as they ran."""
    return [as_it_ran(row) for row in read(file)]


def as_it_ran(row: Row) -> Row:
    """``row`` with more of the device's memory than its engine takes by itself, where it says nothing of that, would
    not fit, and ran all the same: somebody gave the engine more."""
    said = row.settings
    if not row.own or said.memory_ratio is not None or said.unstated or _fits(row):
        return row
    more = replace(row, settings=replace(said, memory_ratio=MOST_RATIO))
    words = f"at the engine's own share of memory it would not fit: read as {MOST_RATIO:.0%}"
    return replace(more, note="; ".join(filter(None, (row.note, words)))) if _fits(more) else row


def _fits(row: Row) -> bool:
    """Whether memory holds a whole request, or fails for another reason that the suites tell."""
    for role in filter(None, (row.prefill, row.decode)):
        try:
            setup = job(row, role).setup(role.plan)
        except TaicangError:
            return True
        whole = in_pages(row.input_tokens + row.output_tokens)
        spare, each = cache_room(setup, tokens=float(setup.stack.chunk_tokens), context=whole)
        if spare < each:
            return False
    return True


def job(row: Row, role: Role, stack: Stack | None = None, lent: str = "") -> Job:
    """What the question that a row asks of one of its roles comes to; ``lent`` names a kernel profile whose constants
    price it in place of its own."""
    machine = machine_for(row.machine, role.plan.ranks)
    if lent:
        machine = replace(machine, chip=replace(machine.chip, profile=lent, measured=False))
    if row.settings.unstated:
        raise InvalidInput(row.settings.unstated)
    prompt, answer = row.input_tokens * row.length_ratio, row.output_tokens * row.length_ratio
    run = Run(
        model=row.net, on=machine, stack=stack or row.stack, memory_ratio=row.settings.memory_ratio,
        quant=role.plan.quant, input_tokens=prompt, output_tokens=answer,
        spread=_even(row.spread_ratio, prompt, answer),
    )  # fmt: skip
    return job_of(run)


@cache
def _even(width_ratio: float, prompt: float, answer: float) -> Spread:
    """Moments of lengths drawn evenly within this share of their means."""
    lengths = np.linspace(1.0 - width_ratio, 1.0 + width_ratio, 101)
    return spread(prompt * lengths, answer * lengths) if width_ratio else EVEN


def setup(row: Row, role: Role, stack: Stack | None = None, lent: str = "") -> Setup:
    """The instances of one role of a row."""
    return job(row, role, stack, lent).setup(role.plan)


def predict(row: Row, stack: Stack | None = None, lent: str = "") -> Steady:
    """What the closed form says of a row (``stack`` and ``lent``: other constants, see ``job``).

    Raises ``NotModelled`` for a burst, which is the simulator's.
    """
    if burst(row):
        raise NotModelled(f"{row.settings.prompts} prompts of {row.concurrency:g} clients are no loop: only replayed")
    asked = job(row, row.decode, stack, lent)
    if row.prefill is None:
        return _received(row, closed_loop(asked, row.decode.plan, row.concurrency))
    decode, prefill = asked.setup(row.decode.plan), setup(row, row.prefill, stack, lent)
    pools = Pools(
        prefill=prefill,
        prefill_instances=row.prefill.instances,
        prefill_sequences=max(row.prefill.batch, 1.0),
        decode=decode,
        decode_instances=row.decode.instances,
    )
    load = Load(
        concurrency=row.concurrency, input_tokens=asked.input_tokens, output_tokens=asked.output_tokens,
        room=room(asked, row.decode.plan),
    )  # fmt: skip
    return _received(row, disaggregated(pools, load, handover_s(prefill, asked)))


def burst(row: Row) -> bool:
    """Whether hardly any prompt of a row follows an answer, and some wait for others."""
    return row.settings.prompts > 0 and at_once(row.settings.prompts, float(row.concurrency))


def held_back(row: Row, gaps: Num) -> Num:
    """Of so many tokens after the first, those that come with it."""
    steps = row.settings.held_back_steps * float(row.decode.plan.tokens_per_step)
    return np.minimum(row.settings.held_back + steps, gaps - 1)


def _received(row: Row, steady: Steady) -> Steady:
    """As the row's clients see it, who get the first tokens together, or who say the median time between tokens."""
    gaps = max(row.output_tokens - 1.0, 1.0)
    back = held_back(row, gaps)
    waited = replace(steady, ttft_s=steady.ttft_s + back * steady.tpot_s)
    gap = steady.step_s / row.decode.plan.tokens_per_step if row.median_gap else steady.tpot_s * (1 - back / gaps)
    return replace(waited, tpot_s=gap)


def run_of(row: Row) -> Ground:
    """What is known of a row."""
    made = setup(row, row.decode)
    use = "burst" if burst(row) else "disaggregated" if row.disaggregated else "aggregated"
    return ground(
        row.net, made.machine, row.stack, use=use, ranks=int(made.plan.ranks), quant=made.plan.quant, plan=made.plan
    )


def times(row: Row) -> tuple[float, float]:
    """(TTFT, TPOT) in seconds."""
    steady = predict(row)
    return float(steady.ttft_s), float(steady.tpot_s)


def asked(cells: Cells) -> tuple[float, float]:
    """(TTFT, TPOT) in seconds of a closed loop of ``clients``, of a line in the words of ``Run`` and ``ServePlan``."""
    tp, dp, ep = (int(cells.get(name) or 1) for name in ("tp", "dp", "ep"))
    plan = ServePlan(tp=tp, dp=dp, ep=ep, moe_tp=tp * dp // ep)
    run = Run(
        model=cells["model"], on=cells["machine"], stack=cells.get("stack") or None, plan=plan,
        input_tokens=float(cells["input_tokens"]), output_tokens=float(cells["output_tokens"]),
    )  # fmt: skip
    steady = closed_loop(job_of(run), plan, float(cells["clients"]))
    return float(steady.ttft_s), float(steady.tpot_s)


FEWEST = 32
"""Requests of a run, at least."""


def replayed(row: Row, *, seed: int = 0) -> tuple[float, float]:
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
