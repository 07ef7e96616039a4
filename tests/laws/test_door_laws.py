"""Laws of what stands before an engine's steps: its door, and the sizes that it chooses by the device."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.catalog.costing import cost_model
from taicang.catalog.models import model
from taicang.plans import ServePlan, decode_batch
from taicang.predict.system import System, running
from taicang.search.door import settle
from taicang.serve.build import Pool, cluster
from taicang.serve.door import through_s
from taicang.serve.memory import state_room
from taicang.serve.request import SECOND, Request
from taicang.serve.scheduler import Limits, preset
from taicang.serve.setup import Setup, step
from taicang.serve.simulate import simulate

ENGINES = ("vllm", "sglang", "tensorrt-llm")


def setup(stack, name="qwen3-8b", on="hgx-h100", **plan):
    net, machine, engine = settle(System(stack=stack), name, on)
    return Setup(model=net, plan=ServePlan(**plan), machine=machine, stack=engine,
                 price=cost_model(machine, engine).price)  # fmt: skip


def burst(made, prompts, outputs):
    requests = [Request(i, 0, prompt, output) for i, (prompt, output) in enumerate(zip(prompts, outputs, strict=True))]
    pool = Pool(setup=made, instances=1, limits=Limits(tokens=8192, sequences=64))
    simulate(cluster(pool, context=1000.0), iter(requests))
    return requests


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(ENGINES), st.lists(st.integers(1, 3000), min_size=1, max_size=12), st.floats(0.0, 0.05))
def test_requests_pass_the_door_one_by_one(engine, prompts, each):
    made = setup(engine)
    stack = replace(made.stack, door_request_s=each)
    outputs = [20] * len(prompts)
    behind = burst(replace(made, stack=stack), prompts, outputs)
    free = burst(
        replace(made, stack=replace(stack, door_s=0.0, door_request_s=0.0, door_token_s=0.0)), prompts, outputs
    )
    passed = stack.door_s + each * np.arange(1, len(prompts) + 1) + stack.door_token_s * np.array(prompts)
    for request, at in zip(behind, passed, strict=True):
        assert request.arrival == 0
        assert request.started >= at * SECOND - len(prompts)
    assert max(r.end for r in behind) >= max(r.end for r in free)
    if len(prompts) == 1:
        waited = (behind[0].first - free[0].first) / SECOND
        assert waited == pytest.approx(float(through_s(stack, prompts[0])), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(("vllm@0.11.0", "sglang@0.5.9")),
    st.sampled_from(("hgx-a100", "hgx-h100", "hgx-b200", "l40s-pcie", "rtx-4090-pcie", "mi300x-8")),
    st.sampled_from((1, 4)),
)
def test_a_decode_step_beyond_the_largest_captured_one_waits_for_its_launches(stack, on, tp):
    made = setup(stack, on=on, tp=tp, moe_tp=tp)
    captured = made.stack.graph_wide_sequences if tp == 4 else made.stack.graph_sequences
    most = captured or 4096
    at, beyond = (step(made, decode_batch(sequences=n, context=n * 64.0)) for n in (float(most), most + 1.0))
    assert at.launches_s == 0.0
    assert (beyond.launches_s > 0.0) == bool(captured)
    assert beyond.seconds >= at.seconds * (1 - 1e-9)
    assert preset(made.stack).sequences == (made.stack.running_sequences or 1024)


def test_what_engines_choose_by_the_device():
    known = {
        ("vllm@0.11.0", "hgx-a100"): (2048, 256), ("vllm@0.11.0", "hgx-h100"): (8192, 0),
        ("vllm@0.11.0", "l40s-pcie"): (2048, 256), ("sglang@0.5.9", "l40s-pcie"): (4096, 0),
        ("sglang@0.5.9", "hgx-b200"): (16384, 0), ("sglang@0.5.9", "hgx-h200"): (8192, 0),
    }  # fmt: skip
    for (stack, on), sizes in known.items():
        _, _, engine = settle(System(stack=stack), "qwen3-8b", on)
        assert (engine.chunk_tokens, engine.running_sequences) == sizes
    own = replace(catalog.stack("vllm@0.11.0"), chunk_tokens=1024)
    assert settle(System(stack=own), "qwen3-8b", "hgx-a100")[2].chunk_tokens == 1024


@pytest.mark.parametrize("name", ["qwen3-next-80b-a3b", "qwen3.5-27b", "nemotron-3-nano-30b-a3b"])
def test_states_bound_the_sequences_that_run(name):
    made = setup("sglang@0.5.10", name, "hgx-h200", tp=2, ep=2)
    room = state_room(made, tokens=8192.0)
    assert 1 <= room < 1024
    assert running(System(), made) == room
    assert running(System(sequences=2000), made) == 2000
    drafting = replace(made, plan=replace(made.plan, draft_tokens=3))
    assert state_room(drafting, tokens=8192.0) < room
    kept = model("qwen3-8b")
    assert state_room(replace(made, model=kept, plan=ServePlan(tp=2, moe_tp=2)), tokens=8192.0) == np.inf
