"""Points of a study that ask what ``taicang train`` or ``taicang fabric`` answers: keys are the command's options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from taicang.app.ask_cmd import OUTPUT, key_of, words_of
from taicang.app.fabric_cmd import fabric, question
from taicang.app.options import Whole, context_of
from taicang.app.train_cmd import train, training_from
from taicang.errors import InvalidInput
from taicang.predict import Infeasible
from taicang.predict.fabric import opened, run
from taicang.predict.train import answer
from taicang.records import plain
from taicang.search.evaluate import failed, guarded
from taicang.search.study_values import KEYS, Asks, Key, named
from taicang.units import shorten

STEP = ("step_s", "chips", "memory_bytes_per_rank", "mfu_ratio", "hfu_ratio", "run_s", "tokens_per_s_per_chip")
"""Figures of a training point."""
LINKS = ("least_s", "most_s", "latency_s", "even_s", "library_s", "closed_s", "wire_s")
"""Figures of a collective."""
ELSEWHERE = OUTPUT | {"explain", "emit", "set", "draws", "against", "serve", "train", "spares", "logical",
                      "backlog", "axes"}  # fmt: skip
"""Options that ask something else, or that a study says by the name of the figure ("chip.memory.bandwidth")."""


NAMES = {key: KEYS[key] for key in ("model", "on", "stack")} | {"machine": named(opened)}
"""Keys whose names are looked up before any point runs."""


def trained(point: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a training step."""
    return guarded(_step, point)


def moved(point: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a collective."""
    return guarded(_links, point)


def _step(point: Mapping[str, Any]) -> dict[str, Any]:
    found = answer(training_from(_context(train, point)))
    if isinstance(found, Infeasible):
        return failed(found.reason)
    figures = {
        "step_s": found.step.seconds, "memory_bytes_per_rank": float(found.step.memory.total_bytes),
        "run_s": None if found.run is None else found.run.seconds,
    }  # fmt: skip
    figures |= {name: getattr(found, name) for name in STEP if name not in figures}
    said = plain({"plan": found.step.plan, "bands": found.bands, "assumptions": found.assumptions})
    return {"feasible": True, "error": "", "stack_used": found.stack, **figures, **said}


def _links(point: Mapping[str, Any]) -> dict[str, Any]:
    options = _context(fabric, point).params
    found = run(opened(options["machine"], options["sets"]), question(options))
    figures = {name: getattr(found, name) for name in LINKS}
    return {"feasible": True, "error": "", "ranks_used": found.ranks, **figures, "assumptions": list(found.assumptions)}


def _context(command: click.Command, point: Mapping[str, Any]) -> click.Context:
    """The command line that ``point`` is."""
    keys = {key_of(param): param for param in command.params}
    words = [f"--set={key}={value}" for key, value in point.items() if "." in key]
    for key in point.keys() & keys.keys():
        words += words_of(keys[key], key, point[key], lambda: "study")
    try:
        return context_of(command, words)
    except click.UsageError as error:
        raise InvalidInput(error.format_message(), where="study") from None


def _key(param: click.Parameter) -> Key:
    def read(value: Any) -> Any:
        if value is None or isinstance(value, list | dict):
            raise InvalidInput(f"expected a value, got {shorten(value)}")
        try:
            param.type.convert(value if isinstance(value, bool) else str(value), param, None)
        except click.UsageError as error:
            raise InvalidInput(error.message) from None
        return value

    words = isinstance(param.type, click.Choice) or isinstance(param, click.Argument)
    return Key(read=read, ranges=not words, whole=isinstance(param.type, Whole))


def _asks(command: click.Command, figures: tuple[str, ...], evaluate: Any, *needs: str) -> Callable[[], Asks]:
    def made() -> Asks:
        params = {key_of(param): param for param in command.params}
        keys = {
            key: NAMES.get(key) or _key(param)
            for key, param in params.items()
            if key not in ELSEWHERE and not getattr(param, "multiple", False)
        }
        return Asks(keys=keys, figures=figures, evaluate=evaluate, needs=needs)

    return made


ASKED: Mapping[str, Callable[[], Asks]] = {
    "train": _asks(train, STEP, trained, "model", "on"),
    "fabric": _asks(fabric, LINKS, moved, "collective", "bytes", "machine"),
}
"""What a study may ask beside how to serve."""
