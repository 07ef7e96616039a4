"""The virtual device inside the program's process: the native library, and what Python asks of it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from taicang.virtual.build import native
from taicang.virtual.capture import Ints

ELAPSED = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_int64, ctypes.c_int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Memory of one device now, as PyTorch's allocator counts it."""

    allocated: int
    peak_allocated: int
    reserved: int
    peak_reserved: int
    asked: int
    capacity: int
    retries: int
    ooms: int


class Device:
    """The native library, loaded once per process; a method per function that it exports."""

    def __init__(self, devices: int, capacity_bytes: int, *, expandable: bool, huawei: bool) -> None:
        self.devices = devices
        self.lib = ctypes.CDLL(str(native().device), mode=ctypes.RTLD_GLOBAL)
        for name in (
            "tc_event_on",
            "tc_event_here",
            "tc_new_stream",
            "tc_work",
            "tc_changes",
            "tc_number",
            "tc_note",
            "tc_note_on",
        ):
            getattr(self.lib, name).restype = ctypes.c_int64
        pointer, whole = ctypes.c_void_p, ctypes.c_int64
        for name, arguments in (
            ("tc_known", [pointer]), ("tc_know", [pointer, ctypes.c_int]), ("tc_number", [pointer]),
            ("tc_note", [whole, whole]), ("tc_note_on", [whole, whole, whole]), ("tc_event_on", [whole]),
            ("tc_cut", [whole]),
            ("tc_start", [ctypes.c_int, whole, ctypes.c_int, ctypes.c_int]),
        ):  # fmt: skip
            getattr(self.lib, name).argtypes = arguments
        self.known: Callable[[int], int] = self.lib.tc_known
        self.know, self.number = self.lib.tc_know, self.lib.tc_number
        self.note, self.note_on = self.lib.tc_note, self.lib.tc_note_on
        self.event_on, self.event_here, self.new_stream = (
            self.lib.tc_event_on,
            self.lib.tc_event_here,
            self.lib.tc_new_stream,
        )
        self.lib.tc_start(devices, capacity_bytes, int(expandable), int(huawei))
        self._elapsed: Any = None

    def usage(self, device: int = 0) -> Usage:
        """Memory now."""
        if not 0 <= device < self.devices:  # as PyTorch says it
            raise RuntimeError(f"CUDA error: invalid device ordinal {device} (the program sees {self.devices})")
        out = (ctypes.c_int64 * 8)()
        self.lib.tc_memory(device, out)
        return Usage(**dict(zip(Usage.__dataclass_fields__, out, strict=True)))

    def reset_peak(self, device: int) -> None:
        """Peaks start anew."""
        self.lib.tc_reset_peak(device)

    def release(self, device: int) -> None:
        """Give empty segments back."""
        self.lib.tc_release(device)

    def elapsed(self, function: Any) -> None:
        """Milliseconds between two events are what ``function`` says."""
        self._elapsed = ELAPSED(function)  # kept: C holds no reference
        self.lib.tc_elapsed(self._elapsed)

    def size(self) -> int:
        """Entries of the log of work so far."""
        return int(self.lib.tc_work(ctypes.byref(ctypes.c_void_p())))

    def work(self, first: int = 0) -> Ints:
        """The log of work so far, a copy, from entry ``first`` on: what, stream, value."""
        return self._table(self.lib.tc_work, 3, first)

    def cut(self, first: int) -> None:
        """Take the log of work from entry ``first`` on away."""
        self.lib.tc_cut(first)

    def changes(self, device: int) -> Ints:
        """The log of memory so far: place in the log of work, number of the allocation, bytes, reserved bytes."""
        return self._table(lambda out: self.lib.tc_changes(device, out), 4)

    def _table(self, fetch: Any, width: int, first: int = 0) -> Ints:
        place = ctypes.c_void_p()
        rows = int(fetch(ctypes.byref(place))) - first
        if rows <= 0:
            return np.empty((0, width), np.int64)
        raw = ctypes.string_at((place.value or 0) + first * width * 8, rows * width * 8)
        return np.frombuffer(raw, np.int64).reshape(rows, width)
