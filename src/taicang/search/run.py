"""Search a machine: aggregated and disaggregated ways to run a model, within memory and SLO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from taicang.errors import InvalidInput, MissingFigure, NotModelled
from taicang.plans import Quantisation, ServePlan
from taicang.search.front import front
from taicang.search.join import Pairs, best_rows, covered, decode_front, matched, smallest
from taicang.search.points import Job, Points, Role, prefill_points, serving_points
from taicang.search.result import Choice, Counts, Found, Mode, Objective, Pool
from taicang.search.space import Space, layouts
from taicang.units import show

MODES: tuple[Mode, ...] = ("aggregated", "disaggregated")
ROLES: Mapping[Mode, Role] = MappingProxyType({"aggregated": "both", "disaggregated": "decode"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is best: the objective and, for the smallest machine, the load that it must carry."""

    objective: Objective = "tokens/s/chip"
    modes: Sequence[Mode] = MODES
    load_per_s: float | None = None
    """Requests per second (objective "smallest")."""
    top: int = 5


def search(
    job: Job,
    quants: Sequence[tuple[str, Quantisation]],
    space: Space,
    ask: Ask,
    only: Mapping[str, Sequence[ServePlan]] | None = None,
) -> Found:
    """The best ways to run ``job`` over all layouts of ``space`` in each of the named ``quants``.

    ``only`` names the layouts by role ("both", "prefill", "decode") instead of all.

    Exhaustive: each row is priced, unless its bytes exceed the memory. Raises ``InvalidInput`` for the smallest machine
    without a load and ``MissingFigure`` where the objective needs a figure that the machine lacks.
    """
    _check(job, ask)
    choices: list[Choice] = []
    edge: list[Choice] = []
    counts = np.zeros(5, dtype=np.int64)
    nearest: list[str] = []
    refused: list[str] = []
    roles: list[Role] = [role for mode, role in ROLES.items() if mode in ask.modes]
    for name, quant in quants:
        plans = only or every(job, quant, space)
        serving = _serving(plans, job, space, roles)
        if "aggregated" in ask.modes:
            points = serving["both"]
            counts += len(points.plans), points.considered, points.size, 0, len(points.refused)
            choices += _aggregated(points, job, name, ask)
            edge += _aggregated_front(points, job, name)
            nearest += _nearest(points, job, "aggregated")
            refused += points.refused
        if "disaggregated" in ask.modes:
            first = prefill_points(plans["prefill"], job, space)
            second = serving["decode"]
            counts += (
                len(first.plans) + len(second.plans),
                first.considered + second.considered,
                first.size + second.size,
                covered(first, second, chips=job.machine.chips, ttft_s=job.ttft_s, tpot_s=job.tpot_s),
                len(first.refused) + len(second.refused),
            )
            choices += _disaggregated(first, second, job, name, ask)
            edge += _disaggregated_front(first, second, job, name)
            nearest += _nearest(first, job, "prefill") + _nearest(second, job, "decode")
            refused += first.refused + second.refused
    if not counts[2] and refused:
        raise NotModelled(refused[0])
    choices.sort(key=lambda c: (-_score(c, ask), -c.output_tokens_per_s_per_chip, c.ttft_s, c.tpot_s))
    keep = front(low=[c.tpot_s for c in edge], high=[c.output_tokens_per_s for c in edge])
    total = [int(n) for n in counts]
    return Found(
        machine=job.machine.name,
        best=tuple(choices[: ask.top]),
        front=tuple(edge[i] for i in keep),
        counts=Counts(layouts=total[0], priced=total[1], fitting=total[2], combinations=total[3], refused=total[4]),
        nearest=() if choices else tuple(nearest) or (f"no instances of both pools fit {job.machine.chips} chips",),
    )


def _serving(
    plans: Mapping[str, Sequence[ServePlan]], job: Job, space: Space, roles: Sequence[Role]
) -> dict[Role, Points]:
    if len(roles) > 1 and plans["both"] == plans["decode"]:
        return serving_points(plans["both"], job, space, roles)
    return {role: serving_points(plans[role], job, space, (role,))[role] for role in roles}


def every(job: Job, quant: Quantisation, space: Space) -> dict[str, Sequence[ServePlan]]:
    """All layouts of the space by role."""
    plans = list(layouts(space, job.model, job.machine, job.stack, quant))
    wider = list(layouts(space, job.model, job.machine, job.stack, quant, prefill=True))
    return {"both": plans, "decode": plans, "prefill": wider}


def _check(job: Job, ask: Ask) -> None:
    if ask.objective == "smallest" and not ask.load_per_s:
        raise InvalidInput("the smallest machine needs the load that it must carry", where="--load")
    if ask.objective == "per-watt" and job.machine.power_w is None:
        raise MissingFigure(job.machine.name, "power.load")
    if ask.objective == "per-usd" and job.machine.price_usd is None:
        raise MissingFigure(job.machine.name, "price.usd")


def _score(choice: Choice, ask: Ask) -> float:
    found = choice.score(ask.objective)
    return -np.inf if found is None else found


