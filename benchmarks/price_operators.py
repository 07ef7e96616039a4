"""Operator prices per second on one core, and microseconds of one fresh scalar price, for every family of the union.

Everything goes through ``CostModel.price``; the house rule is a million prices per second over arrays of 10,000.
Run: python benchmarks/price_operators.py [REPEATS]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from taicang import catalog
from taicang.catalog.costing import cost_model
from taicang.ops import Attend, Collective, Exchange, Gemm, GroupedGemm, Host, Lookup, Operator, Pointwise, Transfer

SHAPES = 10_000
FLOOR_PER_S = 1e6
REPEATS = int(sys.argv[1]) if len(sys.argv) > 1 else 20


def best(call: Callable[[], object], repeats: int) -> float:
    """Shortest of ``repeats`` calls in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def attend(kind: str, phase: str, length: np.ndarray) -> Attend:
    new = length if phase == "prefill" else np.ones_like(length)
    wide = {"gqa": (8, 128, 128), "mla": (1, 576, 512) if phase == "decode" else (32, 192, 128)}[kind]
    return Attend(
        kind=kind,
        phase=phase,
        sequences=8.0 + 0.0 * length,
        queries=8.0 * new,
        pairs=8.0 * new * (length + 1.0) / 2.0 if phase == "prefill" else 8.0 * length,
        context=8.0 * length,
        heads=32,
        kv_heads=wide[0],
        qk_dim=wide[1],
        v_dim=wide[2],
        dtype="bf16",
        kv_dtype="bf16",
    )


def operators() -> Mapping[str, Operator]:
    """One operator of arrays per family; the field that varies is a size drawn log-uniformly."""
    rng = np.random.default_rng(0)
    m, n, k = np.floor(16384 ** rng.random((3, SHAPES))) + 1
    size = np.floor(2.0 ** (30 * rng.random(SHAPES))) + 1
    routed = {"topk": 8, "experts": 256, "skew": 1.01}
    return {
        "gemm bf16": Gemm(m=m, n=n, k=k, dtype="bf16"),
        "gemm fp8_block": Gemm(m=m, n=n, k=k, dtype="fp8_block"),
        "gqa prefill": attend("gqa", "prefill", m),
        "gqa decode": attend("gqa", "decode", m),
        "mla prefill": attend("mla", "prefill", m),
        "mla decode": attend("mla", "decode", m),
        "experts": GroupedGemm(tokens=m, experts_local=8.0, hidden=7168.0, inter=2048.0, dtype="fp8_block", **routed),
        "pointwise": Pointwise(kind="norm", elements=size, moved_bytes=4.0 * size),
        "lookup": Lookup(rows=m, row_bytes=14336.0),
        "all-reduce": Collective(kind="all_reduce", payload_bytes=size, ranks=8.0),
        "all-gather": Collective(kind="all_gather", payload_bytes=size, ranks=32.0),
        "all-to-all": Collective(kind="all_to_all", payload_bytes=size, ranks=32.0),
        "dispatch": Exchange(kind="dispatch", tokens=m, token_bytes=7392.0, ranks=32.0, **routed),
        "combine": Exchange(kind="combine", tokens=m, token_bytes=14336.0, ranks=32.0, low_latency=False, **routed),
        "transfer": Transfer(payload_bytes=size, plane="scale_up", distance=32.0),
        "host": Host(graphs=1.0, layers=61.0, sequences=m),
    }


def first(op: Operator) -> Operator:
    """The first candidate of an operator of arrays, as floats."""
    names = [name for name in op.__slots__ if isinstance(getattr(op, name), np.ndarray)]
    return replace(op, **{name: float(getattr(op, name)[0]) for name in names})


def main() -> None:
    machine, stack = catalog.machine("hgx-h200 x 4"), catalog.stack("sglang")
    costs = cost_model(machine, stack)
    for name, op in operators().items():
        rate = SHAPES / best(lambda op=op: costs.price(op), REPEATS)
        one = first(op)
        alone = best(lambda one=one: replace(costs, known={}).price(one), 25 * REPEATS)
        short = "" if rate >= FLOOR_PER_S else "  BELOW a million per second"
        print(f"{name:16} {rate / 1e6:6.2f} M prices/s   {alone * 1e6:6.1f} us a call{short}")


if __name__ == "__main__":
    main()
