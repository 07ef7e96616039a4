"""Libraries that need a device to be imported, as programs use them: TransformerEngine, Liger, flash-attn, xformers, apex."""

import sys

import amp_C
import torch
import transformer_engine.pytorch as te
from apex import amp
from apex.multi_tensor_apply import multi_tensor_applier
from apex.optimizers import FusedLAMB
from flash_attn import flash_attn_func, flash_attn_varlen_qkvpacked_func, flash_attn_with_kvcache
from flash_attn.bert_padding import pad_input, unpad_input
from flash_attn.layers.rotary import apply_rotary_emb
from liger_kernel.transformers import LigerCrossEntropyLoss, LigerFusedLinearCrossEntropyLoss, LigerRMSNorm
from transformer_engine.common.recipe import DelayedScaling, Format
from xformers.ops import SwiGLU, memory_efficient_attention
from xformers.ops.fmha.attn_bias import BlockDiagonalCausalMask

HALF, WIDE = dict(device="cuda", dtype=torch.bfloat16), 512


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = te.LayerNormLinear(WIDE, 3 * WIDE, bias=False, normalization="RMSNorm", params_dtype=torch.bfloat16)
        self.core = te.DotProductAttention(8, WIDE // 8, qkv_format="bshd", attn_mask_type="causal")
        self.proj = te.Linear(WIDE, WIDE, bias=False, params_dtype=torch.bfloat16)
        self.mlp = te.LayerNormMLP(WIDE, 4 * WIDE, bias=False, activation="swiglu", params_dtype=torch.bfloat16)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (8, -1)).chunk(3, dim=-1)
        x = x + self.proj(self.core(q, k, v))
        return x + self.mlp(x)


def engine(low):
    block, x = Block(), torch.randn(2, 256, WIDE, **HALF)
    optimizer = te.optimizers.FusedAdam(block.parameters(), lr=1e-4)
    with te.fp8_autocast(enabled=low, fp8_recipe=DelayedScaling(fp8_format=Format.HYBRID)):
        y = block(x)
    y.float().square().mean().backward()
    optimizer.step()


def lengths():
    mask = torch.ones(4, 256, dtype=torch.bool, device="cuda")
    mask[1, 100:] = False
    rows, places, ends, longest, *_ = unpad_input(torch.randn(4, 256, 3 * WIDE, **HALF), mask)
    out = flash_attn_varlen_qkvpacked_func(rows.unflatten(-1, (3, 8, -1)), ends, longest, causal=True)
    print("padded", tuple(pad_input(out.flatten(1), places, 4, 256).shape), longest, len(rows))
    q, k, v = torch.randn(3, 1, 256, 8, 64, **HALF)
    q = apply_rotary_emb(q, *torch.randn(2, 256, 32, device="cuda"))
    flash_attn_func(q, k, v, causal=True, window_size=(63, 0))
    length = torch.full((1,), 100, dtype=torch.int32, device="cuda")
    flash_attn_with_kvcache(q[:, :1], k, v, k=k[:, :1], v=v[:, :1], cache_seqlens=length)
    memory_efficient_attention(q, k, v, attn_bias=BlockDiagonalCausalMask.from_seqlens([100, 156]))


def losses():
    head, rows = torch.randn(4000, WIDE, **HALF, requires_grad=True), torch.randn(600, WIDE, **HALF, requires_grad=True)
    labels = torch.randint(4000, (600,), device="cuda")
    LigerFusedLinearCrossEntropyLoss()(head, LigerRMSNorm(WIDE).to("cuda", torch.bfloat16)(rows), labels).backward()
    print("peak", torch.cuda.max_memory_allocated())
    LigerCrossEntropyLoss()(rows @ head.t(), labels).backward()


def scaled():
    model, optimizer = amp.initialize(model := SwiGLU(WIDE, WIDE).cuda(), FusedLAMB(model.parameters()), opt_level="O1")
    with amp.scale_loss(model(torch.randn(8, WIDE, device="cuda")).sum(), optimizer) as loss:
        loss.backward()
    grads = [p.grad for p in amp.master_params(optimizer)]
    multi_tensor_applier(amp_C.multi_tensor_l2norm, torch.zeros(1, dtype=torch.int, device="cuda"), [grads], False)
    optimizer.step()


if __name__ == "__main__":
    ways = {"low": lambda: engine(True), "plain": lambda: engine(False), "lengths": lengths, "losses": losses,
            "scaled": scaled, "refused": lambda: te.MultiheadAttention(WIDE, 8)}  # fmt: skip
    ways[sys.argv[1]]()
    print("done")
