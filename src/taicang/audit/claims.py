"""Claims as data: words, the runs and figures that decide them, evidence, and the rule from these to a verdict.

A file is a mapping of names to claims (keys that begin with a dot hold what others merge with ``<<``):

    NAME:
      said: {source, date, place}
      claim: {en, zh}
      runs: {NAME: {ask: COMMAND, KEY: VALUE, over: {KEY: [VALUE, ...]}}}
      facts: {NAME: {value, unit, source, date, note}}
      figures: {NAME: {value: ARITHMETIC, unit, name: {en, zh}, over: ...}}
      rule: {VERDICT: ARITHMETIC, ..., otherwise: VERDICT}
      evidence: [{source, date, says: for|against|partly|aside|nothing, confidence, en, zh}]
      true_if, misquoted, outcome: {en, zh}
      answer: {en, zh}    (in full, for claims with a page of their own; {FIGURE} stands for its number)

A run that stands ``over`` values is one run for each, NAME_VALUE; so is a figure, whose arithmetic holds "{KEY}".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from taicang.audit import expression
from taicang.catalog import files, sources
from taicang.errors import InvalidInput, UnknownName

Verdict: TypeAlias = Literal["supported", "partly", "contradicted", "unsupported", "not found", "opinion"]
Says: TypeAlias = Literal["for", "against", "partly", "aside", "nothing"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
WEIGHTS: Mapping[str, int] = {"high": 3, "medium": 2, "low": 1}
RECORD: tuple[tuple[Verdict, str], ...] = (
    ("not found", "nothing > 0 and pro + con + part == 0"),
    ("opinion", "measurable == 0 and pro + con + part == 0"),
    ("unsupported", "max(pro, con, part) < 2"),
    ("supported", "pro > con and pro >= part"),
    ("contradicted", "con > pro and con >= part"),
    ("partly", "pro + con + part > 0"),
)
"""The rule of claims that name none: the weight of the evidence alone, of which weak pieces decide nothing."""
EVIDENCE = ("pro", "con", "part", "nothing", "measurable")
"""Names that a rule has besides figures: weight (3 high, 2 medium, 1 low, 0 none) of the strongest evidence for it,
against it, for a part of it; the number of searches that found no origin; whether it names a quantity."""
OTHERWISE = "1 > 0"
NAMED = re.compile(r"\{(\w+)\}")
"""A figure's name in an answer."""
FOLDER = files.DATA / "claims"
LANGUAGES = ("en", "zh")
_KEYS = (
    "said", "claim", "quantity", "runs", "facts", "figures", "rule", "evidence", "true_if", "misquoted",
    "outcome", "answer",
)  # fmt: skip
_FIGURE, _FACT = ("value", "unit", "name", "over"), ("value", "unit", "source", "date", "note")
_EVIDENCE, _SAID = ("source", "date", "says", "confidence", *LANGUAGES), ("source", "date", "place")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number that arithmetic over runs and facts gives."""

    key: str
    value: str
    unit: str
    name: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A number that somebody else published."""

    value: float
    unit: str
    source: str
    date: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a source says, and on which side."""

    source: str
    date: str
    says: Says
    confidence: str
    text: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One claim; texts by language."""

    key: str
    text: Mapping[str, str]
    said: Mapping[str, str]
    quantity: Mapping[str, str]
    """What decides it, in words; empty where nothing measurable does."""
    runs: Mapping[str, Mapping[str, Any]]
    facts: Mapping[str, Fact]
    figures: tuple[Figure, ...]
    rule: tuple[tuple[Verdict, str], ...]
    evidence: tuple[Evidence, ...]
    true_if: Mapping[str, str]
    misquoted: Mapping[str, str]
    outcome: Mapping[str, str]
    answer: Mapping[str, str]
    """In full; names of figures in braces."""
    file: Path

    @property
    def weights(self) -> dict[str, float]:
        """What ``EVIDENCE`` names."""

        def heaviest(says: str) -> int:
            return max((WEIGHTS[each.confidence] for each in self.evidence if each.says == says), default=0)

        return {
            "pro": heaviest("for"),
            "con": heaviest("against"),
            "part": heaviest("partly"),
            "nothing": sum(each.says == "nothing" for each in self.evidence),
            "measurable": float(bool(self.quantity)),
        }


