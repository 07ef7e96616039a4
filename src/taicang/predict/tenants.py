"""Several models that share the instances of a machine: who holds what at first, and what each needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from taicang.catalog.models import model as load_model
from taicang.errors import InvalidInput, TaicangError
from taicang.hardware import Machine
from taicang.models.types import Model
from taicang.predict.system import System, pools
from taicang.serve.build import Pool
from taicang.stacks import Stack


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A model beside the main one."""

    model: str
    share_ratio: float
    """Of the sessions, those that ask for it."""
    instances: int | None = None
    """That hold it at first (None: by its share)."""


def shared(net: Model, machine: Machine, engine: Stack, system: System, tenants: Sequence[Tenant]) -> dict[str, Pool]:
    """Pools by model, the main one first: instances of one size, each of which can hold any of the models.

    Raises ``InvalidInput`` for shares that leave nothing to the main model, a model that does not fit an instance, and
    pools of one phase each.
    """
    if system.prefill or system.decode:
        raise InvalidInput("several models share instances that prefill and decode: drop --prefill, --decode",
                           where="--also")  # fmt: skip
    if system.tiers:
        raise InvalidInput("memory beside the instances keeps blocks of one model", where="--also")
    if sum(each.share_ratio for each in tenants) >= 1.0:
        raise InvalidInput(f"the shares leave nothing to {net.name}", where="--also")
    mains = pools(net, machine, engine, system)
    if len(mains) > 1:
        raise InvalidInput(f"{machine.name} serves in pools of one phase by default: say how many --instances prefill "
                           "and decode", where="--also")  # fmt: skip
    main = mains[0]
    ranks = main.setup.plan.ranks
    made = {net.name: main}
    for tenant in tenants:
        other = load_model(tenant.model, approximate=system.approximate)
        if other.name in made:
            raise InvalidInput(f"{other.name} is there already", where="--also")
        fitted = replace(system, plan=None, instances=main.instances, drafts=None)
        try:
            made[other.name] = pools(other, machine, engine, fitted, ranks=ranks)[0]
        except TaicangError as error:
            raise InvalidInput(f"{other.name}: {error}", where="--also") from None
    counts = _dealt(main.instances, tenants)
    return {name: replace(pool, instances=count) for (name, pool), count in zip(made.items(), counts, strict=True)}


def _dealt(instances: int, tenants: Sequence[Tenant]) -> list[int]:
    """Instances of the main model and of each tenant: as given, the others by largest remainders of their shares."""
    given = sum(each.instances or 0 for each in tenants)
    if given > instances:
        raise InvalidInput(f"{given} of {instances} instances are given away", where="--also")
    shares = [1.0 - sum(each.share_ratio for each in tenants)]
    shares += [0.0 if each.instances is not None else each.share_ratio for each in tenants]
    quotas = np.asarray(shares) / sum(shares) * (instances - given)
    counts = np.floor(quotas).astype(int)
    behind = np.argsort(counts - quotas, kind="stable")
    counts[behind[: instances - given - int(counts.sum())]] += 1
    dealt: list[int] = counts.tolist()
    return dealt[:1] + [n if t.instances is None else t.instances for n, t in zip(dealt[1:], tenants, strict=True)]
