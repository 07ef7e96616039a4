"""Laws of what stands before an engine's steps: its door, and the sizes that it chooses by the device."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.catalog.costing import cost_model
from taicang.catalog.models import model
from taicang.models.count import kv_cache_bytes
from taicang.plans import ServePlan, decode_batch
from taicang.predict.replay import replay
from taicang.predict.system import System, running
from taicang.search.door import settle
from taicang.serve.door import Rounds, through_s
from taicang.serve.memory import cache_room, memory_use, rank_model, state_room
from taicang.serve.request import SECOND, Request
from taicang.serve.saturated import most_sequences
from taicang.serve.scheduler import preset
from taicang.serve.setup import Setup, scheduled_ahead, step
from taicang.serve.steady import Load, aggregated
from taicang.traffic.generate import fixed
from taicang.traffic.trace import Trace

ENGINES = ("vllm", "sglang", "tensorrt-llm")


def setup(stack, name="qwen3-8b", on="hgx-h100", **plan):
    net, machine, engine = settle(System(stack=stack), name, on)
    return Setup(model=net, plan=ServePlan(**plan), machine=machine, stack=engine,
                 price=cost_model(machine, engine).price)  # fmt: skip


def doorless(stack):
    return replace(stack, door_s=0.0, door_token_s=0.0)


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(ENGINES), st.integers(1, 3000), st.integers(1, 8))
def test_the_door_adds_to_latency_alone(engine, prompt, clients):
    stack = settle(System(stack=engine), "qwen3-8b", "hgx-h100")[2]
    shut, none = (
        replay("qwen3-8b", "hgx-h100", fixed(8, prompt, 20), System(stack=each, instances=1), clients=clients).table
        for each in (stack, doorless(stack))
    )
    np.testing.assert_allclose(shut["tpot_s"], none["tpot_s"])
    for name in ("ttft_s", "e2e_s"):
        np.testing.assert_allclose(shut[name] - none[name], through_s(stack, prompt))
    assert through_s(stack, prompt) > 0
    pools = System(stack=stack, prefill="1x1", decode="1x1"), System(stack=doorless(stack), prefill="1x1", decode="1x1")
    apart = [replay("qwen3-8b", "hgx-h100", fixed(4, prompt, 4), each, clients=1).table["ttft_s"] for each in pools]
    np.testing.assert_allclose(*apart)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 300), st.floats(1e-4, 0.02))
def test_requests_that_come_together_wait_until_all_are_read(together, prompt, each_s):
    """The first token is as late as all of them take; after a lone one, or one after another, as late as one takes."""
    stack = replace(catalog.stack("vllm"), template_s=0.0)
    for clients in (together, 1):
        read, plain = (
            replay("qwen3-8b", "hgx-h100", fixed(together, prompt, 3), System(stack=one, instances=1), clients=clients)
            for one in (replace(stack, template_s=each_s), stack)
        )
        late = np.sort(read.table["ttft_s"]) - np.sort(plain.table["ttft_s"])
        np.testing.assert_allclose(late, clients * each_s, atol=1e-9)
        np.testing.assert_allclose(np.sort(read.table["tpot_s"]), np.sort(plain.table["tpot_s"]), atol=1e-9)


def test_who_comes_meanwhile_waits_for_the_round_that_is_under_way():
    door = Rounds(replace(catalog.stack("vllm"), template_s=0.007))
    first, *rest = (Request(number, 0, 10, 1) for number in range(4))
    assert door.add(first)
    each = round(0.007 * SECOND)
    assert door.round(0) == ([first], 0, each)  # alone it goes on at once
    assert [door.add(request) for request in rest] == [False] * 3
    assert door.round(each) == (rest, 3 * each, 4 * each)
    assert door.round(4 * each)[0] == []
    assert door.add(first)  # nobody was there: the next one begins a round
    assert not Rounds(replace(catalog.stack("vllm"), template_s=0.0))


def test_which_engines_read_the_template_again_for_each_chat():
    known = {
        name: catalog.stack(name).template_s for name in ("vllm@0.9.0", "vllm@0.9.2", "vllm@0.11.0", "vllm@0.11.2")
    }
    assert known == {"vllm@0.9.0": 0.007, "vllm@0.9.2": 0.0, "vllm@0.11.0": 0.007, "vllm@0.11.2": 0.0}
    assert catalog.stack("vllm").template_s == 0.0
    served = (settle(System(stack="vllm@0.11.0"), name, "hgx-h100")[2] for name in ("qwen3-8b", "gpt-oss-20b"))
    assert [stack.template_s for stack in served] == [0.007, 0.0]  # no template makes prompts of the latter's chats


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(("vllm", "sglang")), st.floats(0.05, 0.9), st.integers(1, 2000))
def test_a_prompt_waits_for_the_step_that_is_scheduled_ahead(engine, at_s, prompt):
    """Beside an answer it waits for one step more, in the replay as in the closed form; alone it does not."""
    plain = setup(engine)
    two = Trace(name="two", kind="two", arrival_s=np.array([0.0, at_s]), input_tokens=np.array([8, prompt]),
                output_tokens=np.array([200, 4]))  # fmt: skip
    alone, beside, closed = {}, {}, {}
    for ahead in (False, True):
        stack = replace(doorless(catalog.stack(engine)), ahead=ahead)
        one = replace(plain, stack=replace(plain.stack, ahead=ahead))
        system = System(stack=stack, instances=1)
        alone[ahead] = replay("qwen3-8b", "hgx-h100", fixed(1, prompt, 4), system, clients=1).table["ttft_s"][0]
        table = replay("qwen3-8b", "hgx-h100", two, system).table
        beside[ahead] = table["ttft_s"][table["id"] == 1][0]
        closed[ahead] = aggregated(one, Load(concurrency=4.0, input_tokens=float(prompt), output_tokens=100.0))
    step_s = float(step(plain, decode_batch(sequences=1.0, context=100.0)).seconds)
    assert alone[True] == alone[False]
    np.testing.assert_allclose(beside[True] - beside[False], step_s, rtol=0.02)
    np.testing.assert_allclose(closed[True].ttft_s - closed[False].ttft_s, closed[True].step_s)
    assert closed[True].tpot_s == closed[False].tpot_s


def test_no_step_is_scheduled_ahead_of_one_that_drafts_between_two_looks_at_the_queue():
    def drafts(stack, count):
        return scheduled_ahead(setup(stack, "deepseek-v3", "hgx-b200", tp=8, moe_tp=8, draft_tokens=count))

    assert [drafts("sglang@0.5.9", n) for n in (0, 2)] == [1.0, 0.0]
    assert drafts("sglang@0.5.11", 2) == 1.0
    known = {version: catalog.stack(f"vllm@{version}").ahead for version in ("0.11.0", "0.13.0", "0.14.0", "0.21.0")}
    assert known == {"0.11.0": False, "0.13.0": False, "0.14.0": True, "0.21.0": True}


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
    head, (spare, _) = made.stack.memory, cache_room(made, tokens=8192.0, context=1.0)
    each = float(kv_cache_bytes(rank_model(made.model, made.plan), 0.0, made.plan.quant.kv))
    states = head.state_ratio / (1.0 + head.state_ratio) * spare / head.state_copies  # the rest is the cache's
    assert room * each <= states < (room + 1) * each
    full = replace(made, stack=replace(made.stack, memory=replace(made.stack.memory, usable_ratio=1e-6)))
    assert state_room(full, tokens=8192.0) == 1  # what does not fit is refused elsewhere
    kept = model("qwen3-8b")
    assert state_room(replace(made, model=kept, plan=ServePlan(tp=2, moe_tp=2)), tokens=8192.0) == np.inf


@pytest.mark.parametrize("limit", [1, 40, 4096])
@pytest.mark.parametrize("context", [200.0, 5e3, 1e5, 1e7])
def test_as_many_sequences_run_as_memory_holds_and_no_more(context, limit):
    made = setup("vllm", "llama-3.1-8b", "hgx-h100", tp=1)

    def spare(count):
        use = memory_use(
            made.model, made.plan, made.machine.chip, made.stack.memory, sequences=float(count), context=context,
            tokens=max(2048.0, count),
        )  # fmt: skip
        return float(use.spare_bytes)

    most = most_sequences(made, context=context, tokens=2048.0, limit=limit)
    assert 0 <= most <= limit
    assert most == 0 or spare(most) >= 0
    assert most == limit or spare(most + 1) < 0
