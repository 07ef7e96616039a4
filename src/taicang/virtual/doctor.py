"""Whether this Python can run programs on virtual devices: one line per thing that must, or may, be there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

from taicang.errors import InvalidInput
from taicang.virtual import build

LIBRARIES = ("transformers", "accelerate", "peft", "diffusers", "torchtitan", "numpy")
"""Libraries that programs of this kind use."""
TRIED = "programs were tried with 2.9.1, 2.13.0 and 2.14.1"
"""Versions of PyTorch that it is known to work with."""
TRY = """
import torch
from taicang.virtual.device import Device
from taicang.virtual.kernels import Kernels, Recorder
from taicang.virtual import special
torch.cuda._lazy_init = lambda: None
kept = special.install(Kernels(Recorder(Device(1, 1 << 30, expandable=False, huawei=False))))
x = torch.ones(8, 8, device="cuda", requires_grad=True)
(x @ x).sum().backward()
assert x.grad.sum().item() == 1024.0
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line."""

    name: str
    well: bool
    needed: bool
    said: str


def examine() -> list[Check]:
    """All checks in order; a small program runs on a virtual device at the end."""
    found = [
        _check("PyTorch", lambda: f"{build.torch_place()[0]} ({TRIED})"),
        _check("C++ compiler", build.compiler),
        _check("virtual device", lambda: str(build.native().device.parent)),
    ]
    if all(each.well for each in found):
        found.append(_check("a product and its gradient", _tried))
    for name in LIBRARIES:
        there = importlib.util.find_spec(name) is not None
        version = metadata.version(name) if there else "not installed (only programs that use it need it)"
        found.append(Check(name=name, well=there, needed=False, said=version))
    return found


def _tried() -> str:
    environment = os.environ | {"LD_PRELOAD": str(build.native().names), "TAICANG_DEVICE_NAME": "cuda"}
    done = subprocess.run([sys.executable, "-c", TRY], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InvalidInput((done.stderr.strip().splitlines() or ["no message"])[-1], where="doctor")
    return "right"


def _check(name: str, ask: Callable[[], str]) -> Check:
    try:
        return Check(name=name, well=True, needed=True, said=ask())
    except InvalidInput as error:
        return Check(name=name, well=False, needed=True, said=str(error))
