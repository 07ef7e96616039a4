"""``torch.cuda`` and ``torch.npu`` over the one virtual device: what programs ask, answered for the machine's chip."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from taicang.virtual.device import Device
from taicang.virtual.graphs import CAPTURING, graph_of
from taicang.virtual.kernels import DEVICE
from taicang.virtual.later import Compiler, undisabled
from taicang.virtual.spec import Chip
from taicang.virtual.translation import noted, noting

EVENTS: list[Callable[[int, int], float]] = []
"""Milliseconds between two versions of events."""


class Stream(torch.Stream):
    """A stream by the names of ``torch.cuda.Stream``."""

    def __new__(cls, device: Any = None, priority: int = 0, **kwargs: Any) -> Stream:
        """A new stream of the current device, or one that is given by its numbers."""
        if "stream_id" in kwargs:
            return super().__new__(cls, **kwargs)
        return super().__new__(cls, device=_device(device), priority=priority)

    def wait_stream(self, stream: torch.Stream) -> None:
        """Work from here on waits for what is on ``stream`` now."""
        self.wait_event(stream.record_event())

    @property
    def cuda_stream(self) -> int:
        """Its number in place of a handle."""
        return int(self.stream_id)

    npu_stream = cuda_stream


class Event(torch.Event):
    """An event by the names of ``torch.cuda.Event``."""

    def __new__(
        cls, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False, **_: Any
    ) -> Event:
        """A new event."""
        return super().__new__(cls, device=DEVICE, enable_timing=enable_timing, blocking=blocking)

    def record(self, stream: torch.Stream | None = None) -> None:
        """Mark what is on the stream now."""
        super().record(stream or torch.accelerator.current_stream())

    def elapsed_time(self, end_event: torch.Event) -> float:
        """Milliseconds of the machine until another event."""
        versions = [ctypes.c_int64.from_address(each.event_id).value for each in (self, end_event)]
        return float(EVENTS[0](*versions)) if EVENTS else 0.0

    def wait(self, stream: torch.Stream | None = None) -> None:
        """Work of the stream from here on waits for it."""
        super().wait(stream or torch.accelerator.current_stream())


def _device(given: Any) -> torch.device:
    if given is None or given == DEVICE:
        return torch.device(DEVICE, torch.accelerator.current_device_index())
    if isinstance(given, int):
        return torch.device(DEVICE, given)
    found = torch.device(given)
    return found if found.index is not None else torch.device(DEVICE, torch.accelerator.current_device_index())


def _at(given: Any) -> int:
    return _device(given).index or 0


class _Within:
    """``torch.cuda.device(2)`` and ``device_of``."""

    def __init__(self, given: Any) -> None:
        self.index = -1 if given is None else given if isinstance(given, int) else _at(given)
        self.before = -1

    def __enter__(self) -> None:
        self.before = torch.accelerator.current_device_index()
        if self.index >= 0:
            torch.accelerator.set_device_index(self.index)

    def __exit__(self, *_: Any) -> None:
        torch.accelerator.set_device_index(self.before)


@contextlib.contextmanager
def _on(stream: torch.Stream | None) -> Iterator[None]:
    if stream is None:
        yield
        return
    before = torch.accelerator.current_stream(stream.device)
    torch.accelerator.set_stream(stream)
    try:
        yield
    finally:
        torch.accelerator.set_stream(before)


def _as_stream(stream: torch.Stream) -> torch.Stream:
    return Stream(stream_id=stream.stream_id, device_index=stream.device_index, device_type=stream.device_type)


def nothing(*_: Any, **__: Any) -> None:
    """What needs no doing on a device that is not there."""


UNKEPT: dict[str, Any] = {
    "memory_usage": lambda device=None: 0, "get_per_process_memory_fraction": lambda device=None: 1.0,
    "host_memory_stats": dict, "host_memory_stats_as_nested_dict": dict, "get_allocator_backend": lambda: "native",
    "_snapshot": lambda *_, **__: {"segments": [], "device_traces": []},
} | dict.fromkeys(
    ("reset_accumulated_host_memory_stats", "reset_peak_host_memory_stats", "caching_allocator_enable",
     "_record_memory_history", "_dump_snapshot"), nothing,
)  # fmt: skip
"""Of a device's memory, what nobody keeps account of here."""


