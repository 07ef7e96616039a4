"""One rank's run: the device, the faces, the hooks that tell steps apart, and the capture at its end."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from taicang import reading
from taicang.output import write
from taicang.virtual import (
    clock,
    custom,
    facade,
    fused,
    kernels,
    libraries,
    saving,
    special,
    translation,
    values,
    world,
)
from taicang.virtual.capture import MARK, Rank, rank_files
from taicang.virtual.device import Device
from taicang.virtual.kernels import DEVICE, Kernels, Recorder
from taicang.virtual.spec import Enough, Job

QUIET = (
    r"(?s)Warning only once for all operators",
    r".*Overriding a previously registered kernel",
    r".*NCCL support is not",
)
"""Warnings about what stands in for the device."""


class Session:
    """Everything that stands between the program and its ranks."""

    def __init__(self, job: Job) -> None:
        self.job = job
        for said in QUIET:
            warnings.filterwarnings("ignore", message=said)
        options = os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get("PYTORCH_CUDA_ALLOC_CONF") or ""
        options += os.environ.get("PYTORCH_NPU_ALLOC_CONF", "")
        self.device = Device(
            job.local, job.chip.memory_bytes, expandable="expandable_segments:True" in options, huawei=job.chip.huawei
        )
        torch.cuda._lazy_init = lambda: None
        if job.real:
            self.device.known = everything
        self.recorder = Recorder(self.device, real=job.real)
        ours = Kernels(self.recorder)
        self.libraries: list[Any] = special.install(ours)
        custom.install(ours)
        values.SKEW[0] = job.skew
        facade.install(self.device, job.chip)
        self.live = clock.Live(self.device, self.recorder, job)
        self.device.elapsed(self.live.between_ms)
        facade.EVENTS.append(self.live.between_ms)
        library, self.groups = world.install(ours, job)
        self.libraries.append(library)
        world.ENDS.append(self.finish)
        fused.KERNELS.append(ours)
        text = reading.data(Path(job.script)).decode(errors="replace")
        libraries.install(text, Path(job.script), self.groups, npu=DEVICE == "npu")
        if not job.real:
            lighten()
        self.steps = 0
        self.kinds: dict[str, set[int]] = {}
        self.notes: dict[str, None] = {}
        if not job.real:
            saving.install(self.recorder, self.notes, frozenset(job.executed))
        self._seen: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()
        self._hooks()
        if job.clock:
            clock.install(self.live)

    def _hooks(self) -> None:
        from torch.optim.optimizer import (
            register_optimizer_step_post_hook,
            register_optimizer_step_pre_hook,
        )

        def before(optimizer: Any, args: Any, kwargs: Any) -> None:
            self.recorder.optimizer += 1
            self.classify(optimizer)

        def after(optimizer: Any, args: Any, kwargs: Any) -> None:
            self.recorder.optimizer -= 1
            self.classify(optimizer)
            self.steps += 1
            self.device.note(MARK, self.steps)
            if self.job.steps and self.steps >= self.job.steps:
                raise Enough

        register_optimizer_step_pre_hook(before)
        register_optimizer_step_post_hook(after)
        torch.nn.modules.module.register_module_forward_pre_hook(self._entered)

    def _entered(self, module: torch.nn.Module, args: Any) -> None:
        """The first call of a module: what it holds is weights and buffers."""
        if module in self._seen:
            return
        for each in module.modules():
            self._seen.add(each)
        plain = torch.nn.Module  # a module of the program may call something else ``buffers``
        self._keep("weights", plain.parameters(module))
        self._keep("buffers", plain.buffers(module))

    def classify(self, optimizer: Any) -> None:
        """Parameters, gradients and states of an optimizer."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._keep("weights", iter(parameters))
        self._keep("gradients", (p.grad for p in parameters if p.grad is not None))
        self._keep("optimizer", (t for p in parameters for t in optimizer.state.get(p, {}).values()))

    def _keep(self, kind: str, tensors: Iterator[Any]) -> None:
        numbers = self.kinds.setdefault(kind, set())
        for tensor in tensors:
            local = getattr(tensor, "_local_tensor", tensor)
            if isinstance(local, torch.Tensor) and local.device.type == DEVICE:
                try:
                    numbers.add(self.device.number(local.untyped_storage().data_ptr()))
                except (RuntimeError, NotImplementedError):
                    continue

    def finish(self, failure: str) -> None:
        """Write the capture of this rank, unless a process that the program started for it did."""
        if Path(self.job.out, f"rank-{self.job.rank}.json").is_file():
            return
        if facade.COMPILED[0]:
            self.notes["torch.compile ran eagerly: --fuse joins its kernels"] = None
        taken: set[int] = set()
        kinds = {}
        for name in ("weights", "gradients", "optimizer", "buffers"):
            kinds[name] = tuple(sorted(self.kinds.get(name, set()) - taken - {-1}))
            taken |= set(kinds[name])
        rank = Rank(
            rank=self.job.rank,
            kernels=tuple(self.recorder.table),
            work=self.device.work(),
            changes=self.device.changes(torch.accelerator.current_device_index()),
            operands=np.array(self.recorder.operands, np.int64).reshape(-1, 3),
            kinds=kinds,
            invented=dict(values.TOLD),
            notes=(*self.notes, *libraries.NOTES, *custom.NOTES, *kernels.NOTES, *world.NOTES),
            failure=failure,
            calls=tuple((*place, count) for place, count in translation.CALLS.items()),
        )
        write(rank_files(rank), Path(self.job.out), "--out")
        self.groups.finish()


def everything(_: int) -> int:
    """In functional mode all values are known."""
    return 1


MANY = 1 << 16
"""Elements of a weight of the host from which on its first values do not matter."""


def lighten() -> None:
    """Weights that are drawn on the host before they move: large ones stay untouched pages of memory."""

    def wrap(holder: Any, name: str) -> None:
        drawn = getattr(holder, name)

        def draw(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            if tensor.device.type == "cpu" and tensor.numel() >= MANY:
                return tensor
            result: torch.Tensor = drawn(tensor, *args, **kwargs)
            return result

        setattr(holder, name, draw)

    for name in ("normal_", "uniform_"):
        wrap(torch.Tensor, name)
    for name in dir(torch.nn.init):
        if name.endswith("_") and not name.startswith("_") and name not in ("constant_", "ones_", "zeros_", "eye_"):
            wrap(torch.nn.init, name)
