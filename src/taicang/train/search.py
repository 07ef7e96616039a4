"""Search the plan space: every legal layout priced by arrays, the best few priced exactly.

What a layer costs depends on few of a plan's choices (``space.layouts``): for each of these it is lowered and priced
once. Everything else only scales and adds, for all combinations at once. The pipeline is its closed form there (a test
holds it against the simulation); plans that fit the memory are ranked, and the first few are priced by
``step.train_step``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from taicang.errors import InvalidPlan
from taicang.train.estimate import Priced, estimates
from taicang.train.setup import Setup
from taicang.train.space import fixed_fields, layouts, open_plan, recomputes, shapes
from taicang.train.step import TrainStep, train_step
from taicang.train_plans import TrainPlan
from taicang.train_plans.placement import axes_of

Floats = NDArray[np.float64]
Progress: TypeAlias = Callable[[int, int], None]
"""Told how many layouts are priced, of how many."""
EXACT = 12
"""Plans that are priced exactly."""
FRONT = 8
"""Plans of the front of time against memory that are priced exactly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """All priced plans as columns; ``group`` indexes ``groups``, which name what a group of plans shares."""

    groups: tuple[TrainPlan, ...]
    group: NDArray[np.intp]
    pp: NDArray[np.intp]
    vpp: NDArray[np.intp]
    recompute: NDArray[np.intp]
    modes: tuple[tuple[Any, float], ...]
    seconds: Floats
    memory_bytes: Floats

    def plan(self, i: int, ranks: int) -> TrainPlan:
        """The i-th plan on ``ranks`` ranks."""
        base, pp = self.groups[self.group[i]], int(self.pp[i])
        mode, ratio = self.modes[self.recompute[i]]
        dp = ranks // (base.tp * base.cp * pp)
        made: TrainPlan = replace(base, pp=pp, vpp=int(self.vpp[i]), dp=dp, recompute=mode, recompute_ratio=ratio)
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search found: exact steps, best first; the front of time against memory; how many plans there were."""

    best: tuple[TrainStep, ...]
    front: tuple[TrainStep, ...]
    """Plans that fit and that no other beats in both time and memory, fastest first."""
    candidates: int
    fitting: int
    least_bytes: float
    """Of the leanest plan, whether it fits or not."""


def search(setup: Setup, fixed: Mapping[str, Any] | None = None, progress: Progress | None = None) -> Found:
    """The fastest plans of ``setup.model`` on all ranks of the machine; ``fixed`` fields keep their values.

    ``setup.plan`` gives what is not searched: global batch, sequence, recipe. ``best`` is empty where nothing fits the
    memory. Raises ``InvalidPlan`` if no layout divides machine, batch and model.
    """
    ranks = setup.machine.ranks
    found = candidates(setup, fixed or {}, progress)
    fits = found.memory_bytes <= setup.machine.chip.memory.capacity_bytes
    ranked = np.argsort(np.where(fits, found.seconds, np.inf), kind="stable")[: int(fits.sum())]
    exact: list[TrainStep] = []
    seen: set[tuple[int, ...]] = set()
    for i in ranked[: 100 * EXACT]:
        plan = found.plan(int(i), ranks)
        shape = (plan.tp, plan.cp, plan.pp, plan.vpp, plan.ep)
        if shape in seen:  # the same layout in a slower variant
            continue
        step = _exact(setup, plan)
        if step is not None:
            exact.append(step)
            seen.add(shape)
        if len(exact) == EXACT:
            break
    return Found(
        best=tuple(sorted(exact, key=lambda step: step.seconds)),
        front=_front(setup, found, fits, exact),
        candidates=found.seconds.size,
        fitting=int(fits.sum()),
        least_bytes=float(found.memory_bytes.min()),
    )


def _exact(setup: Setup, plan: TrainPlan) -> TrainStep | None:
    """The priced step of a plan that is legal and fits, else None."""
    try:
        step = train_step(replace(setup, plan=plan))
    except InvalidPlan:
        return None
    return step if float(step.memory.spare_bytes) >= 0 else None


def why(best: TrainStep, other: TrainStep) -> tuple[tuple[str, float], ...]:
    """What the second plan spends more seconds on than the first, largest first."""
    lines = dict.fromkeys([*best.spent, *other.spent])
    more = [(line, other.spent.get(line, 0.0) - best.spent.get(line, 0.0)) for line in lines]
    return tuple(sorted((pair for pair in more if pair[1] > 0), key=lambda pair: -pair[1]))


def _front(setup: Setup, found: Candidates, fits: NDArray[np.bool_], exact: list[TrainStep]) -> tuple[TrainStep, ...]:
    """Plans that fit and that none beats in both, thinned to ``FRONT`` and priced exactly beside the best ones."""
    keep = np.flatnonzero(fits)
    if not keep.size:
        return ()
    order = keep[np.lexsort((found.memory_bytes[keep], found.seconds[keep]))]
    least = np.minimum.accumulate(found.memory_bytes[order])
    first = np.concatenate([[True], found.memory_bytes[order][1:] < least[:-1]])
    rough = order[first]
    chosen = rough[np.unique(np.linspace(0, rough.size - 1, FRONT).round().astype(int))]
    steps = [*exact, *(_exact(setup, found.plan(int(i), setup.machine.ranks)) for i in chosen)]
    made: list[TrainStep] = []
    for step in sorted((one for one in steps if one is not None), key=lambda one: one.seconds):
        if not made or float(step.memory.total_bytes) < float(made[-1].memory.total_bytes):
            made.append(step)
    return tuple(made)


def candidates(setup: Setup, fixed: Mapping[str, Any] | None = None, progress: Progress | None = None) -> Candidates:
    """Price all plans."""
    kept = fixed or {}
    axes_of(kept.get("order", setup.plan.order))
    modes = recomputes(kept)
    groups: list[TrainPlan] = []
    parts: list[tuple[NDArray[np.intp], ...]] = []
    numbers: list[tuple[Floats, Floats]] = []
    for one in _priced(setup, kept, modes, progress):
        at = np.full(one.seconds.size, len(groups))
        groups.append(one.plan)
        parts.append((at, one.pp, one.vpp, one.recompute))
        numbers.append((one.seconds, one.memory_bytes))
    if not groups:
        raise InvalidPlan(
            f"no layout divides {setup.machine.ranks} ranks, a global batch of {setup.plan.global_batch} and "
            f"{setup.model.layers} layers" + (f" with {', '.join(kept)} as given" if kept else "")
        )
    group, pp, vpp, recompute = (np.concatenate(column) for column in zip(*parts, strict=True))
    seconds, size = (np.concatenate(column) for column in zip(*numbers, strict=True))
    return Candidates(
        groups=tuple(groups), group=group, pp=pp, vpp=vpp, recompute=recompute, modes=modes, seconds=seconds,
        memory_bytes=size,
    )  # fmt: skip


def _priced(
    setup: Setup, fixed: Mapping[str, Any], modes: tuple[tuple[Any, float], ...], progress: Progress | None
) -> Iterator[Priced]:
    listed = layouts(setup, fixed)
    for i, layout in enumerate(listed):
        pp, vpp = shapes(layout, setup.model, setup.machine.ranks, fixed)
        if pp.size:
            with suppress(InvalidPlan):  # heads that tensor parallelism does not divide
                yield from estimates(setup, layout, pp, vpp, modes, fixed)
        if progress is not None:
            progress(i + 1, len(listed))


__all__ = ["Candidates", "Found", "Progress", "candidates", "fixed_fields", "open_plan", "search", "why"]
