"""A Llama in plain PyTorch, or a mixture of experts, trained with FSDP2 or replicas and any one of tensor, pipeline,
context and expert parallelism (torchtitan's way)."""

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
from torch.distributed.nn.functional import all_to_all_single
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.experimental import context_parallel
from torch.distributed.tensor.experimental._attention import set_rotate_method
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    loss_parallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


class Attention(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.width, self.cut = a.hidden // a.heads, a.group if a.context == "ulysses" and a.cp > 1 else None
        kv = a.kv_heads * self.width
        self.wq, self.wo = nn.Linear(a.hidden, a.hidden, bias=False), nn.Linear(a.hidden, a.hidden, bias=False)
        self.wk, self.wv = nn.Linear(a.hidden, kv, bias=False), nn.Linear(a.hidden, kv, bias=False)

    def forward(self, h, cos, sin):
        b, t, _ = h.shape
        q, k, v = (w(h).view(b, t, -1, self.width).transpose(1, 2) for w in (self.wq, self.wk, self.wv))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if self.cut is not None:
            q, k, v = (turned(each, self.cut, 1, 2) for each in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        if self.cut is not None:
            y = turned(y, self.cut, 2, 1)
        return self.wo(y.transpose(1, 2).reshape(b, t, -1))


def turned(x, group, heads, rows):
    """Ulysses: split along one dimension, joined along the other."""
    many = dist.get_world_size(group)
    parts = torch.stack(x.chunk(many, dim=heads))
    return torch.cat(all_to_all_single(torch.empty_like(parts), parts, group=group).unbind(0), dim=rows)


class FeedForward(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.w1, self.w3 = nn.Linear(a.hidden, a.inter, bias=False), nn.Linear(a.hidden, a.inter, bias=False)
        self.w2 = nn.Linear(a.inter, a.hidden, bias=False)

    def forward(self, h):
        return self.w2(F.silu(self.w1(h)) * self.w3(h))


class Experts(nn.Module):
    """Tokens go to the ranks of their experts and back."""

    def __init__(self, a):
        super().__init__()
        self.experts, self.topk, self.group = a.experts, a.topk, a.group
        self.ranks, local = a.ep, a.experts // a.ep
        self.router = nn.Linear(a.hidden, a.experts, bias=False)
        self.inner = nn.Module()
        for name, *shape in (("w1", a.hidden, a.inter), ("w3", a.hidden, a.inter), ("w2", a.inter, a.hidden)):
            self.inner.register_parameter(name, nn.Parameter(torch.empty(local, *shape)))
        self.inner.forward = self.computed

    def computed(self, x, ends):
        w1, w2, w3 = self.inner.w1, self.inner.w2, self.inner.w3
        return torch._grouped_mm(F.silu(torch._grouped_mm(x, w1, ends)) * torch._grouped_mm(x, w3, ends), w2, ends)

    def forward(self, h):
        x = h.flatten(0, 1)
        flat = torch.arange(len(x) * self.topk, device=x.device) % self.experts  # balanced by force, as benchmarks do
        weights = self.router(x).softmax(-1).gather(1, flat.view(-1, self.topk))
        order = flat.argsort(stable=True)
        counts = received = torch.bincount(flat, minlength=self.experts)
        rows = x[order // self.topk]
        if self.ranks > 1:
            received = torch.empty_like(counts)
            dist.all_to_all_single(received, counts, group=self.group)
            sent, got = (each.view(self.ranks, -1).sum(1).tolist() for each in (counts, received))
            rows = all_to_all_single(rows.new_empty(sum(got), x.shape[-1]), rows, got, sent, group=self.group)
            local = torch.arange(self.experts // self.ranks, device=x.device).repeat(self.ranks)
            inside = torch.repeat_interleave(local, received).argsort(stable=True)
            rows = rows[inside]
        ends = received.view(self.ranks, -1).sum(0).cumsum(0).to(torch.int32)
        rows = self.inner(rows, ends)
        if self.ranks > 1:
            rows = torch.zeros_like(rows).index_copy(0, inside, rows)
            rows = all_to_all_single(rows.new_empty(len(order), x.shape[-1]), rows, sent, got, group=self.group)
        mixed = torch.zeros_like(x).index_add(0, order // self.topk, rows * weights.flatten()[order].unsqueeze(-1))
        return mixed.view(h.shape)


class Layer(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(a.hidden), nn.RMSNorm(a.hidden)
        self.attention, self.feed_forward = Attention(a), Experts(a) if a.experts else FeedForward(a)

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
        self.width, self.rows = a.hidden // a.heads, a.seq // a.cp  # a later stage gets a slice of them for each TP rank

    def forward(self, x):
        x = self.tokens(x) if self.tokens is not None else x
        angle = torch.arange(0, self.width, 2, device=x.device) / self.width
        turns = torch.outer(torch.arange(self.rows, device=x.device).float(), 1e4**-angle)
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


def sharded(model, a, mesh):
    """Weights in shards: layer by layer, those of experts among the ranks that have the same ones."""
    sixteen = torch.float16 if a.dtype == "fp16" else torch.bfloat16
    policy = dict(
        mp_policy=MixedPrecisionPolicy(param_dtype=sixteen, reduce_dtype=torch.float32 if a.states == "mixed" else None),
        shard_placement_fn=lambda weight: Shard(1 if weight.ndim == 3 else 0),  # there are fewer experts than ranks
    )
    for layer in model.layers:
        again = a.way != "whole" and a.pp == 1 and layer is not model.layers[-1]  # the last one is used again at once
        if a.ep > 1:
            fully_shard(layer.feed_forward.inner, mesh=a.parts["rest"], reshard_after_forward=again, **policy)
        fully_shard(layer, mesh=mesh, reshard_after_forward=again, **policy)
    for part in ([model.tokens], [model.norm, model.head]):  # what is first forward, and what is first backward
        if part[0] is not None:
            fully_shard(part if len(part) > 1 else part[0], mesh=mesh, reshard_after_forward=False, **policy)
    fully_shard(model, mesh=mesh, reshard_after_forward=None if a.pp == 1 else False, **policy)


def arguments():
    parser = argparse.ArgumentParser()
    for name, value in dict(hidden=1024, inter=2816, layers=4, heads=16, kv_heads=4, vocab=32000, seq=1024, batch=1,
                            tp=1, pp=1, cp=1, ep=1, experts=0, topk=2, shard=0, steps=2, micro=4).items():  # fmt: skip
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--keep", choices=("all", "selective", "recompute"), default="all")
    parser.add_argument("--way", choices=("shards", "whole", "hybrid", "replicas"), default="shards")
    parser.add_argument("--context", choices=("ring", "all_gather", "ulysses"), default="ring")
    parser.add_argument("--states", choices=("mixed", "low"), default="mixed")
    parser.add_argument("--dtype", choices=("bf16", "fp16"), default="bf16")
    return parser.parse_args()


def main():
    a = arguments()
    dist.init_process_group("nccl")
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    world = dist.get_world_size()
    mesh = init_device_mesh("cuda", (a.pp, world // a.pp // a.tp, a.tp), mesh_dim_names=("pp", "dp", "tp"))
    data = mesh["dp"]
    if a.way == "hybrid":
        data = init_device_mesh("cuda", (world // a.shard, a.shard), mesh_dim_names=("copies", "shards"))
    a.group, inner = None, max(a.cp, a.ep)  # neighbours that share a sequence, or experts
    if inner > 1:
        a.parts = init_device_mesh("cuda", (world // inner, inner), mesh_dim_names=("rest", "parts"))
        a.group = a.parts.get_group("parts")
    if a.cp > 1 and a.context != "ulysses":
        set_rotate_method("alltoall" if a.context == "ring" else "allgather")
    stage = mesh["pp"].get_local_rank()
    first, last = stage == 0, stage == a.pp - 1
    with torch.device("meta"):
        model = Llama(a, first, last, a.layers // a.pp)
    if a.states == "low":
        model.to(torch.bfloat16)
    if a.tp > 1:
        tensor_parallel(model, mesh["tp"])
    if a.way != "replicas":
        sharded(model, a, data)
    model.to_empty(device="cuda")
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.02)
    if a.way == "replicas":
        model = DistributedDataParallel(model, gradient_as_bucket_view=True, bucket_cap_mb=80)  # 40 million weights
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    schedule = None
    if a.pp > 1:
        from torch.distributed.pipelining import PipelineStage, Schedule1F1B

        schedule = Schedule1F1B(
            PipelineStage(model, stage, a.pp, torch.device("cuda"), group=mesh.get_group("pp")), a.micro, loss_of
        )
    for step in range(a.steps):
        x = torch.randint(a.vocab, (a.batch * (a.micro if a.pp > 1 else 1), a.seq // (a.cp if a.context == "ulysses" else 1)), device="cuda")
        kind = loss_parallel() if a.tp > 1 else contextlib.nullcontext()
        if a.cp > 1 and a.context != "ulysses":
            kind = context_parallel(a.parts["parts"], buffers=[x], buffer_seq_dims=[1], no_restore_buffers={x})
        with kind:
            if schedule is None:
                logits = model(x)
                loss = loss_of(logits, x)
                del logits
                loss.backward()
            else:
                losses = []
                schedule.step(*([x] if first else []), **(dict(target=x, losses=losses) if last else {}))
                loss = torch.stack(losses).mean() if last else torch.zeros((), device="cuda")
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.ndim < 3], 1.0)
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.ndim == 3], 1.0)  # of another mesh
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
