"""A training job: how many ranks along each axis, in which order, on which schedule, with what kept where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from taicang.train_plans.recipe import GRADIENTS, MASTERS, MOMENTS, RECIPES, Recipe

Recompute: TypeAlias = Literal["none", "selective", "full", ""]
"""What the backward pass runs forward again; "": what the stack does by itself."""
Schedule: TypeAlias = Literal["gpipe", "1f1b", "zero_bubble", "zb_2p", "zb_v", "dualpipe", "dualpipev"]
WAVES: Final = ("zb_v", "dualpipev")
"""Schedules whose two chunks of a rank lie in a V: the first and the last rank's second chunk meet at its bottom."""
Context: TypeAlias = Literal["ring", "all_gather", "ulysses"]
Offload: TypeAlias = Literal["none", "optimizer", "weights"]

ORDER: Final = "tp-cp-ep-dp-pp"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPlan:
    """One training job on ``tp * cp * dp * pp`` ranks, laid out from the innermost out as ``order`` says.

    Experts live on ``ep`` groups of ``etp`` ranks inside the ``tp * cp * dp`` ranks of a pipeline stage; what is left
    of them replicates experts (their own data-parallel group). ``zero``: 0 everything replicated, 1 optimizer sharded
    over data-parallel ranks (distributed optimizer), 2 gradients too, 3 weights too (FSDP).
    """

    tp: int = 1
    cp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    etp: int = 1
    """0: as the stack does by itself."""
    vpp: int = 1
    """Model chunks per pipeline rank (interleaving)."""
    order: str = ORDER
    """Axes from the innermost level of the machine outward (experts: etp stands at tp's place, cp falls away)."""
    micro_batch: int = 1
    global_batch: int = 1
    local_batch: int = 0
    """Sequences of a rank that one run of the pipeline takes, which fills and drains for each (PyTorch's pipelining
    runs one per local batch; 0: all of the step's)."""
    seq: int = 4096
    document_tokens: float = 0.0
    """Mean length of the documents that sequences are packed of, each of which attends to itself alone (0: one fills a
    sequence)."""
    document_spread_ratio: float = 0.0
    """Standard deviation of that length over its mean."""
    padded: bool = False
    """Each sequence holds one such document and is filled up with tokens that are computed and thrown away."""
    sp: bool = True
    """Sequence parallelism: activations between tensor-parallel products are sharded over tp."""
    recompute: Recompute = "none"
    recompute_ratio: float = 1.0
    """Share of the layers that full recompute applies to (per block)."""
    recompute_modules: tuple[str, ...] = ("core",)
    """Parts of a layer that selective recompute repeats (names of ``lower.training.Module``)."""
    zero: int = 1
    shard: int = 0
    """Ranks that a ZeRO shard group spans (0: all data-parallel ones); groups hold copies of each other (HSDP)."""
    schedule: Schedule = "1f1b"
    stages: str = ""
    """Layers of each chunk in model order, with E, M and L for embedding, MTP layers and head: "E15,16,15L", or
    "E7 x 3,6L" for three of seven and one. Empty: dealt evenly (see ``train.stages``)."""
    context: Context = "ring"
    recipe: Recipe = RECIPES["bf16"]
    moments: str = "fp32"
    """Format of Adam's moments (a key of ``MOMENTS``)."""
    master: str = "fp32"
    """Master weights beside the 16-bit ones (a key of ``MASTERS``)."""
    gradients: str = ""
    """Format that gradients are kept and reduced in, a key of ``GRADIENTS`` (empty: as the stack does)."""
    reshard: bool = True
    """ZeRO 3: gather weights again for the backward pass."""
    skew: float = 0.0
    """Exponent of the power law of the experts' popularity (0: the router deals evenly, as benchmarks force it)."""
    offload: Offload = "none"
    """What lies in the host's memory, as DeepSpeed has it: the optimizer's state, which the host then updates, or the
    weights (of ZeRO 3) as well."""
    nvme_bytes_per_s: float = 0.0
    """One rank's share of the NVMe drives that hold what is offloaded (0: it stays in host memory)."""
    activations_away_ratio: float = 0.0
    """Share of the layers whose kept activations wait in the host's memory from their forward to their backward pass
    (Megatron's ``cpu_offloading_num_layers``)."""
    trained_ratio: float = 1.0
    """Share of the weights that train (LoRA: about zero; then no weight gradients, no optimizer)."""

    @property
    def ranks(self) -> int:
        """Ranks of the whole job."""
        return self.tp * self.cp * self.pp * self.dp

    @property
    def ways(self) -> tuple[str, ...]:
        """Ways in which its ranks share the work and spare memory."""
        found = [name for name in ("tp", "cp", "pp", "ep") if getattr(self, name) > 1]
        found += [self.schedule] * (self.pp > 1 and self.schedule != "1f1b")
        found += ["zero3"] * (self.zero == 3) + [f"{self.recompute} recompute"] * (self.recompute not in ("", "none"))
        return (*found, *["offload"] * (self.offload != "none"))

    @property
    def microbatches(self) -> int:
        """Microbatches of one rank and step."""
        return self.global_batch // (self.dp * self.micro_batch)

    @property
    def runs(self) -> int:
        """Runs of the pipeline in a step."""
        return self.microbatches * self.micro_batch // self.local_batch if self.local_batch and self.pp > 1 else 1

    @property
    def tokens(self) -> float:
        """Tokens of one step that are learned from: of padded sequences their documents'."""
        return self.global_batch * min(self.document_tokens if self.padded else self.seq, self.seq)

    @property
    def span(self) -> float:
        """Length of the document that a token of a sequence is found in: the mean square over the mean, so that
        documents of this one length have as many query-key pairs as those of all lengths. A longer one is cut."""
        spread = 1.0 + self.document_spread_ratio**2
        return self.seq if self.padded else min(self.document_tokens * spread or self.seq, self.seq)

    @property
    def chunks(self) -> int:
        """Chunks that the model is cut into."""
        return self.pp * self.vpp

    @property
    def copies(self) -> int:
        """Copies of each stage along the pipeline: DualPipe feeds it from both ends."""
        return 2 if self.schedule == "dualpipe" else 1

    @property
    def by_layer(self) -> bool:
        """Whether weights are gathered and gradients scattered layer by layer, in every microbatch (ZeRO 3).

        A pipeline gathers them once a step instead and keeps them, whole gradients too, until its last microbatch.
        """
        return self.zero == 3 and self.pp == 1

    @property
    def gradient_bytes(self) -> float:
        """Bytes per gradient, kept and reduced."""
        return GRADIENTS[self.gradients or "bf16"]

    @property
    def optimizer_bytes(self) -> float:
        """Bytes per parameter of the optimizer's state: master weight and two moments."""
        return MASTERS[self.master] + 2.0 * MOMENTS[self.moments]


