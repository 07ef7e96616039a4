"""How long an instance takes to have its weights: from storage (cold), or from the memory pool of all hosts (warm).

Both rates are those that CloudMatrix384's model cache showed with 671 GB of weights (arXiv 2506.12708, section on model
caching): 320 s from a bucket of the object store, which all instances share; 5 s from pooled memory onto instances of
16 chips (assumed: those that compute its prompts).
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

from taicang.plans import ServePlan
from taicang.serve.memory import memory_use
from taicang.serve.setup import Setup

Source: TypeAlias = Literal["cold", "warm"]
SOURCES: Final[tuple[Source, ...]] = get_args(Source)
_MEASURED: Final = 671e9
STORE_BYTES_PER_S: Final = _MEASURED / 320.0
POOL_BYTES_PER_S: Final = _MEASURED / 16.0 / 5.0
"""Of one chip."""


def loading_s(setup: Setup, source: Source) -> float:
    """Seconds until all ranks of an instance of ``setup`` hold their weights; nothing else of a start is in it."""
    if source == "cold":  # the store is read once
        return stored_bytes(setup) / STORE_BYTES_PER_S
    return _weight_bytes(setup, setup.plan) * setup.machine.chip.dies / POOL_BYTES_PER_S


def stored_bytes(setup: Setup) -> float:
    """Weights of the model as they lie in a store, each once."""
    return _weight_bytes(setup, ServePlan(quant=setup.plan.quant))


def _weight_bytes(setup: Setup, plan: ServePlan) -> float:
    use = memory_use(setup.model, plan, setup.machine.chip, setup.stack.memory, sequences=0.0, context=0.0, tokens=0.0)
    return float(use.weights_bytes)
