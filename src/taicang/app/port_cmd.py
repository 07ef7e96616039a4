"""``taicang port``: what moving a repository from CUDA to Ascend takes, or back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taicang import __version__
from taicang.app.options import HELP, command, give
from taicang.errors import InvalidInput
from taicang.output import check_file, write_file
from taicang.units import show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taicang.predict.ported import Ported
    from taicang.virtual.report import Report


@command("port", context_settings=HELP)
@click.pass_context
def port(
    ctx: click.Context, path: Path, to: str, entries: tuple[str, ...], log: Path | None, libraries: Path | None,
    torch: str, chip: str, before: str, after: str, json_path: Path | None, sarif: Path | None, page: Path | None,
    every: bool, fail_on: str | None,
) -> None:  # fmt: skip
    """What moving the repository at PATH to another vendor's software takes: by file and line, and in all."""
    from taicang import catalog
    from taicang.app.terminal import counting
    from taicang.catalog import porting
    from taicang.port import report
    from taicang.port.estimate import estimate
    from taicang.port.scan import scan
    from taicang.port.tables import TIERS
    from taicang.predict.ported import ported
    from taicang.virtual.capture import load
    from taicang.virtual.report import report as ran_on

    to_screen = json_path is not None and str(json_path) == "-"
    for place, where in ((None if to_screen else json_path, "--json"), (sarif, "--sarif")):
        if place is not None:
            check_file(place, where)
    if to != "ascend" and (torch or chip != "a2"):
        raise InvalidInput("the API tables are those of torch_npu: they apply to --to ascend", where="--torch, --chip")
    rules = porting.rules(to, libraries=libraries, torch=torch, chip=chip)
    machines = tuple(map(catalog.machine, porting.machines(to, chip, before, after)))
    capture = load(log) if log and log.is_dir() else None
    with counting(lambda done, total: f"{done:,} of {total:,} files") as progress:
        found = scan(path, rules, porting.operators(to), entries, progress)
    size = estimate(found, porting.effort())
    ran = report.operators_run(log) if log and not capture else None
    if capture:
        ran = frozenset(each.name for rank in capture.ranks for each in rank.kernels)
    speed = ported((use for read in found.counted() for use in read.uses), *machines)
    runs = [ran_on(capture, machine) for machine in machines] if capture else []
    made = report.data(found, size, ran) | {"performance": _performance(speed, runs)}
    if to == "ascend":
        known = torch or porting.torch_versions()[0]
        made["notes"].append(f"APIs as torch_npu documents them for torch {known} on {chip.upper()}")
    title = f"{made['root']} to {made['to']}"
    give("port", made, lambda: _print(made, every), as_json=to_screen, page=page, title=title)
    if json_path is not None and not to_screen:
        write_file(json_path, json.dumps(made, indent=2, ensure_ascii=False) + "\n", "--json")
    if sarif is not None:
        write_file(sarif, json.dumps(report.sarif(found, __version__), indent=2) + "\n", "--sarif")
    if fail_on and made["worst"] and TIERS.index(made["worst"]) >= TIERS.index(fail_on):
        ctx.exit(1)


def _performance(speed: Ported, runs: Sequence[Report]) -> dict[str, Any]:
    """Operators found in the code, and a run's whole, on both machines."""
    from dataclasses import asdict

    ran = [
        {"machine": each.machine, "step_s": each.step_s, "band": each.band, "assumptions": list(each.assumptions)}
        | {"host_s": max((rank.host_s for rank in each.ranks), default=0.0)}
        for each in runs
    ]
    return asdict(speed) | {"runs": ran}


class _Writer:
    """Lines no wider than the terminal."""

    def __init__(self) -> None:
        from taicang.app import terminal

        self.console = terminal.console(highlight=False, soft_wrap=True)

    def __call__(self, line: str = "", indent: int = 0) -> None:
        """One line, folded; what follows the first stands ``indent`` further in."""
        import textwrap

        folded = textwrap.fill(
            line, self.console.width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
        )
        self.console.print(folded, markup=False)


