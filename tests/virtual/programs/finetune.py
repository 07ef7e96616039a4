"""Fine-tuning on one device as torchtune's modules are written: all in 16 bits, norms in 32, word vectors tied."""

import sys

import torch
import torch.nn as nn
import torch.nn.functional as F

CHUNKED = "chunked" in sys.argv  # the loss is of eight parts of the tokens, one after the other
HIDDEN, INNER, HEADS, KV_HEADS, LAYERS, VOCAB, TOKENS = 3072, 8192, 24, 8, 28, 128256, 4096


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(HIDDEN))

    def forward(self, x):
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)).type_as(x) * self.scale


def rotate(x, turns):
    wide = x.float().reshape(*x.shape[:-1], -1, 2)
    cos, sin = turns.view(-1, wide.size(1), 1, wide.size(3), 2).unbind(-1)
    a, b = wide.unbind(-1)
    return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(3).type_as(x)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        kv = HIDDEN // HEADS * KV_HEADS
        self.norm1, self.norm2 = Norm(), Norm()
        self.q, self.k, self.v, self.o = (nn.Linear(HIDDEN, n, bias=False) for n in (HIDDEN, kv, kv, HIDDEN))
        self.w1, self.w3 = nn.Linear(HIDDEN, INNER, bias=False), nn.Linear(HIDDEN, INNER, bias=False)
        self.w2 = nn.Linear(INNER, HIDDEN, bias=False)

    def attend(self, x, turns):
        batch, tokens, _ = x.shape
        q, k, v = (each(x).view(batch, tokens, -1, HIDDEN // HEADS) for each in (self.q, self.k, self.v))
        q, k = rotate(q, turns), rotate(k, turns)
        k, v = (each[:, :, :, None].expand(-1, -1, -1, HEADS // KV_HEADS, -1).flatten(2, 3) for each in (k, v))
        y = F.scaled_dot_product_attention(*(each.transpose(1, 2) for each in (q, k, v)), is_causal=True)
        return self.o(y.transpose(1, 2).reshape(batch, tokens, -1))

    def forward(self, x, turns):
        x = x + self.attend(self.norm1(x), turns)
        y = self.norm2(x)
        return x + self.w2(F.silu(self.w1(y)) * self.w3(y))


torch.set_default_dtype(torch.bfloat16)
with torch.device("cuda"):
    words, layers, norm = nn.Embedding(VOCAB, HIDDEN), nn.ModuleList(Layer() for _ in range(LAYERS)), Norm()
torch.set_default_dtype(torch.float32)
table = torch.randn(TOKENS, HIDDEN // HEADS // 2, 2, device="cuda")
optimizer = torch.optim.AdamW([*words.parameters(), *layers.parameters(), *norm.parameters()], lr=2e-5, fused=True)
for step in range(3):
    ids = torch.randint(VOCAB, (2, TOKENS), device="cuda")
    turns = table[torch.arange(TOKENS, device="cuda").expand(2, -1)]
    x = words(ids)
    for layer in layers:
        x = layer(x, turns)
    x = norm(x)
    if CHUNKED:
        parts = [F.linear(part, words.weight).flatten(0, 1) for part in x.chunk(8, dim=1)]
        each = zip(parts, ids.chunk(8, dim=1), strict=True)
        loss = sum(F.cross_entropy(p.float(), i.flatten(), reduction="sum") for p, i in each) / ids.numel()
        del parts
    else:
        logits = F.linear(x, words.weight).float().flatten(0, 1)
        loss = F.cross_entropy(logits, ids.flatten())
        del logits
    del x
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB", flush=True)
