"""One layer of training on one rank: forward operators, and from each of them those of the backward pass.

The backward pass is the transpose of the forward one, operator by operator:

* a product [m, k] x [k, n] becomes the data gradient [m, n] x [n, k] and the weight gradient [k, m] x [m, n];
* flash attention recomputes its scores: five products instead of two (FlashAttention-2, arXiv 2307.08691, section 3.1),
  in a kernel of its own (phase "backward");
* an all-gather becomes a reduce-scatter and the other way round; a dispatch becomes a combine;
* a pointwise kernel reads the gradient besides what it read before (``POINTWISE_BACKWARD``).

With sequence parallelism (arXiv 2205.05198) an all-reduce is a reduce-scatter, and an all-gather before the next
product; norms work on a token shard. The weight gradient needs the gathered input again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from taicang.formats import number_format
from taicang.lower.attention import attention, norm
from taicang.lower.expert_loop import GATHER, RETURN, backward, looked_up
from taicang.lower.ffn import dense, latent_projection
from taicang.lower.load import Load, Setting
from taicang.lower.product import Item, dequantise
from taicang.lower.state_space import PAIR_BACKWARD_FLOP, PAIR_FLOP
from taicang.models.types import Block, Dense, Experts, Model
from taicang.ops import Attend, Collective, CollectiveKind, Exchange, Gemm, GroupedGemm, Lookup, Operator, Pointwise
from taicang.plans import Batch, Quantisation, ServePlan
from taicang.stacks import Stack, Stops
from taicang.train_plans import TrainPlan, stride
from taicang.units import Count, Num

Axis: TypeAlias = Literal["compute", "tp", "cp", "ep"]
Module: TypeAlias = Literal["core", "norm", "up", "mlp", "experts", "shared", "act", "rest"]
"""Parts of a layer that selective recompute can repeat: attention core, norms, up-projections of latent attention,
dense feed-forward, routed experts with their exchanges, the shared expert, or the experts' activation alone; the rest
is kept."""

ADAPTED = ("qkv projection", "output projection")
"""Products with a LoRA adapter wherever there are adapters (the MLPerf benchmark has no others)."""
WIDELY = ("projection", "feed-forward up", "feed-forward down", "shared expert up", "shared expert down")
"""Ends of the labels of those that have one where every linear layer does (``Keeping.adapters``)."""
ADAPTER_RANK = 16
ADAPTER = ": adapter "
"""In the labels of an adapter's operators."""
RERUN = ("short convolution", "chunked scan", "chunk scores", "state passing")
"""What the memory-saving path of the Mamba-2 kernels repeats in the backward pass."""
MOVES = ("permute", "unpermute", GATHER, RETURN, "expert bias")
"""Copies and sums: their backward pass needs indices at most (routing weights are applied with the activation)."""
UNFUSED = "unfused activation"
UNFUSED_KEPT = 8.0 / 44.0
"""Of its traffic, what it keeps beside its inputs: the sigmoid and three factors of its products."""
EAGER = {"norm": (5.25, 7), "rope": (4.5, 5)}
"""Traffic and launches where each operator is a kernel: 42 bytes an element for 8 in residual add and RMSNorm (to 32
bits, square, mean, product, back, weight), 18 for 4 in a rotation by halves; SwiGLU's 10 for 6 see ``_kernels``."""
POINTWISE_BACKWARD = {"norm": 1.25, "activation": 1.6, "rope": 1.0}
"""Traffic of a backward kernel over the forward one's: gradients are read besides the saved inputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """``repeat`` runs of one operator in one pass of one layer; ``axis`` names the parallelism that communicates."""

    label: str
    axis: Axis
    op: Operator
    repeat: Count = 1
    saved_bytes: Num = 0.0
    """What a forward operator keeps for the backward pass."""
    module: Module = "rest"
    """What part of the layer it belongs to, for selective recompute."""
    part: str = "mixer"
    """Which part of the layer a graph may capture it with: "mixer", "router" or "experts"."""
    rerun: bool = False
    """Its backward kernel starts by running the forward one again, and so keeps nothing (Mamba-2's scan)."""

    @property
    def shared(self) -> bool:
        """Belongs to the shared expert, which needs no exchange."""
        return self.module == "shared"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Operators of one layer (or of embedding, or head) by pass."""

    forward: tuple[Step, ...]
    data: tuple[Step, ...]
    weight: tuple[Step, ...]
    again: tuple[Step, ...]
    """What full recompute repeats of the forward pass (see ``repeated``)."""


def setting_of(model: Model, plan: TrainPlan, stack: Stack) -> Setting:
    """One microbatch of one context-parallel rank, as the lowering of prefill takes it; causal pairs are halved, and
    documents that are packed together see none of each other."""
    tokens = plan.micro_batch * plan.seq / plan.cp
    span = plan.span if "flash_attention" in stack.fused else plan.seq  # scores that pass through memory are all made
    batch = Batch(
        prefill_tokens=tokens,
        prefill_sequences=plan.micro_batch * plan.seq / span,
        prefill_pairs=tokens * (span + 1.0) / 2.0,
        prefill_context=tokens,
    )
    form = plan.recipe.products
    core = "fp8" if "fp8_attention" in stack.fused else "bf16"
    quant = Quantisation(attention=form, dense=form, experts=plan.recipe.experts or form, attend=core, kv=core)
    serve = ServePlan(tp=plan.tp, dp=plan.ep * plan.etp, ep=plan.ep * plan.etp, moe_tp=plan.tp, quant=quant)
    load = Load(prefill_tokens=tokens, decode_tokens=0, tokens=tokens, batch=batch, query_len=1, sampled=tokens)
    return Setting(hidden=model.hidden, plan=serve, stack=stack, load=load, skew=plan.skew)


def lower_layer(model: Model, block: Block, plan: TrainPlan, stack: Stack) -> Layer:
    """One layer of ``block``. Raises ``InvalidPlan`` where tensor parallelism does not divide the heads."""
    setting = setting_of(model, plan, stack)
    mixer = [*attention(block.attention, setting), *_ring(block, setting, plan)]
    module: Module = "mlp" if isinstance(block.ffn, Dense) else "experts"
    behind = list(dense(block.ffn, setting) if isinstance(block.ffn, Dense) else _experts(block.ffn, setting, plan))
    steps = [*_steps(mixer, setting, plan), *(_within(step, module) for step in _steps(behind, setting, plan))]
    kept, stops = stack.keeps.sharding == "pytorch", stack.keeps.recompute_stops
    made = transpose(tuple(steps), kept=kept, stops=stops, trained=plan.trained_ratio)
    if not (stack.looks_up and isinstance(block.ffn, Experts)):
        return made
    spread = block.ffn.experts / block.ffn.topk
    return replace(made, data=tuple(replace(step, op=backward(step.label, step.op, spread)) for step in made.data))


def _within(step: Step, module: Module) -> Step:
    """A step of the feed-forward part belongs to it, but for the norm before it and the shared expert."""
    part = "router" if module == "experts" and step.label in ("norm", "router", "routing") else "experts"
    step = replace(step, part=part if module == "experts" else "mixer")
    if module == "experts" and step.label.startswith("feed-forward"):
        return replace(step, module="shared", part="router")  # it waits for no token, so it is captured with the router
    return step if step.module == "norm" else replace(step, module=module)


def _module(label: str, op: Operator) -> Module:
    if isinstance(op, Attend):
        return "core"
    if label.endswith("norm"):
        return "norm"
    return "up" if label in ("query up-projection", "key-value up-projection") else "rest"


def _ring(block: Block, setting: Setting, plan: TrainPlan) -> Iterator[Item]:
    """Context parallelism: every rank's keys and values visit all others (a ring moves what an all-gather does)."""
    if plan.cp == 1:
        return
    for _, op, _ in attention(block.attention, setting):
        if isinstance(op, Attend):
            width = op.kv_heads * (op.qk_dim + op.v_dim)
            if plan.context == "ulysses":  # queries, keys, values in, outputs back: four all-to-alls of a shard each
                moved = op.queries * 2.0 * (op.heads * (op.qk_dim + op.v_dim) + width)
                yield "context all-to-all", across("all_to_all", moved, plan), 1
            else:
                yield "context ring", across("all_gather", plan.cp * op.queries * width * 2.0, plan), 1


def across(kind: CollectiveKind, payload: Num, plan: TrainPlan, axis: Literal["tp", "cp", "etp"] = "cp") -> Collective:
    """A collective of ``payload`` bytes along one axis of the plan."""
    return Collective(kind=kind, payload_bytes=payload, ranks=getattr(plan, axis), stride=stride(plan, axis))


def _experts(kind: Experts, setting: Setting, plan: TrainPlan) -> Iterator[Item]:
    """Router, dispatch over ``ep``, grouped products, combine, shared expert; every rank owns a token shard."""
    hidden, tokens = setting.hidden, setting.load.tokens
    own = tokens / plan.tp
    width = kind.latent or hidden
    yield "norm", norm(tokens, hidden), 1
    yield "router", Gemm(m=own, n=kind.experts, k=hidden, dtype="bf16"), 1
    yield "routing", Pointwise(kind="route", elements=own * kind.experts, moved_bytes=own * kind.experts * 8.0), 1
    yield from latent_projection("latent down-projection", kind, own, setting)
    exchange = Exchange(
        kind="dispatch", tokens=own, token_bytes=width * 2.0, topk=kind.topk, experts=kind.experts, ranks=plan.ep,
        stride=stride(plan, "ep"), skew=plan.skew, spread="random" if plan.skew else setting.stack.forced_balance,
        low_latency=False,
    )  # fmt: skip
    if plan.ep > 1:
        yield "dispatch", exchange, 1
    rows = own * plan.etp
    grouped = GroupedGemm(
        tokens=rows * plan.ep,
        topk=kind.topk,
        experts=kind.experts,
        experts_local=kind.experts / plan.ep,
        hidden=width,
        inter=kind.inter / plan.etp,
        dtype=setting.plan.quant.experts,
        gated=kind.gated,
        skew=plan.skew,
        biased=kind.bias,
        gathered=False,
    )
    # permuting copies each routed token out and back, once before and once after the products
    copied = own * kind.topk * width * 4.0
    copy = Pointwise(kind="activation", elements=copied / 4.0, moved_bytes=copied, launches=2)
    there: Item = ("permute", copy, 1)
    back: Item = ("unpermute", copy, 1)
    if setting.stack.looks_up:
        there, back = looked_up(grouped, rows)
    yield there
    if plan.etp > 1:
        gathered = rows * kind.topk * width * 2.0
        yield "expert tensor all-gather", across("all_gather", gathered, plan, "etp"), 1
    apart = not setting.stack.grouped_experts  # the same kernels for each expert alone
    yield "experts", replace(grouped, experts_local=1.0) if apart else grouped, grouped.experts_local if apart else 1
    if plan.etp > 1:
        scattered = rows * kind.topk * width * 2.0
        yield "expert tensor reduce-scatter", across("reduce_scatter", scattered, plan, "etp"), 1
    if kind.bias and "expert_products" not in setting.stack.fused:
        # biased, clamped activations have no fused kernel: 22 passes of the width (bias 4, clamps 4, scaled sigmoid 7,
        # offset 2, products 5) and the output's bias, each a kernel
        for label, bytes_, each in ((UNFUSED, kind.inter * 44.0 / plan.etp, 11), ("expert bias", width * 8.0, 1)):
            wide = own * kind.topk * bytes_
            yield label, Pointwise(kind="activation", elements=wide / 4.0, moved_bytes=wide, launches=each), 1
    yield back
    if plan.ep > 1:
        yield "combine", replace(exchange, kind="combine"), 1
    yield from latent_projection("latent up-projection", kind, own, setting)
    if kind.shared_inter:
        shared = Dense(inter=kind.shared_inter, gated=kind.gated)
        yield from (item for item in dense(shared, setting) if item[0] != "norm")


def _steps(items: list[Item], setting: Setting, plan: TrainPlan) -> Iterator[Step]:
    hidden, tp, eager = setting.hidden, plan.tp, setting.stack.keeps.eager
    for label, given, repeat in items:
        tensor = isinstance(given, Collective) and not label.startswith(("context", "expert"))
        op = replace(given, stride=stride(plan, "tp")) if tensor and isinstance(given, Collective) else given
        if isinstance(op, Collective) and op.kind == "all_reduce":
            if plan.sp:
                yield Step(label=f"{label}: gather", axis="tp", op=replace(op, kind="all_gather"))
                yield Step(label=f"{label}: scatter", axis="tp", op=replace(op, kind="reduce_scatter"))
            else:
                yield Step(label=label, axis="tp", op=op)
        elif isinstance(op, Collective):
            yield Step(label=label, axis="cp" if label.startswith("context") else "tp", op=op)
        elif isinstance(op, Exchange):
            yield Step(label=label, axis="ep", op=op)
        elif (
            isinstance(op, Pointwise) and op.kind == "norm" and op.elements == setting.load.tokens * hidden and plan.sp
        ):
            op = replace(op, elements=op.elements / tp, moved_bytes=op.moved_bytes / tp, flop=op.flop / tp)
            kept = _saved(op, hidden, tp, eager)
            yield Step(label=label, axis="compute", op=_kernels(op, eager), saved_bytes=kept, module="norm")
        elif isinstance(op, Attend) and "flash_attention" not in setting.stack.fused:
            yield from _materialised(op)
        else:
            cut = tp if plan.sp and setting.stack.keeps.sharding != "pytorch" else 1
            kept = _saved(op, hidden, cut, eager) * (repeat if isinstance(op, GroupedGemm) else 1)
            if "fp8_stored" in setting.stack.fused and label == "feed-forward activation":
                kept = kept / 2.0
            if label == UNFUSED and isinstance(op, Pointwise):
                kept = op.moved_bytes * UNFUSED_KEPT
            yield Step(
                label=label, axis="compute", op=_kernels(op, eager), repeat=repeat, module=_module(label, op),
                rerun=label in RERUN, saved_bytes=0.0 if label in (*RERUN[1:], *MOVES) else kept,
            )  # fmt: skip
            if plan.recipe.frozen and isinstance(op, (Gemm, GroupedGemm)):
                read = dequantise(op, plan.recipe.gather_bytes)
                yield Step(label=f"{label}: dequantise", axis="compute", op=read)
            widely = setting.stack.keeps.adapters and label.endswith(WIDELY)
            if plan.trained_ratio < 1.0 and isinstance(op, Gemm) and (widely or label in ADAPTED):
                yield from _adapter(label, op)


def _kernels(op: Operator, eager: frozenset[str]) -> Operator:
    """``op`` as one kernel, or as those that a framework without fused ones runs for it."""
    if not (isinstance(op, Pointwise) and op.kind in eager):
        return op
    if op.kind == "activation":  # one that is not gated stays as it is
        return replace(op, moved_bytes=3.0 * op.moved_bytes - 8.0 * op.elements)
    traffic, launches = EAGER[op.kind]
    return replace(op, moved_bytes=op.moved_bytes * traffic, launches=op.launches * launches)


def _adapter(label: str, op: Gemm) -> Iterator[Step]:
    """LoRA beside a frozen product: dropout of the input, two products through ``ADAPTER_RANK``, scale and add."""
    drop = Pointwise(kind="rope", elements=op.m * op.k, moved_bytes=op.m * op.k * 4.0)
    down, up = (Gemm(m=op.m, n=n, k=k, dtype="bf16") for n, k in ((ADAPTER_RANK, op.k), (op.n, ADAPTER_RANK)))
    add = Pointwise(kind="rope", elements=op.m * op.n, moved_bytes=op.m * op.n * 6.0)
    yield Step(label=f"{label}{ADAPTER}dropout", axis="compute", op=drop, saved_bytes=op.m * op.k * 2.0)
    yield Step(label=f"{label}{ADAPTER}down", axis="compute", op=down)
    yield Step(label=f"{label}{ADAPTER}up", axis="compute", op=up)
    yield Step(label=f"{label}{ADAPTER}add", axis="compute", op=add)


def _materialised(op: Attend) -> Iterator[Step]:
    """The attention core before flash attention: all scores, masked ones too, pass through memory.

    Scale, mask and softmax are one kernel (read and write 2 bytes a score), dropout another (and a mask of one byte);
    5 bytes a score are kept (arXiv 2205.05198, section 4.1).
    """
    rows, keys = op.queries / op.sequences, op.context / op.sequences
    many = op.sequences * op.heads
    scores = many * rows * keys
    product = Gemm(batch=many, m=rows, n=keys, k=op.qk_dim, dtype=op.dtype)
    softmax = Pointwise(kind="rope", elements=scores, moved_bytes=scores * 9.0, flop=scores * 20.0, launches=2)
    yield Step(label="scores", axis="compute", op=product, saved_bytes=op.queries * op.heads * op.qk_dim * 4.0)
    yield Step(label="softmax and dropout", axis="compute", op=softmax, saved_bytes=scores * 5.0, module="core")
    yield Step(label="weighted sum", axis="compute", op=replace(product, n=op.v_dim, k=keys), module="core")


def _saved(op: Operator, hidden: int, shard: int, eager: frozenset[str]) -> Num:
    """Bytes that the backward pass of ``op`` needs: inputs of products, q, k, v of attention, pre-activations.

    The sum over a layer is the 34 s b h of arXiv 2205.05198, less the dropout masks that today's models do not have.
    Without fused kernels (``eager``) norms keep a 32-bit copy, and gated activations both factors of their product.
    """
    if isinstance(op, Gemm):
        kept = number_format(op.dtype).activation_bytes
        return op.batch * op.m * op.k * kept / (shard if op.k == hidden else 1)
    if isinstance(op, GroupedGemm):
        rows = op.tokens * op.topk * op.experts_local / op.experts
        kept = number_format(op.dtype).activation_bytes
        return rows * (op.hidden * kept + op.inter * (2.0 if op.gated else 1.0) * 2.0) + activated_bytes(op)
    if isinstance(op, Attend):
        return (op.queries * op.heads * op.qk_dim + op.context * op.kv_heads * (op.qk_dim + op.v_dim)) * 2.0
    if isinstance(op, Pointwise) and op.kind == "norm":
        return op.elements * (4.0 if "norm" in eager else 2.0)
    if isinstance(op, Pointwise) and op.kind == "activation":
        return 2.0 * op.moved_bytes - 6.0 * op.elements if "activation" in eager else op.moved_bytes - 2.0 * op.elements
    return 0.0


def activated_bytes(op: GroupedGemm) -> Num:
    """What the experts' activation hands to their second product, which keeps it."""
    rows = op.tokens * op.topk * op.experts_local / op.experts
    return rows * op.inter * number_format(op.dtype).activation_bytes


def repeated(forward: tuple[Step, ...], stops: Stops) -> tuple[Step, ...]:
    """What recompute of a whole layer runs, where it ``stops`` once all is there that the backward pass needs.

    What leads from the last product to the residual keeps nothing: sums over tensor-parallel ranks, tokens' way back
    from their experts. The shared expert runs beside or before that; gathers come before the products they feed.
    """
    if not stops:
        return forward
    kept = list(forward)
    for step in reversed(forward):
        op = step.op
        if step.shared or (isinstance(op, Collective) and op.kind == "all_gather"):
            continue
        if isinstance(op, (Collective, Exchange)) or step.label in MOVES:
            kept.remove(step)
            continue
        if stops == "product" and isinstance(op, Gemm) and not any(each.shared for each in forward):
            kept.remove(step)
        break
    return tuple(kept)


def transpose(forward: tuple[Step, ...], *, kept: bool = False, stops: Stops = "", trained: Count = 1.0) -> Layer:
    """The backward passes of a run of forward operators (see the module's docstring); ``kept``: gathered rows stay;
    ``stops``: see ``repeated``; ``trained``: share of the weights, adapters apart, that have gradients."""
    data: list[Step] = []
    weight: list[Step] = []
    for step in reversed(forward):
        op = step.op
        if step.rerun:
            data.append(step)
        if isinstance(op, Gemm):
            data.append(replace(step, op=replace(op, n=op.k, k=op.n)))
            learns = data if ADAPTER in step.label else weight  # with the rest frozen there is one backward pass
            learns.append(replace(step, op=replace(op, m=op.k, k=op.m)))
        elif isinstance(op, GroupedGemm):
            data.append(step)
            weight.append(step)
        elif isinstance(op, Attend):
            data.append(replace(step, op=replace(op, phase="backward")))
        elif isinstance(op, Pointwise):
            ratio = POINTWISE_BACKWARD.get(op.kind, 1.0)
            more = PAIR_BACKWARD_FLOP / PAIR_FLOP if step.label == "state passing" else 1.0
            data.append(replace(step, op=replace(op, moved_bytes=op.moved_bytes * ratio, flop=op.flop * more)))
        elif isinstance(op, Collective):
            other = {"all_gather": "reduce_scatter", "reduce_scatter": "all_gather"}
            if step.axis == "cp" and op.kind == "all_gather":  # keys and values visit again, their gradients return
                data.append(step)
            data.append(replace(step, op=replace(op, kind=other.get(op.kind, op.kind))))  # type: ignore[arg-type]
            if (
                step.axis == "tp" and op.kind == "all_gather" and not kept
            ):  # the weight gradient needs the gathered input again
                weight.append(step)
        elif isinstance(op, Exchange):
            data.append(replace(step, op=replace(op, kind="combine" if op.kind == "dispatch" else "dispatch")))
        elif isinstance(op, Lookup):
            weight.append(replace(step, op=replace(op, row_bytes=op.row_bytes * 2.0)))  # scatter-add in fp32
    weight = [replace(step, repeat=step.repeat * trained) for step in weight if trained]
    return Layer(forward=forward, data=tuple(data), weight=tuple(weight), again=repeated(forward, stops))
