"""``taicang audit``. The runs of claims are questions, answered by the commands that answer them for everybody."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import reduce
from pathlib import Path
from typing import Any

import click

from taicang.app.ask_cmd import ANSWERING, Question, answer, words
from taicang.app.main import LazyGroup
from taicang.app.options import command, give
from taicang.audit.verdict import Answer
from taicang.catalog import build, entry, find
from taicang.errors import InvalidInput, UnknownName


@command("audit")
def audit(
    claim: str | None, explain: bool, lang: str, only: str | None, sets: tuple[str, ...], file: Path | None,
    page: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """What was said of supernodes, and what holds: every claim with its verdict and the number that decides it."""
    from taicang.audit.claims import VERDICTS, built_in, named, read_claims
    from taicang.audit.verdict import judge

    if only is not None and only not in VERDICTS:
        raise UnknownName("verdict", only, VERDICTS, where="--verdict")
    claims = built_in() if file is None else read_claims(file)
    chosen = claims if claim is None else (named(claim, claims),)
    asker = Asker(read_sets(sets))
    found = [judge(each, asker.of(each.file)) for each in chosen]
    found = [each for each in found if only in (None, each.verdict)]

    def show() -> None:
        from taicang.app.render_audit import show_claim, show_claims

        if claim is None and not explain:
            show_claims(found, lang)
        else:
            for each in found:
                show_claim(each, lang, full=explain)

    give("audit", [_plain(each) for each in found], show, as_json=as_json, page=page, title="taicang audit")


def _plain(finding: Any) -> dict[str, Any]:
    """A finding for programs: the claim's data without the place of its file, and the commands that repeat its runs."""
    from taicang.records import plain

    made: dict[str, Any] = plain({key: getattr(finding, key) for key in finding.__slots__})
    made["claim"].pop("file")
    made["commands"] = {name: words(question) for name, question in finding.claim.runs.items()}
    return made


QUIET = {"search": {"confirm": 0, "explain": False}}
"""What a figure does not need: replays of the ranking, and its explanation."""


def read_sets(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Machine and change of each "MACHINE:PATH=VALUE"."""
    made = []
    for text in texts:
        name, colon, change = text.partition(":")
        if not colon or "=" not in change:
            raise InvalidInput(f"expected MACHINE:PATH=VALUE, got {text!r}", where="--set")
        find(name.strip())
        made.append((name.strip(), change))
    return made


class Asker:
    """Answers questions, each once. ``sets`` changes figures of machines: (machine, "PATH=VALUE")."""

    def __init__(self, sets: Sequence[tuple[str, str]] = ()) -> None:
        self.sets = sets
        self.known: dict[str, Answer] = {}

    def of(self, path: Path) -> Callable[[Mapping[str, Any]], Answer]:
        """What answers the questions of the file ``path``, which errors name."""

        def ask(question: Mapping[str, Any]) -> Answer:
            key = json.dumps(question, sort_keys=True)
            if key not in self.known:
                self.known[key] = self._answer(question, path)
            return self.known[key]

        return ask

    def _answer(self, question: Mapping[str, Any], path: Path) -> Answer:
        given = dict(question)
        kind = str(given.pop("ask", ""))
        name = str(given.get("on", given.get("name", given.get("machine", ""))))
        changes = [change for machine, change in self.sets if build.split(name)[0] == machine]
        if kind == "catalog":
            return Answer(figures=_figures(name, changes))
        if kind not in ANSWERING:
            raise UnknownName("command", kind, (*ANSWERING, "catalog"), where=str(path))
        if changes:
            given["set"] = [*given.get("set", ()), *changes]
        return _reduced(kind, _printed(Question(ask=kind, given=given | QUIET.get(kind, {}), defaults={}), path))


def _printed(question: Question, path: Path) -> Any:
    """What the command prints with --json."""
    command = LazyGroup(commands={}).get_command(click.Context(click.Command("audit")), question.ask)
    assert command is not None, question.ask
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(io.StringIO()), suppress(SystemExit):  # no plan: what it prints says so
        answer(question, command, path, ["--json"])
    return json.loads(out.getvalue())


def _reduced(kind: str, told: Any) -> Answer:
    """The figures of the best plan and the band of its kind, out of what a command prints."""
    one = told[0] if isinstance(told, list) else told.get("prediction") or told
    if kind == "search":
        if not one["best"]:
            return Answer(figures={}, infeasible="; ".join(one["nearest"]))
        one = one["chosen"]["choice"]
    if isinstance(told, dict) and told.get("infeasible"):
        return Answer(figures={}, infeasible=str(one.get("reason", "")))
    ends = {
        metric: None if band["low_ratio"] is None else (float(band["low_ratio"]), float(band["high_ratio"]))
        for metric, band in (one.get("bands") or {}).items()
    }
    return Answer(figures=one, bands=ends)


def _figures(name: str, changes: Sequence[str]) -> dict[str, Any]:
    """Figures of a catalogue entry, nested as their keys are; readings that disagree are the band."""
    made: dict[str, Any] = {}
    for figure in entry(find(name), name, changes).figures:
        if isinstance(figure.value, bool) or not isinstance(figure.value, int | float):
            continue
        *sections, last = figure.key.split(".")
        inner = reduce(lambda place, key: place.setdefault(key, {}), sections, made)
        readings = [
            other.value
            for other in figure.conflicts
            if isinstance(other.value, int | float) and other.value is not True
        ]
        inner[last] = {"low": min(figure.value, *readings), "mid": figure.value, "high": max(figure.value, *readings)} \
            if readings else figure.value  # fmt: skip
    return made
