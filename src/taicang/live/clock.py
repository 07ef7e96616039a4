"""The clock on the wall, and how the machine's time follows it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from taicang.serve.request import SECOND

CLOCK_MONOTONIC = 1
ABSOLUTE = 1
"""TFD_TIMER_ABSTIME."""


class Clock(Protocol):
    """Who says what time it is; tests have one that stands still until it is told."""

    def time(self) -> float:
        """Seconds since whenever; they never run back."""

    def at(self, when: float | None, act: Callable[[], None]) -> None:
        """Call ``act`` once when it is ``when``, in place of what was to be called before (None: not at all)."""


class LoopClock:
    """The clock of an asyncio loop. Loops round their timers to whole milliseconds, so the kernel's own is taken where
    there is one (Linux)."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None
        self._act: Callable[[], None] = lambda: None
        self._fd = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._fd = self._libc.timerfd_create(CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd >= 0:
            self._spec = (ctypes.c_long * 4)()
            loop.add_reader(self._fd, self._ring)

    def time(self) -> float:
        """Of the monotonic clock, to which the kernel's timer is set too."""
        return time.monotonic()

    def at(self, when: float | None, act: Callable[[], None]) -> None:
        """See ``Clock``."""
        self._act = act
        if self._fd >= 0:
            whole = int(when) if when is not None else 0
            self._spec[2] = whole
            self._spec[3] = max(int((when - whole) * 1e9), 1) if when is not None else 0
            self._libc.timerfd_settime(self._fd, ABSOLUTE, ctypes.byref(self._spec), None)
            return
        if self._handle is not None:
            self._handle.cancel()
        if when is not None:
            self._handle = self._loop.call_later(max(when - self.time(), 0.0), act)

    def _ring(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._fd, 8)
        self._act()

    def close(self) -> None:
        """Nothing is called any more."""
        self.at(None, lambda: None)
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


class StillClock:
    """Stands still until it is told; what it is to call is called ``late_s`` after its time. For tests, and for whoever
    wants hours of the machine in a moment."""

    def __init__(self, late_s: float = 0.0) -> None:
        self.late_s = late_s
        self._shows = 0.0
        self._due: tuple[float, Callable[[], None]] | None = None

    def time(self) -> float:
        """See ``Clock``."""
        return self._shows

    def at(self, when: float | None, act: Callable[[], None]) -> None:
        """See ``Clock``."""
        self._due = None if when is None else (when, act)

    @property
    def due(self) -> float | None:
        """When something is to be called."""
        return None if self._due is None else self._due[0]

    def until(self, when: float) -> None:
        """Let it become ``when``, calling what is due on the way."""
        while self._due is not None and self._due[0] + self.late_s <= when:
            (at, act), self._due = self._due, None
            self._shows = max(self._shows, at + self.late_s)
            act()
        self._shows = max(self._shows, when)


class Pace:
    """The machine's time in ticks, ``speed`` times as fast as ``clock``, from zero on."""

    __slots__ = ("_base", "_zero", "clock", "speed")

    def __init__(self, clock: Clock, speed: float = 1.0) -> None:
        self.clock = clock
        self.speed = speed
        self._zero = clock.time()
        self._base = 0

    def now(self) -> int:
        """What time it is for the machine."""
        return self._base + round((self.clock.time() - self._zero) * self.speed * SECOND)

    def when(self, tick: int) -> float:
        """What the clock shows at ``tick``."""
        return self._zero + (tick - self._base) / SECOND / self.speed

    def change(self, speed: float) -> None:
        """Go on from here at another speed."""
        self._base, self._zero, self.speed = self.now(), self.clock.time(), speed
