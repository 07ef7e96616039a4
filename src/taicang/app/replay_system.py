"""Options of ``taicang replay`` that describe what serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from taicang.app.options import CHOICES, PLAN, stacked
from taicang.units import parse

if TYPE_CHECKING:
    from taicang.predict.replay import System


class Bytes(click.ParamType[float]):
    """A size: 20TB, 512 GiB."""

    name = "BYTES"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse through the catalogue's unit door."""
        return value if isinstance(value, float) else parse(value, "bytes", where=param.opts[0] if param else "")


class Failure(click.ParamType[tuple[int, float, float | None]]):
    """Which instance fails when, and for how long: 3@60s, 3@60s+5min."""

    name = "FAILURE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse both times through the catalogue's unit door."""
        if isinstance(value, tuple):
            return value
        number, _, times = value.partition("@")
        if not number.isdigit() or not times:
            self.fail(f"{value!r} is not INSTANCE@TIME such as 3@60s+5min", param, ctx)
        at, _, down = times.partition("+")
        return int(number), parse(at, "s", where="--fail"), parse(down, "s", where="--fail") if down else None


SYSTEM = stacked(
    click.option("--on", "machine", required=True, help='Machine, e.g. cloudmatrix384, "hgx-h100 x 4", my.yaml.'),
    click.option(
        "--instances", type=click.IntRange(1), help="Instances that prefill and decode (default: all that fit)."
    ),
    click.option("--prefill", default="", help="Prefill pool, INSTANCESxCHIPS, e.g. 6x16."),
    click.option("--decode", default="", help="Decode pool, INSTANCESxCHIPS, e.g. 1x160."),
    click.option(
        "--router", default="least-loaded", show_default=True, help="least-loaded, round-robin, prefix-aware..."
    ),
    click.option("--pool", type=Bytes(), default=0.0, help="Memory pool for prompt blocks, e.g. 20TB."),
    click.option("--pool-plane", default="", help="Plane of the pool: scale_up (default), vpc, rdma, host."),
    click.option(
        "--fail", "failures", type=Failure(), multiple=True, help="An instance fails (and returns): NUMBER@TIME[+TIME]."
    ),
    click.option(
        "--policy", type=click.Choice(["mixed", "prefill_first", "decode_first"]), help="Default: the stack's."
    ),
    click.option(
        "--max-tokens", "tokens", type=click.IntRange(1), help="Token budget of a step; default: the stack's."
    ),
    click.option("--max-batch", "sequences", type=click.IntRange(1), help="Sequences in flight per attention group."),
    PLAN,
    CHOICES,
)
"""What serves."""


def system_from(options: Mapping[str, Any]) -> System:
    """The system that the options describe."""
    from taicang.app.plan_options import plan_from
    from taicang.predict.replay import System

    return System(
        instances=options["instances"], prefill=options["prefill"], decode=options["decode"],
        plan=plan_from(dict(options)), stack=options["stack"], quant=options["quant"], drafts=options["drafts"],
        acceptance_ratio=options["acceptance"], skew=options["skew"], policy=options["policy"],
        tokens=options["tokens"], sequences=options["sequences"], router=options["router"],
        failures=options["failures"], pool_bytes=options["pool"], pool_plane=options["pool_plane"],
        approximate=options["approximate"], sets=options["sets"],
    )  # fmt: skip
