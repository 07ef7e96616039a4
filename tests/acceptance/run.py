"""Programs of others against taicang: each is installed in an environment of its own and says what it sees.

    make acceptance            all of them
    python tests/acceptance/run.py openai vllm-scheduler

Clients measure ``taicang serve``: what they see agrees with what the machine has on record of the same requests, which
``tests/laws`` hold to a replay tick for tick. The machine runs at a fraction of its speed, so that the client's own
time counts for as much less. Engines run their own schedulers: what those decide agrees with what ours decides.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from clients import CLIENTS, KEY
from folder import write

sys.path.insert(0, str(Path(__file__).parents[1]))

from ports import free_port, serving

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "acceptance"
ENVIRONMENTS = {
    "openai": ("openai==3.57.0",),
    "aiperf": ("aiperf==0.13.0", "torch==2.13.0"),
    "guidellm": ("guidellm==0.8.1", "torch==2.13.0"),
    "sglang": ("--no-deps", "-r", str(HERE / "sglang.txt"), "-e", str(ROOT)),
    "vllm": ("--no-deps", "-r", str(HERE / "vllm.txt"), "-e", str(ROOT)),
}
"""What each needs, as pip takes it."""
SERVE = ["qwen3-32b", "--on", "hgx-h20", "--tp", "4", "--instances", "2", "--api-key", "sesame"]
SPEED = 0.05
LONG = 50
"""Tokens of the answers that are compared."""
WORKLOADS = 1000
AGREE_RATIO = 0.99


def environment(name: str) -> Path:
    """Python of a virtual environment with the client in it."""
    folder = BUILD / name
    python = folder / "bin" / "python"
    if not (folder / ".installed").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *ENVIRONMENTS[name]], check=True)
        (folder / ".installed").touch()
    return python


def run(name: str, *words: str, **variables: str) -> str:
    """What a program of the environment ``name`` prints; a first word that ends in .py is a script beside this one."""
    program = environment(name)
    begin = [str(program), str(HERE / words[0])] if words[0].endswith(".py") else [str(program.parent / words[0])]
    bare = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")} | variables
    return subprocess.run([*begin, *words[1:]], stdout=subprocess.PIPE, text=True, check=True, env=bare).stdout


def near(name: str, seen_s: float, known_s: float, floor_s: float) -> None:
    """Raise where the client saw something else than the machine knows."""
    print(f"  {name}: {seen_s * 1e3:.2f} ms seen, {known_s * 1e3:.2f} ms on record")
    if abs(seen_s - known_s) > max(0.02 * known_s, floor_s):
        raise SystemExit(f"{name} differs")


def client(name: str) -> None:
    """A client and the machine saw the same."""
    place, command, seen_by = CLIENTS.get(name, (name, None, None))
    environment(place)
    out, folder = Path(tempfile.mkdtemp()), write(Path(tempfile.mkdtemp()))
    words = [*SERVE, "--speed", str(SPEED), "--out", str(out), "--format", "json", "--tokenizer", str(folder)]
    with serving(*words) as port:
        url = f"http://127.0.0.1:{port}"
        if command is None:
            seen = json.loads(run(place, f"{name}_client.py", url))
        else:
            run(place, *command(url, folder), OPENAI_API_KEY=KEY)
            seen = seen_by(folder)
    known = [row for row in json.loads((out / "requests.json").read_text()) if row["output_tokens"] >= LONG]
    print(f"{name}: {len(known)} requests")
    assert len(known) == seen["requests"]
    for figure, floor_s in (("ttft_s", 0.003), ("tpot_s", 0.0)):
        near(figure, seen[figure] * SPEED, sum(row[figure] for row in known) / len(known), floor_s)
    if "output_tokens_per_s" in seen:
        lasted_s = max(row["arrival_s"] + row["e2e_s"] for row in known) - min(row["arrival_s"] for row in known)
        rate = sum(row["output_tokens"] for row in known) / lasted_s
        near("time per token of all", SPEED / seen["output_tokens_per_s"], 1.0 / rate, 0.0)


def kv_events() -> None:
    """vLLM's own classes read what the caches tell."""
    told = f"tcp://127.0.0.1:{free_port()}"
    with serving(*SERVE, "--kv-events", f"tcp://*:{free_port()}", "--kv-replay", told) as port:
        print("vllm-kv-events:", run("vllm", "vllm_kv_events.py", f"http://127.0.0.1:{port}", told))


def scheduler() -> None:
    """vLLM's scheduler and ours make the same steps."""
    said = run("vllm", "vllm_scheduler.py", str(WORKLOADS), VLLM_LOGGING_LEVEL="ERROR")
    print(f"vllm-scheduler: {said.strip()}")
    found = json.loads(said)
    if found["agree"] < AGREE_RATIO * found["steps"]:
        raise SystemExit("the schedulers differ")


def sglang() -> None:
    """SGLang's scheduler and ours make the same steps while pages and budget last; how far beyond is said."""
    said = run("sglang", "sglang_scheduler.py", str(WORKLOADS // 5))
    print(f"sglang-scheduler: {said.strip()}")
    found = json.loads(said.strip().splitlines()[-1])["ample"]
    if found["agree"] < AGREE_RATIO * found["steps"]:
        raise SystemExit("the schedulers differ")


def plugin() -> None:
    """The real vLLM takes as long on a virtual machine as its steps are priced."""
    for machine in ("cloudmatrix384", "hgx-h100"):
        seen = json.loads(run("vllm", "vllm_plugin.py", machine, str(SPEED), VLLM_LOGGING_LEVEL="ERROR"))
        print(f"vllm-plugin on {machine}: {seen['text']}")
        for figure, floor_s in (("ttft_s", 0.005), ("tpot_s", 0.0)):
            near(figure, seen[figure], seen[f"priced_{figure}"], floor_s)


ALL = {name: partial(client, name) for name in ("openai", *CLIENTS)} | {
    "vllm-scheduler": scheduler,
    "vllm-kv-events": kv_events,
    "vllm-plugin": plugin,
    "sglang-scheduler": sglang,
}


def main() -> None:
    """Run those that are named, or all."""
    for name in sys.argv[1:] or ALL:
        ALL[name]()


if __name__ == "__main__":
    main()
