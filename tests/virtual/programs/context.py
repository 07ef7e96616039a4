"""Attention over a sequence that is cut among ranks: PyTorch's context parallel, by all-gather or in a ring."""

import os
import sys

import torch, torch.nn.functional as F
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.experimental import context_parallel
from torch.distributed.tensor.experimental._attention import set_rotate_method
from torch.nn.attention import sdpa_kernel, SDPBackend

dist.init_process_group("nccl")
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
n = dist.get_world_size()
mesh = init_device_mesh("cuda", (n,), mesh_dim_names=("cp",))
set_rotate_method(sys.argv[1])
q, k, v = (torch.randn(2, 8, 4096, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
w = torch.nn.Linear(64, 64, device="cuda", dtype=torch.bfloat16)
opt = torch.optim.SGD(w.parameters(), 0.1)
for i in range(2):
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
        x = torch.randn(2, 8, 4096, 64, device="cuda", dtype=torch.bfloat16)
        with context_parallel(mesh, buffers=(x,), buffer_seq_dims=(2,), no_restore_buffers={x}):
            h = w(x)
            out = F.scaled_dot_product_attention(h, h, h, is_causal=True)
            out.float().mean().backward()
    opt.step()
    opt.zero_grad()
print("shape", tuple(x.shape), tuple(out.shape))
dist.destroy_process_group()
