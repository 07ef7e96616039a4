"""A server of a test's own: a port that is free, when somebody listens there, and its end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def reach(port: int, most_s: float = 500.0) -> None:
    """Wait until somebody listens."""
    until = time.monotonic() + most_s
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the endpoint does not come up")


@contextmanager
def serving(*words: str) -> Iterator[int]:
    """``taicang serve`` with these words, on a port of its own, until Ctrl-C."""
    port = free_port()
    command = [sys.executable, "-m", "taicang", "serve", *words, "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        reach(port)
        yield port
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=500)
