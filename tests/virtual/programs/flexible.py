"""Attention whose mask is a function, compiled as its users do."""

import sys

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

attend = torch.compile(flex_attention, mode="max-autotune")
size = 4096
documents = torch.arange(size, device="cuda") // 1024
MASKS = {
    "none": None,
    "causal": lambda b, h, q, k: q >= k,
    "documents": lambda b, h, q, k: (documents[q] == documents[k]) & (q >= k),
}
made = MASKS[sys.argv[1]]
mask = create_block_mask(made, None, None, size, size, device="cuda") if made else None
query = torch.randn(2, 16, size, 128, device="cuda", dtype=torch.bfloat16, requires_grad=True)
key, value = (torch.randn(2, 4, size, 128, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
attend(query, key, value, block_mask=mask, enable_gqa=True).sum().backward()
