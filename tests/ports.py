"""A server of a test's own: a port that is free, and when somebody listens there."""

from __future__ import annotations

import socket
import time


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def reach(port: int, most_s: float = 120.0) -> None:
    """Wait until somebody listens."""
    until = time.monotonic() + most_s
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the endpoint does not come up")