def describe(plan: TrainPlan) -> str:
    """A plan in the field's short form."""
    parts = [f"TP{plan.tp}"]
    for name, degree in (("CP", plan.cp), ("PP", plan.pp), ("VPP", plan.vpp), ("EP", plan.ep), ("DP", plan.dp)):
        parts += [f"{name}{degree}"] if degree > 1 else []
    parts += [f"ETP{plan.etp}"] if plan.etp > 1 else []
    parts += [f"LBS{plan.local_batch}"] if plan.runs > 1 else []
    parts += [f"MBS{plan.micro_batch}", f"ZeRO{plan.zero}" + (f" in groups of {plan.shard}" if plan.shard else "")]
    parts += (
        [f"{plan.offload} offloaded" + (" to NVMe" if plan.nvme_bytes_per_s else "")] if plan.offload != "none" else []
    )
    away = plan.activations_away_ratio
    parts += [f"{away:.0%} of activations offloaded"] if away else []
    if plan.document_tokens:
        spread = f"±{plan.document_spread_ratio * plan.document_tokens:.0f}" if plan.document_spread_ratio else ""
        how = "padded to" if plan.padded else "packed into"
        parts.append(f"documents of {plan.document_tokens:.0f}{spread} tokens {how} {plan.seq}")
    parts += ["no SP"] if plan.tp > 1 and not plan.sp else []
    parts += [plan.context] if plan.cp > 1 and plan.context != "ring" else []
    if plan.recompute != "none":
        share = f" {plan.recompute_ratio:.0%}" if plan.recompute_ratio < 1.0 else ""
        parts.append(f"recompute {plan.recompute}{share}")
    parts += (
        [] if plan.moments == "fp32" and plan.master == "fp32" else [f"moments {plan.moments} master {plan.master}"]
    )
    parts += [f"skew {plan.skew:g}"] if plan.skew else []
    parts += [plan.order] if plan.order != ORDER else []
    return " ".join(parts + ([plan.schedule] if plan.schedule != "1f1b" else []))
