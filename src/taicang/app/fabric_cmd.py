"""``taicang fabric``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from taicang.app.asking import Asking
from taicang.app.options import JSON, MOST_SKEW, Finite, Whole, echo_json, stacked
from taicang.errors import InvalidInput
from taicang.output import check_file, write_file
from taicang.units import count, parse

ROUTINGS = ("adaptive", "striped", "ecmp")


class Payload(click.ParamType[float]):
    """Bytes, or a product that begins with them: 1GB, 7.5KB*128*8."""

    name = "BYTES"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse the quantity and multiply the counts."""
        if isinstance(value, float):
            return value
        first, *rest = str(value).split("*")
        found = parse(first.strip(), "bytes", where="--bytes")
        for part in rest:
            found *= count(part.strip(), 1, 10**12, where="--bytes")
        if found <= 0:
            raise InvalidInput(f"must be more than nothing, got {value!r}", where="--bytes")
        return found


class Zipf(click.ParamType[float]):
    """zipf:1.1, or the exponent alone."""

    name = "zipf:EXPONENT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The exponent, 0 to 2."""
        try:
            found = float(str(value).removeprefix("zipf:"))
        except ValueError:
            self.fail(f"expected zipf:EXPONENT such as zipf:1.1, got {value!r}", param, ctx)
        if not 0.0 <= found <= MOST_SKEW:
            self.fail(f"the exponent is from 0 to {MOST_SKEW:g}, got {value!r}", param, ctx)
        return found


WORK = stacked(
    click.option("--collective", "kind", metavar="KIND",
                 help="all-reduce, all-gather, reduce-scatter, all-to-all, dispatch, combine or send."),
    click.option("--bytes", "payload", type=Payload(),
                 help="One rank's whole buffer, e.g. 1GB or 7.5KB*128*8; of dispatch and combine, one token."),
    click.option("--ranks", type=Whole(1), help="Ranks that take part (default: all); send: the distance plus one."),
    click.option("--stride", type=Whole(1), default=1, show_default=True, help="How far apart they lie."),
    click.option("--algorithm", help="ring, tree, halving_doubling, direct, hierarchical or in_switch."),
    click.option("--skew", type=Zipf(), default=0.0, help="Popularity of receivers or experts by Zipf's law."),
    click.option("--tokens", type=Whole(1), default=128, show_default=True, help="Dispatch, combine: of each rank."),
    click.option("--topk", type=Whole(1), default=8, show_default=True, help="Experts of each token."),
    click.option("--experts", type=Whole(1), default=256, show_default=True, help="Routed experts."),
    click.option("--shuffled", is_flag=True, help="Ranks at random places of the machine (by seed)."),
)  # fmt: skip
FABRIC = stacked(
    click.option("--plane", default="scale_up", show_default=True, help="Network of the machine."),
    click.option("--routing", type=click.Choice(ROUTINGS), default="adaptive", show_default=True,
                 help="Spread over all links, dealt over planes, or hashed with collisions."),
    click.option("--seed", type=Whole(0), default=0, show_default=True, help="Of hashes, draws and faults."),
    click.option("--seeds", type=Whole(1, 10_000), default=1, show_default=True, help="Repeat with so many seeds."),
    click.option("--fail", "failed", multiple=True, metavar="KIND:COUNT",
                 help="Parts that fail, by chance or by number: l2-switch:2, link:5@0.5, module#17. Repeatable."),
    click.option("--set", "sets", multiple=True, metavar="PATH=VALUE", help="Change a figure of the machine."),
    click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), help="Draw topology and link load."),
    JSON,
)  # fmt: skip


@click.command(
    cls=Asking,
    epilog="""\b
Examples:
  taicang fabric cloudmatrix384
  taicang fabric cloudmatrix384 --collective all-to-all --ranks 320 --bytes 7.5KB*128*8 --skew zipf:1.1
  taicang fabric dgx-h100-nvl256 --collective all-reduce --bytes 1GB --fail l2-switch:2
  taicang fabric "hgx-a100 x 128" --collective all-gather --bytes 512MB --routing ecmp --seeds 20
  taicang fabric cloudmatrix384 --collective dispatch --ranks 256 --bytes 7680B --json
""",
)
@click.argument("machine")
@WORK
@FABRIC
def fabric(machine: str, sets: tuple[str, ...], as_json: bool, svg: Path | None, **options: Any) -> None:
    """The links of MACHINE: its topology, or one collective on it, link by link.

    Without --collective: parts, links and bisection. With it: the time on the links, the hottest ones, what a library
    makes of it and what the closed form says.
    """
    from taicang import catalog
    from taicang.app import render_fabric
    from taicang.predict import fabric as predict

    if svg is not None:
        check_file(svg, "--svg")
    on = catalog.machine(machine, sets)
    if options["kind"] is None:
        found = predict.shape(on, options["plane"], options["failed"], options["seed"])
        echo_json(found) if as_json else render_fabric.show_shape(found)
        return
    if options["payload"] is None:
        raise click.UsageError("--collective needs --bytes")
    ask = predict.Ask(
        kind=options["kind"], payload_bytes=options["payload"], ranks=options["ranks"] or 0, stride=options["stride"],
        algorithm=(options["algorithm"] or "").replace("-", "_"), skew=options["skew"], tokens=options["tokens"],
        topk=options["topk"], experts=options["experts"], routing=options["routing"], seed=options["seed"],
        seeds=options["seeds"], failed=options["failed"], plane=options["plane"], shuffled=options["shuffled"],
    )  # fmt: skip
    answer = predict.run(on, ask)
    echo_json(answer) if as_json else render_fabric.show_answer(answer)
    if svg is not None:
        write_file(svg, predict.picture(on, ask), "--svg")
