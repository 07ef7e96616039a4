"""From options to the question that they ask: names of options are those of the fields of ``Run`` and ``System``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from taicang.app.options import LOAD, stacked
from taicang.errors import InvalidInput

if TYPE_CHECKING:
    from taicang.models.types import Model
    from taicang.search.door import Run

NAMED_LOAD = stacked(
    LOAD,
    click.option("--profile", help="Lengths of an embedded profile (servegen-deepseek-r1), not --input and --output."),
    click.option("--slo", help="Limits by name, e.g. mlperf-interactive or mlperf-server@llama-2-70b."),
)
"""Load and SLO, also by name."""


def run_from(options: dict[str, Any], model: str | Model, on: Any, **more: Any) -> Run:
    """The question that the options ask of ``model`` on the machine ``on``; ``more`` are fields beside them."""
    from taicang.app.expert_loads import resolve
    from taicang.plans import read_plan
    from taicang.search.door import Run

    resolve(options, model)
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
        from taicang.catalog.slo import slo

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
    said = ", ".join(f"{name} <= {show(limit, 's')}" for name, limit in limits.items() if limit)
    if said:
        said += f" for {options.get('within_ratio') or 0.9:.0%} of the requests"
    return sizes + (f", {said}" if said else "") + (f" ({options['slo']})" if options.get("slo") else "")
