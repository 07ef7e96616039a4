"""The same training alone or on several ranks: prints the loss over all data, step by step, in full."""

import os
import sys

import torch
import torch.distributed as dist
import torch.nn as nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel as DDP

ranks, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 8)).double().cuda()
if ranks > 1:
    dist.init_process_group("nccl")
    model = fully_shard(model) if "--sharded" in sys.argv else DDP(model)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
torch.manual_seed(1)
for step in range(4):
    x, y = torch.randn(32, 16, dtype=torch.float64), torch.randint(8, (32,))
    part = slice(rank * 32 // ranks, (rank + 1) * 32 // ranks)
    loss = nn.functional.cross_entropy(model(x[part].cuda()), y[part].cuda())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    whole = loss.detach().clone()
    if ranks > 1:
        dist.all_reduce(whole, op=dist.ReduceOp.AVG)
    if rank == 0:
        print(f"loss {whole.item():.12f}", flush=True)