def _print(made: dict[str, Any], every: bool) -> None:
    say = _Writer()
    counted = made["tiers"]["counted"]
    files, lines = made["files"], made["lines"]
    say(f"{made['root']} to {made['to']}: {files['counted']:,} files, {lines['counted']:,} lines count")
    apart = ", ".join(f"{files[scope]:,} {scope}" for scope in files if scope != "counted" and files[scope])
    say(f"  apart: {apart}" if apart else "  nothing apart", 4)
    say("  findings: " + ", ".join(f"{count:,} {tier}" for tier, count in counted.items()))
    _size(made["estimate"], say)
    _speed(made["performance"], made["estimate"], say)
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for each in made["findings"]:
        if each["scope"] == "counted" and (every or each["tier"] != "auto"):
            groups.setdefault((each["tier"], each["rule"]), []).append(each)
    for (tier, rule), found in sorted(groups.items(), key=lambda item: (-list(counted).index(item[0][0]), item[0])):
        say()
        say(f"{tier}: {rule} ({len(found)}): {found[0]['why']}", 2)
        places: dict[str, list[str]] = {}
        for each in found:
            places.setdefault(each["path"], []).append(f"{each['line']}{'!' if each.get('ran') else ''}")
        for path, numbers in places.items():
            say(f"  {path}:{', '.join(dict.fromkeys(numbers))}", 6)
    say()
    if any(each.get("ran") for each in made["findings"]):
        say("!: an operator that the log says ran")
    for each in made["errors"]:
        say(f"not read: {each['path']}: {each['error']}", 2)
    for note in made["notes"]:
        say(f"note: {note}", 2)


def _size(size: dict[str, Any], say: _Writer) -> None:
    say(f"class {size['class']}: {size['title']}")
    if size["pairs"]:
        say(f"  from {size['pairs']} ports of models by the vendor; half of them lie in the brackets", 4)
    for key, name in (("files", "files touched"), ("must_change_lines", "must-change lines")):
        if size[key]:
            low, middle, high = size[key]
            say(f"  {name:<18} {middle:,} ({low:,} to {high:,})")
    for each in size["kernels"]:
        band, kept = each["ported_lines"], each["kept_lines"]
        after = f"{band[1]:,} ({band[0]:,} to {band[2]:,}), {kept:,} of them kept" if band else "a number not measured"
        say(f"  {each['path']}: {each['kernels']} {each['language']}, {each['lines']:,} lines become {after}", 4)
    if size["kernels_in_libraries"]:
        say(f"  kernels that a library already has: {size['kernels_in_libraries']}")
    for each in size["evidence"]:
        say(f"  took: {each}", 4)


def _speed(found: dict[str, Any], size: dict[str, Any], say: _Writer) -> None:
    if found["operators"]:
        say(f"speed on {found['after']} over {found['before']}, chip by chip, of the operators that the code calls")
    for each in found["operators"]:
        names = [f"{name.rpartition('.')[2]} {count}" for name, count in each["calls"].items()]
        say(
            f"  {each['kind']:<12} {each['middle_ratio']:.2f} ({each['low_ratio']:.2f} to {each['high_ratio']:.2f})  "
            + ", ".join(names),
            36,
        )
    for each in found["runs"]:
        step = "no step" if each["step_s"] is None else f"{show(each['step_s'], 's')} a step"
        say(f"  the run on {each['machine']}: {step}, {show(each['host_s'], 's')} of it waiting for the host", 4)
    if size["speed_after"]:
        low, middle, high = size["speed_after"]
        say(f"  measured after ports of this class: {middle:g} of an unnamed rival's cards ({low:g} to {high:g}; "
            f"{size['speed_source']})", 4)  # fmt: skip
    for each in found["assumptions"] if found["operators"] else ():
        say(f"  - {each}", 4)
