"""CPU seconds of whole `taicang replay` commands on one core: python benchmarks/replay.py [../shared/traces [REQUESTS]]

Targets: 5,000 requests of Azure-conv-2023 on 8 replicas of a 7B model 0.8 s; the Mooncake conversation trace on 16
instances 2 s round-robin, 3 s prefix-aware, 3 s disaggregated; 131,072 requests of 1,024/128 under 64 clients 3 s; one
million requests of the DeepSeek-R1 profile on CloudMatrix384 60 s and 4 GB (with --all).
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

TRACES, *SHORT = [each for each in sys.argv[1:] if not each.startswith("-")] or ["../shared/traces"]
MOONCAKE = [f"{TRACES}/mooncake_fast25_conversation.jsonl.gz", "llama-3.1-8b", "--on", "hgx-h100 x 2"]
CLOSED = "--closed-loop 64 --input 1024 --output 128 --requests 131072 llama-2-7b --on hgx-h100 --instances 1 --tp 1"
MILLION = "--profile servegen-deepseek-r1 --rate 40/s --requests 1000000 deepseek-r1 --on cloudmatrix384"
AZURE = [f"{TRACES}/azure_llm_2023_conv.csv.gz", "llama-2-7b", "--on", "hgx-h100", "--instances", "8", "--tp", "1"]
RUNS = {
    "azure, 5,000 requests, 8 replicas": (0.8, [*AZURE, "--requests", "5000"]),
    "mooncake, 16 instances, round-robin": (
        2.0,
        [*MOONCAKE, "--instances", "16", "--tp", "1", "--router", "round-robin"],
    ),
    "mooncake, 16 instances, prefix-aware": (
        3.0,
        [*MOONCAKE, "--instances", "16", "--tp", "1", "--router", "prefix-aware"],
    ),
    "mooncake, 8 + 8 disaggregated": (3.0, [*MOONCAKE, "--prefill", "8x1", "--decode", "8x1"]),
    "131,072 requests under 64 clients": (3.0, CLOSED.split()),
    "one million requests of DeepSeek-R1": (60.0, MILLION.split()),
}


PEERS = {
    "azure, 5,000 requests, 8 replicas": "Vidur 21-24 s, splitwise-sim 10-25 s",
    "mooncake, 16 instances, round-robin": "native code 5.5 s",
    "mooncake, 16 instances, prefix-aware": "native code 6.3 s",
    "mooncake, 8 + 8 disaggregated": "native code 7.9 s",
    "131,072 requests under 64 clients": "native code 3.0 s on its own host",
}
"""What the nearest public simulators take for the same work."""


def run(arguments: list[str], *more: str) -> None:
    """The whole command, in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is compiled once
    command = [sys.executable, "-m", "taicang", "replay", *arguments, *more]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)


def main() -> None:
    """Run them one after the other."""
    limit = ["--requests", *SHORT] if SHORT else []
    run(CLOSED.split(), "--requests", "10")  # compiled from here on
    for name, (target, arguments) in RUNS.items():
        if "million" in name and "--all" not in sys.argv:
            continue
        if arguments[0].startswith(TRACES) and not Path(arguments[0]).exists():
            print(f"{name:<37} skipped: no {arguments[0]}")
            continue
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(arguments, *limit)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        peer = f"; {PEERS[name]}" if name in PEERS else ""
        peak = after.ru_maxrss / 2**20
        print(f"{name:<37} {spent:6.2f} s CPU (target {target:g} s{peer}), peak {peak:.2f} GiB so far")


if __name__ == "__main__":
    main()
