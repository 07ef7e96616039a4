"""``taicang port``: what moving a repository from CUDA to Ascend takes, or back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from taicang import __version__
from taicang.app.options import HELP, echo_json
from taicang.errors import InvalidInput
from taicang.output import check_file, write_file

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(context_settings=HELP)
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--to", type=click.Choice(("ascend", "cuda")), default="ascend", show_default=True, help="Where the code is to run."
)
@click.option(
    "--entry", "entries", multiple=True, metavar="FILE", help="What is run, below PATH: only what it reaches counts."
)
@click.option("--log", type=FILE, help="A virtual run's record: which of the findings ran.")
@click.option("--libraries", type=FILE, help="A YAML with libraries of your own.")
@click.option("--torch", default="", metavar="VERSION", help="Version of torch whose API table applies, e.g. 2.7.1.")
@click.option(
    "--chip", type=click.Choice(("a2", "a3", "950")), default="a2", show_default=True, help="Generation of the NPU."
)
@click.option("--json", "json_path", type=FILE, help="Write everything as JSON (- for standard output).")
@click.option("--sarif", type=FILE, help="Write what has to be done as SARIF 2.1.0, for editors and CI.")
@click.option("--html", type=FILE, help="Write the report as a page.")
@click.option("--all", "every", is_flag=True, help="List every finding, also what the shim does by itself.")
@click.option(
    "--fail-on",
    type=click.Choice(("auto", "edit", "library", "kernel", "blocked")),
    help="Exit with 1 where something of this tier or a worse one counts.",
)
@click.pass_context
def port(
    ctx: click.Context, path: Path, to: str, entries: tuple[str, ...], log: Path | None, libraries: Path | None,
    torch: str, chip: str, json_path: Path | None, sarif: Path | None, html: Path | None, every: bool,
    fail_on: str | None,
) -> None:  # fmt: skip
    """What moving the repository at PATH to another vendor's software takes: by file and line, and in all.

    Tiers: auto (the shim transfer_to_npu does it), edit, library (another library has it), kernel (written anew),
    blocked (no counterpart known).

    \b
    Examples:
      taicang port ~/src/detr
      taicang port ~/src/Pointcept --entry tools/train.py --entry configs/ptv3.py
      taicang port ~/src/model --to ascend --chip 950 --torch 2.11
      taicang port ~/src/vllm-ascend --to cuda --html port.html
      taicang port . --sarif port.sarif --fail-on kernel
    """
    from taicang.catalog import porting
    from taicang.port import confirm, report
    from taicang.port.estimate import estimate
    from taicang.port.scan import scan
    from taicang.port.tables import TIERS

    to_screen = json_path is not None and str(json_path) == "-"
    for place, where in ((None if to_screen else json_path, "--json"), (sarif, "--sarif"), (html, "--html")):
        if place is not None:
            check_file(place, where)
    if to != "ascend" and (torch or chip != "a2"):
        raise InvalidInput("the API tables are those of torch_npu: they apply to --to ascend", where="--torch, --chip")
    rules = porting.rules(to, libraries=libraries, torch=torch, chip=chip)
    found = scan(path, rules, porting.operators(to), entries)
    size = estimate(found, porting.effort())
    ran = confirm.operators_run(log) if log else None
    made = report.data(found, size, ran)
    if json_path is not None and not to_screen:
        write_file(json_path, json.dumps(made, indent=2, ensure_ascii=False) + "\n", "--json")
    if sarif is not None:
        write_file(sarif, json.dumps(report.sarif(found, __version__), indent=2) + "\n", "--sarif")
    if html is not None:
        from taicang.port.html import page

        write_file(html, page(made, TIERS), "--html")
    if to_screen:
        echo_json(made)
    else:
        _print(made, every)
    if fail_on and made["worst"] and TIERS.index(made["worst"]) >= TIERS.index(fail_on):
        ctx.exit(1)


def _print(made: dict[str, Any], every: bool) -> None:
    from taicang.app import terminal

    console = terminal.console(highlight=False, soft_wrap=True)

    def say(line: str = "") -> None:
        console.print(line, markup=False)

    counted = made["tiers"]["counted"]
    apart = ", ".join(f"{made['files'][s]:,} {s}" for s in made["files"] if s != "counted" and made["files"][s])
    say(f"{made['root']} to {made['to']}: {made['files']['counted']:,} files, {made['lines']['counted']:,} lines count")
    say(f"  apart: {apart or 'none'}")
    say("  " + "   ".join(f"{tier} {count:,}" for tier, count in counted.items()))
    say()
    _size(made["estimate"], say)
    if made["libraries"]:
        say("libraries")
        for each in made["libraries"]:
            there = each["counterpart"] or "none known"
            say(f"  {each['name']:<20} {each['tier']:<8} {each['files']:>3} files  {there}")
        say()
    last = ""
    for each in made["findings"]:
        if each["scope"] != "counted" or (each["tier"] == "auto" and not every):
            continue
        if each["path"] != last:
            last = each["path"]
            say(last)
        ran = " (ran)" if each.get("ran") else ""
        say(f"  {each['line']:>6} {each['tier']:<8} {each['text']}{ran}: {each['why']}")
    for each in made["errors"]:
        say(f"not read: {each['path']}: {each['error']}")
    for note in made["notes"]:
        say(f"note: {note}")


def _size(size: dict[str, Any], say: Any) -> None:
    say(f"class {size['class']}: {size['title']}")
    for key, name in (("files", "files touched"), ("must_change_lines", "must-change lines")):
        if size[key]:
            low, middle, high = size[key]
            say(f"  {name:<20} {middle:,.0f}  ({low:,.0f} to {high:,.0f}: {size['band']})")
    for each in size["kernels"]:
        band = each["ported_lines"]
        after = (
            f"{band[1]:,.0f} ({band[0]:,.0f} to {band[2]:,.0f}), {each['kept_lines']:,} kept"
            if band
            else "not measured"
        )
        say(f"  {each['path']}: {each['kernels']} {each['language']} kernels, {each['lines']:,} lines become {after}")
    if size["kernels_in_libraries"]:
        say(f"  kernels that a library already has: {size['kernels_in_libraries']}")
    if size["speed_after"]:
        low, middle, high = size["speed_after"]
        say(f"  speed after such ports: {middle:g} of an unnamed rival's, quartiles {low:g} and {high:g}")
    for each in size["evidence"]:
        say(f"  took: {each}")
    say()
