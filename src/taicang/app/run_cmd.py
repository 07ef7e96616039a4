"""``taicang run``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from taicang.app.options import CHAKRA, DURATION, HELP, JSON, Finite, Whole, echo_json, write_chakra
from taicang.output import check_file, check_folder, scratch, write_file


@click.command(
    context_settings=HELP | {"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="""\b
Examples:
  taicang run --on hgx-h100 --world 1 train.py --batch 4
  taicang run --on cloudmatrix384 --ranks reps --steps 3 train.py      (rank 0 among 768)
  taicang run --on "hgx-h20 x 4" --ranks 0-7 --out run/ train.py       (the same file)
  taicang run --on cloudmatrix384 --world 1 --names npu train_npu.py --json
""",
)
@click.option("--on", "machine", required=True, help='Machine, e.g. "hgx-h100 x 4", my.yaml.')
@click.option("--ranks", default="reps", show_default=True, help="Which ranks run: reps, all, or a list: 0-7,16.")
@click.option("--world", type=Whole(1), help="Ranks that the program believes in (default: the whole machine).")
@click.option("--steps", type=Whole(0), default=0, help="End after so many optimizer steps (default: as it ends).")
@click.option("--names", type=click.Choice(["auto", "cuda", "npu"]), default="auto", show_default=True,
              help="What the device is called (auto: npu for what imports torch_npu).")  # fmt: skip
@click.option("--skew", type=Finite(0, 2), default=0.0, show_default=True,
              help="Power-law exponent of the experts that routers choose.")  # fmt: skip
@click.option("--host-issue", "issue_s", type=DURATION, help="Host time per kernel (default: fitted, by stack).")
@click.option("--host-clock", is_flag=True, help="time.time tells this host's time, not the machine's.")
@click.option("--fuse", is_flag=True, help="Join kernels over memory as a compiler would.")
@click.option("--functional", is_flag=True, help="Compute every value on the host (small models).")
@click.option("--stack", help="Software stack whose kernels run (default: by vendor).")
@click.option("--set", "sets", multiple=True, metavar="PATH=VALUE", help="Change a figure of the machine.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Keep the capture there, for reprice.")
@click.option("--log", type=click.Path(dir_okay=False, path_type=Path),
              help="Write what became of each call of CUDA on Ascend, for port --log.")  # fmt: skip
@click.option("--perfetto", type=click.Path(dir_okay=False, path_type=Path), help="Write the timeline as trace events.")
@CHAKRA
@JSON
@click.argument("script", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(
    script: Path, arguments: tuple[str, ...], machine: str, out: Path | None, as_json: bool, **options: Any
) -> None:
    """Run a PyTorch SCRIPT, unchanged, on devices of a machine that are not there: its time, memory and kernels."""

    from taicang import catalog
    from taicang.virtual import launch

    for path, where in ((options["perfetto"], "--perfetto"), (options["log"], "--log")):
        if path is not None:
            check_file(path, where)
    if out is not None:
        check_folder(out, "--out")
    on = catalog.machine(machine, options["sets"])
    ranks, world = launch.world_of(on, options["ranks"], options["world"] or 0)
    wish = launch.Wish(
        script=script, arguments=arguments, ranks=ranks, world=world, names=launch.names_of(script, options["names"]),
        steps=options["steps"], real=options["functional"], skew=options["skew"], clock=not options["host_clock"],
        stack=options["stack"] or "", issue_s=options["issue_s"], sets=options["sets"],
    )  # fmt: skip
    with scratch() as work:
        found, status = launch.run(wish, on, machine, work)
    from taicang.app.render_run import show_run
    from taicang.catalog import porting
    from taicang.virtual import capture as captures
    from taicang.virtual import fusion, report, translation

    raw, found = found, fusion.fuse(found) if options["fuse"] else found
    done = report.schedule(found, on, options["stack"], options["issue_s"])
    calls = []
    if on.chip.ascend and wish.names == "cuda":
        spent_s = {rank: priced.seconds for rank, priced in done.priced.items()}
        calls = translation.rows(found.ranks, porting.rules("ascend"), spent_s)
    made = report.report(found, on, scheduled=done)
    if as_json:
        echo_json({"status": status, "run": made, "translated": calls})
    else:
        show_run(made, calls)
    if out is not None:
        captures.save(raw, out)
    if options["log"] is not None:
        write_file(options["log"], json.dumps({"taicang_log": 1, "calls": calls}, indent=1) + "\n", "--log")
    if options["perfetto"] is not None:
        from taicang.virtual.trace import events

        write_file(options["perfetto"], json.dumps(events(found, done)), "--perfetto")
    if options["chakra"] is not None:
        from taicang.virtual.trace import workload

        write_chakra(workload(found, done), options["chakra"])
    raise SystemExit(status)
