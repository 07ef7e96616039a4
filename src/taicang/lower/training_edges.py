"""What stands before a model's layers in training and after them: the embedding, and head and loss."""

from __future__ import annotations

from dataclasses import replace

from taicang.lower.attention import norm
from taicang.lower.training import Layer, Step, across, transpose
from taicang.models.types import Model
from taicang.ops import CollectiveKind, Gemm, Lookup, Pointwise
from taicang.stacks import Stack
from taicang.train_plans import TrainPlan

LOSS_KERNEL_BYTES = 6.0
"""What a loss in one kernel moves per logit: 16 bits read, then read again and overwritten by their gradient."""
LOSS_CHUNKS = 8
"""Pieces that a chunked loss takes the sequence in (torchtune's default); logits of 16 bits it keeps of all."""


def lower_edges(model: Model, plan: TrainPlan, stack: Stack) -> tuple[Layer, Layer]:
    """What stands before the layers and after them: the embedding, and head and loss."""
    return _embedding(model, plan), _head(model, plan, stack)


def _embedding(model: Model, plan: TrainPlan) -> Layer:
    """Vocabulary-parallel embedding: look up, then reduce (scatter) over tp."""
    tokens = plan.micro_batch * plan.seq / plan.cp
    steps = [Step(label="embedding", axis="compute", op=Lookup(rows=tokens, row_bytes=model.hidden * 2.0))]
    if plan.tp > 1:
        kind: CollectiveKind = "reduce_scatter" if plan.sp else "all_reduce"
        reduce = across(kind, tokens * model.hidden * 2.0, plan, "tp")
        steps.append(Step(label="embedding reduce", axis="tp", op=reduce))
    return transpose(tuple(steps), trained=plan.trained_ratio)


def _head(model: Model, plan: TrainPlan, stack: Stack) -> Layer:
    """Final norm, vocabulary-parallel logits and cross-entropy in fp32 (maximum and sum reduced over tp)."""
    tokens = plan.micro_batch * plan.seq / plan.cp
    hidden, vocab = model.hidden, model.vocab / plan.tp
    final = norm(tokens / (plan.tp if plan.sp else 1), hidden)
    steps = [Step(label="final norm", axis="compute", op=final, saved_bytes=final.elements * 2.0)]
    if plan.tp > 1 and plan.sp:
        gather = across("all_gather", tokens * hidden * 2.0, plan, "tp")
        steps.append(Step(label="head gather", axis="tp", op=gather))
    product = Gemm(m=tokens, n=vocab, k=hidden, dtype="bf16")
    steps.append(Step(label="output head", axis="compute", op=product, saved_bytes=tokens * hidden * 2.0))
    logits = tokens * vocab
    one = "loss_kernel" in stack.fused
    moved = logits * (LOSS_KERNEL_BYTES if one else stack.keeps.loss_bytes)
    loss = Pointwise(kind="sample", elements=logits, moved_bytes=moved * 0.75, flop=logits * 20.0, launches=5)
    each = (plan.tp > 1 and stack.keeps.sharded_logit_bytes) or stack.keeps.logit_bytes
    alive = logits * (min(each, 2.0) if one else each)
    if "fused_loss" in stack.fused:  # pieces of about hidden / vocabulary of the sequence, as Liger's kernel takes them
        alive = alive / max(vocab / hidden, 1.0)
    elif "chunked_loss" in stack.fused:
        alive = logits * 2.0 + alive / LOSS_CHUNKS
    steps.append(Step(label="cross-entropy", axis="compute", op=loss, saved_bytes=alive))
    if plan.tp > 1:
        for label in ("maximum", "sum"):
            reduce = across("all_reduce", tokens * 4.0, plan, "tp")
            steps.append(Step(label=f"loss {label}", axis="tp", op=reduce))
    made = transpose(tuple(steps), kept=stack.keeps.sharding == "pytorch", trained=plan.trained_ratio)
    # the gradient of the loss reads the probabilities and writes bf16 once
    back = replace(loss, moved_bytes=moved * 0.25, flop=logits * 2.0, launches=1)
    data = tuple(replace(step, op=back) if step.label == "cross-entropy" else step for step in made.data)
    return replace(made, data=tuple(step for step in data if not step.label.startswith("loss ")))
