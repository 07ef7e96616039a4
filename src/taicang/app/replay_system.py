"""Options of ``taicang replay`` that describe what serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from taicang.app.load_options import fields_of
from taicang.app.options import CHOICES, PLAN, Whole, stacked
from taicang.app.replay_faults import FAULTS, faults_from
from taicang.app.replay_memory import MEMORY, tiers_from
from taicang.app.replay_tenants import TENANTS

if TYPE_CHECKING:
    from taicang.predict.system import System


SYSTEM = stacked(
    click.option("--on", "machine", required=True, help='Machine, e.g. cloudmatrix384, "hgx-h100 x 4", my.yaml.'),
    click.option("--instances", type=Whole(1), help="Instances that prefill and decode (default: all that fit)."),
    click.option("--prefill", default="", help="Prefill pool, INSTANCESxCHIPS, e.g. 6x16."),
    click.option("--decode", default="", help="Decode pool, INSTANCESxCHIPS, e.g. 1x160."),
    click.option(
        "--router", default="least-loaded", show_default=True, help="least-loaded, round-robin, prefix-aware..."
    ),
    click.option(
        "--policy", type=click.Choice(["mixed", "prefill_first", "decode_first"]), help="Default: the stack's."
    ),
    click.option("--max-tokens", "tokens", type=Whole(1), help="Token budget of a step; default: the stack's."),
    click.option("--max-batch", "sequences", type=Whole(1), help="Sequences in flight per attention group."),
    click.option(
        "--order",
        type=click.Choice(["arrival", "priority", "deadline"]),
        default="arrival",
        show_default=True,
        help="Who is served first; the last to be leaves first when pages run out.",
    ),
    click.option(
        "--late",
        type=click.Choice(["serve", "turn-away"]),
        default="serve",
        show_default=True,
        help="What becomes of requests whose deadline has passed when it is their turn.",
    ),
    TENANTS,
    MEMORY,
    FAULTS,
    PLAN,
    CHOICES,
)
"""What serves."""


def system_from(options: dict[str, Any], model: str) -> System:
    """The system that the options describe for ``model``."""
    from taicang.app.expert_loads import resolve
    from taicang.predict.system import System
    from taicang.search.door import plan_of

    resolve(options, model)
    fields = fields_of(System, options) | {
        "plan": plan_of(options), "faults": faults_from(options), "tiers": tiers_from(options),
        "ttl_s": options["ttl"], "swap_bytes": options["swap"] or 0.0, "late": options["late"].replace("-", "_"),
    }  # fmt: skip
    return System(**fields)
