"""Laws of verdicts, over every built-in claim and any answer to its runs."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from taicang.audit import claims, expression
from taicang.audit.verdict import Answer, judge

CLAIMS = tuple(each for each in claims.built_in() if each.runs)
SIZES = st.floats(-6.0, 12.0).map(lambda x: 10.0**x)
METRICS = ("tpot", "ttft", "mfu", "step_time", "throughput")


@st.composite
def answered(draw, low, high):
    """A claim, and answers to its runs that have every figure asked for, or here and there none."""
    claim = draw(st.sampled_from(CLAIMS))
    made = {}
    for run in claim.runs:
        figures = {}
        for name in sorted(name for each in claim.figures for name in expression.names(each.value)):
            first, _, path = name.partition(".")
            if first == run and path and first not in claim.facts:
                at = figures
                *inner, last = path.split(".")
                for part in inner:
                    at = at.setdefault(part, {})
                value = draw(SIZES)
                banded = {"low": value * low, "mid": value, "high": value * high}
                at[last] = draw(st.sampled_from([value, value, banded, None]))
        bands = dict.fromkeys(METRICS, (low, high))
        made[run] = Answer(figures=figures, bands=bands)
    asked = iter(made.values())
    return judge(claim, lambda _: next(asked))


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
@given(answered(0.6, 1.8))
def test_a_verdict_is_what_the_rule_says_of_figures_inside_their_bands(finding):
    values = {each.key: each.value for each in finding.figures if each.value is not None}
    assert (finding.verdict, finding.deciding) == leads_to(finding, values)
    edges = set()
    for each in finding.figures:
        if each.value is not None:
            assert each.low <= each.value <= each.high
            edges |= {leads_to(finding, values | {each.key: edge})[0] for edge in (each.low, each.high)}
    assert set(finding.could_be) == edges - {finding.verdict}


@settings(max_examples=100, deadline=None)
@given(answered(1.0, 1.0))
def test_what_is_certain_has_one_verdict(finding):
    assert finding.could_be == ()
    for each in finding.figures:
        assert each.low == each.value == each.high
