"""``taicang calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taicang.app.options import command, give
from taicang.errors import InvalidInput, NotModelled
from taicang.output import check_file, write_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taicang.evidence.calibrate import Profile, Read
    from taicang.evidence.calibrate_kernels import ChipProfile

TOLD = ("rows", "refused", "configurations", "machines", "models", "before", "after", "notes")
"""What the profile says of its rows."""
LISTED = 5
"""Refused lines that are shown."""


@command("calibrate")
def calibrate(path: Path, name: str | None, out: Path | None, base: str, page: Path | None, as_json: bool) -> None:
    """Make a profile of your own of the rows that you measured: of a stack on your machines, or of a chip."""
    try:
        from taicang.evidence import calibrate_kernels
        from taicang.evidence.calibrate import calibrate as fit
        from taicang.evidence.calibrate import read
    except ModuleNotFoundError as error:
        raise NotModelled(f"needs the {error.name} package: pip install 'taicang[fit]'") from None
    from taicang.catalog.resolve import is_path

    if name and base == name:
        raise InvalidInput("a profile cannot start from itself: another name", where="--base")
    chip = calibrate_kernels.is_kernels(path)
    place = _place(name, out, "chip" if chip else "stack")
    check_file(place, "--out" if out else "--name")
    if chip:
        _chip(calibrate_kernels.calibrate(path), place, str(place if out else name), as_json, page)
        return
    found = read(path, base)
    profile = fit(found.base, found.space, found.items, measured=found.measured)
    named = str(Path(base).resolve()) if is_path(base) else profile.base.name.partition(" ")[0]
    if place.resolve() == Path(named):
        raise InvalidInput("a profile cannot start from itself: another name", where="--base")
    write_file(place, _document(path, found, profile, named), "--out" if out else "--name")
    use = str(place if out else name)
    fields = _fields(found, profile) | {"file": str(place), "stack": use}

    def show() -> None:
        _show(found, profile, use)
        click.echo(f"\n{place}\nuse it with --stack {use}")

    give("calibrate", fields, show, as_json=as_json, page=page, title=f"taicang calibrate {path.name}")


def _chip(profile: ChipProfile, place: Path, use: str, as_json: bool, page: Path | None) -> None:
    """Write and tell a chip of one's own."""
    import yaml

    from taicang import __version__
    from taicang.evidence.calibrate_kernels import spread
    from taicang.evidence.fitting import fingerprint
    from taicang.records import plain

    told = plain(profile.kernels)
    given: dict[str, Any] = {}
    for one in profile.kernels:
        for key, constants in spread(profile.chip, one).items():
            given.setdefault(one.family, {})[key] = {
                name: {"value": float(f"{now:.5g}"), "kind": "calibrated" if key == one.key else "assumed",
                       "note": f"was {was:.5g}"}
                for name, (was, now) in constants.items()
            }  # fmt: skip
    files = {each.name: fingerprint(each) for each in profile.files}
    body = {
        "base": profile.chip.name, "title": f"{profile.chip.name} as measured", **({"kernels": given} if given else {}),
        "fitted": {
            "by": f"taicang {__version__} calibrate", "on": files, "refused": list(profile.refused), "kernels": told,
        },
    }  # fmt: skip
    header = "# Written by `taicang calibrate`. `before_ratio` and `after_ratio` are mean absolute errors.\n"
    write_file(place, header + yaml.safe_dump(body, sort_keys=False, width=120, allow_unicode=True), "--name")
    fields = {"chip": profile.chip.name, "kernels": told, "refused": list(profile.refused)}
    give(
        "calibrate", fields | {"file": str(place), "use": f"--set chip={use}"},
        lambda: _show_chip(profile, place, use), as_json=as_json, page=page, title=f"{profile.chip.name} as measured",
    )  # fmt: skip


def _show_chip(profile: ChipProfile, place: Path, use: str) -> None:
    from taicang.catalog import machines_with

    click.echo(f"{use}: {profile.chip.name}\n")
    click.echo(f"{'kernel':<36}{'rows':>6}{'before':>10}{'left out':>10}")
    for one in profile.kernels:
        click.echo(f"  {one.family + ' ' + one.key:<34}{one.rows:>6}{one.before_ratio:>10.1%}{one.after_ratio:>10.1%}")
        for key, (was, now) in one.constants.items():
            click.echo(f"    {key:<32}{was:>12.4g}{now:>12.4g}")
        if one.note:
            click.echo(f"    {one.note}")
    show_refused(profile.refused)
    has = machines_with(profile.chip.name)
    click.echo(f"\n{place}\nuse it with --on {has[0] if has else 'MACHINE'} --set chip={use}")


