"""How work is laid on ranks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np

from taicang.errors import InvalidPlan
from taicang.units import Count

Phase: TypeAlias = Literal["prefill", "decode"]
Exchanging: TypeAlias = Literal["auto", "all_to_all", "gather"]
EXCHANGES: tuple[Exchanging, ...] = get_args(Exchanging)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantisation:
    """Format of each tensor class (names from ``formats``)."""

    attention: str = "bf16"
    """Attention projections."""
    dense: str = "bf16"
    """Dense feed-forward and shared experts."""
    experts: str = "bf16"
    kv: str = "bf16"
    attend: str = "bf16"
    """Arithmetic of the attention core."""
    dispatch: str = "bf16"
    combine: str = "bf16"
    head: str = "bf16"
    """Embedding and output head."""
    index: str = "fp8_block"
    """Scores of a sparse-attention indexer; bf16 on chips without fp8."""
    spares: bool = False
    """Layers that the checkpoint leaves in bf16 (``Block.plain``) stay so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServePlan:
    """One serving instance: attention is ``dp`` groups of ``tp`` ranks, experts ``ep`` groups of ``moe_tp`` ranks.

    ``tp * dp == ep * moe_tp`` ranks form a pipeline stage and ``pp`` stages the instance. ``sp`` marks the
    sequence-tensor-sequence attention of CloudMatrix-Infer's prefill. ``redundant`` experts are replicas placed to
    even out load; ``shared_ranks`` ranks hold only the shared expert (0: every rank computes it for its own tokens).
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    moe_tp: int = 1
    sp: bool = False
    redundant: int = 0
    shared_ranks: int = 0
    draft_tokens: Count = 0
    """Tokens drafted per step by MTP or a speculative head: a whole number, or an array of candidates."""
    acceptance_ratio: float = 0.7
    """Chance that a drafted token is accepted, given that those before it were."""
    microbatches: int = 1
    exchange: Exchanging = "auto"
    """How tokens reach experts under attention data parallelism; "auto" is the stack's default."""
    quant: Quantisation = Quantisation()

    @property
    def ranks(self) -> int:
        """Ranks of the whole instance."""
        return self.tp * self.dp * self.pp

    @property
    def ways(self) -> tuple[str, ...]:
        """Ways in which its ranks share the work or work ahead."""
        found = [name for name in ("tp", "pp", "dp", "ep") if getattr(self, name) > 1]
        return (*found, *["drafts"] * (int(self.draft_tokens) > 0))

    @property
    def query_len(self) -> Count:
        """Tokens that one sequence sends through the model in a decode step."""
        return 1 + self.draft_tokens

    @property
    def tokens_per_step(self) -> float:
        """Expected tokens that one sequence gains per decode step: 1 + a + a^2 + ... (arrays of drafts give arrays)."""
        most = int(np.max(self.draft_tokens))
        gained: Any = 1.0
        for i in range(1, most + 1):
            gained = gained + self.acceptance_ratio**i * (i <= self.draft_tokens)
        return cast(float, gained)


