"""How long it takes to price one training step of a 405B model on 8,192 GPUs, and to search its plans on 1,024.

python benchmarks/train_step.py [ROUNDS]
"""

from __future__ import annotations

import sys
import time

from taicang import catalog
from taicang.catalog.costing import training_price
from taicang.catalog.models import model
from taicang.train.pipeline import graph
from taicang.train.search import search
from taicang.train.setup import Setup
from taicang.train.step import train_step
from taicang.train_plans import TrainPlan, recipe

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 20
PLAN = TrainPlan(tp=8, cp=2, pp=16, vpp=4, dp=32, global_batch=2048, seq=8192, recipe=recipe("fp8"))


def setup(nodes: int, plan: TrainPlan) -> Setup:
    """A fresh setup, whose cost model remembers nothing."""
    machine, stack = catalog.machine(f"hgx-h100 x {nodes}"), catalog.stack("nemo")
    return Setup(
        model=model("llama-3.1-405b"), plan=plan, machine=machine, stack=stack, price=training_price(machine, stack)
    )


def main() -> None:
    train_step(setup(1024, PLAN))  # imports and calibration files
    times = []
    for _ in range(ROUNDS):
        fresh = setup(1024, PLAN)
        graph.cache_clear()  # the schedule is built anew too
        start = time.process_time()
        train_step(fresh)
        times.append(time.process_time() - start)
    times.sort()
    print(f"one step, 405B on 8,192 GPUs: median {times[ROUNDS // 2] * 1e3:.1f} ms, best {times[0] * 1e3:.1f} ms")
    wide = setup(128, TrainPlan(global_batch=1024, seq=8192, recipe=recipe("fp8")))
    start = time.process_time()
    found = search(wide)
    taken = time.process_time() - start
    print(f"search, 405B on 1,024 GPUs: {found.candidates:,} legal plans in {taken:.2f} CPU-s")


if __name__ == "__main__":
    main()
