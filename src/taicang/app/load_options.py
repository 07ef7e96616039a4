"""The load and its limits from options: lengths or a profile, limits or the name of an objective."""

from __future__ import annotations

from typing import Any

import click

from taicang.app.options import LOAD, stacked
from taicang.errors import InvalidInput

NAMED_LOAD = stacked(
    LOAD,
    click.option("--profile", help="Lengths of an embedded profile (servegen-deepseek-r1), not --input and --output."),
    click.option("--slo", help="Limits by name, e.g. mlperf-interactive or mlperf-server@llama-2-70b."),
)
"""Load and SLO, also by name."""


def read_load(options: dict[str, Any], model: Any) -> dict[str, Any]:
    """Arguments of ``search.door.prepare`` for lengths and limits; puts the limits into ``options`` as well.

    ``model`` is the model or its name. ``within_ratio`` in ``options`` is the share of requests that must keep the
    limits (one half where they are limits of the mean). Raises ``InvalidInput`` for a length given twice and
    ``UnknownName`` for an unknown profile or objective.
    """
    from taicang.search.lengths import Lengths, of_profile

    options["within_ratio"] = 0.5
    if options["slo"]:
        from taicang.catalog.models import model as load_model
        from taicang.catalog.slo import slo

        name = load_model(model, approximate=options["approximate"]).name if isinstance(model, str) else model.name
        preset = slo(options["slo"], name)
        options["ttft"] = options["ttft"] or preset.ttft_s
        options["tpot"] = options["tpot"] or preset.tpot_s
        options["within_ratio"] = preset.within_ratio
    if options["profile"]:
        context = click.get_current_context()
        for flag in ("input_tokens", "output_tokens"):
            if context.get_parameter_source(flag) is click.core.ParameterSource.COMMANDLINE:
                raise InvalidInput(f"--profile has lengths of its own; drop --{flag.removesuffix('_tokens')}")
        lengths = of_profile(options["profile"])
        options["input_tokens"], options["output_tokens"] = lengths.input_tokens, lengths.output_tokens
    else:
        lengths = Lengths(input_tokens=options["input_tokens"], output_tokens=options["output_tokens"])
    return {
        "input_tokens": lengths.input_tokens,
        "output_tokens": lengths.output_tokens,
        "spread": lengths.spread,
        "ttft_s": options["ttft"],
        "tpot_s": options["tpot"],
    }


def load_text(options: dict[str, Any]) -> str:
    """The load in a line."""
    from taicang.units import show

    sizes = f"{options['input_tokens']:.0f} + {options['output_tokens']:.0f} tokens"
    if options.get("profile"):
        sizes += f" in the mean of {options['profile']}"
    limits = ", ".join(f"{name.upper()} <= {show(options[name], 's')}" for name in ("ttft", "tpot") if options[name])
    return sizes + (f", {limits}" if limits else "") + (f" ({options['slo']})" if options.get("slo") else "")
