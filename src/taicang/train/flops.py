"""Model FLOPs of training, whose convention every MFU states."""

from __future__ import annotations

from taicang.lower.training import Step, lower_layer
from taicang.models.count import prefill_flop
from taicang.models.types import Model
from taicang.ops import Attend, Gemm, GroupedGemm
from taicang.stacks import Stack
from taicang.train_plans import TrainPlan
from taicang.units import Num

CONVENTION = (
    "model FLOPs: 6 per matrix weight that a token goes through (head included, embedding look-up not), plus the "
    "causal half of attention; recompute not counted (HFU counts it)"
)


def model_flop(model: Model, seq: float, sequences: Num, *, trained_ratio: float = 1.0) -> Num:
    """FLOPs of one forward and backward pass of ``sequences`` sequences of ``seq`` tokens; see ``CONVENTION``.

    With frozen weights (``trained_ratio`` 0) the weight gradients fall away: 4 per weight instead of 6.
    """
    once = prefill_flop(model, seq) + 2.0 * model.vocab * model.hidden * (seq - 1.0)
    return once * (2.0 + trained_ratio) * sequences


def recomputed_flop(model: Model, plan: TrainPlan, stack: Stack) -> float:
    """FLOPs of one step that recompute repeats: what HFU counts and MFU does not.

    Matrix products and attention cores of the layers (or the parts of them) that run forward again; what flash
    attention repeats inside its backward kernel is not counted, as publishers do not.
    """
    if plan.recompute == "none":
        return 0.0
    each = 0.0
    for block in model.blocks:
        layer = lower_layer(model, block, plan, stack)
        for step in layer.again if plan.recompute == "full" else layer.forward:
            if plan.recompute == "full":
                each += block.count * plan.recompute_ratio * _flop(step)
            elif step.module in plan.recompute_modules:
                each += block.count * _flop(step)
    return each * plan.tp * plan.cp * plan.dp * plan.microbatches


def _flop(step: Step) -> float:
    op = step.op
    if isinstance(op, Gemm):
        return float(2.0 * op.batch * op.m * op.n * op.k * step.repeat)
    if isinstance(op, GroupedGemm):
        rows = op.tokens * op.topk * op.experts_local / op.experts
        return float((6.0 if op.gated else 4.0) * rows * op.hidden * op.inter * step.repeat)
    if isinstance(op, Attend):
        return float(2.0 * op.pairs * op.heads * (op.qk_dim + op.v_dim) * step.repeat)
    return 0.0


def megatron_flop(*, layers: int, hidden: int, vocab: int, seq: int, sequences: Num, recompute: bool) -> Num:
    """Megatron's published formula for GPT models (arXiv 2104.04473 eq. 3; model FLOPs: arXiv 2205.05198 appendix A).

    Attention is counted without causal skipping; ``recompute`` counts the forward pass twice.
    """
    passes = 96.0 if recompute else 72.0
    body = 1.0 + seq / (6.0 * hidden)
    # logits are never recomputed: 6 b s h V in both counts
    head = vocab / (16.0 * layers * hidden) if recompute else vocab / (12.0 * layers * hidden)
    return passes * sequences * seq * layers * hidden * hidden * (body + head)
