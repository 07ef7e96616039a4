# ruff: noqa: T201
"""A sweep in one call: the decode step of Llama 3.1 70B on four H100 over 4,096 batch sizes, priced as arrays."""

import numpy as np

from taicang.catalog import machine, stack
from taicang.catalog.costing import cost_model
from taicang.catalog.models import model
from taicang.plans import ServePlan, decode_batch
from taicang.serve.setup import Setup, step

hgx, engine = machine("hgx-h100"), stack("vllm")
setup = Setup(
    model=model("llama-3.1-70b"),
    plan=ServePlan(tp=4, moe_tp=4),
    machine=hgx,
    stack=engine,
    price=cost_model(hgx, engine).price,
)
sequences = np.arange(1.0, 4097.0)
seconds = np.asarray(step(setup, decode_batch(sequences=sequences, context=2048.0)).seconds)
for size in (1, 16, 256, 4096):
    at = seconds[size - 1]
    print(f"{size:5d} sequences: step {at * 1e3:6.2f} ms, {size / at:9,.0f} tokens/s")
