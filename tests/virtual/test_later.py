"""What of PyTorch is put off: it answers as the real one would, and gives way to it."""

import random
import subprocess
import sys
from importlib import import_module

import pytest
from running import TORCH

from taicang.virtual.later import Pieces

pytestmark = TORCH
ASKED = """
import sys
from taicang.virtual.later import hasten
hasten()
import torch
from torch._prims_common import ELEMENTWISE_TYPE_PROMOTION_KIND, elementwise_dtypes as ask
a, kind = torch.empty(4, device="meta"), ELEMENTWISE_TYPE_PROMOTION_KIND.DEFAULT
ask(a, 2, type_promotion_kind=kind)
assert "sympy.core" not in sys.modules
{first}
import sympy
assert issubclass(sympy.Symbol, sympy.Basic) and sympy.core.basic.Basic is sympy.Basic
assert sympy.Symbol("x") + 1 == 1 + sympy.Symbol("x")
assert ask(a, sympy.Integer(2), type_promotion_kind=kind) == (torch.float32, torch.float32)
"""


@pytest.mark.parametrize(
    "first", ["from sympy import Basic; assert Basic.__module__ == 'sympy.core.basic'", "import sympy.core.numbers", ""]
)
def test_mathematics_come_as_soon_as_somebody_wants_them(first):
    done = subprocess.run(
        [sys.executable, "-c", ASKED.format(first=first)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_pieces_are_those_of_chunks():
    torch = pytest.importorskip("torch")
    _chunk_with_empty = import_module("torch.distributed.fsdp._fully_shard._fsdp_common")._chunk_with_empty
    draw = random.Random(17)
    for _ in range(300):
        sizes, many = [draw.randint(1, 40), draw.randint(1, 6)], draw.randint(1, 50)
        dim = draw.randrange(2)
        tensor = torch.arange(sizes[0] * sizes[1]).reshape(sizes)
        ours, theirs = Pieces(tensor, many, dim=dim), _chunk_with_empty(tensor, many, dim=dim)
        assert len(ours) == len(theirs)
        for mine, real in zip(ours, theirs, strict=True):
            assert mine.shape == real.shape
            assert torch.equal(mine, real)
            assert mine.numel() == 0 or (mine.stride(), mine.data_ptr()) == (real.stride(), real.data_ptr())
