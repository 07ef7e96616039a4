"""Fine-tuning as torchtune's modules are written: all in 16 bits, norms in 32; whole, or adapters beside frozen weights
that ranks share."""

import argparse

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

parser = argparse.ArgumentParser()
for name, value in dict(hidden=3072, inner=8192, heads=24, kv_heads=8, layers=28, vocab=128256, tokens=4096, batch=2,
                        rank=0).items():  # fmt: skip
    parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
for name in ("chunked", "checkpointing", "tied", "apart"):
    parser.add_argument(f"--{name}", action="store_true")
a = parser.parse_args()


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(a.hidden))

    def forward(self, x):
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)).type_as(x) * self.scale


class Adapted(nn.Linear):
    """A frozen product, and two narrow ones beside it."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, bias=False)
        self.weight.requires_grad_(False)
        self.down, self.up = nn.Linear(inputs, a.rank, bias=False), nn.Linear(a.rank, outputs, bias=False)

    def forward(self, x):
        return super().forward(x) + 2.0 * self.up(self.down(x))


def linear(inputs, outputs, adapted=True):
    return Adapted(inputs, outputs) if a.rank and adapted else nn.Linear(inputs, outputs, bias=False)


def rotate(x, turns):
    wide = x.float().reshape(*x.shape[:-1], -1, 2)
    cos, sin = turns.view(-1, wide.size(1), 1, wide.size(3), 2).unbind(-1)
    one, other = wide.unbind(-1)
    return torch.stack([one * cos - other * sin, other * cos + one * sin], -1).flatten(3).type_as(x)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        kv = a.hidden // a.heads * a.kv_heads
        self.norm1, self.norm2 = Norm(), Norm()
        self.q, self.k = linear(a.hidden, a.hidden), linear(a.hidden, kv, adapted=False)
        self.v, self.o = linear(a.hidden, kv), linear(a.hidden, a.hidden)
        self.w1, self.w3, self.w2 = linear(a.hidden, a.inner), linear(a.hidden, a.inner), linear(a.inner, a.hidden)

    def attend(self, x, turns):
        batch, tokens, _ = x.shape
        q, k, v = (each(x).view(batch, tokens, -1, a.hidden // a.heads) for each in (self.q, self.k, self.v))
        q, k = rotate(q, turns), rotate(k, turns)
        k, v = (each[:, :, :, None].expand(-1, -1, -1, a.heads // a.kv_heads, -1).flatten(2, 3) for each in (k, v))
        y = F.scaled_dot_product_attention(*(each.transpose(1, 2) for each in (q, k, v)), is_causal=True)
        return self.o(y.transpose(1, 2).reshape(batch, tokens, -1))

    def forward(self, x, turns):
        x = x + self.attend(self.norm1(x), turns)
        y = self.norm2(x)
        return x + self.w2(F.silu(self.w1(y)) * self.w3(y))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.norm = nn.Embedding(a.vocab, a.hidden), Norm()
        self.layers = nn.ModuleList(Layer() for _ in range(a.layers))
        self.head = nn.Linear(a.hidden, a.vocab, bias=False)

    def forward(self, ids, turns):
        x = self.words(ids)
        for layer in self.layers:
            x = checkpoint(layer, x, turns, use_reentrant=False) if a.checkpointing else layer(x, turns)
        x = self.norm(x)
        if a.chunked:  # the loss is of eight parts of the tokens, one after the other
            return [self.head(part).flatten(0, 1) for part in x.chunk(8, dim=1)]
        return self.head(x).float().flatten(0, 1)


def loss_of(logits, ids):
    if not a.chunked:
        return F.cross_entropy(logits, ids.flatten())
    parts = zip(logits, ids.chunk(8, dim=1), strict=True)
    return sum(F.cross_entropy(part.float(), i.flatten(), reduction="sum") for part, i in parts) / ids.numel()


torch.set_default_dtype(torch.bfloat16)
with torch.device("meta"):
    model = Model()
torch.set_default_dtype(torch.float32)
if a.rank:
    for name, weight in model.named_parameters():
        weight.requires_grad_(".up." in name or ".down." in name)
if dist.is_torchelastic_launched():
    dist.init_process_group("nccl")
    for layer in [*model.layers, *([model.words, model.head] if a.apart else [])]:
        fully_shard(layer)
    fully_shard(model)
model.to_empty(device="cuda")
if a.tied:
    model.head.weight = model.words.weight
table = torch.randn(a.tokens, a.hidden // a.heads // 2, 2, device="cuda")
optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=2e-5, fused=True)
for step in range(3):
    ids = torch.randint(a.vocab, (a.batch, a.tokens), device="cuda")
    turns = table[torch.arange(a.tokens, device="cuda").expand(a.batch, -1)]
    logits = model(ids, turns)
    loss = loss_of(logits, ids)
    del logits
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB", flush=True)
