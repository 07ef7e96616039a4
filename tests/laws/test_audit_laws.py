"""Laws of verdicts, over every built-in claim and any answer to its runs."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang.audit import claims, expression
from taicang.audit.verdict import Answer, judge

CLAIMS = tuple(each for each in claims.built_in() if each.runs)
SIZES = st.floats(-6.0, 12.0).map(lambda x: 10.0**x)
METRICS = ("tpot", "ttft", "mfu", "step_time", "throughput")


@st.composite
def runs(draw):
    """A claim, and every figure of its runs that is asked for, in some place with its own band, here and there none."""
    claim = draw(st.sampled_from(CLAIMS))
    names = sorted(name for each in claim.figures for name in expression.names(each.value))
    asked = [name for name in names if name.partition(".")[0] in claim.runs and "." in name]
    asked = [name for name in asked if name.partition(".")[0] not in claim.facts]
    return claim, {name: (draw(SIZES), draw(st.sampled_from(["plain", "plain", "banded", "none"]))) for name in asked}


def judged(case, low, high):
    """The finding on answers whose errors lie between ``low`` and ``high`` times the prediction."""
    claim, asked = case
    made = {run: Answer(figures={}, bands=dict.fromkeys(METRICS, (low, high))) for run in claim.runs}
    for name, (value, kind) in asked.items():
        run, *inner, last = name.split(".")
        at = made[run].figures
        for part in inner:
            at = at.setdefault(part, {})
        banded = {"low": value * low, "mid": value, "high": value * high}
        at[last] = {"plain": value, "banded": banded, "none": None}[kind]
    answers = iter(made.values())
    return judge(claim, lambda _: next(answers))


def leads_to(finding, values):
    """What the rule says of ``values``."""
    claim = finding.claim
    known = claim.weights | {name: fact.value for name, fact in claim.facts.items()} | values
    for verdict, text in claim.rule:
        try:
            if expression.evaluate(text, known.__getitem__):
                return verdict, text
        except (LookupError, ArithmeticError):
            continue
    return "unsupported", ""


@settings(max_examples=200, deadline=None)
@given(runs())
def test_a_verdict_is_what_the_rule_says_of_figures_inside_their_bands(case):
    """What else it says across a band is told: all of it that holds over more than a sixteenth, nothing beyond."""
    finding = judged(case, 0.6, 1.8)
    values = {each.key: each.value for each in finding.figures if each.value is not None}
    assert (finding.verdict, finding.deciding) == leads_to(finding, values)
    inside, long = set(), set()
    for each in finding.figures:
        if each.value is None:
            continue
        assert each.low <= each.value <= each.high
        places = np.linspace(each.low, each.high, 16 * 8 + 1)
        said = [leads_to(finding, values | {each.key: place})[0] for place in places.tolist()]
        inside |= set(said)
        long |= {verdict for verdict, these in groupby(said) if len(list(these)) > 9} | {said[0], said[-1]}
    assert set(finding.could_be) <= inside - {finding.verdict}
    assert set(finding.could_be) >= long - {finding.verdict}


@settings(max_examples=100, deadline=None)
@given(runs(), st.floats(0.5, 1.0), st.floats(1.0, 2.0), st.floats(0.0, 1.0))
def test_the_farther_a_prediction_may_be_off_the_wider_its_figures_and_the_verdict_stays(case, low, high, less):
    wide = judged(case, low, high)
    narrow = judged(case, low + (1.0 - low) * less, high + (1.0 - high) * less)
    assert (narrow.verdict, narrow.deciding) == (wide.verdict, wide.deciding)
    for one, other in zip(narrow.figures, wide.figures, strict=True):
        assert (one.key, one.value) == (other.key, other.value)
        if one.value is not None:
            slack = 1e-9 * abs(one.value)
            assert other.low <= one.low + slack
            assert other.high >= one.high - slack


@settings(max_examples=100, deadline=None)
@given(runs())
def test_what_is_certain_has_one_verdict(case):
    finding = judged(case, 1.0, 1.0)
    assert finding.could_be == ()
    for each in finding.figures:
        assert each.low == each.high == pytest.approx(each.value) if each.value is not None else each.low is None
