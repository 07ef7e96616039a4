"""Laws of ``infer``: whole instances, plans that mean what they say, and the same answers as search and replay."""

import math
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.catalog.models import model_names
from taicang.errors import InvalidInput, MissingFigure, NotModelled, TaicangError
from taicang.plans import EXCHANGES, ServePlan, describe, read_plan
from taicang.predict import Infeasible, infer
from taicang.predict.replay import replay
from taicang.predict.system import System
from taicang.search.door import formats, prepare
from taicang.search.run import Ask, search
from taicang.search.space import default
from taicang.serve.memory import MOST_RATIO
from taicang.traffic.trace import Trace

MODELS = model_names()


def small(name):
    """Whether enough is known of a machine, and it is searched in a second."""
    with suppress(MissingFigure):
        return catalog.machine(name).chips <= 72
    return False


MACHINES = [f"{name}{more}" for name in catalog.names("machine") if small(name) for more in ("", " x 2")]
LENGTHS = st.floats(0.0, 5.0).map(lambda exponent: round(10**exponent))
LOADS = st.fixed_dictionaries(
    {
        "input_tokens": LENGTHS,
        "output_tokens": st.floats(0.0, 3.5).map(lambda exponent: round(10**exponent)),
        "tpot_s": st.sampled_from([None, 0.03, 0.1]),
    }
)
FIGURES = (
    "mode",
    "ttft_s",
    "loaded_ttft_s",
    "tpot_s",
    "chips",
    "output_tokens_per_s_per_chip",
    "machine_output_tokens_per_s",
)
RANDOM = settings(max_examples=10, deadline=None, derandomize=True)


def predicted(model, machine, **options):
    try:
        return infer(model, machine, **options)
    except (MissingFigure, NotModelled):
        assume(False)


NAMED = [
    pytest.param(name, machine, marks=[pytest.mark.slow] if (at + which) % 2 else [])
    for at, name in enumerate(MODELS) for which, machine in enumerate(("hgx-h200 x 4", "atlas-800-a2-280t x 4"))
]  # fmt: skip
"""Each by default on one of the two."""


@pytest.mark.parametrize(("name", "machine"), NAMED)
def test_every_built_in_model_is_answered(name, machine):
    try:
        found = infer(name, machine, input_tokens=1000, output_tokens=100)
    except NotModelled:
        return
    assert isinstance(found, Infeasible) or found.tpot_s > 0


@RANDOM
@given(st.sampled_from(MODELS), st.sampled_from(MACHINES), LOADS)
def test_a_printed_plan_given_back_gives_the_same_figures(model, machine, load):
    found = predicted(model, machine, **load)
    assume(not isinstance(found, Infeasible))
    plan = read_plan(describe(found.decode.plan))
    again = predicted(model, machine, **load, plan=plan)
    assert [getattr(again, name) for name in FIGURES] == [getattr(found, name) for name in FIGURES]
    assert again.decode.sequences == found.decode.sequences
    fixed = {"batch": int(found.decode.sequences)}
    if found.mode == "disaggregated":
        fixed["prefill_plan"] = read_plan(describe(found.prefill.plan))
    again = predicted(model, machine, **load, plan=plan, **fixed)
    assert [getattr(again, name) for name in FIGURES] == [getattr(found, name) for name in FIGURES]


@RANDOM
@given(st.sampled_from(MODELS), st.sampled_from(MACHINES), LOADS)
def test_whole_instances_never_beat_the_search(model, machine, load):
    found = predicted(model, machine, **load)
    job = prepare(model, machine, **load)
    best = search(job, formats(["auto"], job), default(job.model), Ask(top=1)).best
    assert isinstance(found, Infeasible) == (not best)
    assume(best)
    assert found.output_tokens_per_s_per_chip <= best[0].output_tokens_per_s_per_chip
    pools = (found.decode, found.prefill) if found.mode == "disaggregated" else (found.decode,)
    assert found.chips == sum(pool.instances * pool.chips for pool in pools) <= found.machine_chips
    if found.mode == "disaggregated":
        decode = found.decode.instances * found.decode.tokens_per_s * load["output_tokens"]
        decode /= max(load["output_tokens"] - 1, found.decode.plan.tokens_per_step)
        prefill = found.prefill.instances * found.prefill.tokens_per_s / load["input_tokens"] * load["output_tokens"]
        # an instance sends one cache after the other, which may bound short prompts below both pools
        assert found.machine_output_tokens_per_s <= min(decode, prefill) * (1 + 1e-9)