def chance_of(accepted_ratio: float, drafts: int | None) -> float:
    """Chance that a draft is accepted after those before it, where this share of all ``drafts`` of a step is, which is
    what engines report: of several the later ones are accepted less (None: of one)."""
    if not drafts or drafts == 1:
        return accepted_ratio
    low, high = 0.0, 1.0
    for _ in range(60):
        chance = (low + high) / 2
        gained = sum(chance**i for i in range(1, drafts + 1))
        low, high = (chance, high) if gained < accepted_ratio * drafts else (low, chance)
    return high


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one attention-DP group (``tp`` ranks) works on in one step, as sufficient statistics.

    Prefill: ``prefill_tokens`` new tokens of ``prefill_sequences`` sequences meet ``prefill_pairs`` query-key pairs and
    ``prefill_context`` cached tokens (new ones included). Decode: ``decode_sequences`` sequences hold
    ``decode_context`` cached tokens in all.
    """

    prefill_tokens: Count = 0
    prefill_sequences: Count = 0
    prefill_pairs: Count = 0
    prefill_context: Count = 0
    decode_sequences: Count = 0
    decode_context: Count = 0


def prefill_batch(*, sequences: Count, length: Count, cached: Count = 0, spread_ratio: float = 1.0) -> Batch:
    """``sequences`` prompts of ``length`` new tokens each, after ``cached`` tokens that are already in the cache.

    Of unequal prompts ``length`` is the mean and ``spread_ratio`` the mean square over its square (1: all equal).
    """
    return Batch(
        prefill_tokens=sequences * length,
        prefill_sequences=sequences,
        prefill_pairs=sequences * (length * cached + length * (length * spread_ratio + 1) / 2),
        prefill_context=sequences * (length + cached),
    )


def scaled(batch: Batch, prompts: Any, decoding: Any = None) -> Batch:
    """``batch`` with the statistics of its prompts and of its decoding sequences multiplied (None: alike)."""
    decoding = prompts if decoding is None else decoding
    return Batch(
        prefill_tokens=batch.prefill_tokens * prompts,
        prefill_sequences=batch.prefill_sequences * prompts,
        prefill_pairs=batch.prefill_pairs * prompts,
        prefill_context=batch.prefill_context * prompts,
        decode_sequences=batch.decode_sequences * decoding,
        decode_context=batch.decode_context * decoding,
    )


def decode_batch(*, sequences: Count, context: Count) -> Batch:
    """``sequences`` sequences of ``context`` cached tokens each."""
    return Batch(decode_sequences=sequences, decode_context=sequences * context)


def describe(plan: ServePlan) -> str:
    """A plan in the field's short form; R redundant experts, S ranks of the shared expert, x2 microbatches, and how
    tokens reach experts where that is not the stack's default."""
    attention = f"SP-TP-SP{plan.tp}" if plan.sp else f"TP{plan.tp}"
    parts = [attention] if plan.sp or plan.tp > 1 or plan.dp == 1 else []
    parts += [f"DP{plan.dp}"] if plan.dp > 1 else []
    parts += [f"PP{plan.pp}"] if plan.pp > 1 else []
    parts += [f"EP{plan.ep}"] if plan.ep > 1 else []
    parts += [f"ETP{plan.moe_tp}"] if plan.moe_tp > 1 and plan.ep > 1 else []
    parts += [f"R{plan.redundant}"] if plan.redundant else []
    parts += [f"S{plan.shared_ranks}"] if plan.shared_ranks else []
    parts += [f"MTP{plan.draft_tokens}"] if plan.draft_tokens else []
    parts += [f"x{plan.microbatches}"] if plan.microbatches > 1 else []
    parts += [plan.exchange] if plan.exchange != "auto" else []
    return " ".join(parts)


SHORT = {
    "SP-TP-SP": "tp",
    "TP": "tp",
    "DP": "dp",
    "PP": "pp",
    "EP": "ep",
    "ETP": "moe_tp",
    "R": "redundant",
    "S": "shared_ranks",
    "MTP": "draft_tokens",
    "x": "microbatches",
}


def read_plan(text: str, where: str = "") -> ServePlan:
    """The plan that ``describe`` writes as ``text``. Raises ``InvalidPlan`` for what is none."""
    found: dict[str, Any] = {}
    for word in text.split():
        match = re.fullmatch(r"([A-Za-z-]+)([1-9]\d{0,8})", word, flags=re.ASCII)
        name = SHORT.get(match[1], "") if match else "exchange" if word in EXCHANGES else ""
        if not name or name in found:
            shapes = f"{', '.join(f'{short}N' for short in SHORT)}, {', '.join(EXCHANGES)}"
            raise InvalidPlan(f"{word!r} in {text!r} is no part of a plan: each of {shapes} once", where=where)
        found[name] = int(match[2]) if match else word
        if match and match[1] == "SP-TP-SP":
            found["sp"] = True
    stage = found.get("tp", 1) * found.get("dp", 1)
    found.setdefault("moe_tp", max(stage // found.get("ep", 1), 1))
    return ServePlan(**found)