def _sent(tensors: Any, devices: Any) -> list[Any]:
    """Copies on each device."""
    return [[t.to(torch.device(DEVICE, at)) for t in tensors] for at in devices]


def _parts(whole: torch.Tensor, devices: Any, sizes: Any = None, dim: int = 0, _: Any = None) -> tuple[Any, ...]:
    """A tensor's parts, one on each device."""
    parts = whole.split(sizes, dim) if sizes else whole.chunk(len(devices), dim)
    return tuple(part.to(torch.device(DEVICE, at)) for part, at in zip(parts, devices, strict=False))


UNBUILT: dict[str, Any] = {
    "_cuda_CUDAAllocator_AllocatorState": object, "_cuda_getCurrentRawStream": lambda _: 0,
    "_set_cached_tensors_enabled": nothing, "_scatter": _parts,
    "_broadcast_coalesced": lambda tensors, devices, _: _sent(tensors, devices),
    "_broadcast": lambda tensor, devices: tuple(each[0] for each in _sent([tensor], devices)),
    "_gather": lambda tensors, dim, at=None: torch.cat(_sent(tensors, [at or 0])[0], dim),
}  # fmt: skip
"""What PyTorch's own modules import where CUDA is built, and a build for the CPU lacks."""


def memory_functions(held: Device) -> dict[str, Any]:
    """What a device module says of its memory."""

    def used(field: str) -> Callable[..., int]:
        def ask(device: Any = None) -> int:
            return int(getattr(held.usage(_at(device)), field))

        return ask

    def stats(device: Any = None) -> dict[str, int]:
        use = held.usage(_at(device))
        found = {"num_alloc_retries": use.retries, "num_ooms": use.ooms, "max_split_size": -1}
        for name, now, peak in (
            ("allocated_bytes", use.allocated, use.peak_allocated),
            ("reserved_bytes", use.reserved, use.peak_reserved),
            ("active_bytes", use.allocated, use.peak_allocated),
            ("requested_bytes", use.asked, use.asked),
        ):
            found |= {f"{name}.all.current": now, f"{name}.all.peak": peak}
        return found

    def free(device: Any = None) -> tuple[int, int]:
        use = held.usage(_at(device))
        return use.capacity - use.reserved, use.capacity

    def reset(device: Any = None) -> None:
        held.reset_peak(_at(device))

    return {
        "memory_allocated": used("allocated"),
        "max_memory_allocated": used("peak_allocated"),
        "memory_reserved": used("reserved"),
        "max_memory_reserved": used("peak_reserved"),
        "memory_cached": used("reserved"),
        "max_memory_cached": used("peak_reserved"),
        "mem_get_info": free,
        "memory_stats": stats,
        "memory_stats_as_nested_dict": stats,
        "memory_snapshot": lambda *_, **__: [],
        "memory_summary": lambda *_, **__: str(stats()),
        "set_per_process_memory_fraction": nothing,
        "reset_peak_memory_stats": reset,
        "reset_max_memory_allocated": reset,
        "reset_accumulated_memory_stats": nothing,
        "empty_cache": lambda: held.release(_at(None)),
        "device_memory_used": used("reserved"),
        **UNKEPT,
    }


def stream_functions() -> dict[str, Any]:
    """Streams, events and the current device."""
    accelerator = torch.accelerator
    return {
        "current_device": accelerator.current_device_index,
        "set_device": lambda device: accelerator.set_device_index(_at(device)),
        "_exchange_device": _exchange,
        "_maybe_exchange_device": _exchange,
        "device": _Within,
        "device_of": lambda t: _Within(t.device if t.device.type == DEVICE else None),
        "synchronize": lambda device=None: accelerator.synchronize(_device(device)),
        "Stream": Stream,
        "Event": Event,
        "ExternalStream": Stream,
        "stream": _on,
        "StreamContext": _on,
        "set_stream": accelerator.set_stream,
        "current_stream": lambda device=None: _as_stream(accelerator.current_stream(_device(device))),
        "default_stream": lambda device=None: Stream(stream_id=0, device_index=_at(device), device_type=PRIVATE),
        "current_blas_handle": lambda: 0,
        "current_solver_handle": lambda: 0,
        "get_sync_debug_mode": lambda: 0,
        "set_sync_debug_mode": nothing,
        "is_current_stream_capturing": lambda: bool(CAPTURING),
    }


