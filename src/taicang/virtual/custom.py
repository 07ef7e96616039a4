"""Kernels that programs bring themselves: operators of their own, and launches past PyTorch's dispatcher."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch._library.custom_ops import CustomOpDef

from taicang.virtual.faces import advice
from taicang.virtual.kernels import DEVICE, Kernels
from taicang.virtual.later import changed
from taicang.virtual.spec import NeedsDevice

NOTES: dict[str, None] = {}
"""What was taken for one kernel, told at the end of the run."""


def install(kernels: Kernels) -> None:
    """Operators made by ``torch.library.custom_op`` run on the device; kernels of Triton are refused by name."""
    register = CustomOpDef._register_to_dispatcher

    def registered(self: Any, *args: Any) -> None:
        register(self, *args)
        self._lib.impl(self._name, partial(_launch, kernels, self), "PrivateUse1")

    CustomOpDef._register_to_dispatcher = registered
    changed("triton.runtime.jit", lambda module: setattr(module.JITFunction, "run", refuse))


def _launch(kernels: Kernels, own: Any, *args: Any, **kwargs: Any) -> Any:
    """What the operator is composed of; where its body needs a device, one kernel by its shapes and bytes."""
    body = own._backend_fns.get(DEVICE) or own._backend_fns.get(None)
    recorder, first = kernels.recorder, kernels.device.size()
    try:
        if body is not None:
            return body(*args, **kwargs)
    except Exception as error:
        if own._abstract_fn is None or recorder.real:
            raise
        kernels.device.cut(first)
        recorder.operands = [each for each in recorder.operands if each[0] < first]
        NOTES[f"{own._qualname}: one kernel by the bytes of its operands; its own cannot run here ({error})"] = None
    return kernels(own._opoverload, *args, **kwargs)


def refuse(self: Any, *_: Any, **__: Any) -> None:
    """A kernel of Triton is launched."""
    name = self.fn.__name__
    raise NeedsDevice(
        f"Triton's kernel {name} is launched past PyTorch's dispatcher, nothing can tell what it does; {advice(name)}"
    )
