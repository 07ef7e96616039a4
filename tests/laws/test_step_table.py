"""The simulator's table of step times against the direct price of the same step, over all sizes."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from taicang import catalog
from taicang.catalog.costing import cost_model
from taicang.catalog.models import model
from taicang.plans import Batch, Quantisation, ServePlan
from taicang.serve.request import SECOND
from taicang.serve.setup import Setup, step
from taicang.serve.steptable import GRAIN, StepTable

FP8 = Quantisation(attention="fp8_block", dense="fp8_block", experts="fp8_block")
INT8 = Quantisation(attention="int8", dense="int8", experts="int8", dispatch="int8")
CASES = {
    "grouped queries": ("llama-3.1-8b", "hgx-h100", "vllm", ServePlan(), 256, 8192),
    "pipeline": ("llama-3.1-70b", "hgx-h100", "vllm", ServePlan(tp=4, pp=2, moe_tp=4), 256, 8192),
    "sliding window": ("gemma-3-27b", "hgx-h100", "vllm", ServePlan(tp=2, moe_tp=2), 128, 8192),
    "experts, attention-DP": ("qwen3-30b-a3b", "hgx-h100", "vllm", ServePlan(tp=2, dp=4, ep=8), 256, 8192),
    "latent": ("deepseek-r1", "hgx-h200", "vllm", ServePlan(tp=8, moe_tp=8, quant=FP8), 256, 8192),
    "latent, attention-DP": ("deepseek-r1", "hgx-h200", "sglang", ServePlan(dp=8, ep=8, quant=FP8), 128, 16384),
    "two-batch overlap": (
        "deepseek-r1",
        "hgx-h200 x 4",
        "sglang",
        ServePlan(dp=32, ep=32, microbatches=2, exchange="all_to_all", quant=FP8),
        128,
        8192,
    ),
    "sparse": ("deepseek-v3.2", "hgx-h200", "vllm", ServePlan(tp=8, moe_tp=8, quant=FP8), 128, 8192),
    "one kernel for both": ("qwen3-235b-a22b", "hgx-a100", "vllm", ServePlan(tp=8, moe_tp=8), 256, 2048),
    "launch-bound": ("qwen3-30b-a3b", "atlas-800-a3-752t", "vllm-ascend", ServePlan(tp=4, moe_tp=4), 64, 8192),
    "sequence-parallel prefill": (
        "deepseek-r1",
        "cloudmatrix384",
        "cloudmatrix-infer",
        ServePlan(tp=32, sp=True, ep=32, redundant=32, microbatches=2, quant=INT8),
        64,
        262144,
    ),
}
ROWS = 300


def log_uniform(rng: random.Random, low: float, high: float) -> int:
    return max(round(float(np.exp(rng.uniform(np.log(low), np.log(max(high, low)))))), 1)


def loads(sequences: int, tokens: int, *, equal: bool, decode: bool) -> list[tuple[int, int, float, int, int, int]]:
    """(tokens, prompts, pairs, keys, decoding, mean context): log-uniform new tokens, prefixes, batches, contexts."""
    rng = random.Random(11)
    made = []
    while len(made) < ROWS:
        prompts = log_uniform(rng, 1, sequences)
        new = [log_uniform(rng, 1, tokens / prompts) for _ in range(1 if equal else prompts)]
        cached = [rng.choice([0, log_uniform(rng, 1, 300_000)]) for _ in new]
        if equal:
            new, cached = new * prompts, cached * prompts
        if sum(new) > tokens:
            continue
        pairs = float(sum(n * c + n * (n + 1) / 2 for n, c in zip(new, cached, strict=True)))
        n = rng.choice([0, log_uniform(rng, 1, sequences)]) if decode else 0
        made.append((sum(new), prompts, pairs, sum(new) + sum(cached), n, log_uniform(rng, 16, 100_000)))
    return made


def errors(case: str, *, equal: bool) -> np.ndarray:
    name, on, engine, plan, sequences, tokens = CASES[case]
    machine, stack = catalog.machine(on), replace(catalog.stack(engine), joint_attention=case == "one kernel for both")
    price = cost_model(machine, stack).price
    setup = Setup(model=model(name), plan=plan, machine=machine, stack=stack, price=price)
    table = StepTable(setup, sequences=sequences, tokens=tokens)
    listed = loads(sequences, tokens, equal=equal, decode=not plan.sp)
    got = [table.mixed(t, p, pairs, keys, n, n * c * GRAIN) / SECOND for t, p, pairs, keys, n, c in listed]
    t, p, pairs, keys, n, c = np.asarray(listed, dtype=float).T
    batch = Batch(
        prefill_tokens=t, prefill_sequences=p, prefill_pairs=pairs, prefill_context=keys,
        decode_sequences=n, decode_context=n * c,
    )  # fmt: skip
    return np.abs(np.asarray(got) / np.asarray(step(setup, batch).seconds) - 1)


@pytest.mark.parametrize("case", CASES)
def test_tabulated_steps_are_the_priced_ones(case):
    found = errors(case, equal=True)
    assert np.quantile(found, 0.98) < 0.03
    assert found.max() < 0.06  # between knots where a library changes its algorithm


@pytest.mark.parametrize("case", CASES)
def test_prompts_of_unequal_lengths_stay_near(case):
    found = errors(case, equal=False)
    assert found.mean() < 0.01
    assert np.quantile(found, 0.95) < 0.03


def test_a_short_remainder_after_a_long_prefix_is_not_priced_as_a_long_prompt():
    name, on, engine, plan, sequences, tokens = CASES["latent"]
    machine, stack = catalog.machine(on), catalog.stack(engine)
    setup = Setup(model=model(name), plan=plan, machine=machine, stack=stack, price=cost_model(machine, stack).price)
    table = StepTable(setup, sequences=sequences, tokens=tokens)
    for cached in (1_000, 10_000, 100_000):
        pairs, keys = 16.0 * cached + 136, cached + 16
        direct = step(
            setup,
            Batch(prefill_tokens=16.0, prefill_sequences=1.0, prefill_pairs=pairs, prefill_context=float(keys)),
        )
        assert table.mixed(16, 1, pairs, keys, 0, 0) / SECOND == pytest.approx(float(direct.seconds), rel=0.01)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("ratio", [1.25, 3.0])
def test_a_slower_instance_takes_so_much_longer_for_every_step(case, ratio):
    """Launches too: a step that its host bounds is no exception."""
    name, on, engine, plan, sequences, tokens = CASES[case]
    machine, stack = catalog.machine(on), catalog.stack(engine)
    price = cost_model(machine, stack).price
    setup = Setup(model=model(name), plan=plan, machine=machine, stack=stack, price=price)
    table = StepTable(setup, sequences=sequences, tokens=tokens)
    worn = table.slower(ratio)
    for new, prompts, pairs, keys, n, context in [(16, 1, 136.0, 16, 0, 0), *loads(8, 64, equal=True, decode=True)[:8]]:
        for decoding in (0, n):
            sound = table.mixed(new, prompts, pairs, keys, decoding, context)
            assert worn.mixed(new, prompts, pairs, keys, decoding, context) == pytest.approx(ratio * sound, rel=1e-3)
