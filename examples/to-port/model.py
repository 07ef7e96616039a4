"""A model that takes attention from a library and one operator from this repository."""

import torch
from flash_attn import flash_attn_func
from ops import scale_rows


class Model(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.project = torch.nn.Linear(width, 3 * width)

    def forward(self, x):
        q, k, v = self.project(x).view(*x.shape[:2], 3, 4, -1).unbind(2)
        return scale_rows(flash_attn_func(q, k, v).flatten(2))
