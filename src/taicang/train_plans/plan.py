"""How training is laid on ranks, and in which formats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from taicang.errors import InvalidPlan, UnknownName

Recompute: TypeAlias = Literal["none", "selective", "full"]
Schedule: TypeAlias = Literal["1f1b", "gpipe", "zero_bubble"]
Context: TypeAlias = Literal["ring", "all_gather", "ulysses"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Formats of one training step (names from ``formats``)."""

    name: str
    products: str
    """Linear layers and experts, forward and backward; embedding, head and attention core stay in bf16."""
    experts: str = ""
    """Format of the experts' grouped products where it is another."""
    weight_copies_bytes: float = 2.0
    """Bytes per parameter of the weights that products read (an 8-bit recipe keeps a transposed copy too)."""
    gather_bytes: float = 2.0
    """Bytes per parameter that a parameter gather moves."""
    gradient_bytes: float = 2.0
    """Bytes per gradient, kept and reduced (performance recipes reduce in 16 bits)."""
    optimizer_bytes: float = 12.0
    """Adam: fp32 master weight and two moments."""


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(name="bf16", products="bf16"),
        Recipe(name="fp16", products="bf16", gradient_bytes=4.0),  # the same arithmetic rate and bytes
        Recipe(name="fp8", products="fp8", weight_copies_bytes=2.0, gather_bytes=1.0),
        Recipe(name="fp8_block", products="fp8_block", weight_copies_bytes=2.0, gather_bytes=2.0),
        # matrix units scale MX blocks themselves: grouped products run like plain fp8, not like emulated blocks
        Recipe(name="mxfp8", products="mxfp8", experts="fp8", weight_copies_bytes=2.1, gather_bytes=2.0),
        Recipe(name="nvfp4", products="nvfp4", weight_copies_bytes=3.2, gather_bytes=2.0),
        Recipe(name="int8", products="int8", weight_copies_bytes=2.0, gather_bytes=2.0),
    )
}


def recipe(name: str) -> Recipe:
    """The recipe by name; ``UnknownName`` suggests the nearest."""
    try:
        return RECIPES[name]
    except KeyError:
        raise UnknownName("training recipe", name, RECIPES) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPlan:
    """One training job: ``tp * cp * dp * pp`` ranks, laid out in that order from the innermost out.

    Experts live on ``ep`` groups of ``etp`` ranks inside the ``tp * cp * dp`` ranks of a pipeline stage; what is left
    of them replicates experts. ``zero``: 0 everything replicated, 1 optimizer sharded over data parallel ranks
    (distributed optimizer), 2 gradients too, 3 weights too (FSDP).
    """

    tp: int = 1
    cp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    etp: int = 1
    vpp: int = 1
    """Model chunks per pipeline rank (interleaving)."""
    micro_batch: int = 1
    global_batch: int = 1
    seq: int = 4096
    sp: bool = True
    """Sequence parallelism: activations between tensor-parallel products are sharded over tp."""
    recompute: Recompute = "none"
    recompute_ratio: float = 1.0
    """Share of the layers that full recompute applies to (per block)."""
    zero: int = 1
    shard: int = 0
    """Ranks that a ZeRO shard group spans (0: all data-parallel ones); groups hold copies of each other (HSDP)."""
    schedule: Schedule = "1f1b"
    context: Context = "ring"
    recipe: Recipe = RECIPES["bf16"]
    reshard: bool = True
    """ZeRO 3: gather weights again for the backward pass."""
    trained_ratio: float = 1.0
    """Share of the weights that train (LoRA: about zero; then no weight gradients, no optimizer)."""

    @property
    def ranks(self) -> int:
        """Ranks of the whole job."""
        return self.tp * self.cp * self.pp * self.dp

    @property
    def microbatches(self) -> int:
        """Microbatches of one rank and step."""
        return self.global_batch // (self.dp * self.micro_batch)

    @property
    def tokens(self) -> int:
        """Tokens of one step."""
        return self.global_batch * self.seq


def check(plan: TrainPlan, layers: int) -> None:
    """Raise ``InvalidPlan`` for a layout that cannot run, naming the rule and by how much it is broken."""
    share = plan.dp * plan.micro_batch
    if plan.global_batch % share or plan.global_batch < share:
        raise InvalidPlan(
            f"global batch {plan.global_batch} is not a multiple of dp x micro batch = {plan.dp} x {plan.micro_batch}"
        )
    if plan.pp * plan.vpp > layers + 2:
        raise InvalidPlan(
            f"pp x vpp = {plan.pp * plan.vpp} chunks exceed {layers} layers by {plan.pp * plan.vpp - layers}"
        )
    if plan.vpp > 1 and plan.microbatches % plan.pp:
        raise InvalidPlan(
            f"interleaving needs microbatches ({plan.microbatches}) that are a multiple of pp ({plan.pp})"
        )
    stage = plan.tp * plan.cp * plan.dp
    if stage % (plan.ep * plan.etp):
        raise InvalidPlan(f"ep x etp = {plan.ep} x {plan.etp} does not divide the {stage} ranks of a pipeline stage")
    if plan.seq % plan.cp:
        raise InvalidPlan(f"cp={plan.cp} does not divide the sequence of {plan.seq} tokens")
    if plan.shard and (plan.dp * plan.cp) % plan.shard:
        raise InvalidPlan(f"shard={plan.shard} does not divide dp x cp = {plan.dp * plan.cp} data-parallel ranks")
    if plan.zero == 3 and plan.pp > 1:
        raise InvalidPlan(f"zero 3 gathers weights for each microbatch: not with pp={plan.pp}")


def describe(plan: TrainPlan) -> str:
    """A plan in the field's short form."""
    parts = [f"TP{plan.tp}"]
    for name, degree in (("CP", plan.cp), ("PP", plan.pp), ("VPP", plan.vpp), ("EP", plan.ep), ("DP", plan.dp)):
        parts += [f"{name}{degree}"] if degree > 1 else []
    parts += [f"ETP{plan.etp}"] if plan.etp > 1 else []
    parts += [f"MBS{plan.micro_batch}", f"ZeRO{plan.zero}"]
    parts += [f"recompute {plan.recompute}"] if plan.recompute != "none" else []
    return " ".join(parts + ([plan.schedule] if plan.schedule != "1f1b" else []))