@pytest.mark.slow
@RANDOM
@given(st.sampled_from(MODELS), st.sampled_from(MACHINES), LOADS)
def test_ttft_is_that_of_a_lone_replayed_request_and_grows_with_the_prompt(model, machine, load):
    found = predicted(model, machine, **load)
    assume(not isinstance(found, Infeasible))
    if found.mode == "disaggregated":
        assert found.ttft_s <= found.loaded_ttft_s * (1 + 1e-9)
    plans = {"plan": found.decode.plan, "modes": (found.mode,)}
    if found.mode == "disaggregated":
        plans["prefill_plan"] = found.prefill.plan
    longer = predicted(model, machine, **load | {"input_tokens": 2 * load["input_tokens"], "tpot_s": None}, **plans)
    assert isinstance(longer, Infeasible) or longer.ttft_s >= found.ttft_s
    if found.mode == "aggregated" and found.decode.plan.dp == 1:  # else the replay's other groups are idle
        system = System(plan=found.decode.plan, drafts=int(found.decode.plan.draft_tokens), instances=1)
        seen = lone(model, machine, system, load)
        assert found.ttft_s == pytest.approx(seen, rel=0.05)


def lone(model, machine, system, load):
    one = [np.array([value]) for value in (0.0, load["input_tokens"], load["output_tokens"])]
    trace = Trace(name="one", kind="", arrival_s=one[0], input_tokens=one[1], output_tokens=one[2])
    return float(replay(model, machine, trace, system).table["ttft_s"][0])


@RANDOM
@given(st.data())
def test_reading_a_plan_is_the_inverse_of_describing_it(data):
    whole = data.draw(st.tuples(*[st.sampled_from([1, 2, 4, 8, 16])] * 3))
    tp, dp, pp = whole
    ep = data.draw(st.sampled_from([n for n in (1, 2, 4, 8, 16) if (tp * dp) % n == 0]))
    plan = ServePlan(
        tp=tp, dp=dp, pp=pp, ep=ep, moe_tp=tp * dp // ep,
        redundant=data.draw(st.integers(0, 40)), shared_ranks=data.draw(st.integers(0, 3)),
        draft_tokens=data.draw(st.integers(0, 3)), microbatches=data.draw(st.integers(1, 2)),
        exchange=data.draw(st.sampled_from(EXCHANGES)),
    )  # fmt: skip
    assert read_plan(describe(plan)) == plan
    rows = replace(plan, sp=True, tp=tp * dp, dp=1)
    assert read_plan(describe(rows)) == rows


@pytest.mark.parametrize("text", ["TP", "TP0", "XP4", "TP2 TP4", "somehow", "-1", "TP2,DP2", "TP٣"])
def test_what_is_no_plan_is_refused(text):
    with pytest.raises(TaicangError):
        read_plan(text)


@pytest.mark.parametrize("name", ["deepseek-r1", "llama-3.1-405b", "qwen3-235b-a22b"])
def test_what_does_not_fit_is_short_of_memory(name):
    """On every machine of few chips: what is said to be missing is more than nothing."""
    said = 0
    for each in MACHINES[::2]:
        with suppress(TaicangError):
            found = infer(name, each)
            if isinstance(found, Infeasible) and "short per rank" in found.reason:
                assert ", -" not in found.reason, (each, found.reason)
                if any("--memory-fraction" in remedy for remedy in found.remedies):
                    given = infer(name, each, memory_ratio=MOST_RATIO)
                    assert not isinstance(given, Infeasible) or given.reason[:21] != found.reason[:21], each
                said += 1
    assert said > 3


@pytest.mark.parametrize(
    ("model", "machine", "stack"),
    [
        ("deepseek-r1", "hgx-h200", "sglang"),
        ("deepseek-r1", "cloudmatrix384", ""),
        ("glm-4.5-355b-a32b", "hgx-h200", "vllm"),
    ],
)
def test_the_default_number_of_drafts_is_never_behind_none_or_one(model, machine, stack):
    """Drafts take memory and steps of their own: whether they pay is compared, not assumed."""
    asked = {"input_tokens": 4096, "output_tokens": 512, **({"stack": stack} if stack else {})}
    best, *others = (infer(model, machine, drafts=drafts, **asked) for drafts in (None, 0, 1))
    made = [each.output_tokens_per_s_per_chip for each in others if not isinstance(each, Infeasible)]
    assert not isinstance(best, Infeasible)
    assert best.output_tokens_per_s_per_chip >= max(made) * (1 - 1e-9)


@pytest.mark.parametrize("name", ["tpot_s", "ttft_s", "within_ratio", "input_tokens", "output_tokens"])
@pytest.mark.parametrize("said", ["50ms", -0.05, math.nan, [1]])
def test_a_limit_that_is_no_number_is_named_from_python_too(name, said):
    with pytest.raises(InvalidInput, match=name.partition("_")[0]):
        infer("llama-3.1-8b", "hgx-h100", **{name: said})