def random_functions() -> dict[str, Any]:
    """Seeds and states of the device's generator."""
    return {
        "manual_seed": _seed,
        "manual_seed_all": _seed,
        "seed": lambda: _seed(0),
        "seed_all": lambda: _seed(0),
        "initial_seed": lambda: _generator().initial_seed(),
        "get_rng_state": lambda device=None: _generator().get_state(),
        "set_rng_state": lambda new_state, device=None: _generator().set_state(new_state),
        "get_rng_state_all": lambda: [_generator().get_state()],
        "set_rng_state_all": lambda new_states: _generator().set_state(new_states[0]),
    }


def functions(device: Device, chip: Chip) -> dict[str, Any]:
    """The functions of a device module."""
    major, minor = chip.capability
    properties = types.SimpleNamespace(
        name=chip.title, total_memory=chip.memory_bytes, multi_processor_count=chip.cores, major=major, minor=minor,
        warp_size=32, L2_cache_size=chip.l2_bytes, gcnArchName="", is_integrated=0, is_multi_gpu_board=0,
        max_threads_per_multi_processor=2048, regs_per_multiprocessor=65536, shared_memory_per_block=49152,
        shared_memory_per_block_optin=232448, uuid="00000000-0000-0000-0000-000000000000", cube_core_num=chip.cores,
        vector_core_num=chip.cores,
    )  # fmt: skip
    runtime = types.SimpleNamespace(
        cudaProfilerStart=nothing,
        cudaProfilerStop=nothing,
        cudaHostRegister=lambda *_, **__: 0,
        cudaStreamCreate=lambda *_, **__: 0,
    )
    graph = graph_of(device)
    captured = {"CUDAGraph": graph, "NPUGraph": graph, "graph_pool_handle": lambda: (0, 1)}
    return captured | memory_functions(device) | stream_functions() | random_functions() | {
        "is_available": lambda: True, "is_initialized": lambda: True, "init": nothing, "_lazy_init": nothing,
        "device_count": lambda: device.devices, "_initialized": True, "_is_in_bad_fork": lambda: False,
        "get_device_properties": lambda *_, **__: properties, "get_device_name": lambda *_, **__: chip.title,
        "get_device_capability": lambda *_, **__: chip.capability, "get_arch_list": lambda: [f"sm_{major}{minor}"],
        "MemPool": lambda *_, **__: types.SimpleNamespace(id=(0, 1), use_count=nothing, snapshot=list),
        "use_mem_pool": lambda *_, **__: contextlib.nullcontext(), "ipc_collect": nothing,
        "_sleep": nothing, "can_device_access_peer": lambda *_, **__: True,
        "is_bf16_supported": lambda *_, **__: True, "is_tf32_supported": lambda: True,
        "get_amp_supported_dtype": lambda: [torch.float16, torch.bfloat16, torch.float32],
        "utilization": lambda *_, **__: 0, "power_draw": lambda *_, **__: 0, "temperature": lambda *_, **__: 0,
        "clock_rate": lambda *_, **__: 0, "cudart": lambda: runtime,
    }  # fmt: skip


PRIVATE = 20
"""Number of the device type PrivateUse1."""


def _exchange(given: int) -> int:
    before: int = torch.accelerator.current_device_index()
    if given >= 0:
        torch.accelerator.set_device_index(given)
    return before


def _generator() -> torch.Generator:
    if not GENERATORS:
        GENERATORS.append(torch.Generator(device=DEVICE))
    return GENERATORS[0]


GENERATORS: list[torch.Generator] = []


def _seed(seed: int) -> None:
    _generator().manual_seed(seed % (1 << 63))


