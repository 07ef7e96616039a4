"""A frozen layer of 4 bits with a trained one behind it, an optimizer of 8 bits."""

import bitsandbytes as bnb
import torch

frozen = bnb.nn.Linear4bit(4096, 4096, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4").to("cuda")
model = torch.nn.Sequential(
    torch.nn.Linear(4096, 4096, bias=False, device="cuda", dtype=torch.bfloat16), frozen, torch.nn.SiLU()
)
optimizer = bnb.optim.AdamW8bit([p for p in model.parameters() if p.requires_grad], lr=1e-4)
for step in range(2):
    model(torch.randn(8, 4096, device="cuda", dtype=torch.bfloat16)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
print("held", torch.cuda.memory_allocated(), flush=True)
