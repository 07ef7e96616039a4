"""Served end to end, by the simulator: each closed loop of the evidence is replayed client by client.

The load is taken to be that of common benchmark clients: all start at once, each sends its next prompt when its answer
has come, some prompts a client, and every request counts (the first burst too). The sources do not state this; of the
readings tried it is the one nearest to the calibrated-on rows. Public lengths are drawn as that source draws them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from taicang.errors import TaicangError
from taicang.evidence.launches import Launch, launch
from taicang.evidence.score import Outcome
from taicang.evidence.served import Row
from taicang.evidence.split import held_out
from taicang.evidence.suite_served import rows, setup
from taicang.hardware import Machine
from taicang.serve.build import PAGE, cache_tokens, drafting, link
from taicang.serve.cache import Cache
from taicang.serve.clients import ClosedLoop
from taicang.serve.cluster import Cluster
from taicang.serve.gaps import overall
from taicang.serve.instance import Instance
from taicang.serve.log import Log
from taicang.serve.memory import RUNTIME_RATIO
from taicang.serve.scheduler import Limits, preset
from taicang.serve.setup import Setup
from taicang.serve.simulate import simulate
from taicang.serve.steptable import StepTable
from taicang.serve.summary import columns
from taicang.traffic.generate import fixed

FEWEST = 32
"""Requests of a run, at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """What a benchmark adds to the engine. Fitted on calibrated-on rows, per engine and source."""

    door_s: float = 0.0
    """From the client's sending to the engine's queue, and of the first token back: network, HTTP, processes. Added to
    TTFT alone, since later requests overlap it."""
    door_token_s: float = 0.0
    """The same per prompt token: tokenising, copying."""
    poll: int = 1
    """Decode steps between two looks for new requests where all ranks are one group (an assumed mechanism, fitted: no
    launch script was at hand)."""
    tokens: int | None = None
    """Token budget of a step (fitted; None: the stack's)."""
    spread_ratio: float = 0.0
    """Lengths are drawn evenly within this share of the mean, where the source does not say how."""
    warm: bool = False
    """A warm-up round is not counted."""
    rounds: int = 10
    """Prompts per client (fitted where it is not ten)."""
    held_back: int = 0
    """Tokens that the decode side makes before it sends anything on, the first token with them: engines stream in
    chunks of a set number of steps (fitted; a door of fixed length beside it does not help)."""


CLIENTS: dict[tuple[str, str], Client] = {
    ("vllm", "public"): Client(door_s=0.04, door_token_s=4e-6),
    ("vllm", "binary"): Client(door_s=0.005, door_token_s=2.4e-5, tokens=2048),
    ("vllm", "decimal"): Client(door_s=0.03, door_token_s=1.2e-5, spread_ratio=0.3, warm=True),
    ("vllm", "pools"): Client(),
    ("sglang", "public"): Client(door_s=0.15),
    ("sglang", "binary"): Client(door_s=0.105, poll=20, tokens=16384),
    ("sglang", "decimal"): Client(door_s=0.065, poll=20, tokens=16384, spread_ratio=0.1),
    ("sglang", "pools"): Client(tokens=16384, rounds=5, held_back=28),
    ("tensorrt-llm", "public"): Client(door_s=0.035),
    ("tensorrt-llm", "binary"): Client(door_s=0.07, door_token_s=2e-6, tokens=4096),
    ("tensorrt-llm", "decimal"): Client(door_s=0.22),
    ("tensorrt-llm", "pools"): Client(tokens=8192, held_back=16),
}
"""Chosen by hand on a coarse grid over calibrated-on rows.

By engine and harness: the source with public launch scripts (see ``launches``), and the other source's two series,
which are told apart by their lengths (1,024, 2,048... or 1,000, 2,000...); disaggregated pools have settings of their
own, with ``tokens`` the budget of a prompt step."""


def harness(row: Row) -> str:
    """Whose benchmark measured a row, or "pools" where there are two."""
    if row.disaggregated:
        return "pools"
    if row.length_ratio != 1.0:
        return "public"
    return "decimal" if row.input_tokens % 1000 == 0 else "binary"


def predict(row: Row, client: Client | None = None, *, seed: int = 0) -> tuple[float, float]:
    """(TTFT, TPOT) in seconds: means over the requests, or the median time between tokens where the row states that."""
    found = client or CLIENTS[row.engine, harness(row)]
    clients = max(round(float(row.concurrency)), 1)
    cluster = _pools(row, found, clients, seed) if row.disaggregated else _one(row, found, clients, seed)
    trace = fixed(
        max(clients * found.rounds, FEWEST), round(row.input_tokens * row.length_ratio),
        round(row.output_tokens * row.length_ratio),
        spread=found.spread_ratio or (1.0 - row.length_ratio) / row.length_ratio, seed=seed,
    )  # fmt: skip
    loop = ClosedLoop(trace, clients, seed=seed)
    if row.median_gap:
        cluster.log = Log(cluster.pools)
    done = columns(simulate(cluster, loop.arrivals(), after=loop.after))
    seen = done["ttft_s"] + found.door_s + found.door_token_s * done["input_tokens"]
    gaps = np.maximum(done["output_tokens"] - 1, 1)
    back = np.minimum(_held_back(row, found, clients), gaps - 1)
    counted = done["id"] >= (clients if found.warm and len(trace) > clients else 0)
    ttft, tpot = seen + back * done["tpot_s"], done["tpot_s"] * (1 - back / gaps)
    mean_gap = float(np.mean(tpot[counted]))
    return float(np.mean(ttft[counted])), mean_gap if cluster.log is None else _median_gap(cluster.log)


