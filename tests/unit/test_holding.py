"""Prompts that wait for company while others decode."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "laws"))

from test_replay_laws import table

from taicang.evidence.launches import launch
from taicang.serve.cache import Cache
from taicang.serve.cluster import Cluster
from taicang.serve.instance import Instance
from taicang.serve.request import SECOND, Request
from taicang.serve.scheduler import Limits
from taicang.serve.simulate import simulate
from taicang.serve.steptable import GRAIN


def run(groups: int = 1, *, later: list[int], single: bool = False, **limits: object) -> list[Request]:
    """One sequence decodes; others of 100 tokens come while it does."""
    made = [Request(0, 0, 100, 400)]
    made += [Request(1 + i, SECOND // 2 + at, 100, 4) for i, at in enumerate(later)]
    instance = Instance(
        0, table(), Limits(sequences=64, **limits), [Cache(5000, 16) for _ in range(groups)], single=single
    )  # fmt: skip
    simulate(Cluster([instance]), made)
    return made


STEP = table().row(1).at(150 * GRAIN)


@pytest.mark.parametrize("single", [False, True])
def test_a_prompt_waits_so_many_steps_for_others(single):
    alone = run(later=[0], hold=20, single=single)[1]
    assert 19.0 * STEP < alone.started - alone.arrival < 22.0 * STEP
    at_once = run(later=[0], single=single)[1]
    assert at_once.started - at_once.arrival < 1.1 * STEP


def test_enough_tokens_end_the_wait():
    waiting = run(later=[0, 5 * STEP], hold=20, tokens=200, company_ratio=0.9)
    assert waiting[1].started == waiting[2].started
    assert 4.0 * STEP < waiting[1].started - waiting[1].arrival < 7.0 * STEP


def test_groups_wait_for_each_other():
    both = run(2, later=[0, 5 * STEP], hold=20)
    assert both[1].group != both[2].group
    assert both[1].started == both[2].started < both[1].arrival + 7 * STEP


def test_nobody_waits_where_nothing_decodes():
    first = run(later=[], hold=50)[0]
    assert first.started == first.arrival


def test_launches_as_the_scripts_state_them():
    common = {"prompt": 1024, "answer": 1024, "dp": 1, "drafts": 0, "nvfp4": False}
    llama = launch("tensorrt-llm", "llama-3.1-70b", "hgx-b200", clients=64, tp=4, **common)
    assert (llama.hold, llama.company_ratio, llama.tokens) == (20, 0.9, 2248)
    assert launch("tensorrt-llm", "llama-3.1-70b", "hgx-b200", clients=64, tp=8, **common).hold == 0
    deepseek = launch("tensorrt-llm", "deepseek-v3", "hgx-h200", clients=64, tp=8, **common)
    assert deepseek.tokens == 1152, "64 tokens that decode, a prompt, 64 more, in whole 64s"
    few, many = (launch("sglang", "deepseek-v3", "hgx-b200", clients=n, tp=8, **common).hold for n in (8, 16))
    assert (few, many) == (10, 30)
