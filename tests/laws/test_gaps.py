"""Time between tokens from the log adds up to what the requests saw."""

from __future__ import annotations

import numpy as np
import pytest

from taicang.predict.replay import replay
from taicang.predict.system import System
from taicang.traffic.generate import arriving, fixed


@pytest.mark.parametrize(("stack", "drafts"), [("vllm", 0), ("sglang", 0)])
@pytest.mark.parametrize("pools", [("", ""), ("1x1", "1x1")])
def test_gaps_of_all_requests_are_their_decode_times(stack, drafts, pools):
    trace = arriving(fixed(300, 3000, 120, spread=0.6, seed=3), 6.0, seed=4)
    system = System(stack=stack, drafts=drafts, prefill=pools[0], decode=pools[1], instances=None if pools[0] else 1)
    result = replay("llama-3.1-8b", "hgx-h100", trace, system)
    table, itl = result.table, result.summary.itl
    decoding = float((table["tpot_s"] * (table["output_tokens"] - 1)).sum())
    tokens = float((table["output_tokens"] - 1).sum())
    waited = float(table["moved_s"].sum())  # caches on their way: between the first and second token
    assert itl.mean_s * tokens == pytest.approx(decoding - waited, rel=0.04)
    low, high = table["itl_p50_s"], table["itl_max_s"]
    assert np.all(low <= table["itl_p99_s"] * 1.0001)
    assert np.all(table["itl_p99_s"] <= high * 1.0001)
    assert np.all(table["tpot_s"] <= high * 1.05)
    assert np.all(high <= (table["e2e_s"] - table["ttft_s"]) * 1.05)
