"""What is known of a run, in the words that measurements are filed under: who is near it, and what is new about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from taicang.catalog.build import chip as chip_named
from taicang.catalog.resolve import built_in
from taicang.catalog.schema import ARCHITECTURE
from taicang.hardware import Chip, Machine
from taicang.models.types import (
    Attention,
    Compressed,
    GatedLinear,
    GroupedQuery,
    Latent,
    Model,
    ShortConv,
    StateSpace,
    routed,
)
from taicang.plans import Quantisation, ServePlan
from taicang.stacks import Stack

if TYPE_CHECKING:
    from taicang.train_plans import TrainPlan

WIDE = 8
"""Ranks of a node, beyond which an instance has a cell of its own."""
TURNS = 2
"""Requests of each client from which on a run is a closed loop, as all measured ones are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What is known of a run, in the words that its measurements are filed under."""

    use: str
    """ "aggregated", "disaggregated", "saturated" (as full as limits allow), "burst" (a closed loop of several clients
    with fewer than ``TURNS`` requests each: all come at once and hardly any follow), "training" or "adapters"."""
    vendor: str
    generation: str
    chip: str
    engine: str
    version: str
    model: str
    """Its sizes, so that a model is the same under all its names."""
    kind: str
    form: str
    span: str
    """Whether the ranks of an instance share a scale-up domain."""
    ranks: int
    layout: str = ""
    """Ways in which ranks share the work and spare memory, and in which the host paces steps, joined by "+"."""
    source: str = ""
    """Who measured it. Empty: a user, of whose runs the evidence has none."""
    power: str = field(default="not known", compare=False)
    """What the machine's power is, which is stated and not predicted."""
    own: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """What its user measured under this stack, as ``table`` has it of all."""

    @property
    def pool(self) -> str:
        """Rows that may speak for it at all."""
        return f"{self.use} {self.vendor}"

    @property
    def feed(self) -> str:
        """Kind of its feed-forward layers."""
        return feed(self.kind)

    @property
    def cells(self) -> tuple[str, ...]:
        """From the whole pool to the nearest: such models, by its engine, on such a width."""
        near = f"{self.engine} {self.feed}"
        return ("", self.feed, near, f"{near}, {'wide' if self.ranks > WIDE else 'narrow'}")


def feed(kind: str) -> str:
    """Feed-forward layers of a kind of model: "dense", "experts", "experts one by one"."""
    return kind.partition("/")[2]


def at_once(prompts: int, clients: float) -> bool:
    """Whether so many prompts of several clients come as one burst: hardly any of them follows an answer."""
    return clients > 1 and prompts < TURNS * clients


def ground(
    model: Model, machine: Machine, stack: Stack, *, use: str, ranks: int, quant: Quantisation | None, form: str = "",
    plan: ServePlan | TrainPlan | None = None,
) -> Ground:  # fmt: skip
    """What is known of a run. ``form`` is given where formats are no ``quant`` (a training recipe)."""
    chip = machine.chip
    experts = routed(model) is not None
    if quant is not None:
        form = quant.experts if experts else quant.dense
    return Ground(
        use=use,
        vendor=chip.vendor,
        generation=generation(chip),
        chip=chip.name if _own(chip) else f"{chip.name}, changed",
        engine=stack.engine,
        version=stack.version,
        model=f"{model.hidden} x {model.layers}, {model.vocab}",
        kind=f"{attention(model)}/{'experts' if experts else 'dense'}",
        form=form,
        span="domain" if ranks <= machine.domain else "network",
        ranks=ranks,
        layout="+".join((*(plan.ways if plan else ()), *_paced(stack))),
        power=machine.power_from,
        own=stack.bands,
    )


def trained(model: Model, machine: Machine, stack: Stack, plan: TrainPlan) -> Ground:
    """What is known of a training job; one that trains adapters alone is another use, and experts that run one after
    the other are of another kind: the host paces them."""
    use = "training" if plan.trained_ratio == 1.0 else "adapters"
    made = ground(model, machine, stack, use=use, ranks=plan.ranks, quant=None, form=plan.recipe.name, plan=plan)
    apart = routed(model) is not None and not stack.grouped_experts
    return replace(made, kind=f"{made.kind} one by one") if apart else made


def _paced(stack: Stack) -> tuple[str, ...]:
    """How the host paces decoding, where not as in the captured steps of CUDA engines, of which most rows are."""
    if stack.graph in ("eager", "piecewise"):
        return (f"{stack.graph} steps",)
    return ("captured steps that are handed lengths",) if stack.graph and stack.lengths_s else ()


def _own(chip: Chip) -> bool:
    """Whether it is as the catalogue has it, no figure changed by the user."""
    return built_in("chip", chip.name.lower()) is not None and chip == _listed(chip.name)


@cache
def _listed(name: str) -> Chip:
    """The chip of the package's own catalogue, which stays as it is: a search asks of each way to run it shows."""
    return chip_named(name)


def generation(chip: Chip) -> str:
    """Architecture of a chip, as far as profile and name tell it."""
    if chip.ascend:
        return "-".join(chip.name.split("-")[:2])[: len("ascend-950")]
    known = chip.profile in ARCHITECTURE and _listed(chip.profile).vendor == chip.vendor
    return ARCHITECTURE[chip.profile] if known else f"{chip.vendor} {chip.name}"


def attention(model: Model) -> str:
    """Kind of attention of most layers beside what else there is."""
    kinds = sorted({_attention(block.attention) for block in model.blocks})
    return "+".join(kinds)


def _attention(kind: Attention) -> str:
    match kind:
        case Latent():
            return "sparse" if kind.indexer else "latent"
        case GroupedQuery():
            return "window" if kind.window else "grouped"
        case Compressed():
            return "compressed"
        case GatedLinear() | StateSpace() | ShortConv():
            return "recurrent"


def size(run: Ground) -> str:
    """Span and ranks to the power of two below."""
    return f"{run.span} {1 << (run.ranks.bit_length() - 1)}"