def _median_gap(log: Log) -> float:
    values, weights = overall(log, log.names)
    upto = np.cumsum(weights)
    return float(values[int(np.searchsorted(upto, upto[-1] / 2))])


def _one(row: Row, client: Client, clients: int, seed: int) -> Cluster:
    """One instance that does both."""
    made = setup(row, row.decode)
    plan = made.plan
    each = -(-clients // plan.dp)
    limits = preset(
        made.stack, sequences=1 << max(each - 1, 1).bit_length(), tokens=client.tokens,
        poll=client.poll if plan.dp == 1 else 1,
    )  # fmt: skip
    if harness(row) == "public":
        as_launched = launched(row, clients)
        limits = replace(
            limits, tokens=as_launched.tokens or limits.tokens, hold=as_launched.hold,
            company_ratio=as_launched.company_ratio,
        )  # fmt: skip
        if as_launched.memory_ratio is not None:
            made = replace(made, machine=_roomy(made.machine, as_launched.memory_ratio))
    if plan.draft_tokens and not limits.reserve:
        limits = replace(limits, reserve=True, reserve_ratio=0.5)
    context = (row.input_tokens + row.output_tokens / 2) * row.length_ratio
    pages = max(cache_tokens(made, limits, context), row.input_tokens + row.output_tokens + PAGE) // PAGE
    return Cluster([_instance(0, row, made, limits, pages, seed=seed)])


def _held_back(row: Row, client: Client, clients: int) -> float:
    """Tokens that are sent on together with the first one."""
    if harness(row) != "public":
        return client.held_back
    return launched(row, clients).held_back * float(row.decode.plan.tokens_per_step)


def launched(row: Row, clients: int) -> Launch:
    """How the public source launched the engine of a row."""
    plan = row.decode.plan
    return launch(
        row.engine, row.model, row.machine, prompt=row.input_tokens, answer=row.output_tokens, clients=clients,
        tp=plan.tp, dp=plan.dp, drafts=int(plan.draft_tokens), nvfp4=plan.quant.experts == "nvfp4",
    )  # fmt: skip


def _roomy(machine: Machine, ratio: float) -> Machine:
    """``machine`` for an engine that takes ``ratio`` of its memory in place of the usual share."""
    memory = machine.chip.memory
    more = replace(memory, capacity_bytes=memory.capacity_bytes * ratio / (1.0 - RUNTIME_RATIO))
    return replace(machine, chip=replace(machine.chip, memory=more))


def _pools(row: Row, client: Client, clients: int, seed: int) -> Cluster:
    """Instances that prefill and others that decode; whole answers find room in the latter."""
    assert row.prefill is not None
    first, then = setup(row, row.prefill), setup(row, row.decode)
    prompts = preset(first.stack, policy="mixed", tokens=max(client.tokens or 0, row.input_tokens), reserve=False)
    # some rows state a smaller batch than their clients make
    batch = max(row.decode.batch, -(-clients // (row.decode.instances * then.plan.dp)), 1)
    answers = preset(then.stack, policy="mixed", sequences=batch, reserve=True)
    whole = row.input_tokens + row.output_tokens + PAGE
    context = (row.input_tokens + row.output_tokens / 2) * row.length_ratio
    # a step's activations are those of one prompt, so that the tightest layouts that ran fit
    alone = replace(prompts, tokens=row.input_tokens)
    near = max(cache_tokens(first, alone, float(row.input_tokens)), whole) // PAGE
    far = max(cache_tokens(then, answers, context), whole) // PAGE
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
    table = _table(
        (row.model, row.machine, row.engine, row.version, made.plan, limits.sequences, limits.tokens), made, limits
    )
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
    for row in rows(folder):
        mode = "disagg" if row.disaggregated else "agg"
        held = held_out("served", *row.key)
        said: tuple[float | None, float | None]
        try:
            said, why = predict(row), ""
        except TaicangError as error:
            said, why = (None, None), str(error)
        for name, predicted, measured in zip(("ttft", "tpot"), said, (row.ttft_s, row.tpot_s), strict=True):
            yield Outcome(
                id=row.id, suite=f"replay_{name}_{mode}", group=f"{row.engine} {row.machine}", measured=measured,
                predicted=predicted, unit="s", held_out=held, refused=why,
            )  # fmt: skip
