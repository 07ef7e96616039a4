"""A platform of vLLM that is not there: its engine, scheduler, cache manager and server run as they are, on the CPU.

    TAICANG_MACHINE=cloudmatrix384 TAICANG_PLAN=TP4 vllm serve ./qwen3-32b

vLLM finds it by the entry point ``vllm.platform_plugins`` and takes it where ``TAICANG_MACHINE`` names a machine;
a vLLM beside taicang is otherwise left alone. Tested with the version in ``TESTED``.
"""

from __future__ import annotations

import os

TESTED = "0.33.0"
MACHINE = "TAICANG_MACHINE"


def register() -> str | None:
    """Where vLLM finds the platform; None: it is not wanted."""
    return "taicang.plugins.vllm.platform.VirtualPlatform" if os.environ.get(MACHINE) else None
