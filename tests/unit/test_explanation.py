"""What an answer says of the host and of other prompts agrees with its figures, whatever binds the step."""

from __future__ import annotations

import re

import pytest

from taicang.plans import ServePlan
from taicang.predict import Served, explain, infer
from taicang.units import show

STACKS = ("vllm-ascend@0.9.1", "vllm-ascend@0.11.0", "vllm-ascend", "sglang", "mindie")


@pytest.mark.parametrize("batch", [4, 128])
@pytest.mark.parametrize("stack", STACKS)
def test_words_of_host_and_prompts_agree_with_the_figures(stack: str, batch: int) -> None:
    found = infer("qwen3-8b", "atlas-800-a2-313t", stack=stack, plan=ServePlan(), batch=batch, input_tokens=1024)
    assert isinstance(found, Served)
    assert found.tpot_s is not None
    said, step = explain(found), found.decode.step
    host = [line for line in said if line.startswith("decode: the host launches")]
    assert len(host) == bool(step.launches_s)
    waits = step.by_part().get("host", 0.0)
    assert waits == step.launch_wait_s, "no line of nothing; these engines have no other share of the host"
    for line in host:
        assert show(float(step.launches_s), "s") in line
        assert ("does not wait" in line) == (waits == 0.0)
        assert waits == 0.0 or f"waits {show(float(waits), 's')}" in line
    between_s = found.tpot_s - float(step.seconds)
    told = [line for line in said if line.startswith("decode: others' prompts")]
    assert len(told) == (between_s >= 0.01 * found.tpot_s)
    assert all(re.search(rf"take {re.escape(show(between_s, 's'))} of", line) for line in told)
    first = stack in ("vllm-ascend@0.9.1", "mindie", "sglang")
    assert any(
        ("prompts before decode steps" in line) == first for line in found.assumptions if "share instances" in line
    )