def show_refused(refused: Sequence[str]) -> None:
    """Lines of a user's file that could not be used, each with its reason."""
    for line in refused[:LISTED]:
        click.echo(f"  - {line}")
    if len(refused) > LISTED:
        click.echo(f"  - and {len(refused) - LISTED} more lines: --json names them")


def _place(name: str | None, out: Path | None, kind: str) -> Path:
    from taicang.catalog import names, own, stack_entry
    from taicang.catalog.resolve import aliases

    if (name is None) == (out is None):
        raise click.UsageError("one of --name and --out")
    if out is not None:
        if out.suffix not in (".yaml", ".yml"):
            raise InvalidInput(f"a profile is a .yaml file, got {out.name!r}", where="--out")
        return out
    assert name is not None
    if stack_entry.is_known(name) if kind == "stack" else name in (*names(kind), *aliases(kind)):
        raise InvalidInput(f"{name!r} is a {kind} of the package: another name", where="--name")
    return own.file_of(kind, name)


def _document(path: Path, found: Read, profile: Profile, named: str) -> str:
    """The profile as a file of the catalogue."""
    import yaml

    from taicang import __version__
    from taicang.catalog import schema
    from taicang.evidence.fitting import fingerprint

    keys = {field: (key, " s" if type_ == "s" else "") for key, (field, type_) in schema.STACK.items()}
    body: dict[str, Any] = {
        "base": named,
        "title": f"{profile.base.name.partition(' ')[0]} as measured in {path.name}",
    }
    for name, (was, new) in profile.constants.items():
        now, (key, unit) = float(f"{new:.5g}"), keys.get(name, ("", ""))
        value = f"{now!r}{unit}" if unit else max(now, 1e-9)
        leaf = {"value": value, "kind": "calibrated", "note": f"was {was:.5g}"}
        if key:
            body[key] = leaf
        else:
            body.setdefault("kernel_ratio", {})[name] = leaf
    said = _fields(found, profile)
    body["fitted"] = {
        "by": f"taicang {__version__} calibrate", "on": {"file": path.name, "sha256": fingerprint(path)},
        **{key: said[key] for key in TOLD},
        "bands": profile.bands,
    }  # fmt: skip
    header = "# Written by `taicang calibrate`. `before` and `after` are mean absolute errors.\n"
    return header + yaml.safe_dump(body, sort_keys=False, width=120, allow_unicode=True)


def _fields(found: Read, profile: Profile) -> dict[str, Any]:
    from taicang.catalog.trust import band
    from taicang.records import plain

    runs = [item.run for item in profile.items]
    one = band(found.measured, runs[0], profile.bands) if profile.bands else None
    return {
        "base": profile.base.name,
        "rows": len(profile.items),
        "refused": list(found.refused),
        "configurations": profile.configurations,
        "machines": sorted({str(run.chip) for run in runs}),
        "models": sorted({str(item.row.model) for item in profile.items}),
        "constants": [{"name": name, "was": was, "now": now} for name, (was, now) in profile.constants.items()],
        "kept": list(profile.kept),
        "before": {key: round(each, 6) for key, each in profile.before.items()},
        "after": {key: round(each, 6) for key, each in profile.after.items()},
        "measured": found.measured,
        "band": None if one is None else plain(one) | {"said": one.said},
        "notes": list(profile.notes),
    }  # fmt: skip


def _show(found: Read, profile: Profile, use: str) -> None:
    said = _fields(found, profile)
    click.echo(f"{use}: {profile.base.name} on {', '.join(said['machines'])}")
    click.echo(
        f"  {said['rows']} of {found.rows} rows, {said['configurations']} configurations; {', '.join(said['models'])}\n"
    )
    click.echo(f"{'mean error':<22}{'before':>10}{'left out':>10}")
    for metric, before in profile.before.items():
        click.echo(f"  {_word(metric):<20}{before:>10.1%}{profile.after[metric]:>10.1%}")
    if profile.constants:
        click.echo(f"\n{'constant':<32}{'was':>12}{'now':>12}")
        for name, (was, now) in profile.constants.items():
            click.echo(f"  {name:<30}{was:>12.4g}{now:>12.4g}")
    else:
        click.echo("\nno constant moves: these rows bring none nearer to configurations that were left out")
    if said["band"]:
        click.echo(f"\n{_word(found.measured)}: nine in ten within {said['band']['said']}")
    for note in profile.notes:
        click.echo(f"  - {note}")
    show_refused(found.refused)


def _word(metric: str) -> str:
    return metric.replace("_", " ").replace("tpot", "TPOT").replace("ttft", "TTFT")
