"""Which software stack prices a plan that is handed to an engine, and what to say where it is not the engine's own."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from taicang.catalog.stack_entry import calibrated
from taicang.hardware import Machine
from taicang.stacks import Stack

STACKS: Mapping[str, str] = MappingProxyType(
    {
        "vllm": "vllm",
        "vllm-ascend": "vllm-ascend",
        "sglang": "sglang",
        "trtllm": "tensorrt-llm",
        "mindie": "mindie",
        "llm-d": "vllm",
    }
)
"""Stack of each target; Dynamo runs the engine of whatever stack was chosen."""


def stack_for(to: str, machine: Machine) -> str | None:
    """The stack of the target ``to``, if it is calibrated for machines of this kind."""
    name = STACKS.get(to)
    return name if name and calibrated(name, ascend=machine.chip.ascend) else None


def priced_as_another(to: str, machine: Machine, stack: Stack) -> str:
    """What to say where the plan of ``to`` is priced with the constants of another engine (nothing where it is not)."""
    name = STACKS.get(to)
    if name is None or stack.engine == name:
        return ""
    kind = "Ascend" if machine.chip.ascend else "GPUs"
    why = "" if stack_for(to, machine) else f": {name} is not calibrated on {kind}"
    return f"priced as {stack.name}, not as {to}{why}"
