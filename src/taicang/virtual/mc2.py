"""Ascend's operators that compute and communicate in one call (MC2): products with collectives, experts' exchanges."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d as c10d

from taicang.ops import Exchange
from taicang.virtual.groups import Groups
from taicang.virtual.members import stride
from taicang.virtual.operators import Kernel

Kind = Literal["dispatch", "combine"]


class _Named:
    """A backend that knows the name of its communicator."""

    def __init__(self, backend: Any, group: Any) -> None:
        self._backend, self._group = backend, group

    def get_hccl_comm_name(self, rank: int, *_: Any, **__: Any) -> str:
        """What the operators take for their group."""
        return str(self._group.group_name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def _group(name: str) -> Any:
    return c10d._resolve_process_group(name)


def mm_all_reduce(x1: Tensor, x2: Tensor, hcom: str, *, bias: Tensor | None = None, **_: Any) -> Tensor:
    """A product, summed over the group."""
    out = x1 @ x2 if bias is None else x1 @ x2 + bias
    dist.all_reduce(out, group=_group(hcom))
    return out


def mm_reduce_scatter(x1: Tensor, x2: Tensor, hcom: str, world_size: int, **_: Any) -> Tensor:
    """A product, this rank's rows of its sum."""
    whole = x1 @ x2
    out = whole.new_empty(whole.shape[0] // world_size, whole.shape[1])
    dist.reduce_scatter_tensor(out, whole, group=_group(hcom))
    return out


def all_gather_mm(x1: Tensor, x2: Tensor, hcom: str, world_size: int, **_: Any) -> tuple[Tensor, Tensor]:
    """The product of all ranks' rows, and these rows."""
    rows = x1.new_empty(x1.shape[0] * world_size, x1.shape[1])
    dist.all_gather_into_tensor(rows, x1, group=_group(hcom))
    return rows @ x2, rows


def _exchange(groups: Groups, kind: Kind, x: Tensor, out: Tensor, name: str, *, topk: int, experts: int) -> Tensor:
    """Rows of ``x`` (or of ``out``, where they come back) to their experts' ranks."""
    members, _at = groups.of(_group(name).boxed())
    op = Exchange(
        kind=kind, tokens=(x if kind == "dispatch" else out).shape[0], topk=topk, experts=experts,
        token_bytes=float(out.shape[-1] * x.itemsize), ranks=len(members.ranks), stride=stride(members.ranks),
    )  # fmt: skip
    made = Kernel(name=kind, phase=groups.kernels.recorder.phase(), group=members.name, op=op)
    groups.issue(kind, [x, out], made, [out], members.name)
    groups.kept[-1].wait()
    return out


def dispatch(
    groups: Groups, x: Tensor, expert_ids: Tensor, group_ep: str, ep_world_size: int, ep_rank_id: int,
    moe_expert_num: int, *, quant_mode: int = 0, global_bs: int = 0, **_: Any,
) -> tuple[Any, ...]:  # fmt: skip
    """Tokens to the ranks of their experts; each expert gets its even share."""
    local, topk = max(moe_expert_num // ep_world_size, 1), expert_ids.shape[1]
    rows = max(global_bs, x.shape[0] * ep_world_size) * min(local, topk)
    kind = torch.int8 if quant_mode else x.dtype
    out = torch.empty(rows, x.shape[1], dtype=kind, device=x.device)
    _exchange(groups, "dispatch", x.to(kind), out, group_ep, topk=topk, experts=moe_expert_num)
    arrived = -(-x.shape[0] * ep_world_size * topk // max(moe_expert_num, 1))
    filled = torch.full((local,), arrived, dtype=torch.int64, device=x.device)
    sizes = (x.shape[0] * topk, ep_world_size * local, 1)
    index, received, across = (torch.empty(n, dtype=torch.int32, device=x.device) for n in sizes)
    scales, weights = (torch.empty(n, device=x.device) for n in (rows if quant_mode else 0, 0))
    return out, scales, index, filled, received, across, weights


def combine(
    groups: Groups, expand_x: Tensor, expert_ids: Tensor, expand_idx: Tensor, ep_send_counts: Tensor,
    expert_scales: Tensor, group_ep: str, ep_world_size: int, ep_rank_id: int, moe_expert_num: int, **_: Any,
) -> Tensor:  # fmt: skip
    """Results back to the tokens' ranks."""
    tokens, topk = expert_ids.shape
    out = torch.empty(tokens, expand_x.shape[1], dtype=expand_x.dtype, device=expand_x.device)
    return _exchange(groups, "combine", expand_x, out, group_ep, topk=topk, experts=moe_expert_num)


def operators(groups: Groups) -> dict[str, Any]:
    """The operators by their names in ``torch_npu``."""
    real = dist.ProcessGroup._get_backend
    dist.ProcessGroup._get_backend = lambda self, device: _Named(real(self, device), self)
    there, back = partial(dispatch, groups), partial(combine, groups)
    return {
        "npu_mm_all_reduce_base": mm_all_reduce, "npu_mm_reduce_scatter_base": mm_reduce_scatter,
        "npu_all_gather_base_mm": all_gather_mm, "npu_moe_distribute_dispatch": there,
        "npu_moe_distribute_combine": back, "npu_moe_distribute_dispatch_v2": there,
        "npu_moe_distribute_combine_v2": back,
    }  # fmt: skip
