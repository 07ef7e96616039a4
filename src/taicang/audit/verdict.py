"""From a claim and the answers to its runs to a verdict, and whether the error bands could change it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from taicang.audit import expression
from taicang.audit.claims import Claim, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a run says: figures (nested mappings; one with low, mid and high is a band of its own), and the ends
    between which measurements of its kind lay, nine times in ten, as multiples of the prediction."""

    figures: Mapping[str, Any]
    bands: Mapping[str, tuple[float, float] | None] = field(default_factory=dict)
    """By metric; None where nobody measured anything near."""
    infeasible: str = ""


Ask: TypeAlias = Callable[[Mapping[str, Any]], Answer]
"""Answers a question of the keys of a command's options."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One figure with its band; ``value`` None where a run has no answer."""

    key: str
    name: Mapping[str, str]
    unit: str
    value: float | None
    low: float | None
    high: float | None
    unvalidated: bool
    """Whether it rests on a prediction that no measurement is near to: its error is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A claim with its verdict. ``could_be``: what else the rule says somewhere inside the band of one figure."""

    claim: Claim
    verdict: Verdict
    could_be: tuple[Verdict, ...]
    figures: tuple[Result, ...]
    deciding: str
    """Arithmetic of the rule's line that gave the verdict."""
    infeasible: Mapping[str, str]
    """Runs that have no plan, and why."""


def judge(claim: Claim, ask: Ask) -> Finding:
    """Answer the runs of ``claim``, reduce them to its figures and apply its rule."""
    answers = {name: ask(question) for name, question in claim.runs.items()}
    figures = _results(claim, answers)
    values = {each.key: each.value for each in figures}
    verdict, deciding = _verdict(claim, values)
    edges = [_verdict(claim, values | {each.key: place})[0] for each in figures for place in _across(each)]
    return Finding(
        claim=claim,
        verdict=verdict,
        could_be=tuple(dict.fromkeys(edge for edge in edges if edge != verdict)),
        figures=figures,
        deciding=deciding,
        infeasible={name: answer.infeasible for name, answer in answers.items() if answer.infeasible},
    )


PLACES = 16
"""Parts of a band, between which the rule is asked: a verdict that holds over more than one of them is not missed."""


def _across(figure: Result) -> Iterator[float]:
    """From end to end of a band."""
    if figure.low is not None and figure.high is not None:
        yield from (figure.low + (figure.high - figure.low) * at / PLACES for at in range(PLACES))
        yield figure.high


def _verdict(claim: Claim, values: Mapping[str, float | None]) -> tuple[Verdict, str]:
    """The first line of the rule that holds. A line that needs a figure which no run gives does not."""
    known = claim.weights | {name: fact.value for name, fact in claim.facts.items()}
    known |= {name: value for name, value in values.items() if value is not None}
    for verdict, text in claim.rule:
        try:
            if expression.evaluate(text, known.__getitem__):
                return verdict, text
        except (LookupError, ArithmeticError):
            continue
    return "unsupported", ""


def _results(claim: Claim, answers: Mapping[str, Answer]) -> tuple[Result, ...]:
    """Figures at the centre, and how far each run's band moves them: shares of independent errors add as squares."""
    centre = _values(claim, answers, "", 0)
    moved = [
        (_values(claim, answers, name, side))
        for name, answer in answers.items()
        for side in (-1, 1)
        if any(answer.bands.values()) or _banded(answer.figures)
    ]
    made, unknown = [], _unvalidated(claim, answers)
    for figure in claim.figures:
        value = centre[figure.key]
        ends = [each[figure.key] for each in moved]
        shifts = [] if value is None else [end - value for end in ends if end is not None]
        up, down = (math.sqrt(sum(max(sign * shift, 0.0) ** 2 for shift in shifts)) for sign in (1, -1))
        made.append(
            Result(
                key=figure.key,
                name=figure.name,
                unit=figure.unit,
                value=value,
                low=None if value is None else value - down,
                high=None if value is None else value + up,
                unvalidated=figure.key in unknown,
            )
        )
    return tuple(made)


def _values(claim: Claim, answers: Mapping[str, Answer], moved: str, side: int) -> dict[str, float | None]:
    """Every figure, with the errors of the run ``moved`` at one end of its band."""
    found: dict[str, float | None] = {}

    def lookup(name: str) -> float:
        run, _, path = name.partition(".")
        if run in claim.facts:
            return claim.facts[run].value
        if run in found:
            known = found[run]
            if known is None:
                raise LookupError(run)
            return known
        return _leaf(answers[run], path, side if run == moved else 0)

    for figure in claim.figures:
        try:
            found[figure.key] = float(expression.evaluate(figure.value, lookup))
        except (LookupError, ArithmeticError):
            found[figure.key] = None
    return found


def _leaf(answer: Answer, path: str, side: int) -> float:
    """A figure of a run; at ``side`` of the band where it has one of its own, or is a rate or a time."""
    found: Any = answer.figures
    for part in path.split("."):
        found = found[part] if isinstance(found, Mapping) else None
    if isinstance(found, Mapping) and "mid" in found:
        return float(found[("low", "mid", "high")[side + 1]])
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise LookupError(path)
    ends = answer.bands.get(_metric(path))
    return float(found) * (1.0 if ends is None or not side else ends[side > 0])


def _metric(path: str) -> str:
    """The metric whose error a figure of a run has ("" where it is none of a prediction)."""
    last = path.rpartition(".")[2]
    named = {"tpot_s": "tpot", "ttft_s": "ttft", "mfu_ratio": "mfu", "seconds": "step_time"}
    return named.get(last, "throughput" if "tokens_per_" in last or last == "requests_per_s" else "")


def _unvalidated(claim: Claim, answers: Mapping[str, Answer]) -> set[str]:
    """Figures that rest, themselves or through others, on a prediction without a band."""
    found: set[str] = set()
    for figure in claim.figures:
        for name in expression.names(figure.value):
            run, _, path = name.partition(".")
            bands = answers[run].bands if run in answers and run not in claim.facts else {}
            if run in found or (_metric(path) in bands and bands[_metric(path)] is None):
                found.add(figure.key)
    return found


def _banded(figures: Any) -> bool:
    return isinstance(figures, Mapping) and ("mid" in figures or any(_banded(each) for each in figures.values()))
