"""How late the live clock lets tokens happen, beside a process that only waits: what that one suffers is the host's."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import numpy as np

from taicang.live.clock import LoopClock
from taicang.live.supernode import Stream, Supernode
from taicang.plans import ServePlan
from taicang.predict.standing import stand
from taicang.predict.system import System

STREAMS = 16
BARE = """
import sys, time
due = time.monotonic()
until = due + float(sys.argv[1])
while due < until:
    due += 0.01
    time.sleep(max(due - time.monotonic(), 0.0))
    print(time.monotonic() - due)
"""


class Timed(Stream):
    """Notes how long after its time each token is told."""

    __slots__ = ("late_s", "machine")

    def __init__(self, machine, late_s):
        super().__init__()
        self.machine, self.late_s = machine, late_s

    def told(self, now, *, ended=False):
        pace = self.machine.pace
        self.late_s.append(pace.clock.time() - pace.when(now))


async def tokens(lasts_s):
    """Seconds by which each token of some streams is late."""
    clock, late_s = LoopClock(asyncio.get_running_loop()), []
    system = System(instances=1, plan=ServePlan(tp=1), sequences=STREAMS)
    standing = stand("llama-3.1-8b", "hgx-h100", system, context=2048.0, block_tokens=16)
    machine = Supernode(standing.cluster, clock, strike=standing.strike)
    for _ in range(STREAMS):
        machine.submit(Timed(machine, late_s), 100, 100_000)
    await asyncio.sleep(lasts_s)
    clock.close()
    return late_s


def lateness(lasts_s):
    """Of tokens, and of a process that only waits, over the same time."""
    bare = subprocess.Popen([sys.executable, "-c", BARE, str(lasts_s)], stdout=subprocess.PIPE, text=True)
    late_s = asyncio.run(tokens(lasts_s))
    said, _ = bare.communicate(timeout=500 + lasts_s)
    return np.array(late_s), np.array(said.split(), dtype=float)


def test_tokens_come_within_a_millisecond_of_their_time():
    for tries in range(5):
        late_s, bare_s = lateness(2.0)
        assert len(late_s) > 50 * STREAMS
        assert late_s.min() >= 0.0  # never early
        if np.quantile(late_s, 0.99) <= 0.001 + bare_s.max():
            return
        time.sleep(2.0**tries)
    raise AssertionError((np.quantile(late_s, [0.5, 0.9, 0.99]), np.quantile(bare_s, [0.5, 0.9, 0.99, 1.0])))