def _pool(points: Points, row: int, role: Any, instances: float) -> Pool:
    plan = points.plans[int(points.layout[row])]
    return Pool(
        role=role,
        plan=replace(plan, draft_tokens=int(points.drafts[row])),
        instances=int(instances),
        chips=int(points.chips[row]),
        sequences=float(points.sequences[row]),
        chunk_tokens=int(points.chunk[row]),
    )


def _choice(job: Job, quant: str, mode: Mode, pools: tuple[Pool, ...], ask: Ask | None, **figures: float) -> Choice:
    machine = job.machine
    output = figures["requests_per_s"] * job.output_tokens
    used = int(sum(pool.instances * pool.chips for pool in pools))
    least = ask is not None and ask.objective == "smallest"
    share = used / machine.chips if least else 1.0
    return Choice(
        machine=machine.name,
        stack=job.stack.name,
        quant=quant,
        mode=mode,
        pools=pools,
        output_tokens_per_s=output,
        chips=used,
        machine_chips=machine.chips,
        output_tokens_per_s_per_chip=output / (machine.chips * share),
        output_tokens_per_s_per_w=None if machine.power_w is None else output / (machine.power_w * share),
        output_tokens_per_s_per_usd=None if machine.price_usd is None else output / (machine.price_usd * share),
        **figures,
    )


def _alone(points: Points, row: int, count: float, job: Job, quant: str, ask: Ask | None) -> Choice:
    pool = _pool(points, row, "both", count)
    return _choice(
        job,
        quant,
        "aggregated",
        (replace(pool, plan=replace(pool.plan, acceptance_ratio=job.acceptance_ratio)),),
        ask,
        ttft_s=float(points.ttft_s[row]),
        tpot_s=float(points.tpot_s[row]),
        requests_per_s=float(count * points.requests_per_s[row]),
    )


def _aggregated(points: Points, job: Job, quant: str, ask: Ask) -> list[Choice]:
    rows = best_rows(points, ttft_s=job.ttft_s, tpot_s=job.tpot_s)
    counts = np.floor_divide(job.machine.chips, points.chips[rows])
    if ask.objective == "smallest":
        counts = np.ceil((ask.load_per_s or 0.0) / points.requests_per_s[rows])
    return [_alone(points, int(row), float(n), job, quant, ask) for row, n in zip(rows, counts, strict=True) if n]


def _aggregated_front(points: Points, job: Job, quant: str) -> list[Choice]:
    ok = np.flatnonzero(points.ttft_s <= job.ttft_s)
    counts = np.floor_divide(job.machine.chips, points.chips[ok])
    keep = front(low=points.tpot_s[ok], high=counts * points.requests_per_s[ok])
    return [_alone(points, int(ok[i]), float(counts[i]), job, quant, None) for i in keep if counts[i]]


def _both(first: Points, second: Points, pairs: Pairs, i: int, job: Job, quant: str, ask: Ask | None) -> Choice:
    pools = (
        _pool(first, int(pairs.prefill_row[i]), "prefill", float(pairs.prefill_instances[i])),
        _pool(second, int(pairs.decode_row[i]), "decode", float(pairs.decode_instances[i])),
    )
    return _choice(
        job,
        quant,
        "disaggregated",
        tuple(replace(p, plan=replace(p.plan, acceptance_ratio=job.acceptance_ratio)) for p in pools),
        ask,
        ttft_s=float(pairs.ttft_s[i]),
        tpot_s=float(pairs.tpot_s[i]),
        requests_per_s=float(pairs.requests_per_s[i]),
    )


def _disaggregated(first: Points, second: Points, job: Job, quant: str, ask: Ask) -> list[Choice]:
    rows = best_rows(second, ttft_s=np.inf, tpot_s=job.tpot_s)
    if ask.objective == "smallest":
        pairs = smallest(first, second, rows, load_per_s=ask.load_per_s or 0.0, ttft_s=job.ttft_s)
    else:
        pairs = matched(first, second, rows, chips=job.machine.chips, ttft_s=job.ttft_s)
    return [_both(first, second, pairs, i, job, quant, ask) for i in range(pairs.chips.size)]


def _disaggregated_front(first: Points, second: Points, job: Job, quant: str) -> list[Choice]:
    pairs = matched(first, second, decode_front(second), chips=job.machine.chips, ttft_s=job.ttft_s)
    keep = front(low=pairs.tpot_s, high=pairs.requests_per_s)
    return [_both(first, second, pairs, int(i), job, quant, None) for i in keep]


def _nearest(points: Points, job: Job, what: str) -> list[str]:
    if not points.size:
        return [f"{what}: no layout fits the memory"]
    said = []
    for name, values, limit in (("TTFT", points.ttft_s, job.ttft_s), ("TPOT", points.tpot_s, job.tpot_s)):
        if values.min() > limit:
            said.append(f"{what}: {name} {show(float(values.min()), 's')} at best, {show(limit, 's')} asked")
    return said or [f"{what}: no layout meets both limits at once"] if what == "aggregated" else said