def built_in() -> tuple[Claim, ...]:
    """Every claim of the package, in the order in which they were made."""
    return tuple(claim for path in sorted(FOLDER.glob("*.yaml")) for claim in read_claims(path))


def read_claims(path: Path) -> tuple[Claim, ...]:
    """The claims of a file. Raises ``InvalidInput`` with file, line and key."""
    return tuple(
        _claim(path, str(key), _mapping(path, body, [str(key)]))
        for key, body in files.read(path).items()
        if not str(key).startswith(".")
    )


def named(key: str, claims: Iterable[Claim]) -> Claim:
    """The claim ``key``; ``UnknownName`` suggests the nearest."""
    known = {claim.key: claim for claim in claims}
    if key not in known:
        raise UnknownName("claim", key, known)
    return known[key]


def _claim(path: Path, key: str, body: Mapping[str, Any]) -> Claim:
    _only(path, body, _KEYS, [key])
    for needed in ("said", "claim"):
        if needed not in body:
            raise InvalidInput(f"a claim needs {needed!r}", where=files.where(path, [key]))
    made = Claim(
        key=key,
        text=_texts(path, body["claim"], [key, "claim"]),
        said={name: str(text) for name, text in _section(path, body, key, "said", _SAID).items()},
        quantity=_texts(path, body.get("quantity"), [key, "quantity"]),
        runs=dict(_expanded(path, key, "runs", body.get("runs", {}))),
        facts={name: _fact(path, fact, [key, "facts", name]) for name, fact in body.get("facts", {}).items()},
        figures=tuple(
            _figure(path, name, figure, [key, "figures"])
            for name, figure in _expanded(path, key, "figures", body.get("figures", {}))
        ),
        rule=_rule(path, key, body.get("rule")),
        evidence=tuple(_evidence(path, each, [key, "evidence"]) for each in body.get("evidence", ())),
        true_if=_texts(path, body.get("true_if"), [key, "true_if"]),
        misquoted=_texts(path, body.get("misquoted"), [key, "misquoted"]),
        outcome=_texts(path, body.get("outcome"), [key, "outcome"]),
        answer=_texts(path, body.get("answer"), [key, "answer"]),
        file=path,
    )
    _check(made)
    return made


def _check(claim: Claim) -> None:
    """Every name in the arithmetic is a run, a fact or a figure before it. Raises ``InvalidInput``."""
    known = {*claim.runs, *claim.facts}
    for figure in claim.figures:
        _known(claim, "figures", figure.value, known, "run, fact or figure")
        if figure.key in known:
            where = files.where(claim.file, [claim.key, "figures", figure.key])
            raise InvalidInput("a run, fact or figure has this name already", where=where)
        known.add(figure.key)
    for _, text in claim.rule:
        _known(claim, "rule", text, {*known, *EVIDENCE}, "figure")
    figures = {figure.key for figure in claim.figures}
    for text in claim.answer.values():
        for name in NAMED.findall(text):
            if name not in figures:
                raise UnknownName("figure", name, figures, where=files.where(claim.file, [claim.key, "answer"]))


def _known(claim: Claim, section: str, text: str, known: Collection[str], kind: str) -> None:
    """Raise for arithmetic that is none, and for names in it that are not ``known``; places are found only then."""
    try:
        unknown = [name for name in expression.names(text) if name.partition(".")[0] not in known]
    except InvalidInput as error:
        raise InvalidInput(str(error), where=files.where(claim.file, [claim.key, section])) from None
    if unknown:
        raise UnknownName(kind, unknown[0], known, where=files.where(claim.file, [claim.key, section]))


