"""A mixture of experts over all ranks: router, all-to-all of tokens, experts, all-to-all back; data-parallel otherwise."""

import os

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.nn.functional import all_to_all_single


class Experts(nn.Module):
    def __init__(self, hidden, inter, experts, topk):
        super().__init__()
        self.ranks, self.topk, self.experts = dist.get_world_size(), topk, experts
        local = experts // self.ranks
        self.gate = nn.Linear(hidden, experts, bias=False)
        self.up = nn.Parameter(torch.randn(local, hidden, 2 * inter) * 0.02)
        self.down = nn.Parameter(torch.randn(local, inter, hidden) * 0.02)

    def forward(self, x):
        shape = x.shape
        x = x.flatten(0, -2)
        weights, chosen = self.gate(x).sigmoid().topk(self.topk, dim=-1)
        flat = chosen.flatten()
        order = flat.argsort(stable=True)
        counts = torch.bincount(flat, minlength=self.experts)
        received = torch.empty_like(counts)
        dist.all_to_all_single(received, counts)
        sent = counts.view(self.ranks, -1).sum(1).tolist()
        got = received.view(self.ranks, -1).sum(1).tolist()
        rows = x[order // self.topk]
        inside = all_to_all_single(rows.new_empty(sum(got), x.shape[-1]), rows, got, sent)
        per = received.view(self.ranks, -1).sum(0).tolist()
        outs = []
        for part, up, down in zip(inside.split(per), self.up, self.down):
            gate, value = (part @ up).chunk(2, dim=-1)
            outs.append((F.silu(gate) * value) @ down)
        back = all_to_all_single(rows.new_empty(rows.shape), torch.cat(outs), sent, got)
        mixed = torch.zeros_like(x).index_add(0, order // self.topk, back * weights.flatten()[order].unsqueeze(-1))
        return mixed.view(shape)


def main():
    dist.init_process_group("nccl")
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    layer = Experts(2048, 1024, 64, 6).to("cuda", torch.bfloat16)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)
    for step in range(2):
        x = torch.randn(4, 1024, 2048, device="cuda", dtype=torch.bfloat16)
        loss = layer(x).float().pow(2).mean()
        loss.backward()
        dist.all_reduce(layer.gate.weight.grad)
        optimizer.step()
        optimizer.zero_grad()
        print(f"rank {dist.get_rank()} step {step}: loss {loss.item():.4f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
