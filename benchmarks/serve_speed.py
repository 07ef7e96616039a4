"""Timed server-sent tokens per CPU-second of the endpoint, and of FastAPI's StreamingResponse where it is installed.

python benchmarks/serve_speed.py [STREAMS [TOKENS]]

Both stream the same number of answers at once, a token every 20 ms or so, to the same client, which only counts.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from ports import free_port, reach

STREAMS = int(sys.argv[1]) if len(sys.argv) > 1 else 600
TOKENS = int(sys.argv[2]) if len(sys.argv) > 2 else 400
TAICANG = [
    sys.executable, "-m", "taicang", "serve", "llama-3.1-8b", "--on", "hgx-h100", "--tp", "1", "--instances", "1",
    "--max-batch", str(STREAMS), "--port", "{port}",
]  # fmt: skip
FASTAPI = """
import asyncio, sys, uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
app = FastAPI()
PART = 'data: {"id":"chatcmpl-0","object":"chat.completion.chunk","created":0,"model":"m","choices":[{"index":0,' \\
    '"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}\\n\\n'
@app.post("/v1/chat/completions")
async def chat(body: dict):
    async def tokens():
        for _ in range(body["max_tokens"]):
            await asyncio.sleep(0.02)
            yield PART
        yield "data: [DONE]\\n\\n"
    return StreamingResponse(tokens(), media_type="text/event-stream")
uvicorn.run(app, port=int(sys.argv[1]), log_level="critical", access_log=False)
"""


def cpu_s(process: int) -> float:
    """User and system time of a process."""
    with open(f"/proc/{process}/stat") as file:
        fields = file.read().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(port: int, streams: int, tokens: int) -> int:
    """Open so many streams at once and count the parts that come."""
    body = json.dumps({"model": "llama-3.1-8b", "messages": [{"role": "user", "content": "Hi"}], "stream": True,
                       "max_tokens": tokens}).encode()  # fmt: skip
    lines = ("POST /v1/chat/completions HTTP/1.1", "host: x", "content-type: application/json",
             f"content-length: {len(body)}")  # fmt: skip
    head = "\r\n".join(lines) + "\r\n\r\n"
    polled = selectors.DefaultSelector()
    for _ in range(streams):
        each = socket.create_connection(("127.0.0.1", port))
        each.sendall(head.encode() + body)
        each.setblocking(False)
        polled.register(each, selectors.EVENT_READ)
    parts, left = 0, streams
    while left:
        for key, _ in polled.select(30):
            data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
            parts += data.count(b"data: {")
            if b"[DONE]" in data or not data:
                polled.unregister(key.fileobj)
                key.fileobj.close()  # type: ignore[union-attr]
                left -= 1
    return parts


def measure(name: str, command: list[str]) -> float:
    port = free_port()
    process = subprocess.Popen([word.format(port=port) for word in command], stderr=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL)  # fmt: skip
    try:
        reach(port)
        load(port, 10, 10)
        before, began = cpu_s(process.pid), time.monotonic()
        parts = load(port, STREAMS, TOKENS)
        # the kernel counts in ticks: a short load may take none
        spent, took = max(cpu_s(process.pid) - before, 1.0 / os.sysconf("SC_CLK_TCK")), time.monotonic() - began
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)
    print(f"{name:<10} {parts:,} tokens in {took:.1f} s, {spent:.2f} CPU-s: {parts / spent:,.0f} per CPU-s")
    return parts / spent


def main() -> None:
    """Print both."""
    try:
        import uvicorn  # noqa: F401, PLC0415
    except ImportError:
        print("serve_speed: needs taicang[serve]")
        return
    ours = measure("taicang", TAICANG)
    try:
        import fastapi  # noqa: F401, PLC0415
    except ImportError:
        return
    plain = measure("FastAPI", [sys.executable, "-c", FASTAPI.replace("{", "{{").replace("}", "}}"), "{port}"])
    print(f"{ours / plain:.1f} times as many")


if __name__ == "__main__":
    main()
