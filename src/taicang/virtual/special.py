"""Operators that need more than PyTorch's shape rules: copies, reads, attention, convolutions, masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from torch import Tensor

from taicang.virtual import shapes, sparse, values
from taicang.virtual.capture import WAIT_STREAM
from taicang.virtual.kernels import DEVICE, Kernels, _Plan, base, tensors_of, whole
from taicang.virtual.operators import by_vectors

aten = torch.ops.aten
DIRECT = (
    "native_layer_norm", "native_layer_norm_backward", "native_group_norm", "native_group_norm_backward",
    "_fused_rms_norm", "_fused_rms_norm_backward", "silu_backward", "mish_backward", "_chunk_cat", "_grouped_mm",
    "split_with_sizes_copy.out",
)  # fmt: skip
"""Operators that PyTorch would compose of others where a backend has no kernel of its own; this one has."""

NO_GRADIENT = "aten::_has_compatible_shallow_copy_type"


def install(kernels: Kernels) -> list[torch.library.Library]:
    """Register the fallback and the operators that need registering by name; the libraries are to be kept."""
    fallback = torch.library.Library("_", "IMPL")
    fallback.fallback(kernels, "PrivateUse1")
    if not torch._C._dispatch_has_computed_kernel_for_dispatch_key(NO_GRADIENT, "AutogradPrivateUse1"):
        fallback.fallback(torch.library.fallthrough_kernel, "AutogradPrivateUse1")  # PyTorch 2.9 leaves that open
    own = torch.library.Library("aten", "IMPL")
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("aten::_foreach_")]
    for name in (*DIRECT, *(each.removeprefix("aten::") for each in names)):
        packet, _, overload = name.partition(".")
        if hasattr(aten, packet):
            op = getattr(getattr(aten, packet), overload or "default", None)
            if op is not None:
                own.impl(name, partial(kernels, op), "PrivateUse1", allow_override=True)
    for name, function in (
        ("_scaled_dot_product_flash_attention", flash),
        ("_scaled_dot_product_flash_attention_backward", flash_backward),
        ("_scaled_dot_product_fused_attention_overrideable", attention),
        ("_scaled_dot_product_fused_attention_overrideable_backward", attention_backward),
        ("convolution_overrideable", convolution),
        ("convolution_backward_overrideable", convolution_backward),
    ):
        own.impl(name, partial(function, kernels), "PrivateUse1", allow_override=True)
    kernels.special.update(
        _copy_from=copy_from,
        _local_scalar_dense=read,
        equal=equal,
        nonzero=nonzero,
        masked_select=masked_select,
        _embedding_bag_backward=bags,
        index=index,
        index_put=index,
        _index_put_impl=index,
        _copy_from_and_resize=copy_and_resize,
        record_stream=lambda *_: None,
    )
    for key in ("AutogradPrivateUse1", "PrivateUse1"):
        own.impl("scaled_dot_product_attention", attend, key, allow_override=True)
    return [fallback, own, shapes.install(), sparse.install()]


def sync(kernels: Kernels) -> None:
    """The host waits for the stream, as it does where it reads."""
    kernels.device.note(WAIT_STREAM, 0)


def copy_from(kernels: Kernels, op: Any, plan: _Plan, args: Sequence[Any], kwargs: Any) -> Tensor:
    """Copies within the device, to it and from it."""
    source, target = args[0], args[1]
    known, know = kernels.device.known, kernels.device.know
    if target.device.type != DEVICE:
        if not (len(args) > 2 and args[2]):
            sync(kernels)
        if known(base(source)):
            target.copy_(kernels.host(source))
        elif target.numel() <= 1 << 20:
            values.tell("tensors that are copied to the host (zeros)")
            target.zero_()
        kernels.recorder.launch("copy_to_host", [source], [], {})
        return target
    there = source.device.type == DEVICE
    if kernels.small(target) and (whole(target) or known(base(target))) and (not there or known(base(source))):
        kernels.host(target).copy_(kernels.host(source) if there else source)
        know(base(target), 1)
    else:
        know(base(target), 0)
    kernels.recorder.launch("copy" if there else "copy_to_device", [source] if there else [], [target], {})
    return target


def copy_and_resize(kernels: Kernels, op: Any, plan: _Plan, args: Sequence[Any], kwargs: Any) -> Tensor:
    """A copy whose target takes the source's shape."""
    args[1].resize_(args[0].shape)
    return copy_from(kernels, op, plan, args, kwargs)


