"""Closed forms of an instance against sums by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taicang.models.count import kv_cache_bytes
from taicang.plans import ServePlan
from taicang.search.door import prepare
from taicang.search.points import handover_s, serving_points
from taicang.search.space import Space

JOBS = {name: prepare(name, "hgx-h200", input_tokens=2000, output_tokens=500) for name in ("qwen3-32b", "deepseek-r1")}


@pytest.mark.parametrize("name", JOBS)
@given(tokens=st.integers(1, 200_000), tp=st.sampled_from([1, 2, 4, 8]))
def test_each_rank_hands_over_its_share_of_the_cache(name, tokens, tp):
    seen = []

    def watched(operator, cores, share):
        seen.append(operator.payload_bytes)
        return JOBS[name].price(operator, cores, share)

    job = replace(JOBS[name], input_tokens=float(tokens), price=watched)
    handover_s(job.setup(ServePlan(tp=tp, dp=8 // tp, ep=8, moe_tp=1)), job)
    assert seen == [pytest.approx(float(kv_cache_bytes(job.model, float(tokens), "bf16")) / tp)]


@given(st.integers(1, 4000), st.sampled_from([0, 1, 3]), st.floats(0.0, 1.0))
def test_an_answer_takes_a_step_for_each_token_after_the_first(output, drafts, acceptance):
    job = replace(JOBS["deepseek-r1"], output_tokens=float(output), acceptance_ratio=acceptance)
    plans = [ServePlan(tp=1, dp=8, ep=8, draft_tokens=0)]
    points = serving_points(plans, job, Space(batches=(1.0, 7.0), drafts=(drafts,)), roles=["decode"])["decode"]
    gained = sum(acceptance**i for i in range(drafts + 1))
    steps = np.maximum((output - 1) / gained, 1.0)
    step_s = points.tpot_s * gained
    np.testing.assert_allclose(points.requests_per_s, points.sequences * 8 / (steps * step_s), rtol=1e-12)
