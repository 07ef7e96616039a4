"""``taicang reprice``."""

from __future__ import annotations

from pathlib import Path

import click

from taicang.app import terminal
from taicang.app.options import DURATION, HELP, JSON, echo_json, named
from taicang.units import show


@click.command(
    context_settings=HELP,
    epilog="""\b
Examples:
  taicang reprice run/ --on gb200-nvl72,cloudmatrix384,"atlas-800-a2 x 48"
  taicang reprice run/ --on hgx-h100 --json
""",
)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--on", "machines", required=True, help="Machines, separated by commas.")
@click.option("--host-issue", "issue_s", type=DURATION, help="Host time per kernel (default: fitted, by stack).")
@click.option("--stack", help="Software stack whose kernels run (default: by vendor).")
@click.option("--set", "sets", multiple=True, metavar="PATH=VALUE", help="Change a figure of the machines.")
@click.option("--fuse", is_flag=True, help="Join kernels over memory as a compiler would.")
@JSON
def reprice(
    folder: Path, machines: str, issue_s: float | None, stack: str | None, sets: tuple[str, ...], fuse: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """A run that was captured with --out, on other machines: no PyTorch, no program, the same kernels."""
    from taicang import catalog, reading
    from taicang.virtual import fusion
    from taicang.virtual.capture import load
    from taicang.virtual.report import report

    capture = fusion.fuse(load(folder)) if fuse else load(folder)
    on = [catalog.machine(name, sets) for name in named(machines)]
    with reading.expected("a capture of a run", str(folder)):
        made = [report(capture, machine, stack, issue_s) for machine in on]
    if as_json:
        echo_json({"runs": made})
        return
    console = terminal.console(highlight=False)
    console.print(f"[bold]{' '.join(capture.command)}[/], captured on {capture.machine}: {len(capture.ranks)} of "
                  f"{capture.world} ranks")  # fmt: skip
    console.print(f"  {'machine':28s} {'step':>9s} {'MFU':>7s} {'host':>6s} {'memory':>9s} {'of':>9s}")
    for each in made:
        worst = max(each.ranks, key=lambda rank: rank.step_s)
        size = max(rank.memory.reserved_bytes for rank in each.ranks)
        console.print(
            f"  {each.machine[:28]:28s} {show(worst.step_s, 's'):>9s} {worst.mfu_ratio:7.1%} "
            f"{worst.host_s / max(worst.step_s, 1e-30):6.1%} {show(float(size), 'B'):>9s} "
            f"{show(each.capacity_bytes, 'B'):>9s}{'' if size <= each.capacity_bytes else '  does not fit'}"
        )
    for text in dict.fromkeys(text for each in made for text in each.assumptions):
        console.print(f"  - {text}")
    console.print(f"  - the program chose its shapes on {capture.machine}: it is not asked again")
