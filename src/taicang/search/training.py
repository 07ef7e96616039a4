"""The one door of training: a question as it is asked, its stack with other abilities, and the job that it comes to."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from taicang import catalog
from taicang.catalog.costing import default_stack, sustained, training_price
from taicang.catalog.models import model as load_model
from taicang.cost.sustained import Sustained
from taicang.errors import InvalidInput, UnknownName
from taicang.hardware import Machine, in_half
from taicang.models.types import Model
from taicang.stacks import Stack
from taicang.train.run import Policy
from taicang.train.search import open_plan
from taicang.train.setup import Setup
from taicang.train_plans import TrainPlan
from taicang.train_plans.placement import seed_of

OVERLAPS: Final = ("tensor", "tensor_gradients", "gradients", "registered", "interleaved_gradients", "parameters",
                   "pipeline", "expert_exchange", "shared_expert", "zero_bubble", "zb_2p", "zb_v", "dualpipe",
                   "dualpipev")  # fmt: skip
"""What a training stack can overlap ("tensor_gradients": tensor-parallel collectives of the backward pass behind other
products; "registered": data-parallel ones take no cores), and the schedules beyond 1F1B that the search may take."""
ALIASES: Final[Mapping[str, str]] = MappingProxyType({"mc2": "tensor"})
"""Other names of these words."""
GROUPED: Final = "grouped"
"""Word of ``fused`` for experts in one product (``Stack.grouped_experts``): it is there unless it is taken away."""
FUSIONS: Final = ("flash_attention", "expert_products", "fp8_attention", "fp8_stored", "loss_kernel", "chunked_loss",
                  "fused_loss", "gradient_sum")  # fmt: skip
"""Kernels of a training stack that take the place of several, or of slower ones ("fp8_stored": activations keep their
inputs in 8 bits; "gradient_sum": products add weight gradients to their sum, where a kernel does by default)."""
PARTS: Final = ("mixer", "router", "experts")
"""Parts of a layer that a captured graph can replay."""


def changed(
    stack: Stack, overlap: Sequence[str] = (), fused: Sequence[str] = (), captured: Sequence[str] = ()
) -> Stack:
    """``stack`` with other abilities: each a list of its own ("none": nothing), or "+word" and "-word" changes.

    Raises ``UnknownName`` for a word that is none of ``OVERLAPS``, ``FUSIONS``, ``PARTS``.
    """
    grouped = stack.grouped_experts
    for word in fused:
        grouped = word[0] != "-" if word.lstrip("+-") == GROUPED else grouped
    fused = [word for word in fused if word.lstrip("+-") != GROUPED]
    return replace(
        stack,
        grouped_experts=grouped,
        overlap=_changed(stack.overlap, overlap, "overlap", OVERLAPS),
        fused=_changed(stack.fused, fused, "fusion", FUSIONS),
        captured=_changed(stack.captured, captured, "part of a layer", PARTS),
    )


def _changed(own: frozenset[str], words: Sequence[str], what: str, known: Collection[str]) -> frozenset[str]:
    if not words:
        return own
    words = [word[: word[:1] in "+-"] + ALIASES.get(bare := word.lstrip("+-"), bare) for word in words]
    changes = [word for word in words if word[:1] in "+-"]
    for word in words:
        if word.lstrip("+-") not in (*known, "none"):
            more = [*ALIASES] if what == "overlap" else [GROUPED] if what == "fusion" else []
            raise UnknownName(what, word.lstrip("+-"), [*known, *more])
    kept = set(own) if len(changes) == len(words) else {w for w in words if w[:1] not in "+-"} - {"none"}
    kept |= {word[1:] for word in changes if word[0] == "+"}
    return frozenset(kept - {word[1:] for word in changes if word[0] == "-"})


BATCH_TOKENS = 4 * 2**20
"""Tokens of a step where none are asked for (about what published runs of large models use)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One question of training: a model on a machine by a plan, and the run around its step."""

    model: str | Model
    on: str | Machine
    plan: TrainPlan
    """Data parallelism and a batch of 0 are left open: see ``filled``."""
    stack: str | Stack | None = None
    """None: what published results on such machines used."""
    sets: Sequence[str] = ()
    """Figures of the machine that differ: "PATH=VALUE"."""
    overlap: Sequence[str] = ()
    """What the stack overlaps in place of its own list, or changes to it ("+shared_expert", "-tensor", "none")."""
    fused: Sequence[str] = ()
    """Kernels that it fuses, likewise."""
    captured: Sequence[str] = ()
    """Parts of a layer that it replays from graphs, likewise."""
    clock: Sustained | None = None
    """Of the chips under sustained load (None: as calibrated)."""
    searched: bool = False
    """Whether the fastest layout on all ranks of the machine takes the plan's place, but for what is ``pinned``."""
    pinned: Collection[str] = ()
    """Fields of the plan that the search keeps."""
    tokens: float | None = None
    """Of the whole run, where there is one."""
    policy: Policy = field(default_factory=Policy)
    """How the run guards against failures, and what things cost."""
    explained: bool = False
    """Whether the answer adds the sensitivity to each resource and the pipeline's timeline."""


def settle(asked: Training) -> Setup:
    """The priced job of a question, with what it leaves open chosen. Raises from ``taicang.errors``."""
    plan = asked.plan
    net = load_model(asked.model) if isinstance(asked.model, str) else asked.model
    machine = catalog.machine(asked.on, asked.sets) if isinstance(asked.on, str) else asked.on
    machine = in_half(machine, "fp16" if plan.recipe.name == "fp16" else "bf16")
    if machine.links is not None and (seed := seed_of(plan.order)) is not None:
        machine = replace(machine, links=replace(machine.links, placed=seed))
    engine = asked.stack if isinstance(asked.stack, Stack) else catalog.stack(asked.stack or default_stack(machine))
    engine = catalog.fit_for(engine, "training", machine.chip)
    engine = changed(engine, asked.overlap, asked.fused, asked.captured)
    if asked.searched:  # whatever the search finds divides the batch itself
        plan = replace(filled(open_plan(plan, asked.pinned), machine), dp=1)
    if net.mtp_layers and not engine.trains_mtp:
        said = f"{engine.engine} does not train the {net.mtp_layers} MTP layers of {net.name}"
        net = replace(net, mtp_layers=0, assumptions=(*net.assumptions, said))
    clock = asked.clock or sustained(machine.chip)
    return Setup(
        model=net, plan=filled(plan, machine), machine=machine, stack=engine,
        price=training_price(machine, engine, clock), clock_ratio=clock.clock_ratio,
    )  # fmt: skip


def filled(plan: TrainPlan, machine: Machine) -> TrainPlan:
    """``plan`` with data parallelism over all of the machine and a batch of ``BATCH_TOKENS`` where left open (0)."""
    inner = plan.tp * plan.cp * plan.pp
    if not plan.dp and machine.ranks % inner:
        raise InvalidInput(f"tp x cp x pp = {inner} does not divide the {machine.ranks} ranks of {machine.name}")
    plan = replace(plan, dp=plan.dp or machine.ranks // inner)
    each = plan.dp * plan.micro_batch * (plan.pp if plan.vpp > 1 else 1)
    return replace(plan, global_batch=plan.global_batch or max(round(BATCH_TOKENS / plan.seq / each), 1) * each)
