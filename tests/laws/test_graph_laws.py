"""What of a decode step is captured: what each mode costs, who chooses it, and by which doors it is said."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taicang.catalog.models import model
from taicang.catalog.trust import NINE_IN_TEN
from taicang.errors import UnknownName
from taicang.evidence import served
from taicang.plans import ServePlan, decode_batch, prefill_batch
from taicang.predict.serving import answer
from taicang.search.door import Run, job_of
from taicang.serve.setup import step
from taicang.serve.steady import together

MODES = ("full", "piecewise", "eager")
HERE = {"vllm-ascend": "atlas-800-a3-752t", "sglang": "atlas-800-a3-752t", "vllm": "hgx-h100"}


def seconds(run: Run, batch, plan):
    """Of one step, with what the host takes to launch it."""
    made = step(job_of(run).setup(plan), batch)
    return np.asarray(made.seconds), np.asarray(made.launches_s)


@given(
    st.sampled_from(sorted(HERE)), st.sampled_from(["qwen3-8b", "qwen3-30b-a3b", "deepseek-v3.1", "gpt-oss-20b"]),
    st.sampled_from([1, 2, 4]), st.integers(0, 600), st.sampled_from([0, 1, 40, 512, 513, 5000]),
)  # fmt: skip
def test_the_more_is_captured_the_less_a_step_waits(engine, net, tp, sequences, prompt):
    batch = decode_batch(sequences=float(max(sequences, prompt == 0)), context=1024.0)
    if prompt:
        batch = together(batch, prefill_batch(sequences=1.0, length=float(prompt)))
    plan, run = ServePlan(tp=tp, moe_tp=tp), Run(model=net, on=HERE[engine], stack=engine)
    told = [seconds(replace(run, graph=graph), batch, plan) for graph in MODES]
    for (full, floor), (more, higher) in pairwise(told):
        assert full <= more
        assert floor <= higher
        assert higher <= more * (1.0 + 1e-12)


@pytest.mark.parametrize("graph", MODES)
@pytest.mark.parametrize("net", ["qwen3-8b", "qwen3-30b-a3b"])
def test_fewer_layers_take_the_host_less(graph, net):
    whole = model(net)
    half = replace(whole, blocks=tuple(replace(each, count=each.count // 2) for each in whole.blocks))
    batch, plan = decode_batch(sequences=1.0, context=512.0), ServePlan(tp=2, moe_tp=2)
    run = Run(model=whole, on="atlas-800-a2-376t", stack="vllm-ascend@0.11.0", graph=graph)
    (_, more), (_, less) = (seconds(replace(run, model=each), batch, plan) for each in (whole, half))
    assert 0.0 < less < more
    if graph != "eager":
        assert less == pytest.approx(more / 2)


@pytest.mark.parametrize(
    ("stack", "net", "graph"),
    [
        ("vllm-ascend@0.7.3", "qwen3-8b", "eager"), ("vllm-ascend@0.9.1", "qwen3-30b-a3b", "eager"),
        ("vllm-ascend@0.9.2rc1", "qwen3-8b", "piecewise"), ("vllm-ascend@0.10.2rc1", "deepseek-v3.1", "eager"),
        ("vllm-ascend@0.11.0", "deepseek-v3.1", "piecewise"), ("vllm-ascend@0.13.0", "qwen3-8b", "piecewise"),
        ("vllm-ascend@0.23.0", "qwen3-8b", "full"), ("vllm-ascend", "qwen3-8b", "full"), ("sglang", "qwen3-8b", "full"),
    ],
)  # fmt: skip
def test_each_release_captures_what_it_captures_by_itself_unless_told(stack, net, graph):
    run = Run(model=net, on="atlas-800-a3-752t", stack=stack)
    chosen = job_of(run).stack
    assert chosen.graph == graph
    assert min(chosen.eager_kernel_s, chosen.lengths_s) > 0.0
    assert [job_of(replace(run, graph=each)).stack.graph for each in MODES] == list(MODES)


@pytest.mark.parametrize("stack", ["vllm-ascend@0.11.0", "vllm-ascend@0.9.1", "vllm-ascend", "sglang"])
@pytest.mark.parametrize("graph", MODES)
def test_answers_say_what_the_host_takes_for_the_mode(stack, graph):
    run = Run(model="qwen3-8b", on="atlas-800-a3-752t", stack=stack, graph=graph, plan=ServePlan(tp=1), batch=1)
    said = next(line for line in answer(run).assumptions if "of the host for each" in line)
    assert {"eager": "captures none", "piecewise": "captures in pieces", "full": "as one graph"}[graph] in said


@pytest.mark.parametrize("engine", sorted(HERE))
@pytest.mark.parametrize("graph", [None, *MODES])
def test_how_the_host_paces_steps_is_measured_or_the_latency_is_unvalidated(engine, graph):
    """Measured are captured steps of CUDA engines, and steps of Ascend devices whose host nobody speaks of."""
    run = Run(model="qwen3-8b", on=HERE[engine], stack=engine, graph=graph, plan=ServePlan(tp=1), batch=1)
    known = engine == "vllm" and graph in (None, "full")
    for name in ("tpot", "ttft"):
        band = answer(run).bands[name]
        assert (band.verdict == NINE_IN_TEN) == known
        assert known or "no measured aggregated run has" in band.basis


CELLS = {
    "source": "", "mode": "agg", "id": "r", "backend": "vllm-ascend", "backend_version": "0.11.0", "measured": "",
    "model_path": "qwen3-8b", "system": "atlas-800-a2-376t", "precision": "bf16", "isl": "512", "osl": "64",
    "concurrency": "4", "tp_size": "1", "silicon_ttft_ms": "100", "silicon_tpot_ms": "30",
}  # fmt: skip


@pytest.mark.parametrize(
    ("cell", "graph"),
    [("", ""), ("eager", "eager"), ("NONE", "eager"), ("FULL_DECODE_ONLY", "full"), ("PIECEWISE", "piecewise")],
)
def test_a_row_names_its_mode_as_people_or_engines_do(cell, graph):
    assert served.row_of(CELLS | {"graph": cell}).stack.graph == graph
    assert served.row_of(served.completed(CELLS | {"cudagraph_mode": cell}, 1)).stack.graph == graph


def test_a_mode_that_is_none_is_named_with_those_that_are():
    with pytest.raises(UnknownName, match="piecewise"):
        served.row_of(CELLS | {"graph": "peicewise"})
