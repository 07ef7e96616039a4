"""How a program that fails is shown: its own exceptions as they are, what only a real device can do in one line."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from taicang.virtual.spec import NeedsDevice

SIGNS = (
    r"CUDA_HOME|CUDAToolkit|[Nn]vcc|NVRTC|ASCEND_HOME|ASCEND_TOOLKIT",
    r"lib(cuda|cudart|cublas\w*|nvrtc|nccl|nvshmem\w*|ascendcl|hccl)\b\S*: cannot open",
    r"[Nn]ot compiled with (CUDA|NCCL)|No CUDA GPUs|NVIDIA driver|No HIP|without (NVSHMEM|NCCL)",
    r"has no attribute '_(cuda|nccl|npu|nvshmem|cudart)\w*'",
    r"Could not run '\S+' with arguments from the '\w*(CUDA|PrivateUse1)' backend",
)
"""What Python, PyTorch and compilers say where the toolkit of a device, or a kernel of it, is not there."""
ADVICE = "put it into an operator of its own, torch.library.custom_op, with a shape rule, register_fake"


def refused(error: BaseException, script: Path) -> str:
    """Place in the program, and below it what it needs of a real device and what to do; empty for its own errors."""
    for each in _chain(error):
        text = str(each).strip().partition("\n")[0]
        if isinstance(each, NeedsDevice):
            return f"{_place(each.__traceback__ or error.__traceback__, script)}\n{text}"
        if isinstance(each, Exception) and any(re.search(sign, text) for sign in SIGNS):
            at = _place(error.__traceback__, script)
            said = text.partition(" backend. ")[0].rstrip(".")
            return f"{at}\nneeds a kernel of a real device ({type(each).__name__}: {said}); {ADVICE}"
    return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came of."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


def _place(trail: TracebackType | None, script: Path) -> str:
    """``file:line``: the last line of the program's own files."""
    home = f"{script.resolve().parent}/"
    at = script.name
    for frame, line in traceback.walk_tb(trail):
        path = os.path.abspath(frame.f_code.co_filename)
        if path.startswith(home) and "site-packages" not in path:
            at = f"{path.removeprefix(home)}:{line}"
    return at


def show(error: BaseException) -> None:
    """The traceback, from the program's own file on."""
    trail = error.__traceback__
    ours = ("runpy", str(Path(__file__).with_name("child.py")))
    while trail is not None and any(each in trail.tb_frame.f_code.co_filename for each in ours):
        trail = trail.tb_next
    traceback.print_exception(type(error), error, trail)
