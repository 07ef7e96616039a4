"""From options to the question that they ask: names of options are those of the fields of ``Run`` and ``System``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taicang.errors import InvalidInput

if TYPE_CHECKING:
    from taicang.models.types import Model
    from taicang.search.door import Run


def run_from(options: dict[str, Any], model: str | Model, on: Any, **more: Any) -> Run:
    """The question that the options ask of ``model`` on the machine ``on``; ``more`` are fields beside them."""
    from taicang.plans import read_plan
    from taicang.search.door import Run

    fitted_skew(options, model)
    fields = fields_of(Run, options) | {"model": model, "on": on} | more
    if isinstance(fields.get("prefill_plan"), str):
        fields["prefill_plan"] = read_plan(fields["prefill_plan"], "--prefill-plan")
    return Run(**fields)


def fields_of(kind: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that are fields of the dataclass ``kind``."""
    return {name: options[name] for name in kind.__dataclass_fields__ if name in options}


def named_limits(options: dict[str, Any], model: str) -> None:
    """Put the limits of ``--slo`` into ``options``, where no others are given, and the share of the requests that must
    keep them. ``UnknownName`` for an unknown one."""
    if options["slo"]:
        from taicang.catalog.models import model as load_model
        from taicang.catalog.profiles import slo

        preset = slo(options["slo"], load_model(model, approximate=options["approximate"]).name)
        options["ttft_s"] = options["ttft_s"] or preset.ttft_s
        options["tpot_s"] = options["tpot_s"] or preset.tpot_s
        options["within_ratio"] = options.get("within_ratio") or preset.within_ratio


def named_load(options: dict[str, Any], model: str) -> None:
    """Put the lengths of ``--profile`` and the limits of ``--slo`` into ``options``. Raises ``InvalidInput`` for a
    length given twice and ``UnknownName`` for an unknown profile or objective."""
    named_limits(options, model)
    if options["profile"]:
        from taicang.search.door import of_profile

        context = click.get_current_context()
        for flag in ("input_tokens", "output_tokens"):
            if context.get_parameter_source(flag) is click.core.ParameterSource.COMMANDLINE:
                raise InvalidInput(f"--profile has lengths of its own; drop --{flag.removesuffix('_tokens')}")
        options |= of_profile(options["profile"])


def load_text(options: dict[str, Any]) -> str:
    """The load in a line."""
    from taicang.units import show

    sizes = f"{options['input_tokens']:.0f} + {options['output_tokens']:.0f} tokens"
    if options.get("profile"):
        sizes += f" in the mean of {options['profile']}"
    limits = {"TTFT": options["ttft_s"], "TPOT": options["tpot_s"]}
    if options["output_tokens"] <= 1:
        sizes += " (no second token, so no TPOT)"
        limits["TPOT"] = None
    said = ", ".join(f"{name} <= {show(limit, 's')}" for name, limit in limits.items() if limit)
    if said:
        said += f" for {options.get('within_ratio') or 0.9:.0%} of the requests"
    return sizes + (f", {said}" if said else "") + (f" ({options['slo']})" if options.get("slo") else "")


def fitted_skew(options: dict[str, Any], model: str | Model) -> None:
    """Put in place of a file in ``options["skew"]`` the exponent that fits its loads (the mean of those of its lines).

    A line holds the tokens that each routed expert got, in any order; layers may have a line each. A JSON list, or list
    of lists, will do too. Raises ``InvalidInput`` with file and line.
    """
    path = options["skew"]
    if not isinstance(path, Path):
        return
    import numpy as np

    from taicang.catalog.models import model as load_model
    from taicang.cost.skew import exponent_of
    from taicang.models.types import routed

    net = load_model(model, approximate=options["approximate"]) if isinstance(model, str) else model
    experts = routed(net)
    if experts is None:
        raise InvalidInput(f"{net.name} has no routed experts", where="--skew")
    fitted = [exponent_of(row, float(experts.topk)) for row in _rows(path, experts.experts)]
    options["skew"] = float(np.mean(fitted))
    click.echo(f"{path}: loads as under a power law of exponent {options['skew']:.3g}", err=True)


def _rows(path: Path, experts: int) -> list[Any]:
    import numpy as np

    made = []
    for number, fields in _lines(path):
        where = f"{path}:{number}"
        try:
            row = np.asarray([float(field) for field in fields], dtype=float)
        except (TypeError, ValueError):
            raise InvalidInput("expected numbers, the tokens of each expert", where=where) from None
        if len(row) != experts:
            raise InvalidInput(f"has {len(row)} loads, the model routes to {experts} experts", where=where)
        if not np.isfinite(row).all() or row.min() < 0 or row.sum() <= 0:
            raise InvalidInput("loads must be finite, none below 0 and not all 0", where=where)
        made.append(row)
    if not made:
        raise InvalidInput("holds no loads", where=str(path))
    return made


def _lines(path: Path) -> list[tuple[int, list[Any]]]:
    from taicang import reading

    text = reading.text(path, most=reading.LINE)
    if text.lstrip().startswith("["):
        body = reading.document(text, str(path))
        return list(enumerate(body if body and isinstance(body[0], list) else [body], 1))
    split = ((number, re.split(r"[\s,;]+", line.strip())) for number, line in enumerate(text.splitlines(), 1))
    return [(number, fields) for number, fields in split if fields != [""]]
