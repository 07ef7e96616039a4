"""Options of ``taicang replay`` that would change nothing beside the others: said, not ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from taicang.errors import InvalidInput

NEEDS = (
    ("think", ("clients", "turns")),
    ("random_think", ("clients", "turns")),
    ("shared", ("generated",)),
    ("spread", ("generated",)),
    ("turns", ("generated",)),
    ("cv", ("rate",)),
    ("process", ("rate",)),
    ("pool_plane", ("pool",)),
    ("ssd_plane", ("ssd",)),
    ("ssd_bandwidth", ("ssd",)),
    ("ttl", ("offload", "pool", "ssd")),
    ("keep_answers", ("offload", "pool", "ssd")),
    ("form", ("out",)),
)
"""Option, and those of which it needs one."""
EXCLUDES = (
    ("rate", "clients", "clients set the pace themselves"),
    ("profile", "input_tokens", "a profile has lengths of its own"),
    ("profile", "output_tokens", "a profile has lengths of its own"),
    ("profile", "spread", "a profile has lengths of its own"),
    ("profile", "shared", "a profile has lengths of its own"),
    ("instances", "keep_answers", "what an instance that does both computes is written anyway"),
    ("instances", "prefill", "the pools name their instances"),
    ("trace", "input_tokens", "a trace has lengths of its own"),
    ("trace", "output_tokens", "a trace has lengths of its own"),
)
"""Two that do not go together, and why."""
FLAGS = {
    "clients": "--closed-loop",
    "input_tokens": "--input",
    "output_tokens": "--output",
    "form": "--format",
    "generated": "generated traffic (no TRACE)",
    "trace": "TRACE",
}
"""How the user writes an option, where it is not by its name."""


def refuse_unused(context: click.Context, path: str | None) -> None:
    """Raise ``InvalidInput`` for an option that the user gave and nothing would read. ``path`` is the trace's."""
    given: Mapping[str, Any] = context.params
    said = {name for name in given if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE}
    said.add("generated" if path is None else "trace")
    for name, needs in NEEDS:
        if name in said and not said & set(needs):
            wanted = " or ".join(_flag(each) for each in needs)
            raise InvalidInput(f"changes nothing without {wanted}", where=_flag(name))
    for first, second, why in EXCLUDES:
        if first in said and second in said:
            raise InvalidInput(f"{why}: drop {_flag(second)} or {_flag(first)}", where=_flag(second))
    if "batch" in said:
        raise InvalidInput("a replay finds its batches itself; their limit is --max-batch", where="--batch")
    if "cv" in said and given["process"] in ("poisson", "uniform"):
        raise InvalidInput(f"changes nothing of --process {given['process']}: name gamma or weibull", where="--cv")


def _flag(name: str) -> str:
    return FLAGS.get(name, f"--{name.replace('_', '-')}")
