"""Libraries that programs import and that need real devices: their faces, with shapes and work but no kernels.

Only what a program names is put in place, so that others that look whether a library is there find the truth.
"""

from __future__ import annotations

import contextlib
import math
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taicang.virtual import custom, engine, flash, fused, liger, mc2, quantised
from taicang.virtual import kernels as known
from taicang.virtual.faces import Refused, module, put
from taicang.virtual.groups import Groups
from taicang.virtual.kernels import DEVICE
from taicang.virtual.later import changed

NOTES: dict[str, None] = {}
"""What stood in for what, told at the end of the run."""


def fusion_attention(
    query: Tensor, key: Tensor, value: Tensor, head_num: int, input_layout: str = "BSH", *, scale: float = 1.0,
    atten_mask: Tensor | None = None, sparse_mode: int = 0, actual_seq_qlen: Any = None, **_: Any,
) -> tuple[Any, ...]:  # fmt: skip
    """Ascend's flash attention: output, two statistics of the softmax, an empty tensor, seed, offset, mask length."""
    layout = input_layout
    parts = [query, key, value]
    if layout in ("BSH", "SBH"):
        if layout == "SBH":
            parts = [t.transpose(0, 1) for t in parts]
        width = query.shape[-1] // head_num
        parts = [t.unflatten(-1, (t.shape[-1] // width, width)) for t in parts]
    causal = sparse_mode in (2, 3) or (atten_mask is not None and atten_mask.dim() <= 2)
    pairs = None
    if layout == "TND" and actual_seq_qlen is not None:
        pairs = fused.seen([b - a for a, b in pairwise([0, *[int(each) for each in actual_seq_qlen]])], causal)
    inside = layout if layout in ("BNSD", "TND") else "BSND"
    out = fused.attend(*parts, causal=causal, scale=scale, layout=inside, pairs=pairs)
    if layout in ("BSH", "SBH"):
        out = out.flatten(-2)
        out = out.transpose(0, 1) if layout == "SBH" else out
    shape = (*out.shape[:-1], 8)
    sums = torch.empty(shape, dtype=torch.float32, device=out.device)
    return out, sums, sums, torch.empty(0, device=out.device), 0, 0, 0


def grouped_matmul(x: Any, weight: Any, *, group_list: Any = None, split_item: int = 0, **_: Any) -> Any:
    """Products of groups of rows with their experts' matrices."""
    device = fused.KERNELS[0].device
    if len(weight) == 1 and isinstance(group_list, Tensor) and device.known(group_list.untyped_storage().data_ptr()):
        out = x[0].new_empty(x[0].shape[0], weight[0].shape[2])  # rows behind the last group are not computed
        if not torch.is_grad_enabled() or not x[0].requires_grad:
            rows = {"rows": float(group_list.sum())}
            fused.KERNELS[0].recorder.launch("npu_grouped_matmul", [x[0], weight[0]], [out], rows)
            return [out]
    if len(weight) == 1 and weight[0].dim() == 3:
        offsets = torch.arange(1, weight[0].shape[0] + 1, device=x[0].device, dtype=torch.int32)
        return [torch._grouped_mm(x[0], weight[0], offs=offsets * (x[0].shape[0] // weight[0].shape[0]))]
    return [a @ b for a, b in zip(x, weight, strict=True)]


def ascend(more: Mapping[str, Callable[..., Any]]) -> None:
    """``torch_npu`` and its shim for programs of CUDA; ``more`` are its operators that communicate."""
    npu = sys.modules["torch.npu"]
    operators: dict[str, Callable[..., Any]] = {
        "npu_fusion_attention": fusion_attention,
        "npu_rms_norm": lambda x, w, epsilon=1e-6: (fused.norm(x, w, epsilon), None),
        "npu_add_rms_norm": lambda a, b, w, epsilon=1e-6: (fused.norm(a + b, w, epsilon), None, a + b),
        "npu_swiglu": lambda x, dim=-1: fused.swiglu(x, dim),
        "npu_rotary_mul": lambda x, cos, sin, mode="half": fused.rotate(x, cos, sin, interleaved=mode == "interleave"),
        "npu_grouped_matmul": grouped_matmul,
        "npu_format_cast": lambda x, *_: x,
        "npu_format_cast_": lambda x, *_: x,
        "npu_dtype_cast": lambda x, dtype: x.to(dtype),
        "npu_confusion_transpose": lambda x, perm, shape, first: (
            x.permute(*perm).reshape(*shape) if first else x.reshape(*shape).permute(*perm)
        ),
        "npu_scaled_masked_softmax": lambda x, mask, scale=1.0, *_: fused.fused(
            "scaled_masked_softmax", lambda a, m: torch.softmax((a * scale).masked_fill(m, -1e4), -1), x, mask
        ),
        "get_npu_format": lambda x: 2,
        **more,
    }
    module("torch_npu", npu=npu, __version__=f"{torch.__version__.split('+')[0]}.post1", **operators)
    module("torch_npu.npu", **npu.__dict__)
    module("torch_npu.contrib")
    module("torch_npu.contrib.transfer_to_npu")
    module("torch_npu.optim", NpuFusedAdamW=_adam(torch.optim.AdamW), NpuFusedAdam=_adam(torch.optim.Adam))
    profiler = fused_nothing()
    module("torch_npu.profiler", profile=contextlib.nullcontext, ProfilerActivity=profiler,
           tensorboard_trace_handler=profiler, schedule=profiler)  # fmt: skip
    for name, function in operators.items():
        with contextlib.suppress(AttributeError, RuntimeError):
            setattr(torch.ops.npu, name, function)
    NOTES["torch_npu: its operators by shapes and bytes; internal formats are not modelled"] = None


def fused_nothing() -> Any:
    """Something that takes any call and any name."""

    class Nothing:
        def __getattr__(self, name: str) -> Any:
            return self

        def __call__(self, *_: Any, **__: Any) -> Any:
            return self

    return Nothing()


def _adam(kind: Any) -> Any:
    class Fused(kind):  # programs ask whether an optimizer is one
        def __init__(self, params: Any, lr: float = 1e-3, *args: Any, **kwargs: Any) -> None:
            taken = {k: v for k, v in kwargs.items() if k in ("betas", "eps", "weight_decay", "amsgrad")}
            super().__init__(params, lr=lr, fused=True, **taken)

    return Fused


class Norm(torch.nn.Module):
    """A norm in one kernel; subclasses centre or not."""

    centre = False

    def __init__(self, normalized_shape: Any, eps: float = 1e-5, *_: Any, **kwargs: Any) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        made = {k: v for k, v in kwargs.items() if k in ("device", "dtype")}
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(shape, **made))
        self.bias = torch.nn.Parameter(torch.zeros(shape, **made)) if self.centre else None

    def forward(self, x: Tensor) -> Any:
        """The norm over the last dimension."""
        return fused.norm(x, self.weight, self.eps, self.bias, centre=self.centre)


class LayerNorm(Norm):
    """With the mean taken off."""

    centre = True


def _applied(function: Callable[..., Any]) -> Any:
    """A function as the class of autograd that a library has for it."""
    return types.SimpleNamespace(forward=function, apply=lambda *args: function(None, *args))


def _scaling(training: list[Any]) -> dict[str, Any]:
    """``apex.amp`` of old: what computes in 16 bits, and losses that are scaled."""

    def initialize(models: Any, optimizers: Any = None, opt_level: str = "O1", **_: Any) -> Any:
        many = models if isinstance(models, list) else [models]
        for model in many:
            if opt_level in ("O2", "O3"):
                model.half()
            if opt_level != "O0":
                model.forward = torch.autocast(DEVICE, torch.float16)(model.forward)
        training.extend(optimizers if isinstance(optimizers, list) else [optimizers])
        return models if optimizers is None else (models, optimizers)

    def parameters(optimizer: Any) -> Any:
        return (p for group in optimizer.param_groups for p in group["params"])

    @contextlib.contextmanager
    def scaled(loss: Tensor, optimizers: Any, **_: Any) -> Iterator[Tensor]:
        yield loss.float() * 65536.0
        many = optimizers if isinstance(optimizers, list) else [optimizers]
        grads = [p.grad for each in many for p in parameters(each) if p.grad is not None]
        torch._foreach_mul_(grads, 1.0 / 65536.0)

    return {"initialize": initialize, "scale_loss": scaled, "master_params": parameters, "state_dict": dict,
            "load_state_dict": lambda _: None}  # fmt: skip


def apex() -> None:
    """``apex``: fused norms, as modules and as what they apply, optimizers, its data parallelism and scaling."""

    def affine(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, shape: Any, eps: float,
               memory_efficient: bool = False) -> Any:  # fmt: skip  # Megatron-LM looks for its last name
        return fused.norm(x, weight, eps, bias, centre=True)

    def fast(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, memory_efficient: bool = False) -> Any:
        return fused.norm(x, weight, eps, bias, centre=True)

    names = {"FusedLayerNorm": LayerNorm, "FusedRMSNorm": Norm, "MixedFusedRMSNorm": Norm,
             "MixedFusedLayerNorm": LayerNorm}  # fmt: skip
    module("apex.normalization", **names)
    module("apex.normalization.fused_layer_norm", FusedLayerNormAffineFunction=_applied(affine), **names)
    module("apex.contrib.layer_norm.layer_norm", FastLayerNormFN=_applied(fast))
    module("apex.contrib.clip_grad", clip_grad_norm_=torch.nn.utils.clip_grad_norm_)
    module("apex.optimizers", FusedLAMB=_adam(torch.optim.AdamW), **OPTIMIZERS)
    module("apex.amp", **_scaling([]))
    batch = torch.nn.SyncBatchNorm
    module("apex.parallel", DistributedDataParallel=lambda model, *_, **__: torch.nn.parallel.DistributedDataParallel(
        model), SyncBatchNorm=batch, convert_syncbn_model=batch.convert_sync_batchnorm)  # fmt: skip

    def norms(flag: Tensor, lists: Any, each: bool = False) -> Any:
        found = torch.stack(torch._foreach_norm(lists[0]))
        return found.norm(), found if each else None

    lists = {
        "multi_tensor_l2norm": norms,
        "multi_tensor_scale": lambda flag, lists, scale: torch._foreach_copy_(
            lists[1], torch._foreach_mul(lists[0], scale)
        ),
    }
    module("amp_C", **lists)
    applier = type("Applier", (), {"available": True, "__call__": lambda _, op, *args: op(*args)})()
    module("apex.multi_tensor_apply", multi_tensor_applier=applier)
    NOTES["apex: its norms and optimizers as one kernel each"] = None


def transformer_engine() -> None:
    """TransformerEngine's layers."""
    engine.install({"LayerNorm": LayerNorm, "RMSNorm": Norm}, OPTIMIZERS)
    NOTES["transformer_engine: norms, products, attention and activations as a kernel each; 8-bit recipes quantise "
          "each operand by a kernel of its own"] = None  # fmt: skip


def bitsandbytes() -> None:
    """``bitsandbytes``: linear layers and optimizers."""
    module("bitsandbytes.nn", Linear4bit=quantised.Linear, LinearNF4=quantised.Linear, LinearFP4=quantised.Linear,
           Linear8bitLt=quantised.Linear8bitLt)  # fmt: skip
    module("bitsandbytes.optim", **dict.fromkeys(("Adam8bit", "AdamW8bit", "PagedAdam8bit", "PagedAdamW8bit"),
                                                 quantised.Adam8bit))  # fmt: skip
    NOTES["bitsandbytes: layers of 8 and 4 bits as a kernel that unpacks and a product; outliers are not modelled"] = (
        None
    )


def profiler() -> None:
    """PyTorch's profiler: it records the host alone."""
    kind: Any = torch.autograd.profiler.profile
    first = kind.__init__

    def begin(self: Any, enabled: bool = True, **given: Any) -> None:
        NOTES["torch.profiler: it recorded the host; --perfetto has the device's kernels"] = None
        given = {key: value for key, value in given.items() if key not in ("use_cuda", "use_device", "use_cpu")}
        first(self, enabled, **given)

    kind.__init__ = begin


MASK_BYTES = 1 << 30
"""Masks of up to so many bytes are drawn, for the blocks that they have."""


def flex(module: Any) -> None:
    """PyTorch's flexible attention: programs compile it, and it is one kernel over the blocks that its mask has."""
    composed, masked = module.flex_attention, module.create_block_mask

    def attention(query: Tensor, key: Tensor, value: Tensor, score_mod: Any = None, block_mask: Any = None,
                  scale: float | None = None, enable_gqa: bool = False, return_lse: bool = False,
                  **more: Any) -> Any:  # fmt: skip
        kernels = fused.KERNELS[0]
        if kernels.recorder.real or query.device.type != DEVICE or return_lse or more.get("return_aux"):
            return composed(query, key, value, score_mod, block_mask, scale, enable_gqa, return_lse, **more)
        NOTES["flex_attention: one kernel over the blocks of its mask"] = None
        pairs = None if block_mask is None else _block_pairs(block_mask, query.shape[0])
        return fused.attend(query, key, value, causal=False, scale=scale, layout="BNSD", pairs=pairs)

    def mask(*args: Any, **more: Any) -> Any:
        usual, known.KNOWN_BYTES = known.KNOWN_BYTES, MASK_BYTES
        try:
            return masked(*args, **more)
        finally:
            known.KNOWN_BYTES = usual

    module.flex_attention, module.create_block_mask = attention, mask


def _block_pairs(mask: Any, batch: int) -> float | None:
    """Pairs in the blocks of a mask, over the batch, on average over its heads; none where nobody knows them."""
    counts = [each for each in (mask.kv_num_blocks, mask.full_kv_num_blocks) if each is not None]
    kernels = fused.KERNELS[0]
    if not all(
        each.device.type != DEVICE or kernels.device.known(each.untyped_storage().data_ptr()) for each in counts
    ):
        return None
    blocks = sum(float(kernels.host(each).sum() if each.device.type == DEVICE else each.sum()) for each in counts)
    return blocks * math.prod(mask.BLOCK_SIZE) * batch / math.prod(counts[0].shape[:2])


def triton() -> None:
    """Triton where it is not installed: kernels may be defined, and are refused by name as they are launched."""

    def jit(fn: Any = None, **_: Any) -> Any:
        return jit if fn is None else Launched(fn)

    class Launched(Refused):
        def __init__(self, fn: Any) -> None:
            super().__init__(fn.__name__)
            self.fn = fn

        def __getitem__(self, grid: Any) -> Any:
            return lambda *_, **__: custom.refuse(self)

    module("triton", jit=jit, autotune=lambda *_, **__: jit, heuristics=lambda *_, **__: jit,
           Config=types.SimpleNamespace, cdiv=lambda a, b: -(-a // b),
           next_power_of_2=lambda n: 1 << (n - 1).bit_length())  # fmt: skip
    module("triton.language", constexpr=int)


def _noted(make: Callable[[Any, Any], None], said: str) -> Callable[[], None]:
    def put() -> None:
        make(Norm, LayerNorm)
        NOTES[said] = None

    return put


OPTIMIZERS = {"FusedAdam": _adam(torch.optim.AdamW), "FusedSGD": torch.optim.SGD}
FACES: dict[str, Callable[[], None]] = {
    "flash_attn": _noted(flash.install, "flash_attn: its attention kernels by shapes and FLOPs"), "apex": apex,
    "amp_C": apex, "transformer_engine": transformer_engine, "bitsandbytes": bitsandbytes, "xformers": flash.xformers,
    "liger_kernel": _noted(liger.install, "liger_kernel: its kernels by shapes and bytes"), "triton": triton,
    "cupy": lambda: None, "pycuda": lambda: None,
}  # fmt: skip
"""What is put in place of a library that is not there; of those that only launch kernels, nothing but their names."""


def install(text: str, script: Path, groups: Groups, *, npu: bool) -> None:
    """Put in place what the program names, and what is not really there."""
    if npu or "torch_npu" in text:
        ascend(mc2.operators(groups))
    put(text, script, FACES)
    profiler()
    changed("torch.nn.attention.flex_attention", flex)
    if not fused.KERNELS[0].recorder.real:
        torch.nn.functional.rms_norm = torch.rms_norm = _rms_norm


def _rms_norm(source: Tensor, shape: Any, weight: Any = None, eps: Any = None) -> Tensor:
    """PyTorch's own norm, which is one kernel on a device and is composed of others on backends that lack it."""
    return torch._fused_rms_norm(source, list(shape), weight, eps)[0]
