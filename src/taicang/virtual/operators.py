"""What a kernel of PyTorch does, as an operator of the waist: from its name and the shapes of its tensors alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from taicang.ops import Attend, Gemm, GroupedGemm, Lookup, Operator, Pointwise, PointwiseKind, Transfer

FORMAT: Mapping[str, str] = MappingProxyType(
    {
        "bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float64": "fp32", "int8": "int8", "uint8": "int8",
        "float8_e4m3fn": "fp8", "float8_e5m2": "fp8", "float8_e4m3fnuz": "fp8", "float8_e5m2fnuz": "fp8",
        "tf32": "bf16", "complex64": "fp32",
    }
)  # fmt: skip
"""Format of a product of operands of this type; tf32 is what PyTorch allows products of fp32 to become."""
HALVED = 2.0
"""Time of a tf32 product over that of a bf16 one: twice the bytes, and half the peak on every chip that has it."""
TF32_CHANNELS = 4
"""Kernels of tf32 convolutions load 16 bytes of channels at once; other widths (images) go to the vector units."""
MULTI_TENSORS, MULTI_BLOCKS, MULTI_CHUNK = 110, 320, 65536
"""Most tensors and chunks of one launch of PyTorch's multi-tensor kernels, and elements of a chunk."""
NORMS = ("norm", "softmax", "var", "mean", "logsumexp")
COPIES = (
    "copy",
    "clone",
    "cat",
    "stack",
    "fill",
    "zero",
    "chunk_cat",
    "split_with_sizes",
    "roll",
    "flip",
    "constant_pad",
)
ROUTES = ("topk", "sort", "nonzero", "scatter", "bincount", "one_hot", "unique", "cumsum")
DRAWS = ("multinomial", "argmax", "normal", "uniform", "bernoulli", "random", "exponential")
STATISTICS = ("native_batch_norm", "batch_norm_with_update", "batch_norm_backward", "group_norm")
"""Norms over more than a core holds: in training, their statistics are there after a pass over everything."""
LOOKUPS = ("index_select", "embedding", "gather", "index", "take")


@dataclass(frozen=True, slots=True)
class Spec:
    """A tensor: its shape, the name of its type, and the bytes of memory that it spans."""

    shape: tuple[int, ...]
    dtype: str
    touched_bytes: int

    @property
    def elements(self) -> int:
        """How many there are."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One distinct launch of a program: what it was called, when, and what it costs ``times`` over."""

    name: str
    phase: str
    op: Operator
    repeats: float = 1.0
    flop: float = 0.0
    """Of matrix products and attention, by the convention of model FLOPs."""
    group: str = ""
    """Of a collective: what joins its ranks."""


Given = Mapping[str, Any]
Rule = Callable[[str, Sequence[Spec], Sequence[Spec], Given], tuple[Operator, float, float]]


def kernel(name: str, phase: str, ins: Sequence[Spec], outs: Sequence[Spec], given: Given) -> Kernel:
    """The kernel behind operator ``name`` (no namespace, no overload) on these tensors; ``given`` are its options."""
    op, times, flop = rule_of(name)(name, ins, outs, given)
    return Kernel(name=name, phase=phase, op=op, repeats=times, flop=flop)


def rule_of(name: str) -> Rule:
    """How operators of this name become work."""
    if name in RULES:
        return RULES[name]
    return _lookup if name in LOOKUPS else _pointwise


def product(m: float, n: float, k: float, batch: float, dtype: str) -> tuple[Operator, float, float]:
    """``batch`` products, and their FLOPs."""
    op = Gemm(m=m, n=n, k=k, batch=batch, dtype=FORMAT.get(dtype, "bf16"))
    return op, HALVED if dtype == "tf32" else 1.0, 2.0 * batch * m * n * k


def _format(spec: Spec, given: Given) -> str:
    return "tf32" if spec.dtype == "float32" and given.get("tf32") else spec.dtype


def _matrix(name: str, ins: Sequence[Spec], outs: Sequence[Spec], given: Given) -> tuple[Operator, float, float]:
    """Mm, addmm, bmm, mv...: the last two operands are multiplied."""
    left, right = (ins[-2], ins[-1]) if not name.startswith("_scaled") else (ins[0], ins[1])
    k = left.shape[-1] if left.shape else 1
    n = right.shape[-1] if len(right.shape) > 1 else 1
    batch = math.prod(left.shape[:-2]) if len(left.shape) > 2 else 1
    m = left.shape[-2] if len(left.shape) > 1 else 1
    return product(m, n, k, batch, _format(left, given))


def _grouped(name: str, ins: Sequence[Spec], outs: Sequence[Spec], given: Given) -> tuple[Operator, float, float]:
    """Products of groups of rows with a matrix each: [rows, k] x [groups, k, n], or the weights' gradient."""
    (*groups, m, k), n = ins[0].shape, ins[1].shape[-1]
    if len(ins[1].shape) == 3 and not groups:
        groups, m = [ins[1].shape[0]], given.get("rows", m)
    elif groups:  # as many rows for each
        m *= groups[0]
    else:  # both are split along what they share
        groups, m, k = list(outs[0].shape[:-2]), k, m
    many = max(math.prod(groups), 1)
    op = GroupedGemm(
        tokens=float(m), topk=1.0, experts=float(many), experts_local=float(many), hidden=float(k), inter=float(n),
        dtype=FORMAT.get(ins[0].dtype, "bf16"), gated=False, gathered=False,
    )  # fmt: skip
    return op, 0.5, 2.0 * m * n * k  # the operator is of two products, up and down


