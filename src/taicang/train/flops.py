"""Model FLOPs of training, whose convention every MFU states."""

from __future__ import annotations

from taicang.models.count import prefill_flop
from taicang.models.types import Model
from taicang.units import Num

CONVENTION = (
    "model FLOPs: 6 per matrix weight that a token goes through (head included, embedding look-up not), plus the "
    "causal half of attention; recompute not counted"
)


def model_flop(model: Model, seq: int, sequences: Num, *, trained_ratio: float = 1.0) -> Num:
    """FLOPs of one forward and backward pass of ``sequences`` sequences of ``seq`` tokens; see ``CONVENTION``.

    With frozen weights (``trained_ratio`` 0) the weight gradients fall away: 4 per weight instead of 6.
    """
    once = prefill_flop(model, seq) + 2.0 * model.vocab * model.hidden * (seq - 1.0)
    return once * (2.0 + trained_ratio) * sequences


def megatron_flop(*, layers: int, hidden: int, vocab: int, seq: int, sequences: Num, recompute: bool) -> Num:
    """Megatron's published formula for GPT models (arXiv 2104.04473 eq. 3; model FLOPs: arXiv 2205.05198 appendix A).

    Attention is counted without causal skipping; ``recompute`` counts the forward pass twice.
    """
    passes = 96.0 if recompute else 72.0
    body = 1.0 + seq / (6.0 * hidden)
    # logits are never recomputed: 6 b s h V in both counts
    head = vocab / (16.0 * layers * hidden) if recompute else vocab / (12.0 * layers * hidden)
    return passes * sequences * seq * layers * hidden * hidden * (body + head)
