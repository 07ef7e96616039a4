"""Prompts that wait for company while others decode."""

from __future__ import annotations

import sys
from copy import copy
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "laws"))

from test_replay_laws import table

from taicang.catalog.rules import settings
from taicang.evidence.served import RULES, Settings
from taicang.serve.cache import Cache
from taicang.serve.cluster import Cluster
from taicang.serve.instance import Instance
from taicang.serve.request import SECOND, Request
from taicang.serve.scheduler import Limits, footprint
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


def test_experts_work_on_what_all_groups_have_and_attention_waits_for_the_fullest():
    """Beside a prompt of 100 tokens in one of two groups, every sequence that decodes has a token and two drafts."""
    asked, made = [], copy(table(2))
    made.shared = lambda ticks, *sizes: asked.append(sizes) or ticks
    instance = Instance(0, made, Limits(sequences=64, reserve=True), [Cache(5000, 16) for _ in range(2)])
    simulate(Cluster([instance]), [Request(0, 0, 300, 400), Request(1, SECOND // 2, 100, 4)])
    assert asked == [(0, 300, 150.0), (1, 103, 53.0)]


def test_nobody_waits_where_nothing_decodes():
    first = run(later=[], hold=50)[0]
    assert first.started == first.arrival


def launch(engine, model, generation, **more):
    facts = {"prompt": 1024, "answer": 1024, "square": True, "dp": 1, "experts": "fp8_block", "clients": 64, "tp": 8}
    facts |= {"source": "inferencex", "version": ""}
    chip = {"blackwell": "b200", "hopper": "h200"}.get(generation, "")
    facts |= {"harness": "public", "engine": engine, "model": model, "generation": generation, "chip": chip}
    facts |= {"source": "", "known": True} | more
    return Settings(**settings(RULES, "settings", {"decoding": facts["clients"] // facts["dp"]} | facts))


def test_launches_as_the_scripts_state_them():
    llama = launch("tensorrt-llm", "llama-3.1-70b", "blackwell", tp=4)
    assert (llama.hold, llama.company_ratio, llama.tokens) == (20, 0.9, 2248)
    assert launch("tensorrt-llm", "llama-3.1-70b", "blackwell").hold == 0
    deepseek = launch("tensorrt-llm", "deepseek-v3", "hopper")
    assert deepseek.tokens == 1152, "64 tokens that decode, a prompt, 64 more, in whole 64s"
    few, many = (launch("sglang", "deepseek-v3", "blackwell", clients=n).hold for n in (8, 16))
    assert (few, many) == (10, 30)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm"])
@pytest.mark.parametrize("generation", ["hopper", "blackwell", ""])
def test_a_model_that_no_script_names_runs_at_the_stack_s_own_settings(engine, generation):
    said = launch(engine, "some-new-model", generation)
    assert (said.tokens, said.hold, said.memory_ratio, said.held_back_steps) == (None, 0, None, 0)


@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_an_answer_that_is_counted_on_in_part_takes_that_part_of_its_pages(ratio):
    limits = Limits(reserve=True, reserve_ratio=ratio)
    assert footprint(Request(0, 0, 100, 60), limits) == 100 + 60 * ratio
