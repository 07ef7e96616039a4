"""A decoder-only model's step on one rank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from taicang.errors import InvalidPlan
from taicang.lower.attention import attention
from taicang.lower.ffn import dense, experts
from taicang.lower.load import Setting, load_of
from taicang.lower.product import Item
from taicang.lower.program import Part, Program, Task, some, where_some
from taicang.models.count import mixes
from taicang.models.types import Block, Dense, Model
from taicang.ops import Collective, Gemm, Host, Lookup, Pointwise, Transfer
from taicang.plans import Batch, ServePlan
from taicang.stacks import Stack
from taicang.units import Count


def lower(
    model: Model, plan: ServePlan, batch: Batch, stack: Stack, *, skew: Count = 0.0, outside: bool = False
) -> Program:
    """One step of ``batch`` (of one attention group) under ``plan``: the operators of one rank of each pipeline stage.

    All layers are included whatever ``plan.pp``: the step's latency passes through every stage. ``skew`` is the
    exponent of expert popularity; ``outside``: without the blocks, which two microbatches run in halves. Raises
    ``InvalidPlan`` where the plan does not fit the model.
    """
    if some(plan.pp - model.layers):
        raise InvalidPlan(f"pp={plan.pp} exceeds the {model.layers} layers of {model.name} by {plan.pp - model.layers}")
    setting = Setting(hidden=model.hidden, plan=plan, stack=stack, load=load_of(plan, batch, stack), skew=skew)
    return Program(tasks=tuple(_tasks(model, setting, outside)), layers=model.layers)


def _tasks(model: Model, setting: Setting, outside: bool) -> Iterator[Task]:
    hidden, plan, load = setting.hidden, setting.plan, setting.load
    yield Task(label="embedding", part="embed", op=Lookup(rows=load.tokens, row_bytes=hidden * 2.0))
    if some(plan.tp - 1) and not plan.sp:
        reduce = Collective(kind="all_reduce", payload_bytes=load.tokens * hidden * 2.0, ranks=plan.tp)
        yield Task(label="embedding all-reduce", part="embed", op=reduce, repeat=where_some(plan.tp - 1))
    for index, block in enumerate(() if outside else model.blocks):
        yield from _block(block, index, block.count, setting)
    if some(plan.pp - 1):
        send = Transfer(
            payload_bytes=load.tokens * hidden * 2.0 / plan.tp, plane="scale_up", distance=plan.tp * plan.dp
        )
        yield Task(label="pipeline send", part="host", op=send, repeat=plan.pp - 1)
    yield from _head(model, setting, "head", 1)
    if some(plan.draft_tokens) and some(load.decode_tokens):
        yield from _draft(model, setting)
    work = Host(
        graphs=1 + plan.draft_tokens,
        layers=model.layers + plan.draft_tokens,
        sequences=load.batch.decode_sequences + load.batch.prefill_sequences,
        drafting=load.batch.decode_sequences * where_some(plan.draft_tokens),
    )
    yield Task(label="host", part="host", op=work)


def _block(block: Block, index: int, count: Count, setting: Setting) -> Iterator[Task]:
    if block.plain and setting.plan.quant.spares:
        spared: dict[str, Any] = dict.fromkeys(block.plain, "bf16")
        quant = replace(setting.plan.quant, **spared)
        setting = replace(setting, plan=replace(setting.plan, quant=quant))
    for label, op, times in (*_streams(block, setting), *attention(block.attention, setting)):
        yield Task(label=label, part="attention", op=op, repeat=times * count, stream="attention", block=index)
    part: Part = "ffn" if isinstance(block.ffn, Dense) else "experts"
    items = dense(block.ffn, setting) if isinstance(block.ffn, Dense) else experts(block.ffn, setting)
    for label, op, times in items:
        yield Task(label=label, part=part, op=op, repeat=times * count, stream="experts", block=index)


def _streams(block: Block, setting: Setting) -> Iterator[Item]:
    """Hyper-connections around attention and feed-forward: the numbers that mix, and all streams read and written."""
    made = mixes(block.streams)
    if made:
        wide = block.streams * setting.hidden
        yield "stream mixing numbers", Gemm(m=2 * setting.load.tokens, n=made, k=wide, dtype="bf16"), 1
        moved = 2.0 * setting.load.tokens * wide
        yield "stream mixing", Pointwise(kind="norm", elements=moved, moved_bytes=moved * 8.0, flop=moved * made), 1


def _head(model: Model, setting: Setting, part: Part, times: Count) -> Iterator[Task]:
    load, plan = setting.load, setting.plan
    shard = 1 if plan.sp else plan.tp
    product = Gemm(m=load.sampled, n=model.vocab / shard, k=model.hidden, dtype=plan.quant.head)
    yield Task(label="output head", part=part, op=product, repeat=times)
    logits = load.sampled * model.vocab
    if some(shard - 1):
        gather = Collective(kind="all_gather", payload_bytes=logits * 2.0, ranks=shard)
        yield Task(label="logits all-gather", part=part, op=gather, repeat=times * where_some(shard - 1))
    sample = Pointwise(kind="sample", elements=logits, moved_bytes=logits * 8.0, flop=logits * 4.0, launches=4)
    yield Task(label="sampling", part=part, op=sample, repeat=times)


def _draft(model: Model, setting: Setting) -> Iterator[Task]:
    """One more layer of the last block's kind per drafted token, with its own head; a draft step has one query."""
    drafts = setting.plan.draft_tokens * where_some(setting.load.decode_tokens)
    plan = replace(setting.plan, draft_tokens=0)
    batch = setting.load.batch
    decode = Batch(decode_sequences=batch.decode_sequences, decode_context=batch.decode_context)
    single = replace(setting, plan=plan, load=load_of(plan, decode, setting.stack))
    fuse = Gemm(m=single.load.tokens, n=model.hidden, k=2 * model.hidden, dtype=plan.quant.attention)
    yield Task(label="draft input projection", part="draft", op=fuse, repeat=drafts)
    for task in _block(model.blocks[-1], len(model.blocks) - 1, drafts, single):
        yield replace(task, part="draft", stream="outside")
    yield from _head(model, single, "draft", drafts)
