"""Checkpoints of what is not there: files of the right size without the bytes, and the time that storage takes."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch

from taicang.ops import Transfer
from taicang.virtual.capture import KERNEL, WAIT_STREAM
from taicang.virtual.kernels import DEVICE, Recorder, tensors_of
from taicang.virtual.later import changed
from taicang.virtual.operators import Kernel
from taicang.virtual.spec import STORAGE

NOTE = "checkpoints: files have their size, large tensors in them no values; storage as train's default"
"""What is told where the program saved."""


def install(recorder: Recorder, notes: dict[str, None], executed: frozenset[int]) -> None:
    """Replace ``torch.save`` (and so what distributed checkpoints write with); ``executed`` are the ranks that run."""
    real, device = torch.save, recorder.device
    stream = device.new_stream()

    def save(obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
        """As PyTorch's, but tensors of the device and large ones of the host leave their size only."""
        tensors = list(tensors_of(obj))
        there = [t for t in tensors if t.device.type == DEVICE]
        size = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())
        if there:
            recorder.launch("copy_to_host", there, [], {})
            device.note(WAIT_STREAM, 0)
        if size < LARGE and not there:
            real(obj, f, *args, **kwargs)
        elif isinstance(f, (str, os.PathLike)):
            with torch.serialization.skip_data():
                real(obj, f, *args, **kwargs)
        else:  # not every stream can leave holes
            whole = io.BytesIO()
            with torch.serialization.skip_data():
                real(obj, whole, *args, **kwargs)
            f.write(whole.getbuffer())
        made = Kernel(name="write", phase=recorder.phase(), op=Transfer(payload_bytes=float(size), plane=STORAGE))
        at = recorder.ids.get(made)
        device.note_on(KERNEL, stream, recorder.add(made, made) if at is None else at)
        device.note_on(WAIT_STREAM, stream, 0)
        notes[NOTE] = None

    torch.save = torch.serialization.save = save
    changed(PLANNER, _every_shard)
    changed("torch.distributed.fsdp._optim_utils", lambda module: _every_state(module, executed))


PLANNER = "torch.distributed.checkpoint.default_planner"


def _every_shard(planner: Any) -> None:
    once = planner.dedup_save_plans

    def shards(plans: list[Any], *_: Any, **__: Any) -> list[Any]:
        """What several ranks hold is saved by the first of them, which runs; shards by each, though those of ranks that
        do not run look like this one's."""
        return [
            replace(after, items=[*after.items, *(i for i in before.items if _sharded(i) and i not in after.items)])
            for before, after in zip(plans, once(plans, save_to_lowest_rank=True), strict=True)
        ]

    planner.dedup_save_plans = shards
    planner._validate_global_plan = lambda *_: []


def _sharded(item: Any) -> bool:
    data = item.tensor_data
    return data is not None and data.chunk.sizes != data.size


LARGE = 1 << 20
"""Bytes from which on values of the host are left out."""


def _every_state(module: Any, executed: frozenset[int]) -> None:
    """FSDP's states of optimizers by original parameters: what ranks that do not run hold follows from the layout of
    the flat parameter, of which each has an equal part."""
    convert, gather = module._convert_state_with_orig_params, module._allgather_state_info
    seen: dict[str, Any] = {}

    def all_keys(keys: list[Any], mine: Any, infos: dict[str, Any], *rest: Any, **more: Any) -> Any:
        there = {name for key in keys for name in key.unflat_param_names}
        lacking = [module._OptimStateKey((name,), True) for name in infos if name not in there]
        return convert([*keys, *lacking], mine, infos, *rest, **more)

    def all_states(state: Any, inputs: dict[str, Any]) -> Any:
        found = gather(state, inputs)
        for info in found[state.rank].values():
            if info.tensors:
                seen["like"] = info
        ranks = torch.distributed.get_process_group_ranks(state.process_group)
        flat = state._handle.flat_param
        part, ends = flat._sharded_size.numel(), [0, *accumulate(flat._numels_with_padding)]
        places = [at for at, padding in enumerate(flat._is_padding_mask) if not padding]
        for at, rank in enumerate(ranks):
            if rank not in executed:
                found[at] = {
                    name: _held(module, seen.get("like"), [max(each, at * part) for each in ends[i : i + 2]], at, part)
                    for own, i in zip(flat._fqns, places, strict=True)
                    for name in inputs
                    if name == own or name.endswith(f".{own}")
                }
        return found

    module._convert_state_with_orig_params, module._allgather_state_info = all_keys, all_states


def _held(module: Any, like: Any, ends: list[int], at: int, part: int) -> Any:
    """What a rank keeps of a parameter between these places."""
    many = min(ends[1], (at + 1) * part) - ends[0]
    if like is None or many <= 0:
        return module.StateInfo({}, {}, {})
    tensors = {name: module._PosDimTensorInfo(torch.Size([many]), each.dtype) for name, each in like.tensors.items()}
    return module.StateInfo(tensors, like.scalar_tensors, like.non_tensors)
