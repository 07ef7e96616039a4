"""``taicang fabric`` and ``taicang fabric run``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taicang.app.ask_cmd import Asking
from taicang.app.load_options import fields_of
from taicang.app.options import (
    HELP,
    MOST_SKEW,
    command,
    echo_json,
    named,
    write_chakra,
)
from taicang.errors import InvalidInput
from taicang.output import check_file, write_file
from taicang.units import count, parse

if TYPE_CHECKING:
    from taicang.search.collective import Ask


def payload(text: str, _where: str = "") -> float:
    """Bytes, or a product that begins with them: 1GB, 7.5KB*128*8."""
    first, *rest = text.split("*")
    found = parse(first.strip(), "bytes", where="--bytes")
    for part in rest:
        found *= count(part.strip(), 1, 10**12, where="--bytes")
    if found <= 0:
        raise InvalidInput(f"must be more than nothing, got {text!r}", where="--bytes")
    return found


def beside(text: str, _where: str) -> tuple[str, float]:
    """A collective and its bytes: all-gather:1GB."""
    kind, colon, size = text.partition(":")
    if not colon:
        raise click.BadParameter(f"expected KIND:BYTES such as all-gather:1GB, got {text!r}")
    return kind.strip(), payload(size)


def zipf(text: str, _where: str) -> float:
    """An exponent: zipf:1.1."""
    try:
        found = float(text.removeprefix("zipf:"))
    except ValueError:
        raise click.BadParameter(f"expected zipf:EXPONENT such as zipf:1.1, got {text!r}") from None
    if not 0.0 <= found <= MOST_SKEW:
        raise click.BadParameter(f"the exponent is from 0 to {MOST_SKEW:g}, got {text!r}")
    return found


def sizes(text: str, _where: str) -> dict[str, int]:
    """tp=8,ep=96: sizes by axis, the innermost first."""
    found: dict[str, int] = {}
    for part in text.split(","):
        name, equals, size = part.partition("=")
        if not equals or not name.strip() or name.strip() in found:
            raise click.BadParameter(f"expected distinct AXIS=RANKS such as tp=8,ep=96, got {text!r}")
        found[name.strip()] = count(size.strip(), 1, 10**7, where="--axes")
    return found


class _Fabric(Asking):
    """``taicang fabric run WORKLOAD`` is a command of its own; anything else is a machine."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """The context of what is asked."""
        if args[:1] == ["run"]:
            made: click.Context = run.make_context(f"{info_name} run", args[1:], parent, **extra)
            return made
        return super().make_context(info_name, args, parent, **extra)


@command("fabric", _Fabric)
def fabric(machine: str, sets: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """The links of MACHINE (or of a graph in a file): its topology, or one collective on it, link by link."""
    from taicang.hardware import Machine
    from taicang.predict.fabric import opened

    if options["perfetto"] is not None and not options["kind"]:
        raise click.UsageError("--perfetto needs --collective")
    for flag in ("svg", "html", "perfetto"):
        if options[flag] is not None:
            check_file(options[flag], f"--{flag}")
    chosen = [name for name in ("kind", "draws", "logical", "axes") if options[name] is not None]
    if len(chosen) > 1:
        raise click.UsageError("one of --collective, --draws, --logical and --axes at a time")
    if chosen and chosen[0] in ("kind", "axes") and options["payload_bytes"] is None:
        raise click.UsageError(f"--{'collective' if chosen[0] == 'kind' else 'axes'} needs --bytes")
    on = opened(machine, sets, links=not (options["serve"] or options["trained"]))
    if chosen and chosen[0] not in ("kind", "axes") and not isinstance(on, Machine):
        raise click.UsageError(f"--{chosen[0]} needs a machine of the catalogue, not a graph")
    found = _answered(chosen[0] if chosen else "", on, options)
    if as_json:
        echo_json(found)
    else:
        from taicang.app import render_fabric

        render_fabric.show_any(found)
    _written(machine, on, options, found)
    if options["chakra"] is not None:
        from taicang.predict.chakra import collective_graph

        write_chakra(collective_graph(on, question(options)), options["chakra"])


def question(options: Mapping[str, Any]) -> Ask:
    """The collective that the options ask about."""
    from taicang.search.collective import Ask

    if options["stack"] and (options["kind"] or "").replace("_", "-") != "all-reduce":
        raise InvalidInput("changes nothing but --collective all-reduce", where="--stack")
    said: dict[str, Any] = {"kind": "", "payload_bytes": 0.0}
    said |= {name: value for name, value in fields_of(Ask, options).items() if value is not None}
    return Ask(**said | {"algorithm": said.get("algorithm", "").replace("-", "_")})


def _breakage(on: Any, options: dict[str, Any]) -> Any:
    from taicang import catalog
    from taicang.predict.fabric_parts import breakage

    others = named(options["against"], "--against")
    found = tuple(
        breakage(
            each, draws=options["draws"], seed=options["seed"], spares=options["spares"], mtbf=dict(options["mtbf"]),
            serve=options["serve"], trained=options["trained"],
        )
        for each in (on, *map(catalog.machine, others))
    )  # fmt: skip
    return found if others else found[0]


def _answered(what: str, on: Any, options: dict[str, Any]) -> Any:
    from taicang.predict import fabric as predict
    from taicang.predict.fabric_parts import axes, share_out

    match what:
        case "kind":
            return predict.run(on, question(options))
        case "draws":
            return _breakage(on, options)
        case "logical":
            sizes = [count(part, 1, 10**7, where="--logical") for part in named(options["logical"], "--logical")]
            return share_out(on, sizes, backlog=options["backlog"], seed=options["seed"])
        case "axes":
            return axes(on, options["axes"], options["payload_bytes"], options["seed"])
    return predict.shape(on, options["plane"], options["failed"], options["seed"])


def _written(machine: str, on: Any, options: dict[str, Any], found: Any) -> None:
    if options["perfetto"] is not None:
        from taicang.predict.fabric_pictures import trace

        write_file(options["perfetto"], json.dumps(trace(found)), "--perfetto")
    if options["svg"] is None and options["html"] is None:
        return
    from taicang.predict.fabric_pictures import picture

    ask = question(options)
    if options["svg"] is not None:
        write_file(options["svg"], picture(on, ask), "--svg")
    if options["html"] is not None:
        from taicang.page.html import page
        from taicang.page.views import sections
        from taicang.records import jsonable

        whole = not any(options[name] for name in ("draws", "logical", "axes"))  # of which no picture says anything
        result = {"answer": jsonable(found), "picture": picture(on, ask) if whole else ""}
        write_file(options["html"], page(machine, sections("fabric", result)), "--html")


SHOWN = 8
"""Ranks in the table."""


@command("fabric.run", partial(click.command, "run"), context_settings=HELP)
def run(
    workload: Path, network: Path | None, system: Path | None, machine: str | None, perfetto: Path | None, as_json: bool
) -> None:
    """Run WORKLOAD of another simulator: Chakra traces (protobuf 0.0.4 or JSON), or a workload of SimAI."""
    from taicang.output import check_file, write_file
    from taicang.predict.workload import on_machine, on_network
    from taicang.records import plain

    if (network is None) == (machine is None):
        raise click.UsageError("give --network (and --system), or --on")
    if system is not None and network is None:
        raise click.UsageError("--system goes with --network")
    if perfetto is not None:
        check_file(perfetto, "--perfetto")
    found = on_network(workload, network, system) if network is not None else on_machine(workload, str(machine))
    if as_json:
        echo_json(plain({name: getattr(found, name) for name in found.__slots__ if name != "spans"}))
    else:
        _shown(found)
    if perfetto is not None:
        write_file(perfetto, json.dumps(_trace(found.spans)), "--perfetto")


def _shown(found: Any) -> None:
    from taicang.app.render_bands import band_lines
    from taicang.units import show

    click.echo(f"{found.workload} on {found.network}: {found.tasks:,} tasks, {found.ranks:,} ranks, "
               f"{show(found.seconds, 's')}")  # fmt: skip
    click.echo(f"{'rank':>6}{'done':>12}{'computing':>12}{'exchanging':>12}{'exposed':>12}")
    for rank, one in list(found.by_rank.items())[:SHOWN]:
        cells = (one.seconds, one.compute_s, one.communication_s, one.exposed_s)
        click.echo(f"{rank:>6}" + "".join(f"{show(each, 's') if each else '0 s':>12}" for each in cells))
    if len(found.by_rank) > SHOWN:
        click.echo(f"   ... and {len(found.by_rank) - SHOWN:,} more")
    for note in (*found.notes, *band_lines(found.bands, {})):
        click.echo(f"  - {note}")


BINS = 400
"""Steps of the counters over the whole run."""


def _trace(spans: Any) -> dict[str, Any]:
    """The run as trace events: a process for each rank, computing and exchanging on threads of their own, and counters
    of the ranks that do either over time."""
    from taicang.trace_events import file, process, span, thread

    ranks = sorted({each.rank for each in spans})
    events = [process(rank, f"rank {rank}") for rank in ranks]
    events += [thread(rank, at, name) for rank in ranks for at, name in enumerate(("computing", "exchanging"))]
    for each in spans:
        place = each.rank, int(each.kind != "compute")
        events.append(span(place, each.name, each.begin_s, each.end_s, each.kind))
    return file([*events, *_used(spans, len(ranks))])


def _used(spans: Any, ranks: int) -> list[dict[str, Any]]:
    """Share of the ranks that compute, and that exchange, in each bin of the run."""
    from taicang.trace_events import counter

    end = max((each.end_s for each in spans), default=0.0)
    if not end:
        return []
    wide = end / BINS
    busy = {"computing": [0.0] * BINS, "exchanging": [0.0] * BINS}
    for each in spans:
        row = busy["computing" if each.kind == "compute" else "exchanging"]
        first, last = int(each.begin_s / wide), min(int(each.end_s / wide), BINS - 1)
        for at in range(first, last + 1):
            row[at] += max(min(each.end_s, (at + 1) * wide) - max(each.begin_s, at * wide), 0.0)
    return [
        counter(ranks, "ranks in use", at * wide, **{name: row[at] / wide / ranks for name, row in busy.items()})
        for at in range(BINS)
    ]
