"""Inputs that once failed, from public reports and hostile ones (``cases.yaml``): what holds of each answer."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from taicang.catalog.trust import UNVALIDATED

HELD = yaml.safe_load(Path(__file__).with_name("cases.yaml").read_text(encoding="utf-8"))
Said = dict[str, Any]
Ask = Callable[[str], Said]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where all their files lie."""
    made: Path = tmp_path_factory.mktemp("cases")
    for name, held in HELD["files"].items():
        (made / name).parent.mkdir(exist_ok=True)
        (made / name).write_text(held if isinstance(held, str) else json.dumps(held), encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def answers() -> dict[str, Said]:
    """Of questions that were asked already."""
    return {}


@pytest.fixture
def ask(taicang, folder, tmp_path, monkeypatch, answers) -> Ask:
    """Everything that a command says, as one tree."""
    monkeypatch.chdir(folder)

    def run(line: str) -> Said:
        if line not in answers:
            code, out, err = taicang(*shlex.split(line.replace("{out}", str(tmp_path))), "--json")
            text = "".join(file.read_text(encoding="utf-8") for file in sorted(tmp_path.iterdir()))
            tree = json.loads(out[out.index("{") :]) if "{" in out else {}
            answers[line] = tree | {"exit": code, "said": " ".join((out + err).split()), "files": text}
        return answers[line]

    return run


def _found(tree: Said, path: str) -> list[Any]:
    """All that lies at a path."""
    values = [tree]
    for step in path.split("/"):
        key, _, wanted = step.partition("=")
        if wanted:
            values = [value for value in values if str(value[key]) == wanted]
        elif "+" in key:
            values = [sum(value[each] for each in key.split("+")) for value in values]
        else:
            values = [value[key] for value in values]
        values = [each for value in values for each in (value if isinstance(value, list) else [value])]
    assert values, path
    return values


def _in_band(tree: Said, value: float, path: str, measured: float) -> bool:
    (band,) = _found(tree, path)
    return band["verdict"] == UNVALIDATED or bool(band["low_ratio"] <= measured / value <= band["high_ratio"])


RELATIONS: dict[str, Callable[[Said, Ask, str, Any], bool]] = {
    "is": lambda tree, ask, at, it: all(value == it for value in _found(tree, at)),
    "near": lambda tree, ask, at, it: all(abs(value / float(it[0]) - 1.0) <= it[1] for value in _found(tree, at)),
    "more": lambda tree, ask, at, it: all(value > it for value in _found(tree, at)),
    "less": lambda tree, ask, at, it: all(value < it for value in _found(tree, at)),
    "has": lambda tree, ask, at, it: all(str(it) in str(value) for value in _found(tree, at)),
    "lacks": lambda tree, ask, at, it: all(str(it) not in str(value) for value in _found(tree, at)),
    "in_band": lambda tree, ask, at, it: all(_in_band(tree, value, it[0], float(it[1])) for value in _found(tree, at)),
    "times": lambda tree, ask, at, it: _found(tree, at)[0] >= it[0] * _found(ask(it[1]), at)[0],
    "same": lambda tree, ask, at, it: _found(tree, at) == _found(ask(it), at),
    "pairs": lambda tree, ask, at, it: _found(tree, at) == _found(tree, it),
    "over": lambda tree, ask, at, it: _found(tree, at)[0] >= it[0] * _found(tree, it[1])[0],
}


def _marked(name: str, case: dict[str, Any]) -> Any:
    """A case; strictly expected to fail where it says why."""
    marks = [pytest.mark.xfail(reason=case["fails"], strict=True, raises=AssertionError)] if "fails" in case else []
    return pytest.param(case, id=name, marks=marks)


@pytest.mark.parametrize("case", [_marked(*each) for each in HELD["cases"].items()])
def test_what_holds_of_an_answer(case, ask) -> None:
    tree = ask(case["ask"])
    for each in case["holds"]:
        ((relation, it),) = ((key, value) for key, value in each.items() if key != "at")
        assert RELATIONS[relation](tree, ask, each["at"], it), (each, _found(tree, each["at"]), tree["said"][:400])


def test_every_input_has_a_case() -> None:
    """26 of training, 19 of serving; of scoring eight, and launches."""
    wanted = [f"h{n:02}" for n in range(1, 27)] + [f"H{n:02}" for n in range(1, 20)] + [f"S{n}" for n in range(1, 9)]
    assert {name.split()[0] for name in HELD["cases"]} == set(wanted)
