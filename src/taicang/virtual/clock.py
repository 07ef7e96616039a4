"""The machine's time inside the program: ``time.time``, ``perf_counter`` and events tell that of its host."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from taicang.virtual.device import Device
from taicang.virtual.kernels import Recorder
from taicang.virtual.schedule import Clock, alone
from taicang.virtual.spec import Job

if TYPE_CHECKING:
    from taicang.virtual.price import Pricer

NAP_S = 0.01
"""A program that sleeps sleeps no longer than that on this host."""


class Live:
    """Schedules what was issued so far, whenever somebody asks for the time."""

    def __init__(self, device: Device, recorder: Recorder, job: Job) -> None:
        self.device, self.recorder, self.job = device, recorder, job
        self.pricer: Pricer | None = None
        self.clock: Clock | None = None
        self.done = 0
        self.lock = threading.RLock()

    def advance(self) -> Clock:
        """Up to the last entry of the log."""
        with self.lock:  # threads of the program ask too
            return self._advance()

    def _advance(self) -> Clock:
        if self.clock is None or self.pricer is None:
            from taicang import catalog
            from taicang.virtual.price import Pricer

            self.pricer = Pricer(
                catalog.machine(self.job.machine, self.job.sets), self.job.stack or None, self.job.issue_s
            )
            self.clock = Clock(seconds=[], groups=[], issue_s=self.pricer.issue_s, fallen=set())
        fresh = self.device.work(self.done)
        self.done += len(fresh)
        table, seconds = self.recorder.table, self.clock.seconds
        assert isinstance(seconds, list)
        assert isinstance(self.clock.groups, list)
        assert isinstance(self.clock.fallen, set)
        for kernel in table[len(seconds) :]:
            if self.pricer.falls(kernel):
                self.clock.fallen.add(len(seconds))
            seconds.append(self.pricer.seconds(kernel))
            self.clock.groups.append("")  # the others arrive when this rank does
        alone(self.clock, fresh)
        self.clock.begin.clear()
        self.clock.end.clear()
        return self.clock

    def host_s(self) -> float:
        """Seconds of the machine's host since the start."""
        return self.advance().host_s

    def between_ms(self, first: int, last: int) -> float:
        """Milliseconds from one event to another."""
        events = self.advance().events_s
        return (events.get(last, 0.0) - events.get(first, 0.0)) * 1e3


def install(live: Live) -> None:
    """Replace the clocks that programs measure themselves with."""
    process, real_time, real_counter, real_sleep = os.getpid(), time.time, time.perf_counter, time.sleep
    start, counter = real_time(), real_counter()

    def telling(begin: float, real: Callable[[], float]) -> Callable[[], float]:
        return lambda: begin + live.host_s() if os.getpid() == process else real()

    def sleep(seconds: float) -> None:
        if os.getpid() == process and threading.current_thread() is threading.main_thread():
            live.advance().host_s += seconds
            seconds = min(seconds, NAP_S)
        real_sleep(seconds)

    clock: Any = time
    clock.time, clock.perf_counter, clock.sleep = telling(start, real_time), telling(counter, real_counter), sleep
    clock.time_ns = lambda: int(clock.time() * 1e9)
    clock.perf_counter_ns = lambda: int(clock.perf_counter() * 1e9)