def read(kernels: Kernels, op: Any, plan: _Plan, args: Sequence[Any], kwargs: Any) -> Any:
    """One number to the host: what is known, else what is invented."""
    sync(kernels)
    return kernels.host(args[0]).item() if kernels.device.known(base(args[0])) else values.scalar(args[0])


def equal(kernels: Kernels, op: Any, plan: _Plan, args: Sequence[Any], kwargs: Any) -> bool:
    """Whether two tensors are the same: what is unknown is (weights after a broadcast, for example)."""
    sync(kernels)
    if all(kernels.device.known(base(each)) for each in args):
        return torch.equal(kernels.host(args[0]), kernels.host(args[1]))
    return args[0].shape == args[1].shape


def nonzero(kernels: Kernels, op: Any, plan: _Plan, args: Sequence[Any], kwargs: Any) -> Tensor:
    """Places that hold something: of an unknown mask, all."""
    mask = args[0]
    sync(kernels)
    if kernels.device.known(base(mask)) and (kernels.small(mask) or mask.numel() <= 1 << 22):
        found = torch.nonzero(kernels.host(mask))
    else:
        values.tell("masks (all of them true)")
        found = torch.ones(tuple(mask.shape), dtype=torch.bool).nonzero()
    out = torch.empty(found.shape, dtype=torch.int64, device=DEVICE)
    if found.numel():
        kernels.host(out).copy_(found)
        kernels.device.know(base(out), 1)
    kernels.recorder.launch("nonzero", [mask], [out], {})
    return out


def bags(kernels: Kernels, op: Any, plan: _Plan, args: Sequence[Any], kwargs: Any) -> Any:
    """Gradients of a table whose rows were summed: sparse where the program asked for it."""
    if not args[9]:
        return kernels.run(op, plan, args, kwargs)
    return aten._embedding_bag_sparse_backward(*args[:5], *args[6:9], *args[10:])


def masked_select(kernels: Kernels, op: Any, plan: _Plan, args: Sequence[Any], kwargs: Any) -> Tensor:
    """As indexing with a mask."""
    left, mask = torch.broadcast_tensors(args[0], args[1])
    found: Tensor = left[mask]
    return found


def index(kernels: Kernels, op: Any, plan: _Plan, args: Sequence[Any], kwargs: Any) -> Any:
    """Masks among the indices become places first."""
    indices: list[Any] = []
    for each in args[1]:
        if isinstance(each, Tensor) and each.dtype in (torch.bool, torch.uint8):
            on = each if each.device.type == DEVICE else each.to(DEVICE)
            indices += torch.nonzero(on).unbind(1)
        else:
            indices.append(each)
    indices = [each if each is None or each.device.type == DEVICE else each.to(DEVICE) for each in indices]
    return kernels.run(op, plan, (args[0], indices, *args[2:]), kwargs)


ASIDE = ThreadPoolExecutor(1)


def settle(kernels: Kernels, made: Sequence[Any], read: Sequence[Any], compute: Any) -> None:
    """Values of outputs that have no shape rule of their own: computed where everything is known, else unknown."""
    given = [each for each in read if isinstance(each, Tensor)]
    known = kernels.device.known
    if not all(known(base(t)) for t in given) or not all(kernels.small(t) for t in tensors_of(list(made))):
        return
    hosted = [kernels.host(each).detach() if isinstance(each, Tensor) else each for each in read]
    results = ASIDE.submit(compute, hosted).result()  # another thread: in a kernel of the dispatcher nothing is derived
    for mine, theirs in zip(made, results, strict=False):
        if isinstance(mine, Tensor) and theirs is not None and mine.numel():
            kernels.host(mine).copy_(theirs.detach())
            kernels.device.know(base(mine), 1)


