"""Fine-tuning on one device, everything in 16 bits, word vectors tied: two sequences a step."""

import argparse
import sys

import llama
import torch
import torch.nn.functional as F

CHUNKED = "chunked" in sys.argv  # the loss is of eight parts of the tokens, one after the other

size = argparse.Namespace(
    hidden=3072, inter=8192, layers=28, heads=24, kv_heads=8, vocab=128256, seq=4096, keep="all"
)  # fmt: skip
torch.set_default_dtype(torch.bfloat16)
with torch.device("cuda"):
    model = llama.Llama(size)
model.head.weight = model.tokens.weight
head = model.head
if CHUNKED:
    model.head = None
torch.set_default_dtype(torch.float32)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, fused=True)
for step in range(3):
    ids = torch.randint(size.vocab, (2, size.seq), device="cuda")
    if CHUNKED:
        parts = [head(part) for part in model.norm(model(ids)).chunk(8, dim=1)]
        each = zip(parts, ids.chunk(8, dim=1), strict=True)
        loss = sum(F.cross_entropy(p.flatten(0, 1).float(), i.flatten(), reduction="sum") for p, i in each) / ids.numel()
        del parts
    else:
        logits = model(ids)
        loss = llama.loss_of(logits, ids)
        del logits
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB", flush=True)
