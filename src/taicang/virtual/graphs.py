"""CUDA graphs: what is captured is taken out of the log, and each replay puts it back, issued as one."""

from __future__ import annotations

from typing import Any

import torch

from taicang.virtual.capture import GRAPHED, KERNEL
from taicang.virtual.device import Device


def graph_of(device: Device) -> type:
    """The class that stands for ``torch.cuda.CUDAGraph`` (and ``NPUGraph``) on ``device``."""

    class CUDAGraph:
        """Kernels in the order of their capture; their memory stays as it was allocated then."""

        def __init__(self, keep_graph: bool = False) -> None:
            self.first, self.stream, self.entries = 0, 0, device.work(1 << 62)

        def capture_begin(self, pool: Any = None, **_: Any) -> None:
            """From here on kernels do not run."""
            self.first, self.stream = device.size(), torch.accelerator.current_stream().stream_id
            CAPTURING.append(self)

        def capture_end(self) -> None:
            """Take what was captured out of the log."""
            CAPTURING.remove(self)
            self.entries = device.work(self.first)
            device.cut(self.first)

        def replay(self) -> None:
            """All of it on the current stream, for the price of one launch by the host."""
            stream, launched = torch.accelerator.current_stream().stream_id, False
            for what, where, value in self.entries.tolist():
                kind = GRAPHED if what == KERNEL and launched else what
                launched |= what == KERNEL
                device.note_on(kind, stream if where == self.stream else where, value)

        def instantiate(self) -> None:
            """Nothing to make."""

        def reset(self) -> None:
            """Forget it."""
            self.entries = device.work(1 << 62)

        def pool(self) -> tuple[int, int]:
            """All graphs share one pool of memory."""
            return (0, 1)

        def enable_debug_mode(self) -> None:
            """Nothing to show."""

        def debug_dump(self, path: str) -> None:
            """Nothing to show."""

    return CUDAGraph


CAPTURING: list[Any] = []
"""Graphs whose capture has begun."""