def attend(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """PyTorch's attention, by the operator that CUDA takes: what shards or keeps it knows that one by its name."""
    halves = query.dtype in (torch.float16, torch.bfloat16)
    if attn_mask is None and halves and query.dim() == 4 and torch.backends.cuda.flash_sdp_enabled():
        out: Tensor = aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]
        return out
    composed: Tensor = aten.scaled_dot_product_attention.default.decompose(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )
    return composed


def flash(kernels: Kernels, query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0, causal: bool = False,
          debug: bool = False, *, scale: float | None = None) -> tuple[Any, ...]:  # fmt: skip
    """CUDA's operator for it."""
    out, sums, _, _, rows, columns, seed, offset, _ = attention(
        kernels, query, key, value, None, dropout, causal, scale=scale
    )
    return out, sums, None, None, rows, columns, seed, offset, torch.empty_like(seed)


def flash_backward(kernels: Kernels, grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *args: Any,
                   scale: float | None = None) -> tuple[Any, ...]:  # fmt: skip
    """And its gradients."""
    return attention_backward(kernels, grad, query, key, value, None, [False] * 4, *args, scale=scale)[:3]


def attention(
    kernels: Kernels, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, dropout: float = 0.0,
    causal: bool = False, debug: bool = False, *, scale: float | None = None,
) -> tuple[Any, ...]:  # fmt: skip
    """Flash attention: its output lies as [batch, tokens, heads, width]."""
    batch, heads, rows, _ = query.shape
    out = torch.empty(batch, rows, heads, value.shape[-1], dtype=query.dtype, device=DEVICE).transpose(1, 2)
    sums = torch.empty(batch, heads, rows, dtype=torch.float32, device=DEVICE)
    seed, offset = (torch.empty((), dtype=torch.int64, device=DEVICE) for _ in range(2))
    nothing = torch.empty(0, dtype=torch.int32, device=DEVICE)
    log_attention(kernels, (query, key, value, bias), (out, sums), causal=causal, backward=False)
    settle(kernels, (out,), (query, key, value, bias), lambda t: (plain(t, causal, scale),))
    return out, sums, nothing, nothing, rows, key.shape[-2], seed, offset, nothing


def attention_backward(kernels: Kernels, grad: Tensor, *args: Any, scale: float | None = None) -> tuple[Any, ...]:
    """Gradients of the queries, keys and values (and of the bias where it is asked for)."""
    query, key, value, bias, wanted, out, sums = args[:7]
    causal = args[12]
    made = [torch.empty_like(t) for t in (query, key, value)]
    log_attention(kernels, (query, key, value, bias, out, sums, grad), made, causal=causal, backward=True)

    def compute(t: list[Any]) -> tuple[Any, ...]:
        leaves = [each.requires_grad_() for each in t[1:4]]
        return torch.autograd.grad(plain([*leaves, t[4]], causal, scale), leaves, t[0])

    settle(kernels, made, (grad, query, key, value, bias), compute)
    extra = (
        torch.empty_like(bias) if bias is not None and wanted[3] else torch.empty(0, dtype=query.dtype, device=DEVICE)
    )
    return (*made, extra)


def plain(t: Sequence[Any], causal: bool, scale: float | None) -> Tensor:
    """PyTorch's own attention."""
    grouped = t[0].shape[-3] != t[1].shape[-3]
    return torch.nn.functional.scaled_dot_product_attention(
        t[0], t[1], t[2], attn_mask=t[3], is_causal=causal, scale=scale, enable_gqa=grouped
    )


