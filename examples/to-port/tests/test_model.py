"""Needs a GPU."""

import torch
from model import Model


def test_model():
    assert Model(256).cuda()(torch.randn(1, 16, 256, dtype=torch.float64).cuda()).shape == (1, 16, 256)
