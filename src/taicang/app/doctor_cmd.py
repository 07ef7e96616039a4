"""``taicang doctor``."""

from __future__ import annotations

import click

from taicang.app.options import HELP, JSON, echo_json


@click.command(
    context_settings=HELP,
    epilog="""\b
Examples:
  taicang doctor
  taicang doctor --json
""",
)
@JSON
def doctor(as_json: bool) -> None:
    """Whether this Python's PyTorch and C++ compiler work with run, and which libraries are modelled."""
    from taicang.virtual.doctor import examine

    found = examine()
    if as_json:
        echo_json({"well": all(each.well for each in found if each.needed), "checks": found})
    else:
        for each in found:
            mark = "ok" if each.well else "MISSING" if each.needed else "-"
            click.echo(f"{mark:8s} {each.name}: {each.said}")
    raise SystemExit(0 if all(each.well for each in found if each.needed) else 2)
