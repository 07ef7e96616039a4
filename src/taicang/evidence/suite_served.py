"""Served end to end: TPOT and TTFT of closed-loop measurements on vLLM, SGLang and TensorRT-LLM."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from taicang.catalog.trust import Ground, at_once, ground
from taicang.errors import InvalidInput, NotModelled, TaicangError
from taicang.evidence.served import Role, Row, read
from taicang.evidence.systems import machine_for
from taicang.evidence.tables import Cells
from taicang.plans import ServePlan
from taicang.predict.serving import closed_loop, room
from taicang.search.door import Run, job_of
from taicang.search.points import Job, handover_s
from taicang.serve.memory import MOST_RATIO, cache_room, in_pages
from taicang.serve.setup import Setup
from taicang.serve.steady import Load, Pools, Steady, disaggregated
from taicang.serve.uneven import EVEN, Spread, spread
from taicang.stacks import Stack
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