def _expanded(path: Path, key: str, section: str, body: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Runs or figures by name, those ``over`` values once for each."""
    for name, each in _mapping(path, body, [key, section]).items():
        given = dict(_mapping(path, each, [key, section, name]))
        over = _mapping(path, given.pop("over", {}), [key, section, name])
        if not over:
            yield name, given
        for axis, values in over.items():
            for value in values:
                filled = {axis: value} if section == "runs" else {}
                yield f"{name}_{value}", {part: _filled(text, axis, value) for part, text in given.items()} | filled


def _filled(text: Any, axis: str, value: Any) -> Any:
    if isinstance(text, Mapping):
        return {part: _filled(each, axis, value) for part, each in text.items()}
    return text.replace(f"{{{axis}}}", str(value)) if isinstance(text, str) else text


def _figure(path: Path, name: str, body: Mapping[str, Any], keys: list[str]) -> Figure:
    _only(path, body, _FIGURE, keys)
    return Figure(
        key=name,
        value=str(body.get("value", "")),
        unit=str(body.get("unit", "")),
        name=_texts(path, body.get("name"), [*keys, name]),
    )


def _fact(path: Path, body: Any, keys: list[str]) -> Fact:
    given = _mapping(path, body, keys)
    _only(path, given, _FACT, keys)
    value = given.get("value")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(f"expected a number under 'value', got {value!r}", where=files.where(path, keys))
    return Fact(value=value, unit=str(given.get("unit", "")), source=_source(path, given, keys),
                date=str(given.get("date", "")), note=str(given.get("note", "")))  # fmt: skip


def _evidence(path: Path, body: Any, keys: list[str]) -> Evidence:
    given = _mapping(path, body, keys)
    _only(path, given, _EVIDENCE, keys)
    sides: tuple[Says, ...] = get_args(Says)
    says = next((each for each in sides if each == given.get("says")), None)
    confidence = given.get("confidence", "medium")
    if says is None:
        raise UnknownName("side", str(given.get("says")), sides, where=files.where(path, keys))
    if confidence not in WEIGHTS:
        raise UnknownName("confidence", str(confidence), WEIGHTS, where=files.where(path, keys))
    return Evidence(
        source=_source(path, given, keys),
        date=str(given.get("date", "")),
        says=says,
        confidence=confidence,
        text=_texts(path, {name: given[name] for name in LANGUAGES if name in given}, keys),
    )


def _source(path: Path, given: Mapping[str, Any], keys: list[str]) -> str:
    name = str(given.get("source", ""))
    if name not in sources():
        raise UnknownName("source", name, sources(), where=files.where(path, keys))
    return name


def _rule(path: Path, key: str, body: Any) -> tuple[tuple[Verdict, str], ...]:
    if body is None:
        return RECORD
    given = dict(_mapping(path, body, [key, "rule"]))
    last = given.pop("otherwise", None)
    made: list[tuple[Verdict, str]] = []
    for verdict, text in [*given.items(), *([(last, OTHERWISE)] if last not in (None, "evidence") else [])]:
        if verdict not in VERDICTS:
            raise UnknownName("verdict", str(verdict), VERDICTS, where=files.where(path, [key, "rule"]))
        made.append((verdict, str(text)))
    return (*made, *RECORD) if last == "evidence" else tuple(made)


def _section(path: Path, body: Mapping[str, Any], key: str, name: str, allowed: tuple[str, ...]) -> Mapping[str, Any]:
    given = _mapping(path, body[name], [key, name])
    _only(path, given, allowed, [key, name])
    _source(path, given, [key, name])
    return given


def _texts(path: Path, body: Any, keys: list[str]) -> Mapping[str, str]:
    """Words by language; one text alone serves both."""
    if body is None:
        return {}
    if isinstance(body, str):
        return dict.fromkeys(LANGUAGES, body)
    given = _mapping(path, body, keys)
    _only(path, given, LANGUAGES, keys)
    if set(given) != set(LANGUAGES):
        raise InvalidInput("needs 'en' and 'zh'", where=files.where(path, keys))
    return {name: str(text) for name, text in given.items()}


def _mapping(path: Path, body: Any, keys: list[str]) -> Mapping[str, Any]:
    if not isinstance(body, dict):
        raise InvalidInput("expected a mapping", where=files.where(path, keys))
    return body


def _only(path: Path, body: Mapping[str, Any], allowed: tuple[str, ...], keys: list[str]) -> None:
    for key in body:
        if key not in allowed:
            raise UnknownName("key", str(key), allowed, where=files.where(path, [*keys, str(key)]))
