"""The platform as vLLM asks about it, and what the environment says of the machine behind it."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch
from vllm.platforms.interface import Platform, PlatformEnum

from taicang.errors import InvalidInput
from taicang.plugins.vllm import MACHINE
from taicang.predict.steps import StepPredictor

MODEL, PLAN, STACK, SPEED = "TAICANG_MODEL", "TAICANG_PLAN", "TAICANG_STACK", "TAICANG_SPEED"
"""What is priced (a name or a configuration's path; else the model that vLLM serves), how it is laid out, by which
engine's constants, and how fast the machine's time runs against the clock."""


@cache
def predictor(model: str) -> StepPredictor:
    """Prices steps as the environment says."""
    given = os.environ.get
    return StepPredictor(given(MODEL, model), given(MACHINE, ""), given(PLAN) or None, given(STACK) or None)


def speed() -> float:
    """See ``SPEED``."""
    text = os.environ.get(SPEED, "1")
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1e-4 <= value <= 1e4:
        raise InvalidInput(f"{text!r} is not a speed from 0.0001 to 10000", where=SPEED)
    return value


class VirtualPlatform(Platform):  # type: ignore[misc]
    """One process serves for the whole plan: vLLM's own parallel options stay at 1, ``TAICANG_PLAN`` lays it out."""

    _enum = PlatformEnum.OOT
    device_name = "taicang"
    device_type = "cpu"
    dispatch_key = "CPU"
    dist_backend = "gloo"

    @property
    def supported_dtypes(self) -> list[torch.dtype]:
        """Any that a checkpoint names."""
        return [torch.bfloat16, torch.float16, torch.float32]

    def is_cpu(self) -> bool:
        """There is no accelerator to clean up."""
        return True

    @classmethod
    def get_device_name(cls, device_id: int = 0) -> str:
        """The machine's."""
        return f"taicang {os.environ[MACHINE]}"

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:
        """Of one rank."""
        from taicang.catalog import machine  # noqa: PLC0415

        return int(machine(os.environ[MACHINE]).chip.memory.capacity_bytes)

    @classmethod
    def inference_mode(cls) -> Any:
        """There is no inference."""
        return torch.no_grad()

    @classmethod
    def is_pin_memory_available(cls) -> bool:
        """There is no device to copy to."""
        return False

    @classmethod
    def import_kernels(cls) -> None:
        """There are none."""

    @classmethod
    def update_block_size_for_backend(cls, vllm_config: Any) -> None:
        """No attention backend wants another."""

    @classmethod
    def check_and_update_config(cls, vllm_config: Any) -> None:
        """Our worker, one process, and as many blocks as the virtual ranks have room for."""
        parallel, cached = vllm_config.parallel_config, vllm_config.cache_config
        if parallel.world_size > 1:
            raise InvalidInput("one process stands for the whole plan: lay it out with TAICANG_PLAN", where=PLAN)
        if vllm_config.speculative_config is not None or vllm_config.lora_config is not None:
            raise InvalidInput("drafts and adapters do not run on the virtual machine", where=MACHINE)
        parallel.worker_cls = "taicang.plugins.vllm.worker.VirtualWorker"
        vllm_config.scheduler_config.async_scheduling = False
        if vllm_config.model_config is not None and cached is not None:
            found = predictor(vllm_config.model_config.model)
            cached.block_size = cached.block_size or 16
            if cached.num_gpu_blocks_override is None:
                cached.num_gpu_blocks_override = found.cache_tokens // cached.block_size
            speed()
