"""``taicang calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taicang.app.options import JSON, echo_json
from taicang.errors import InvalidInput, NotModelled
from taicang.output import check_file, write_file

if TYPE_CHECKING:
    from taicang.evidence.calibrate import Profile
    from taicang.evidence.calibrate_rows import Read

TOLD = ("rows", "refused", "configurations", "machines", "models", "before", "after", "notes")
"""What the profile says of its rows."""
LISTED = 5
"""Refused lines that are shown."""


@click.command(
    epilog="""\b
Examples:
  taicang calibrate rows.csv --name my-cluster
  taicang infer qwen3-32b --on hgx-h100 --stack my-cluster
  taicang calibrate rows.csv --name my-cluster --base vllm@0.19.0 --json
  taicang calibrate rows.csv --out ./my-cluster.yaml
""",
)
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--name", help="Name of the profile, for --stack; it lies in your configuration folder.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write it here instead (a .yaml file).")
@click.option("--base", default="", metavar="STACK", help="Stack that it starts from [default: that of the first row].")
@JSON
def calibrate(path: Path, name: str | None, out: Path | None, base: str, as_json: bool) -> None:
    """Make a profile of your own of the rows that you measured: of one stack, on your machines.

    FILE is a table of served end-to-end rows or of training rows, as `taicang score` takes them. The few constants that
    the rows can carry are drawn from the stack's own towards what the rows say; what they cannot tell stays. Errors
    before and after are told for configurations that the fit has not seen, and the bands come from these. Needs scipy
    (pip install "taicang[fit]").
    """
    place = _place(name, out)
    check_file(place, "--out" if out else "--name")
    try:
        from taicang.evidence import calibrate_rows
        from taicang.evidence.calibrate import calibrate as fit
    except ModuleNotFoundError as error:
        raise NotModelled(f"needs the {error.name} package: pip install 'taicang[fit]'") from None
    found = calibrate_rows.read(path, base)
    profile = fit(found.base, found.space, found.items, measured=found.measured)
    write_file(place, _document(path, found, profile), "--out" if out else "--name")
    use = str(place if out else name)
    if as_json:
        echo_json(_fields(found, profile) | {"file": str(place), "stack": use})
    else:
        _show(found, profile, use)
        click.echo(f"\n{place}\nuse it with --stack {use}")


def _place(name: str | None, out: Path | None) -> Path:
    from taicang.catalog import own, stack_entry

    if (name is None) == (out is None):
        raise click.UsageError("one of --name and --out")
    if out is not None:
        if out.suffix not in (".yaml", ".yml"):
            raise InvalidInput(f"a profile is a .yaml file, got {out.name!r}", where="--out")
        return out
    assert name is not None
    if stack_entry.is_known(name):
        raise InvalidInput(f"{name!r} is a stack of the package: another name", where="--name")
    return own.file_of("stack", name)


def _document(path: Path, found: Read, profile: Profile) -> str:
    """The profile as a file of the catalogue."""
    import yaml

    from taicang import __version__
    from taicang.catalog.stack_entry import PLAIN
    from taicang.evidence.fitting import fingerprint

    keys = {field: key for key, field in PLAIN.items()}
    units = {"step_host": " s", "sequence_host": " s", "layer_gap": " s", "eager_kernel": " s"}
    body: dict[str, Any] = {
        "base": profile.base.name.partition(" ")[0],
        "title": f"{profile.base.name.partition(' ')[0]} as measured in {path.name}",
    }
    for one in profile.constants:
        now, key = float(f"{one.now:.5g}"), keys.get(one.name, "")
        value = f"{now!r}{units[key]}" if key in units else max(now, 1e-9)
        leaf = {"value": value, "kind": "calibrated", "note": f"was {one.was:.5g}"}
        if key:
            body[key] = leaf
        else:
            body.setdefault("kernel_ratio", {})[one.name] = leaf
    said = _fields(found, profile)
    body["fitted"] = {
        "by": f"taicang {__version__} calibrate", "on": {"file": path.name, "sha256": fingerprint(path)},
        **{key: said[key] for key in TOLD},
        "bands": profile.bands,
    }  # fmt: skip
    header = "# Written by `taicang calibrate`. Times under `before` and `after` are mean absolute errors.\n"
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
        "constants": [{"name": each.name, "was": each.was, "now": each.now} for each in profile.constants],
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
        for one in profile.constants:
            click.echo(f"  {one.name:<30}{one.was:>12.4g}{one.now:>12.4g}")
    else:
        click.echo("\nno constant moves: these rows bring none nearer to configurations that were left out")
    if said["band"]:
        click.echo(f"\n{_word(found.measured)}: nine in ten within {said['band']['said']}")
    for note in (*profile.notes, *found.refused[:LISTED]):
        click.echo(f"  - {note}")
    if len(found.refused) > LISTED:
        click.echo(f"  - and {len(found.refused) - LISTED} more lines: --json names them")


def _word(metric: str) -> str:
    return metric.replace("_", " ").replace("tpot", "TPOT").replace("ttft", "TTFT")