def install(device: Device, chip: Chip) -> None:
    """Put the faces in place; before any of the program runs."""
    translated = chip.huawei and DEVICE == "cuda"
    given = noting(functions(device, chip), "torch.cuda") if translated else functions(device, chip)
    _install_cuda(device, given)
    _install_memory(device)
    for name, value in UNBUILT.items():
        if not hasattr(torch._C, name):
            setattr(torch._C, name, value)
    torch.Tensor.is_cuda = property(lambda self: self.device.type == DEVICE)
    torch.Tensor.is_npu = torch.Tensor.is_cuda
    for name in ("cuda", "npu"):
        setattr(torch.Tensor, name, noted("torch.Tensor.cuda", _moved) if translated else _moved)
        setattr(torch.nn.Module, name, noted("torch.nn.Module.cuda", _module_moved) if translated else _module_moved)
    torch.Tensor.pin_memory = lambda self, *_, **__: self
    torch.compile = noted("torch.compile", _eager) if translated else _eager
    torch.compiler.cudagraph_mark_step_begin = nothing
    torch.compiler.disable, torch._dynamo = undisabled, Compiler()
    _install_npu(given)
    os.environ.setdefault("PYTORCH_ALLOC_CONF", os.environ.get("PYTORCH_CUDA_ALLOC_CONF", ""))


def _install_cuda(device: Device, given: Mapping[str, Any]) -> None:
    cuda = torch.cuda
    parts = [module for name, module in sys.modules.items() if name.startswith("torch.cuda.")]
    for name, value in given.items():
        before = cuda.__dict__.get(name)
        for part in parts:  # those that define it, or took it from there
            if name in part.__dict__ and (before is None or part.__dict__[name] is before):
                setattr(part, name, value)
        setattr(cuda, name, value)
    cuda.graphs.CUDAGraph, cuda.graphs.is_current_stream_capturing = given["CUDAGraph"], lambda: bool(CAPTURING)
    cuda.streams.Stream, cuda.streams.Event = Stream, Event
    cuda.default_generators = tuple(_generator() for _ in range(device.devices))
    cuda.nvtx = _quiet("torch.cuda.nvtx")
    torch.version.cuda = "12.8"
    cuda.nccl.version = lambda: (2, 27, 5)
    torch.backends.cuda.is_built = lambda: True
    for name in ("cublas_workspace_size", "cublaslt_workspace_size", "blas_workspace_size"):
        if hasattr(torch.backends.cuda, name):
            setattr(torch.backends.cuda, name, lambda *_: 0)
    torch.backends.cudnn.is_available = lambda: True
    torch.backends.cudnn.is_acceptable = lambda *_: False  # a build for CUDA would flatten weights for its own kernels
    torch.backends.cudnn.version = lambda: 91002


def _install_memory(device: Device) -> None:
    shared = memory_functions(device)
    for name, value in (shared | {"get_memory_info": shared["mem_get_info"], "empty_host_cache": nothing}).items():
        for part in (torch.accelerator, torch.accelerator.memory):  # PyTorch's own ask another kind of allocator
            if hasattr(part, name):
                setattr(part, name, value)
    torch._C._host_emptyCache = nothing


def _install_npu(given: Mapping[str, Any]) -> None:
    cuda = torch.cuda
    module: Any = types.ModuleType("torch.npu")
    module.__dict__.update(given)
    module.graph, module.make_graphed_callables = cuda.graph, cuda.make_graphed_callables
    for name in ("amp", "memory", "random", "streams", "graphs"):
        part = sys.modules[f"torch.npu.{name}"] = getattr(cuda, name)
        setattr(module, name, part)
    module.config = types.SimpleNamespace(allow_internal_format=False)
    module.set_compile_mode = module.set_option = nothing
    torch.npu = module
    sys.modules["torch.npu"] = module


def _moved(self: torch.Tensor, device: Any = None, non_blocking: bool = False, **_: Any) -> torch.Tensor:
    return self.to(_device(device), non_blocking=non_blocking)


def _module_moved(self: torch.nn.Module, device: Any = None) -> torch.nn.Module:
    return self._apply(lambda t: _moved(t, device))


COMPILED = [False]


def _eager(model: Any = None, **_: Any) -> Any:
    """``torch.compile`` under capture: the program runs eagerly, and the page says so."""
    COMPILED[0] = True
    return model if model is not None else lambda found: found


class _Quiet(types.ModuleType):
    """A module whose functions do nothing: marks for profilers that are not there."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return contextlib.nullcontext if name in ("range", "mstx_range") else lambda *_, **__: 0


def _quiet(name: str) -> types.ModuleType:
    module = _Quiet(name)
    sys.modules[name] = module
    return module
