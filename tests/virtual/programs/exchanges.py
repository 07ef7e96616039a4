"""Every collective with numbers that tell who sent what."""

import os

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional

dist.init_process_group("nccl")
rank, many = dist.get_rank(), dist.get_world_size()
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def zeros(size):
    return torch.zeros(size, device="cuda")


def own(size=2):
    return torch.full((size,), float(rank), device="cuda")


parts = zeros(3)
dist.scatter(parts, [torch.full((3,), 1.0 + i, device="cuda") for i in range(many)] if rank == 1 else None, src=1)
listed = [zeros(2) for _ in range(many)]
dist.all_to_all(listed, [torch.tensor([rank, i], device="cuda", dtype=torch.float32) for i in range(many)])
whole = zeros(2 * many)
dist.all_to_all_single(whole, torch.arange(2 * many, device="cuda").float() + 10 * rank)
gathered = [zeros(2) for _ in range(many)] if rank == 0 else None
dist.gather(own(), gathered, dst=0)
shared = own()
dist.broadcast(shared, 2)
turned = functional.permute_tensor(own(), [(i + 1) % many for i in range(many)], list(range(many)))
summed = zeros(2)
dist.reduce_scatter_tensor(summed, torch.arange(2 * many, device="cuda").float())
got = [parts, *listed, whole, *(gathered or []), shared, turned, summed]
numbers = [int(each) for tensor in got for each in tensor.tolist()]
print(f"got {rank}: {numbers}\n", end="", flush=True)
