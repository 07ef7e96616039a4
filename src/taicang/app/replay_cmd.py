"""``taicang replay``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from taicang.app.ask_cmd import Asking
from taicang.app.load_options import named_limits
from taicang.app.options import command, give
from taicang.app.system_options import system_from, tenants_from
from taicang.app.trace_options import traffic

if TYPE_CHECKING:
    from pathlib import Path

    from taicang.predict.replay import Replay
    from taicang.serve.summary import Limits
    from taicang.traffic.trace import Trace

BESIDE = ("table", "usage", "log")
"""Fields of a result that are tables, not part of the summary."""


@command("replay", Asking)
def replay(what: tuple[str, ...], machine: str, as_json: bool, **options: Any) -> int:
    """Serve a request trace, or generated traffic, with MODEL on a machine, and say what users saw."""
    from taicang.app.replay_files import check, write
    from taicang.app.replay_output import progress_bar
    from taicang.app.trace_options import refuse_unused
    from taicang.predict.replay import replay as run

    if len(what) > 2:
        raise click.UsageError(f"expected [TRACE] MODEL, got {' '.join(what)}")
    refuse_unused(click.get_current_context(), what[0] if len(what) == 2 else None)
    check(options["out"], options["form"], perfetto=options["perfetto"])
    limits = limits_from(options, what[-1])
    tenants = tenants_from(options)
    trace = traffic(what[0] if len(what) == 2 else None, options)
    with progress_bar(len(trace)) as progress:
        result: Replay = run(
            what[-1], machine, trace, system_from(options, what[-1]), clients=options["clients"] or 0,
            think_s=options["think"], random_think=options["random_think"], limits=limits, seed=options["seed"],
            progress=progress, keep=True, **tenants,
        )  # fmt: skip
    try:  # what users saw is shown even where it cannot be written
        if options["out"]:
            write(result, options["out"], options["form"], perfetto=options["perfetto"])
    finally:
        give_replay(result, trace, as_json=as_json, page=options["page"])
    return 130 if result.summary.partial else 0


def give_replay(result: Replay, trace: Trace, *, as_json: bool, page: Path | None = None) -> None:
    """The summary as JSON or on the terminal; the page has the tables as well."""
    from taicang.app.replay_output import show

    whole = {name: getattr(result, name) for name in result.__dataclass_fields__ if name != "log"}
    fields = {name: value for name, value in whole.items() if name not in BESIDE}
    if page is not None:
        whole["prompt_steps"] = result.log.worked("prefill").tolist()
    give("replay", fields, lambda: show(result, trace), as_json=as_json, page=page, shown=whole,
         title=f"{result.model} on {result.machine}")  # fmt: skip


def limits_from(options: dict[str, Any], model: str) -> Limits:
    """The limits of ``--slo`` for this model, with ``--ttft`` and ``--tpot`` in place of its own where given."""
    from taicang.serve.summary import Limits

    named_limits(options, model)
    named = {"name": options["slo"], "within_ratio": options["within_ratio"]} if options["slo"] else {}
    return Limits(ttft_s=options["ttft_s"], tpot_s=options["tpot_s"], **named)
