"""Experts among all ranks by Ascend's own operators: dispatch, products, combine; a product with its reduction."""

import os

import torch
import torch.distributed as dist
import torch_npu

dist.init_process_group("hccl")
torch.npu.set_device(int(os.environ["LOCAL_RANK"]))
ranks, rank = dist.get_world_size(), dist.get_rank()
name = dist.group.WORLD._get_backend(torch.device("npu")).get_hccl_comm_name(rank)
tokens, hidden, inter, experts, topk = 64, 7168, 2048, 256, 8
x = torch.randn(tokens, hidden, dtype=torch.bfloat16, device="npu")
ids = torch.randn(tokens, experts, device="npu").topk(topk).indices.int()
weights = torch.rand(tokens, topk, device="npu")
up = torch.randn(experts // ranks, hidden, 2 * inter, dtype=torch.bfloat16, device="npu")
down = torch.randn(experts // ranks, inter, hidden, dtype=torch.bfloat16, device="npu")
given = dict(group_ep=name, ep_world_size=ranks, ep_rank_id=rank, moe_expert_num=experts)
rows, _, index, counts, received, _, _ = torch_npu.npu_moe_distribute_dispatch(x, ids, **given)
h = torch_npu.npu_swiglu(torch_npu.npu_grouped_matmul([rows], [up], group_list=counts, split_item=3)[0])
h = torch_npu.npu_grouped_matmul([h], [down], group_list=counts, split_item=3)[0]
out = torch_npu.npu_moe_distribute_combine(h, ids, index, received, weights, **given)
part = torch.randn(hidden, hidden // ranks, dtype=torch.bfloat16, device="npu")
whole = torch_npu.npu_mm_all_reduce_base(out[:, : hidden // ranks], part.t(), name)
torch.npu.synchronize()
print(tuple(rows.shape), tuple(out.shape), tuple(whole.shape), flush=True)
