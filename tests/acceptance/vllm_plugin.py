"""The real vLLM, its OpenAI server included, on a machine that is not there: what a chat sees of each step's price.

Called with a machine and a speed in vLLM's environment, where taicang is installed too; prints what it saw as JSON.
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
from urllib.request import urlopen

from folder import write
from openai import OpenAI

from taicang.predict.steps import StepPredictor

MODEL, PLAN, TOKENS = "qwen3-32b", "TP4", 40


def chat(port: int) -> tuple[list[float], int, str]:
    """When its pieces came, its prompt's tokens, and its text."""
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
    began, times, text, prompt = time.monotonic(), [], "", 0
    stream = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": f"How are you at {began}?"}], max_tokens=TOKENS, stream=True,
        stream_options={"include_usage": True}, extra_body={"ignore_eos": True},
    )  # fmt: skip
    for part in stream:
        if part.choices and part.choices[0].delta.content:
            times.append(time.monotonic() - began)
            text += part.choices[0].delta.content
        if part.usage:
            prompt = part.usage.prompt_tokens
    return times, prompt, text


def main() -> None:
    """Serve, chat, and say how it was."""
    machine, speed = sys.argv[1], float(sys.argv[2])
    priced = StepPredictor(MODEL, machine, PLAN)
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        write(Path(folder))
        chosen = {"TAICANG_MACHINE": machine, "TAICANG_MODEL": MODEL, "TAICANG_PLAN": PLAN, "TAICANG_SPEED": str(speed)}
        command = [str(Path(sys.executable).parent / "vllm"), "serve", folder, "--served-model-name", MODEL, "--port",
                   str(port), "--host", "127.0.0.1", "--max-model-len", "8192"]  # fmt: skip
        with open(Path(folder) / "log", "w+") as log:
            server = subprocess.Popen(command, env=os.environ | chosen, stdout=log, stderr=log)
            try:
                for _ in range(600):
                    try:
                        urlopen(f"http://127.0.0.1:{port}/health").close()
                        break
                    except OSError:
                        time.sleep(0.5)
                        if server.poll() is not None:
                            break
                chat(port)
                times, prompt, text = chat(port)
            finally:
                server.send_signal(signal.SIGINT)
                server.wait(timeout=60)
                log.seek(0)
                sys.stderr.write("" if server.returncode == 0 else log.read()[-3000:])
    print(json.dumps({
        "machine": machine, "text": text, "ttft_s": times[0] * speed,
        "tpot_s": (times[-1] - times[0]) / (len(times) - 1) * speed, "priced_ttft_s": priced.seconds([prompt], [0]),
        "priced_tpot_s": priced.seconds([1], [prompt + TOKENS // 2]),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
