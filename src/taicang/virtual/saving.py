"""Checkpoints of what is not there: files of the right size without the bytes, and the time that storage takes."""

from __future__ import annotations

import io
import os
from dataclasses import replace
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


def install(recorder: Recorder, notes: dict[str, None]) -> None:
    """Replace ``torch.save`` (and so what distributed checkpoints write with)."""
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
