"""How far the figures of a way to run may be off."""

from __future__ import annotations

from collections.abc import Mapping

from taicang.catalog.trust import REPLAYED, SERVED, Band, Ground, bands, ground
from taicang.plans import ServePlan
from taicang.search.points import Job


def ground_of(job: Job, mode: str, plan: ServePlan) -> Ground:
    """What is known of ``job`` on instances of ``plan`` (that decode, where others prefill)."""
    use = "aggregated" if mode == "aggregated" else "disaggregated"
    return ground(job.model, job.machine, job.stack, use=use, ranks=int(plan.ranks), quant=plan.quant)


def bands_of(job: Job, mode: str, plan: ServePlan, *, replay: bool = False) -> Mapping[str, Band]:
    """Bands of the closed form's figures, or of a ``replay``'s."""
    return bands(ground_of(job, mode, plan), REPLAYED if replay else SERVED, replay=replay)
