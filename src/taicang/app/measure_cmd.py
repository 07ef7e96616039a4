"""``taicang measure``."""

from __future__ import annotations

from pathlib import Path

import click

from taicang.app.options import command, echo_json
from taicang.errors import InvalidInput, UnknownName
from taicang.output import check_folder

SHOWN = 3
"""Refused shapes that are shown."""


@command("measure")
def measure(out: Path, chip: str, wanted: str | None, limit_s: float, as_json: bool) -> None:
    """Time kernels and collectives of this machine with PyTorch, as tables that `score` and `calibrate` take."""
    from taicang import measure as taking
    from taicang.app.replay_output import progress_bar
    from taicang.catalog import chip as chip_named
    from taicang.records import plain

    check_folder(out, "--out")
    on = taking.device(wanted or "")
    if chip:
        chip_named(chip)
    system = chip or ("cpu" if on.kind == "cpu" else _guess(on.name))
    with progress_bar(len(taking.plan(on))) as progress:
        found = taking.measure(out, system, on, limit_s=limit_s, progress=progress)
    if as_json:
        echo_json(plain(found) | {"system": system})
        return
    click.echo(
        f"{on.name}, as {system}: {found.done} of {found.planned} shapes, {found.new} new, in {found.seconds:.0f} s"
    )
    for path in found.files:
        click.echo(f"  {path}")
    for note in (*found.notes, *(f"refused: {each}" for each in found.failed[:SHOWN])):
        click.echo(f"  - {note}")
    if on.kind != "cpu":
        click.echo(f"\ntaicang calibrate {out} --name my-{system} makes a chip of them")


def _guess(name: str) -> str:
    """The chip of the catalogue that a driver's name means: the longest of those whose name it holds."""
    from taicang.catalog import names, own

    said = "".join(letter if letter.isalnum() else " " for letter in name.lower()).split()
    known = [*names("chip"), *own.names("chip")]
    near = [each for each in known if set(each.removeprefix("ascend-").split("-")) <= set(said)]
    if not near:
        raise InvalidInput(f"{UnknownName('chip', name, known)}: name it with --chip", where="--chip")
    return max(near, key=len)
