"""How fast the fabric is priced link by link, on one core.

    python benchmarks/fabric_speed.py [DRAWS]

Targets: all-to-all of 768 ranks with skewed demand (589,056 flows) 2 s and 2 GB; an even one of 10,000 ranks 0.5 s; a
ring all-reduce of 384 ranks 0.2 s; a training-like graph of 60 layers on 384 ranks 1 s; 1,000 draws of faults with
their step times 30 s.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from taicang import catalog
from taicang.catalog.costing import cost_model
from taicang.fabric import demand
from taicang.fabric.collectives import collective, listed, teams_of
from taicang.fabric.even import Net
from taicang.fabric.routing import resources
from taicang.fabric.topology import build
from taicang.hardware import Links
from taicang.interop import execute
from taicang.interop.work import Task, Workload
from taicang.ops import Collective
from taicang.predict.fabric_parts import breakage
from taicang.stacks import BARE

CM384 = catalog.machine("cloudmatrix384")
DRAWS = int(sys.argv[1]) if len(sys.argv) > 1 else 1000


def net(spec: str) -> Net:
    fabric = build(catalog.machine(spec))
    return Net(fabric=fabric, found=resources(fabric))


def skewed(lognormal: bool) -> float:
    on, rng = net("cloudmatrix384"), np.random.default_rng(0)
    sizes = np.array(demand.skewed(768, 1e9, 1.1, rng))
    if lognormal:
        sizes *= rng.lognormal(0.0, 1.0, sizes.shape)
    source, target = (x.ravel() for x in np.meshgrid(np.arange(768), np.arange(768), indexing="ij"))
    apart = source != target
    return listed(on, "", source[apart], target[apart], sizes.ravel()[apart], hops=1).seconds


def even() -> float:
    return collective(net("hgx-h100 x 1250"), "all_to_all", teams_of(10_000), 1e9)[0].seconds


def ring() -> float:
    return collective(net("cloudmatrix384"), "all_reduce", teams_of(384), 1e9, "ring")[0].seconds


def graph() -> float:
    """384 ranks, a graph each: 60 layers of compute, exchange, compute, exchange, and an all-reduce, link by link."""
    price = cost_model(replace(CM384, links=Links()), BARE).price
    tasks = []
    for number in range(240):
        exchange = number % 2
        tasks.append(
            Task(id=number, name=f"layer {number // 4}", kind="collective" if exchange else "compute",
                 after=(number - 1,) if number else (), seconds=1e-3, collective="all_to_all",
                 payload_bytes=1e7 + 1e4 * number)
        )  # fmt: skip
    tasks.append(replace(tasks[1], id=240, after=(239,), collective="all_reduce", payload_bytes=1e9))
    work = Workload(name="training", ranks=dict.fromkeys(range(384), tasks), groups={})

    def timed(task: Task, members: Sequence[int]) -> float:
        op = Collective(kind=task.collective, payload_bytes=task.payload_bytes, ranks=len(members))  # type: ignore[arg-type]
        return float(price(op).seconds)

    return max(ran.seconds for ran in execute.run(work, 384, timed, lambda task: task.seconds).values())


def draws() -> float:
    return breakage(CM384, draws=DRAWS, serve="deepseek-r1").step_s["mean"]


CASES: dict[str, tuple[Callable[[], float], float]] = {
    "all-to-all, 768 ranks, popular receivers": (lambda: skewed(lognormal=False), 2.0),
    "all-to-all, 768 ranks, every pair another size": (lambda: skewed(lognormal=True), 2.0),
    "even all-to-all, 10,000 ranks": (even, 0.5),
    "ring all-reduce, 384 ranks": (ring, 0.2),
    "60 layers on 384 ranks, a graph each, and an all-reduce": (graph, 1.0),
    f"{DRAWS:,} draws of faults with decode steps": (draws, 0.03 * DRAWS),
}


def main() -> None:
    for label, (case, target) in CASES.items():
        start = time.process_time()
        found = case()
        spent = time.process_time() - start
        print(f"{label:52s} {spent:7.3f} s (target {target:g} s), answer {found * 1e3:10.3f} ms")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
