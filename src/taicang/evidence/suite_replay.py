"""Served end to end, by the simulator: each closed loop of the evidence is replayed client by client.

The load is taken to be that of common benchmark clients: all start at once, each sends its next prompt when its answer
has come, ten prompts a client, and every request counts (the first burst too). The sources do not state this; of the
readings tried it is the one nearest to the calibrated-on rows. Public lengths are drawn as that source draws them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from taicang.errors import TaicangError
from taicang.evidence.score import Outcome
from taicang.evidence.served import Row
from taicang.evidence.split import held_out
from taicang.evidence.suite_served import rows, setup
from taicang.serve.build import PAGE, cache_tokens, drafting
from taicang.serve.cache import Cache
from taicang.serve.clients import ClosedLoop
from taicang.serve.cluster import Cluster
from taicang.serve.instance import Instance
from taicang.serve.scheduler import Limits, preset
from taicang.serve.setup import Setup
from taicang.serve.simulate import simulate
from taicang.serve.steptable import StepTable
from taicang.serve.summary import columns
from taicang.traffic.generate import fixed

ROUNDS = 10
"""Prompts per client."""
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
    """Decode steps between two looks for new requests (an assumed mechanism, fitted: no launch script was at hand)."""
    poll_groups: int = 1
    """The same under attention data parallelism, where prompts wait for those of other groups."""
    tokens: int | None = None
    """Token budget of a step (fitted; None: the stack's)."""
    spread_ratio: float = 0.0
    """Lengths are drawn evenly within this share of the mean, where the source does not say how."""
    warm: bool = False
    """A warm-up round is not counted."""


CLIENTS: dict[tuple[str, str], Client] = {
    ("vllm", "public"): Client(door_s=0.04, door_token_s=4e-6),
    ("vllm", "binary"): Client(door_s=0.005, door_token_s=2.4e-5, tokens=2048),
    ("vllm", "decimal"): Client(door_s=0.03, spread_ratio=0.3, warm=True),
    ("sglang", "public"): Client(door_s=0.075, poll=40),
    ("sglang", "binary"): Client(door_s=0.105, poll=20, tokens=16384),
    ("sglang", "decimal"): Client(door_s=0.065, poll=20, tokens=16384, spread_ratio=0.1),
    ("tensorrt-llm", "public"): Client(door_s=0.035, poll_groups=100),
    ("tensorrt-llm", "binary"): Client(door_s=0.07, door_token_s=2e-6, tokens=4096),
    ("tensorrt-llm", "decimal"): Client(door_s=0.03),
}
"""Chosen by hand on a coarse grid over calibrated-on rows.

By engine and harness: the source with public launch scripts, and the other source's two series, which are told apart by
their lengths (1,024, 2,048... or 1,000, 2,000...)."""


def harness(row: Row) -> str:
    """Whose benchmark measured a row."""
    if row.length_ratio != 1.0:
        return "public"
    return "decimal" if row.input_tokens % 1000 == 0 else "binary"


def predict(row: Row, client: Client | None = None, *, seed: int = 0) -> tuple[float, float]:
    """(TTFT, TPOT) in seconds, means over the requests."""
    made = setup(row, row.decode)
    plan = made.plan
    found = client or CLIENTS[row.engine, harness(row)]
    clients = max(round(float(row.concurrency)), 1)
    each = -(-clients // plan.dp)
    most = 1 << max(each - 1, 1).bit_length()
    limits = preset(
        made.stack, sequences=most, tokens=found.tokens, poll=found.poll_groups if plan.dp > 1 else found.poll
    )
    if plan.draft_tokens and not limits.reserve:
        limits = replace(limits, reserve=True, reserve_ratio=0.5)
    context = (row.input_tokens + row.output_tokens / 2) * row.length_ratio
    pages = max(cache_tokens(made, limits, context), row.input_tokens + row.output_tokens + PAGE) // PAGE
    draw = drafting(int(plan.draft_tokens), plan.acceptance_ratio, seed)
    table = _table((row.model, row.machine, row.engine, row.version, plan, most, limits.tokens), made, limits)
    instance = Instance(0, table, limits, [Cache(pages, PAGE) for _ in range(plan.dp)], steps_of=draw)
    count = max(clients * ROUNDS, FEWEST)
    trace = fixed(
        count, round(row.input_tokens * row.length_ratio), round(row.output_tokens * row.length_ratio),
        spread=found.spread_ratio or (1.0 - row.length_ratio) / row.length_ratio, seed=seed,
    )  # fmt: skip
    loop = ClosedLoop(trace, clients, seed=seed)
    done = columns(simulate(Cluster([instance]), loop.arrivals(), after=loop.after))
    seen = done["ttft_s"] + found.door_s + found.door_token_s * done["input_tokens"]
    counted = done["id"] >= (clients if found.warm and count > clients else 0)
    return float(np.mean(seen[counted])), float(np.mean(done["tpot_s"][counted]))


_TABLES: dict[object, StepTable] = {}


def _table(key: object, made: Setup, limits: Limits) -> StepTable:
    """Rows that differ in concurrency alone share their step times."""
    found = _TABLES.get(key)
    if found is None:
        found = _TABLES[key] = StepTable(made, sequences=limits.sequences, tokens=limits.tokens)
    return found


def outcomes(folder: Path) -> Iterator[Outcome]:
    """TTFT and TPOT of every aggregated row; a refusal names its reason."""
    for row in rows(folder):
        if row.disaggregated:
            continue
        held = held_out("served", *row.key)
        said: tuple[float | None, float | None]
        try:
            said, why = predict(row), ""
        except TaicangError as error:
            said, why = (None, None), str(error)
        for name, predicted, measured in zip(("ttft", "tpot"), said, (row.ttft_s, row.tpot_s), strict=True):
            yield Outcome(
                id=row.id, suite=f"replay_{name}_agg", group=f"{row.engine} {row.machine}", measured=measured,
                predicted=predicted, unit="s", held_out=held, refused=why,
            )  # fmt: skip
