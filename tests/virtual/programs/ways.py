"""The same training over one rank or several: tensor, pipeline, expert and context parallel; prints the loss in full."""

import os
import sys

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.nn.functional import all_gather, all_to_all_single
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

way = sys.argv[1]
os.environ.setdefault("RANK", "0")
os.environ.setdefault("WORLD_SIZE", "1")
dist.init_process_group("nccl")
rank, many = dist.get_rank(), dist.get_world_size()
device = torch.device("cuda", rank)
torch.cuda.set_device(device)
torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
body = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16)).to(device)
head = nn.Linear(16, 8).to(device)
experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(4)).to(device)
x, y = torch.randn(4, 32, 16), torch.randint(8, (4, 32))
x, y = x.to(device), y.to(device)


def sequence(h):
    """Causal attention over tokens of which each rank has a part; keys and values are gathered."""
    at = h.shape[1] * rank
    keys = torch.cat(all_gather(h.contiguous()), dim=1)
    seen = torch.arange(keys.shape[1], device=device) <= at + torch.arange(h.shape[1], device=device)[:, None]
    return F.scaled_dot_product_attention(h[:, None], keys[:, None], keys[:, None], attn_mask=seen)[:, 0]


def exchanged(h):
    """Each token to the expert that its place says, on the rank that has it, and back."""
    flat = h.flatten(0, 1)
    chosen = torch.arange(len(flat), device=device) % len(experts)
    order, local = chosen.argsort(stable=True), len(experts) // many
    size = len(flat) // many
    inside = all_to_all_single(torch.empty_like(flat), flat[order]).view(many, local, size // local, -1)
    mine = experts[rank * local : (rank + 1) * local]
    done = torch.stack([expert(inside[:, i]) for i, expert in enumerate(mine)], dim=1)
    back = all_to_all_single(torch.empty_like(flat), done.flatten(0, 2))
    return torch.zeros_like(flat).index_copy(0, order, back).view(h.shape)


def loss_of(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


modules, part = [body, head], slice(None)
if way == "tensor":
    parallelize_module(body, init_device_mesh("cuda", (many,)), {"0": ColwiseParallel(), "2": RowwiseParallel()})
elif way == "pipeline":
    modules = [body, head] if many == 1 else [[body, head][rank]]
    stage = PipelineStage(nn.Sequential(*modules), rank, many, device)
    schedule = ScheduleGPipe(stage, 2, loss_of)
elif way == "expert":
    modules.append(experts)
    part = slice(rank * 4 // many, (rank + 1) * 4 // many)
optimizer = torch.optim.Adam([p for module in modules for p in module.parameters()], lr=1e-2, foreach=False)
for step in range(3):
    optimizer.zero_grad()
    if way == "pipeline":
        losses = []
        schedule.step(*([x] if rank == 0 else []), **({"target": y, "losses": losses} if rank == many - 1 else {}))
        loss = torch.stack(losses).mean() if losses else torch.zeros((), device=device)
    elif way == "context":
        tokens = slice(rank * 32 // many, (rank + 1) * 32 // many)
        loss = loss_of(head(sequence(body(x[:, tokens]))), y[:, tokens])
        loss.backward()
    else:
        h = body(x[part])
        loss = loss_of(head(exchanged(h) if way == "expert" else h), y[part])
        loss.backward()
    if way in ("context", "expert"):
        for p in (p for module in (body, head) for p in module.parameters()):
            dist.all_reduce(p.grad, op=dist.ReduceOp.AVG)
        for p in experts.parameters() if way == "expert" else ():
            p.grad = None if p.grad is None else p.grad / many
        loss = loss.detach().clone()
        dist.all_reduce(loss, op=dist.ReduceOp.AVG)
    optimizer.step()
    if rank == many - 1:
        print(f"loss {loss.item():.12f}\n", end="", flush=True)
