"""Search a machine: aggregated and disaggregated ways to run a model, within memory and SLO."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from taicang.catalog.build import split
from taicang.errors import InvalidInput, MissingFigure, NotModelled
from taicang.plans import Quantisation, ServePlan
from taicang.search import sheet
from taicang.search.handover import unlaunchable
from taicang.search.join import covered
from taicang.search.points import Job, Points, Role, prefill_points, serving_points
from taicang.search.result import FIGURES, MODES, Ask, Choice, Counts, Found, Mode
from taicang.search.sheet import Sheet
from taicang.search.space import Space, layouts
from taicang.units import show

__all__ = ["MODES", "Ask", "every", "search"]
MANY = 1000
"""Plans of which the one for the most users is told where there are too many of them."""
ROLES: Mapping[Mode, Role] = MappingProxyType({"aggregated": "both", "disaggregated": "decode", "decode": "decode"})


def search(
    job: Job,
    quants: Sequence[tuple[str, Quantisation]],
    space: Space,
    ask: Ask,
    only: Mapping[str, Sequence[ServePlan]] | None = None,
    beside: Sequence[ServePlan] = (),
    why_not: Callable[[str, ServePlan], str] | None = None,
) -> Found:
    """The best ways to run ``job`` over all layouts of ``space`` in each of the named ``quants``.

    ``only`` names the layouts by role ("both", "prefill", "decode") instead of all; ``beside`` are layouts that decode
    besides those of the space; ``why_not`` says of a role and a layout why it is not in the space, if it is not
    (none: of the space's own, what the engine cannot be told to run).

    Exhaustive: each row is priced, unless its bytes exceed the memory. The smallest machine is no larger than the
    job's. Raises ``InvalidInput`` for it without a load or a load without it, and ``MissingFigure`` where the objective
    needs a figure that the machine lacks.
    """
    _check(job, ask)
    sheets: list[Sheet] = []
    edges: list[Sheet] = []
    counts = np.zeros(4, dtype=np.int64)
    pairings = 0
    nearest: list[str] = []
    refused: list[str] = []
    if only is None:
        space = replace(space, staged_drafts=job.stack.staged_drafts)
    for name, quant in quants:
        plans = only or every(job, quant, space, beside, why_not)
        priced = _priced(plans, job, space, ask)
        sheets += _sheets(priced, job, name, ask)
        if ask.front and "aggregated" in priced:
            edges.append(sheet.aggregated_front(priced["aggregated"], job, name))
        if ask.front and "prefill" in priced:
            pools = priced["prefill"], priced["decode"]
            edges.append(sheet.disaggregated_front(*pools, job, name))
            pairings += covered(*pools, chips=job.machine.chips, ttft_s=job.ttft_s, tpot_s=job.tpot_s)
        for what, points in priced.items():
            counts += len(points.plans), points.considered, points.size, len(points.refused)
            nearest += _nearest(points, job, what)
            refused += points.refused
    if not counts[2] and refused:
        raise NotModelled(refused[0])
    carried = [sheet.within(each, job.machine.chips) for each in sheets]
    best = sheet.best(carried, ask)
    beyond = [] if best else sheet.best(sheets, replace(ask, top=1))
    if beyond:
        nearest = [_larger(job, ask, beyond[0].chips)]
    elif not best and job.users:
        free = search(replace(job, users=None), quants, space, replace(ask, top=MANY), only, beside, why_not).best
        nearest = _fewer(job, free) or nearest
    laid, considered, fitting, refusals = counts.tolist()
    return Found(
        machine=job.machine.name,
        best=tuple(best),
        front=tuple(sheet.front_of(edges)),
        counts=Counts(layouts=laid, priced=considered, fitting=fitting, combinations=pairings, refused=refusals),
        nearest=() if best else tuple(nearest) or (f"no instances of both pools fit {job.machine.chips} chips",),
        takes_chips=beyond[0].chips if beyond else None,
    )


def _larger(job: Job, ask: Ask, chips: int) -> str:
    """What a load takes that the machine does not carry."""
    name, count = split(job.machine.name)
    units = -(-chips * count // job.machine.chips)
    load = f"{ask.load_per_s:g} requests/s" if ask.load_per_s else f"{job.users:g} users"
    return (
        f"{load} take {chips:,} chips in layouts of this machine, which has "
        f"{job.machine.chips:,}: --on '{name} x {units}'"
    )


def _fewer(job: Job, free: Sequence[Choice]) -> list[str]:
    """The most users that a plan takes of those that are ``free`` of the load, if any."""
    held = max((choice.users for choice in free), default=0.0)
    said = (
        f"at most {held:,.0f} users at a time within the limits, {job.users:,.0f} asked: an engine lets the others "
        f"wait, as replay --closed-loop {job.users:.0f} shows"
    )
    return [said] if held else []


def _priced(plans: Mapping[str, Sequence[ServePlan]], job: Job, space: Space, ask: Ask) -> dict[str, Points]:
    """Instances of each kind that the modes asked for take: "aggregated", "prefill", "decode"."""
    roles = list(dict.fromkeys(role for mode, role in ROLES.items() if mode in ask.modes))
    if len(roles) > 1 and plans["both"] == plans["decode"]:
        serving = serving_points(plans["both"], job, space, roles)
    else:
        serving = {role: serving_points(plans[role], job, space, (role,))[role] for role in roles}
    found: dict[str, Points] = {}
    if "both" in serving:
        found["aggregated"] = serving["both"]
    if "disaggregated" in ask.modes:
        found["prefill"] = prefill_points(plans["prefill"], job, space)
    return found | ({"decode": serving["decode"]} if "decode" in serving else {})


def _sheets(priced: Mapping[str, Points], job: Job, name: str, ask: Ask) -> Iterator[Sheet]:
    if "aggregated" in ask.modes:
        yield sheet.aggregated(priced["aggregated"], job, name, ask)
    if "disaggregated" in ask.modes:
        yield sheet.disaggregated(priced["prefill"], priced["decode"], job, name, ask)
    if "decode" in ask.modes:
        yield sheet.decoding(priced["decode"], job, name, ask)


def every(
    job: Job,
    quant: Quantisation,
    space: Space,
    beside: Sequence[ServePlan] = (),
    why_not: Callable[[str, ServePlan], str] | None = None,
) -> dict[str, Sequence[ServePlan]]:
    """Layouts of the space by role but those that ``why_not``, or else the engine, refuses; ``beside`` is among those
    that decode, but for what ``why_not`` refuses."""
    refused = why_not or unlaunchable(job.machine, job.model, job.stack)
    wider = list(layouts(space, job.model, job.machine, job.stack, quant, prefill=True))
    given = [replace(each, quant=quant) for each in beside]

    def serving(role: str) -> list[ServePlan]:
        plans = [plan for plan in wider if not plan.sp and space.takes(plan) and not refused(role, plan)]
        more = [plan for plan in given if plan not in plans and space.takes(plan)]
        return plans + [plan for plan in more if not (why_not and why_not(role, plan))]

    return {
        "both": serving("both"),
        "decode": serving("decode"),
        "prefill": [plan for plan in wider if not refused("prefill", plan)],
    }


def _check(job: Job, ask: Ask) -> None:
    if ask.load_per_s and ask.objective != "smallest":
        raise InvalidInput(f"only --objective smallest takes a load, not {ask.objective}", where="--load")
    if "decode" in ask.modes and not job.goes_on:
        raise InvalidInput("an answer of one token has no decode step", where="--mode decode, --output")
    if ask.load_per_s and job.users:
        raise InvalidInput("requests per second and users are two loads: give one", where="--load, --users")
    if ask.objective == "smallest" and not (ask.load_per_s or job.users):
        raise InvalidInput("the smallest machine needs the load that it must carry (--load or --users)", where="--load")
    figure, field = FIGURES.get(ask.objective, ("", "chips"))
    if getattr(job.machine, field) is None:
        raise MissingFigure(job.machine.name, figure)


def _nearest(points: Points, job: Job, what: str) -> list[str]:
    if not points.size:
        return [f"{what}: no layout fits the memory"]
    said = []
    for name, values, limit in (("TTFT", points.ttft_s, job.ttft_s), ("TPOT", points.tpot_s, job.tpot_s)):
        if values.min() > limit:
            said.append(f"{what}: {name} {show(float(values.min()), 's')} at best, {show(limit, 's')} asked")
    return said or [f"{what}: no layout meets both limits at once"] if what == "aggregated" else said
