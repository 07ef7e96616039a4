"""Points of a study: what ``taicang search``, ``train`` or ``fabric`` answers, whose options are their keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import click

from taicang import catalog
from taicang.app.ask_cmd import OUTPUT, key_of, words_of
from taicang.app.fabric_cmd import fabric, question
from taicang.app.load_options import named_load, run_from
from taicang.app.options import Whole, command, context_of
from taicang.app.search_jobs import ask_of
from taicang.app.train_cmd import train, training_from
from taicang.catalog.models import model as load_model
from taicang.catalog.profiles import slos
from taicang.errors import InvalidInput, UnknownName
from taicang.predict import Infeasible
from taicang.predict.fabric import opened, run
from taicang.predict.train import answer
from taicang.records import plain
from taicang.search.choices import NAMED_CACHES, NAMED_QUANTS
from taicang.search.door import of_profile, plan_of
from taicang.search.evaluate import FIGURES, best_row, failed, guarded
from taicang.search.study_values import Asks, Key, named
from taicang.search.words import MODES
from taicang.units import shorten

STEP = ("step_s", "chips", "memory_bytes_per_rank", "mfu_ratio", "hfu_ratio", "run_s", "tokens_per_s_per_chip")
"""Figures of a training point."""
LINKS = ("least_s", "most_s", "latency_s", "even_s", "library_s", "closed_s", "wire_s")
"""Figures of a collective."""
ELSEWHERE = OUTPUT | {"explain", "emit", "set", "draws", "against", "serve", "train", "spares", "logical", "backlog",
                      "axes", "space", "top", "weights", "versus", "confirm"}  # fmt: skip
"""Options that ask something else, or that a study says by the name of the figure ("chip.memory.bandwidth")."""


def _slo(name: str) -> None:
    if name.partition("@")[0] not in slos():
        raise UnknownName("SLO", name, slos())


def _one_of(kind: str, known: Sequence[str]) -> Key:
    def find(name: str) -> None:
        if name not in known:
            raise UnknownName(kind, name, known)

    return named(find)


NAMES = {
    "model": named(load_model), "on": named(catalog.machine), "machine": named(opened),
    "stack": named(catalog.stack, empty=True), "profile": named(of_profile, empty=True), "slo": named(_slo, empty=True),
    "quant": _one_of("quantisation", NAMED_QUANTS), "kv": _one_of("cache format", NAMED_CACHES),
}  # fmt: skip
"""Keys whose names are looked up before any point runs."""


@command("search.serving")
def serving(**_: Any) -> None:
    """The options of a point that asks how to serve."""


def served(point: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a way to serve."""
    return guarded(_best, point)


def trained(point: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a training step."""
    return guarded(_step, point)


def moved(point: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a collective."""
    return guarded(_links, point)


def _best(point: Mapping[str, Any]) -> dict[str, Any]:
    with _context(serving, point) as context:
        options = context.params
        named_load(options, options["model"])
    net = load_model(options["model"], approximate=options["approximate"])
    run = run_from(options, net, options["machine"], plan=plan_of(options, net), modes=MODES[options["mode"]])
    return best_row(run, replace(ask_of(options), top=1, front=False))


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
    for key, value in point.items():
        if (name := key.replace("_", "-")) in keys and value is not None:
            words += words_of(keys[name], name, value, lambda: "study")
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
    empty = not param.required and not isinstance(param.default, str | int | float)
    return Key(read=read, ranges=not words, whole=isinstance(param.type, Whole), empty=empty)


def _asks(
    command: click.Command, figures: tuple[str, ...], evaluate: Any, *needs: str, dash: str = "-"
) -> Callable[[], Asks]:
    def made() -> Asks:
        params = {key_of(param): param for param in command.params}
        keys = {
            key.replace("-", dash): NAMES.get(key) or _key(param)
            for key, param in params.items()
            if key not in ELSEWHERE and not getattr(param, "multiple", False)
        }
        return Asks(keys=keys, figures=figures, evaluate=evaluate, needs=needs)

    return made


ASKED: Mapping[str, Callable[[], Asks]] = {
    "search": _asks(serving, FIGURES, served, "model", "on", dash="_"),
    "train": _asks(train, STEP, trained, "model", "on"),
    "fabric": _asks(fabric, LINKS, moved, "collective", "bytes", "machine"),
}
"""What a study may ask."""
