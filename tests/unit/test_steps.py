"""Step times for schedulers of others: the scalar call, its twin over many steps, and SGLang's simulator."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from functools import cache
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang.errors import InvalidInput, TaicangError, UnknownName
from taicang.plans import decode_batch, prefill_batch
from taicang.plugins import sglang_simulator as plugin
from taicang.predict.steps import StepPredictor
from taicang.serve.setup import step

SYSTEMS = [
    ("qwen3-32b", "hgx-h20", "TP4", "sglang"),
    ("deepseek-r1", "cloudmatrix384", "DP32 EP32 MTP1", None),
    ("deepseek-r1", "hgx-h200", "TP8", None),
    ("llama-3.1-8b", "hgx-h100", "TP1 PP2", "vllm"),
    ("qwen3-30b-a3b", "hgx-h100", "TP2 EP2", "vllm"),
]
TOKENS = st.integers(0, 17).flatmap(lambda e: st.integers(2**e // 2, 2**e))
REQUEST = st.tuples(
    st.one_of(st.just(1), st.integers(1, 3), TOKENS.map(lambda n: n + 1)), st.one_of(st.just(0), TOKENS)
)
STEPS = st.lists(st.lists(REQUEST, max_size=12), min_size=1, max_size=8)


@cache
def predictor(system):
    model, on, plan, stack = system
    return StepPredictor(model, on, plan, stack)


def halves(steps):
    return [[e for e, _ in each] for each in steps], [[p for _, p in each] for each in steps]


@settings(max_examples=60, deadline=None)
@given(system=st.sampled_from(SYSTEMS), steps=STEPS)
def test_many_steps_are_priced_as_each_alone(system, steps):
    extend, past = halves(steps)
    together = predictor(system).seconds_each(extend, past)
    alone = [predictor(system).seconds(*each) for each in zip(extend, past, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-12)
    assert all((seconds > 0) == bool(each) for seconds, each in zip(together, extend, strict=True))


@settings(max_examples=60, deadline=None)
@given(system=st.sampled_from(SYSTEMS), steps=st.lists(REQUEST, min_size=1, max_size=12), data=st.data())
def test_more_work_is_never_faster_and_order_does_not_matter(system, steps, data):
    known = predictor(system)
    extend, past = [e for e, _ in steps], [p for _, p in steps]
    base = known.seconds(extend, past)
    assert known.seconds(extend[::-1], past[::-1]) == pytest.approx(base, rel=1e-12)
    i = data.draw(st.integers(0, len(steps) - 1))
    more = [p + (j == i) * max(p, 1) for j, p in enumerate(past)]
    if past[i]:  # else a prompt may become a sequence that decodes
        assert known.seconds(extend, more) >= base * (1 - 1e-9)


@pytest.mark.parametrize("system", SYSTEMS)
def test_steps_of_one_kind_are_those_of_the_waist(system):
    known = predictor(system)
    decode = step(known.setup, decode_batch(sequences=16.0, context=3000.0)).seconds
    prompt = step(known.setup, prefill_batch(sequences=2.0, length=700.0, cached=100.0)).seconds
    assert known.seconds([1] * 16, [3000] * 16) == pytest.approx(float(decode), rel=1e-12)
    assert known.seconds([700, 700], [100, 100]) == pytest.approx(float(prompt), rel=1e-12)
    assert known.seconds([], []) == 0.0
    assert known.cache_tokens > 4096


@pytest.mark.parametrize(
    ("extend", "past"), [([1], []), ([0], [5]), ([-1], [5]), ([1.5], [2]), ([1], [-1]), ([1 << 60], [0])]
)
def test_what_are_no_lengths_is_refused(extend, past):
    with pytest.raises(InvalidInput):
        predictor(SYSTEMS[0]).seconds(extend, past)


def test_names_and_plans_are_checked():
    with pytest.raises(UnknownName):
        StepPredictor("qwen3-33b", "hgx-h20")
    with pytest.raises(TaicangError, match="no part of a plan"):
        StepPredictor("qwen3-32b", "hgx-h20", "four")
    assert StepPredictor("qwen3-32b", "hgx-h20").seconds([1], [100]) > 0


@pytest.fixture
def simulator(monkeypatch):
    """SGLang's simulator as far as a predictor sees it: its abstract class, and who makes predictors by name."""

    class InferTimePredictor(ABC):
        @abstractmethod
        def predict_infer_time(self, batch): ...

    class ConfigManager:
        raw: dict = {}  # noqa: RUF012

        @classmethod
        def _get_raw_config(cls):
            return cls.raw

        @classmethod
        def get_inference_time_predictor(cls, model, hw, sched_config):
            raise ValueError(f"Unknown predictor name: {cls.raw['predictor']['name']}")

    for name in ("sglang_simulator", "sglang_simulator.simulation", "sglang_simulator.simulation.manager",
                 "sglang_simulator.simulation.manager.config", "sglang_simulator.time_predictor",
                 "sglang_simulator.time_predictor.base"):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["sglang_simulator.simulation.manager.config"].ConfigManager = ConfigManager
    sys.modules["sglang_simulator.time_predictor.base"].InferTimePredictor = InferTimePredictor
    return ConfigManager, InferTimePredictor


def batch(*requests):
    return SimpleNamespace(reqs=[SimpleNamespace(extend_length=e, past_kv_length=p) for e, p in requests])


@pytest.mark.parametrize("system", SYSTEMS[:3])
def test_the_simulator_is_given_our_times(simulator, system):
    manager, base = simulator
    model, on, plan, stack = system
    plugin.install()
    manager.raw = plugin.configuration(model, on, plan, stack)
    layout = SimpleNamespace(**manager.raw["scheduler"])
    made = manager.get_inference_time_predictor(SimpleNamespace(model_path="/nowhere"), None, layout)
    assert isinstance(made, base)
    assert made.predict_infer_time(batch((1, 4000), (1, 50))) == predictor(system).seconds([1, 1], [4000, 50])
    assert made.predict_infer_time(batch()) == 0.0
    assert made.predict_infer_time(batch((1, 10**8))) < 0
    assert made.get_metrics() == {"taicang_steps": 3, "taicang_steps_beyond_cache": 1}
    made.reset_metrics()
    assert set(made.get_metrics().values()) == {0}
    manager.raw["predictor"] = {"name": "ml"}
    with pytest.raises(ValueError, match="Unknown predictor name: ml"):
        manager.get_inference_time_predictor(None, None, layout)


def test_a_layout_is_read_from_the_scheduler_where_none_is_named(simulator):
    layout = SimpleNamespace(tp_size=8, dp_size=8, ep_size=8, pp_size=1)
    wanted = {"name": "taicang", "on": "hgx-h200", "model": "deepseek-r1"}
    made = plugin.from_configuration(wanted, None, None, layout)
    assert (made._predict.setup.plan.dp, made._predict.setup.plan.ep, made._predict.setup.plan.tp) == (8, 8, 1)
    with pytest.raises(InvalidInput, match="needs 'on'"):
        plugin.from_configuration({"name": "taicang"}, None, None, layout)
    with pytest.raises(InvalidInput, match="unknown key 'machine'"):
        plugin.from_configuration({**wanted, "machine": "x"}, None, None, layout)


def test_without_the_simulator_it_says_what_is_missing():
    with pytest.raises(TaicangError, match="needs SGLang's simulator"):
        plugin.install()
