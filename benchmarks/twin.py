"""The same script on a real device and on its virtual twin: step time, peak memory, launches of kernels.

    python benchmarks/twin.py --on hgx-h200 tests/virtual/programs/ddp.py --layers 12     (one device)

The real run needs PyTorch with that device; it times the optimizer's steps with events and counts kernels from the
first step to the last. Where there is no device it says so, and shows the twin alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

DDP = Path(__file__).parents[1] / "tests" / "virtual" / "programs" / "ddp.py"
REAL = """
import json, runpy, sys, torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.profiler import ProfilerActivity, profile
marks = []
def after(*_):
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    if not marks:
        seen.start()
    marks.append(event)
seen = profile(activities=[ProfilerActivity.CUDA])
register_optimizer_step_post_hook(after)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
torch.cuda.synchronize()
if marks:
    seen.stop()
steps = [a.elapsed_time(b) / 1e3 for a, b in zip(marks, marks[1:])]
kernels = sum(each.device_type == torch.autograd.DeviceType.CUDA for each in seen.events()) if marks else 0
print("TWIN " + json.dumps({"step_s": steps[-1] if steps else None, "launches": kernels / max(len(marks) - 1, 1),
                            "reserved_bytes": torch.cuda.max_memory_reserved(), "name": torch.cuda.get_device_name()}))
"""


def real(script: str, arguments: list[str]) -> dict[str, object] | None:
    """The run on this host's device; none where there is none."""
    ask = [sys.executable, "-c", "import torch; assert torch.cuda.is_available()"]
    if subprocess.run(ask, capture_output=True, check=False).returncode:
        return None
    done = subprocess.run([sys.executable, "-c", REAL, script, *arguments], capture_output=True, text=True, check=True)
    line = next(each for each in done.stdout.splitlines() if each.startswith("TWIN "))
    found: dict[str, object] = json.loads(line.removeprefix("TWIN "))
    return found


def virtual(machine: str, script: str, arguments: list[str], more: list[str]) -> dict[str, object]:
    """The run on one virtual device."""
    words = ["run", "--json", "--on", machine, "--world", "1", *more, script, *arguments]
    done = subprocess.run([sys.executable, "-m", "taicang", *words], capture_output=True, text=True, check=True)
    made = json.loads(done.stdout[done.stdout.index('{\n  "status"') :])["run"]
    rank = made["ranks"][0]
    return {"step_s": made["step_s"], "launches": sum(each["launches"] for each in rank["lines"]),
            "reserved_bytes": rank["memory"]["reserved_bytes"], "name": made["machine"]}  # fmt: skip


def main() -> None:
    """Both, side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--on", default="hgx-h200", help="The machine that the device is of.")
    parser.add_argument("--fuse", action="store_true")
    parser.add_argument("script", nargs="?", default=str(DDP))
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if find_spec("torch") is None:
        print("twin: needs taicang[torch]")
        return
    twin = virtual(given.on, given.script, given.arguments, ["--fuse"] if given.fuse else [])
    device = real(given.script, given.arguments)
    if device is None:
        print("no device here: the virtual twin alone")
    for each in filter(None, (device, twin)):
        print(f"{each['name']!s:28s} step {each['step_s']} s, {each['launches']} kernels a step, "
              f"{each['reserved_bytes']} bytes reserved")  # fmt: skip


if __name__ == "__main__":
    main()