def by_vectors(weight: Sequence[int]) -> bool:
    """Whether a convolution that may run in tf32 goes to the vector units, by the shape of its weights."""
    return bool(weight[1] % TF32_CHANNELS)


def _convolution(name: str, ins: Sequence[Spec], outs: Sequence[Spec], given: Given) -> tuple[Operator, float, float]:
    """A convolution as the product of its unrolled patches; backward, one for the data and one for the weights."""
    weight = given["weight"]
    place = given["places"]  # positions of the output, over the batch
    rows = weight[0] if not given.get("transposed") else weight[1] * given["groups"]
    inner = math.prod(weight[1:])
    dtype, passes = _format(ins[0], given), given.get("passes", 1)
    op, times, flop = product(place, rows / given["groups"], inner, given["groups"], dtype)
    if dtype == "tf32" and by_vectors(weight):
        moved = sum(spec.touched_bytes for spec in (*ins, *outs))
        elements = max(spec.elements for spec in (*ins, *outs))
        op, times = Pointwise(kind="activation", elements=elements, moved_bytes=float(moved), flop=flop), 1.0
    return op, times * passes, flop * passes


def _attention(name: str, ins: Sequence[Spec], outs: Sequence[Spec], given: Given) -> tuple[Operator, float, float]:
    """Flash attention on [batch, heads, tokens, width]; a causal mask halves the pairs."""
    query, key, value = given["query"], given["key"], given["value"]
    batch, heads, rows, width = query
    columns = key[-2]
    pairs = batch * rows * columns
    if given.get("causal"):  # the mask is aligned to the first key
        seen = min(rows, columns)
        pairs = batch * (seen * (seen + 1) / 2 + max(rows - columns, 0) * columns)
    if given.get("pairs") is not None:
        pairs = given["pairs"]
    few = rows * 16 < columns and not given.get("backward")
    op = Attend(
        kind="gqa", phase="decode" if few else "prefill", sequences=batch, queries=batch * rows, pairs=pairs,
        context=batch * columns, heads=heads, kv_heads=key[-3], qk_dim=width, v_dim=value[-1],
        dtype=_core(given["dtype"]), kv_dtype=_core(given["dtype"]),
    )  # fmt: skip
    flop = 2.0 * pairs * heads * (width + value[-1])
    return (replace(op, phase="backward"), 1.0, 2.0 * flop) if given.get("backward") else (op, 1.0, flop)


def _core(dtype: str) -> str:
    """Attention kernels compute in 16 bits where the program has 32 (their memory-efficient form, twice the bytes)."""
    return {"float16": "fp16", "float8_e4m3fn": "fp8"}.get(dtype, "bf16")


def _lookup(name: str, ins: Sequence[Spec], outs: Sequence[Spec], given: Given) -> tuple[Operator, float, float]:
    out = outs[0]
    width = out.shape[-1] if out.shape else 1
    rows = out.elements / max(width, 1)
    each = width * out.touched_bytes / max(out.elements, 1)
    return Lookup(rows=rows, row_bytes=each), 1.0, 0.0


def _transfer(name: str, ins: Sequence[Spec], outs: Sequence[Spec], given: Given) -> tuple[Operator, float, float]:
    """Over the link between the host and its device."""
    moved = sum(each.elements * each.touched_bytes / max(each.elements, 1) for each in (*ins, *outs))
    return Transfer(payload_bytes=float(moved), plane="host"), 1.0, 0.0


def _pointwise(name: str, ins: Sequence[Spec], outs: Sequence[Spec], given: Given) -> tuple[Operator, float, float]:
    """Everything else is bound by memory: each operand once in, each result once out."""
    moved = sum(spec.touched_bytes for spec in (*ins, *outs))
    if given.get("statistics"):  # of all rows: a pass over what was read before the one that applies them
        moved += sum(spec.touched_bytes for spec in ins if spec.shape == outs[0].shape)
    elements = max([spec.elements for spec in (*ins, *outs)], default=0)
    launches = 1
    if name.startswith(("_foreach", "_fused_adam", "_fused_sgd", "_fused_adagrad", "_amp_foreach")):
        tensors = given.get("tensors", len(ins))
        elements = sum(spec.elements for spec in outs) or sum(spec.elements for spec in ins)
        chunks = elements / MULTI_CHUNK + tensors
        launches = max(math.ceil(tensors / MULTI_TENSORS), math.ceil(chunks / MULTI_BLOCKS))
    flop = float(given.get("flop", elements))
    kind = kind_of(name)
    return Pointwise(kind=kind, elements=elements, moved_bytes=float(moved), flop=flop, launches=launches), 1.0, 0.0


def kind_of(name: str) -> PointwiseKind:
    """Family of a kernel that moves bytes, by its name."""
    for kind, words in (("copy", COPIES), ("norm", NORMS), ("route", ROUTES), ("sample", DRAWS)):
        if any(word in name for word in words):
            return kind  # type: ignore[return-value]  # they are its members
    return "rope" if "rotary" in name else "activation"


RULES: Mapping[str, Rule] = MappingProxyType(
    dict.fromkeys(
        ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "vdot", "_scaled_mm", "_int_mm", "addbmm", "ger"),
        _matrix,
    )
    | dict.fromkeys(("_grouped_mm", "_scaled_grouped_mm", "npu_grouped_matmul"), _grouped)
    | dict.fromkeys(("convolution", "convolution_backward"), _convolution)
    | dict.fromkeys(("copy_to_host", "copy_to_device"), _transfer)
    | dict.fromkeys(("attention", "attention_backward"), _attention)
)
