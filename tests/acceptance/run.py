"""Real clients against ``taicang serve``: each is installed in an environment of its own and measures what it sees.

    make acceptance            all of them
    python tests/acceptance/run.py openai

What a client measures agrees with what the machine has on record of the same requests, which ``tests/laws`` hold to a
replay tick for tick: mean time to first token within 2 % or 3 ms, time between tokens within 2 %. The machine runs at a
twentieth of its speed, so that the client's own time counts for a twentieth.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "acceptance"
CLIENTS = {"openai": ("openai==3.57.0",)}
"""What each needs; the script beside this one is called with the address and prints what it saw as JSON."""
SERVE = ["serve", "qwen3-32b", "--on", "hgx-h20", "--tp", "4", "--instances", "2", "--api-key", "sesame"]
SPEED = 0.05
LONG = 50
"""Tokens of the answers that are compared."""


def environment(name: str) -> Path:
    """Python of a virtual environment with the client in it."""
    folder = BUILD / name
    python = folder / "bin" / "python"
    if not (folder / ".installed").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *CLIENTS[name]], check=True)
        (folder / ".installed").touch()
    return python


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def reach(port: int) -> None:
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the endpoint does not come up")


def near(name: str, seen_s: float, known_s: float, floor_s: float) -> None:
    """Raise where the client saw something else than the machine knows."""
    print(f"  {name}: {seen_s * 1e3:.2f} ms seen, {known_s * 1e3:.2f} ms on record")
    if abs(seen_s - known_s) > max(0.02 * known_s, floor_s):
        raise SystemExit(f"{name} differs")


def main() -> None:
    """Run the clients that are named, or all."""
    for name in sys.argv[1:] or CLIENTS:
        python, port = environment(name), free_port()
        out = tempfile.mkdtemp()
        command = [sys.executable, "-m", "taicang", *SERVE, "--port", str(port), "--speed", str(SPEED), "--out", out,
                   "--format", "json"]  # fmt: skip
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            reach(port)
            bare = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
            ran = subprocess.run([str(python), str(HERE / f"{name}_client.py"), f"http://127.0.0.1:{port}"],
                                 stdout=subprocess.PIPE, text=True, check=True, env=bare)  # fmt: skip
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=30)
        seen, rows = json.loads(ran.stdout), json.loads((Path(out) / "requests.json").read_text())
        known = [row for row in rows if row["output_tokens"] >= LONG]
        assert len(known) == seen["requests"]
        print(f"{name}: {len(known)} requests")
        for figure, floor_s in (("ttft_s", 0.003), ("tpot_s", 0.0)):
            near(figure, seen[figure] * SPEED, sum(row[figure] for row in known) / len(known), floor_s)


if __name__ == "__main__":
    main()
