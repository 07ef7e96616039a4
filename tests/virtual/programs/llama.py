"""A Llama in plain PyTorch, trained with FSDP2 and, where asked, tensor and pipeline parallel (torchtitan's way)."""

import argparse
import contextlib
import os
from collections import defaultdict

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    loss_parallel,
    parallelize_module,
)
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


class Attention(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.width = a.hidden // a.heads
        kv = a.kv_heads * self.width
        self.wq, self.wo = nn.Linear(a.hidden, a.hidden, bias=False), nn.Linear(a.hidden, a.hidden, bias=False)
        self.wk, self.wv = nn.Linear(a.hidden, kv, bias=False), nn.Linear(a.hidden, kv, bias=False)

    def forward(self, h, cos, sin):
        b, t, _ = h.shape
        q, k, v = (w(h).view(b, t, -1, self.width).transpose(1, 2) for w in (self.wq, self.wk, self.wv))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.wo(y.transpose(1, 2).reshape(b, t, -1))


class FeedForward(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.w1, self.w3 = nn.Linear(a.hidden, a.inter, bias=False), nn.Linear(a.hidden, a.inter, bias=False)
        self.w2 = nn.Linear(a.inter, a.hidden, bias=False)

    def forward(self, h):
        return self.w2(F.silu(self.w1(h)) * self.w3(h))


class Layer(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(a.hidden), nn.RMSNorm(a.hidden)
        self.attention, self.feed_forward = Attention(a), FeedForward(a)

    def forward(self, x, cos, sin):
        x = x + self.attention(self.norm1(x), cos, sin)
        return x + self.feed_forward(self.norm2(x))


def tensor_parallel(model, mesh):
    whole, rows = Replicate(), Shard(1)
    plan = {"norm": SequenceParallel()} if model.norm is not None else {}
    if model.tokens is not None:
        plan["tokens"] = RowwiseParallel(input_layouts=whole, output_layouts=rows)
    if model.head is not None:
        plan["head"] = ColwiseParallel(input_layouts=rows, output_layouts=Shard(-1), use_local_output=False)
    parallelize_module(model, mesh, plan)
    for layer in model.layers:
        plan = {
            "norm1": SequenceParallel(), "norm2": SequenceParallel(),
            "attention": PrepareModuleInput(input_layouts=(rows, None, None), desired_input_layouts=(whole, None, None)),
            "attention.wo": RowwiseParallel(output_layouts=rows),
            "feed_forward": PrepareModuleInput(input_layouts=(rows,), desired_input_layouts=(whole,)),
            "feed_forward.w2": RowwiseParallel(output_layouts=rows),
        }  # fmt: skip
        plan |= dict.fromkeys(("attention.wq", "attention.wk", "attention.wv", "feed_forward.w1", "feed_forward.w3"),
                              ColwiseParallel())  # fmt: skip
        parallelize_module(layer, mesh, plan)


class Llama(nn.Module):
    def __init__(self, a, first=True, last=True, layers=None):
        super().__init__()
        self.keep = dict(recompute=dict(use_reentrant=False), selective=dict(use_reentrant=False, context_fn=selective))
        self.keep = self.keep.get(a.keep)
        self.tokens = nn.Embedding(a.vocab, a.hidden) if first else None
        self.layers = nn.ModuleList(Layer(a) for _ in range(layers or a.layers))
        self.norm = nn.RMSNorm(a.hidden) if last else None
        self.head = nn.Linear(a.hidden, a.vocab, bias=False) if last else None
        self.width, self.seq = a.hidden // a.heads, a.seq

    def forward(self, x):
        x = self.tokens(x) if self.tokens is not None else x
        angle = torch.arange(0, self.width, 2, device=x.device) / self.width
        turns = torch.outer(torch.arange(self.seq, device=x.device).float(), 1e4**-angle)
        turns = torch.cat((turns, turns), dim=-1)
        cos, sin = turns.cos().to(x.dtype), turns.sin().to(x.dtype)
        for layer in self.layers:
            x = checkpoint(layer, x, cos, sin, **self.keep) if self.keep else layer(x, cos, sin)
        return self.head(self.norm(x)) if self.head is not None else x


def selective():
    """Keep attention, reductions and every second product; compute all else again."""
    seen = defaultdict(int)
    aten = torch.ops.aten
    saved = {
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_fused_attention_overrideable.default,
        torch.ops._c10d_functional.reduce_scatter_tensor.default,
    }

    def choose(context, operator, *args, **kwargs):
        product = operator == aten.mm.default
        seen[context.is_recompute] += product
        kept = operator in saved or product and seen[context.is_recompute] % 2
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(choose)


def loss_of(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def main():
    parser = argparse.ArgumentParser()
    for name, value in dict(hidden=1024, inter=2816, layers=4, heads=16, kv_heads=4, vocab=32000, seq=1024, batch=1,
                            tp=1, pp=1, steps=2, micro=4).items():  # fmt: skip
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--keep", choices=("all", "selective", "recompute"), default="all")
    a = parser.parse_args()
    dist.init_process_group("nccl")
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    mesh = init_device_mesh(
        "cuda", (a.pp, dist.get_world_size() // a.pp // a.tp, a.tp), mesh_dim_names=("pp", "dp", "tp")
    )
    stage = mesh["pp"].get_local_rank()
    first, last = stage == 0, stage == a.pp - 1
    with torch.device("meta"):
        model = Llama(a, first, last, a.layers // a.pp)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    if a.tp > 1:
        tensor_parallel(model, mesh["tp"])
    for layer in model.layers:
        again = a.pp == 1 and layer is not model.layers[-1]  # the last one is used again at once
        fully_shard(layer, mesh=mesh["dp"], mp_policy=policy, reshard_after_forward=again)
    for part in ([model.tokens], [model.norm, model.head]):  # what is first forward, and what is first backward
        if part[0] is not None:
            fully_shard(part if len(part) > 1 else part[0], mesh=mesh["dp"], mp_policy=policy, reshard_after_forward=False)
    fully_shard(model, mesh=mesh["dp"], mp_policy=policy, reshard_after_forward=None if a.pp == 1 else False)
    model.to_empty(device="cuda")
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.02)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    schedule = None
    if a.pp > 1:
        from torch.distributed.pipelining import PipelineStage, Schedule1F1B

        schedule = Schedule1F1B(
            PipelineStage(model, stage, a.pp, torch.device("cuda"), group=mesh.get_group("pp")), a.micro, loss_of
        )
    for step in range(a.steps):
        x = torch.randint(a.vocab, (a.batch * (a.micro if a.pp > 1 else 1), a.seq), device="cuda")
        with loss_parallel() if a.tp > 1 else contextlib.nullcontext():
            if schedule is None:
                logits = model(x)
                loss = loss_of(logits, x)
                del logits
                loss.backward()
            else:
                losses = []
                schedule.step(*([x] if first else []), **(dict(target=x, losses=losses) if last else {}))
                loss = torch.stack(losses).mean() if last else torch.zeros((), device="cuda")
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        print(
            f"rank {dist.get_rank()} step {step}: loss {loss.item():.4f}, "
            f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB of {torch.cuda.max_memory_reserved() / 2**30:.2f} GiB",
            flush=True,
        )
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