def log_attention(
    kernels: Kernels, ins: Sequence[Tensor | None], outs: Sequence[Tensor], *, causal: bool, backward: bool,
    pairs: float | None = None,
) -> None:  # fmt: skip
    """One attention kernel of [batch, heads, tokens, width]."""
    query, key, value = (each for each in ins[:3] if each is not None)
    given = {
        "query": tuple(query.shape), "key": tuple(key.shape), "value": tuple(value.shape), "causal": causal,
        "backward": backward, "dtype": str(query.dtype)[6:], "pairs": pairs,
    }  # fmt: skip
    name = "attention_backward" if backward else "attention"
    kernels.recorder.launch(name, [t for t in ins if t is not None], outs, given)


def convolution(kernels: Kernels, source: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    """A convolution; ``rest`` is stride, padding, dilation, transposed, output padding, groups."""
    metas = [None if t is None else torch.empty_like(t, device="meta") for t in (source, weight, bias)]
    shaped = aten.convolution.default(*metas, *rest)
    out = torch.empty_strided(shaped.size(), shaped.stride(), dtype=shaped.dtype, device=DEVICE)
    _log_convolution(kernels, (), (source, weight), (out,), out if not rest[3] else source, rest, 1)
    if bias is not None:
        kernels.recorder.launch("add", [out, bias], [out], {})
    settle(kernels, (out,), (source, weight, bias), lambda t: (aten.convolution.default(*t, *rest),))
    return out


def convolution_backward(kernels: Kernels, grad: Tensor, source: Tensor, weight: Tensor, *rest: Any) -> tuple[Any, ...]:
    """Gradients of the input, the weights and the bias, those that are asked for."""
    wanted, rest = rest[-1], rest[:-1]
    width = weight.shape[1] * rest[5] if rest[3] else weight.shape[0]
    made = [torch.empty_like(like) if want else None for like, want in zip((source, weight), wanted, strict=False)]
    made.append(grad.new_empty((width,)) if wanted[2] else None)
    outs = [each for each in made if each is not None]
    operands = ((grad, weight) if wanted[0] else ()) + ((grad, source) if wanted[1] else ())
    if operands:
        over, passes = grad if not rest[3] else source, len(operands) // 2
        _log_convolution(kernels, operands, (grad, source, weight), outs, over, rest, passes)
    if made[2] is not None:
        kernels.recorder.launch("sum", [grad], [made[2]], {})
    settle(
        kernels, made, (grad, source, weight),
        lambda t: aten.convolution_backward.default(*t, [width] if wanted[2] else None, *rest, list(wanted)),
    )  # fmt: skip
    return tuple(made)


def _log_convolution(
    kernels: Kernels, back: Any, ins: Sequence[Tensor], outs: Any, over: Tensor, rest: Any, passes: int
) -> None:
    source, weight = ins[-2:]
    given = {
        "weight": tuple(weight.shape), "places": over.shape[0] * math.prod(over.shape[2:]), "groups": rest[5],
        "transposed": bool(rest[3]), "passes": passes, "tf32": torch.backends.cudnn.allow_tf32,
    }  # fmt: skip
    if _turned(source, weight, rest):
        for each in back or ins:
            kernels.recorder.launch("copy_channels_last", [each, each], [], {})  # read and written
    kernels.recorder.launch("convolution_backward" if back else "convolution", ins, outs, given)


def _turned(source: Tensor, weight: Tensor, rest: Any) -> bool:
    """Whether operands are copied to channels last first, as matrix units take them: all but plain products are."""
    stride, groups = rest[0], rest[5]
    if math.prod(weight.shape[2:]) == math.prod(stride) == 1 or groups == source.shape[1] > 1:
        return False  # a product as it lies; kernels of their own for each channel
    if source.dtype == torch.float32 and (not torch.backends.cudnn.allow_tf32 or by_vectors(weight.shape)):
        return False
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(source.dim())
    return last is None or not source.is_contiguous(memory_format=last)
