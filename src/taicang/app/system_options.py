"""Options about what serves: pools, caches beside them, several models, and what goes wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from taicang.app.load_options import fields_of, fitted_skew
from taicang.app.options import CHOICES, DURATION, PLAN, Named, Quantity, Whole, stacked
from taicang.app.trace_options import TIME
from taicang.units import digits

if TYPE_CHECKING:
    from taicang.predict.faults import Faults
    from taicang.predict.system import System
    from taicang.serve.build import Tier


SIZE = Quantity("bytes", "BYTES")
MEMORY = stacked(
    click.option("--offload", type=SIZE, help="Host memory of each instance for prompt blocks, over its host link."),
    click.option("--pool", type=SIZE, help="Memory pool of all instances for prompt blocks, e.g. 20TB."),
    click.option("--pool-plane", default="scale_up", show_default=True, help="Its plane: scale_up, vpc, rdma, host."),
    click.option("--ssd", type=SIZE, help="SSD of all instances for prompt blocks, behind the pool."),
    click.option("--ssd-plane", default="vpc", show_default=True, help="Its plane: vpc, rdma, host."),
    click.option("--ssd-bandwidth", type=Quantity("bytes_per_s", "BYTES/S"),
                 help="What one instance reads from it, in place of its plane's speed."),
    click.option("--eviction", type=click.Choice(["lru", "lfu"]), default="lru", show_default=True,
                 help="Blocks that go first: used least recently, or least often."),
    click.option("--ttl", type=DURATION, help="Blocks beside the instances go when unused for so long."),
    click.option("--keep-answers", is_flag=True,
                 help="A decode pool writes its answers to them too; engines do so only where told."),
    click.option("--swap", type=SIZE,
                 help="Host memory of each instance for sequences that its cache has no room for; default: they start "
                 "over."),
)  # fmt: skip
"""Caches."""


def tiers_from(options: Mapping[str, Any]) -> tuple[Tier, ...]:
    """The memory that the options describe, the nearest first."""
    from taicang.serve.build import Tier

    found = []
    if options["offload"]:
        found.append(Tier(name="host", size_bytes=options["offload"], plane="host", own=True))
    if options["pool"]:
        found.append(Tier(name="pool", size_bytes=options["pool"], plane=options["pool_plane"]))
    if options["ssd"]:
        bandwidth = options["ssd_bandwidth"]
        plane = "" if bandwidth else options["ssd_plane"]
        found.append(Tier(name="ssd", size_bytes=options["ssd"], plane=plane, bandwidth_bytes_per_s=bandwidth))
    return tuple(found)


class Also(click.ParamType[tuple[str, float, int | None]]):
    """``MODEL=SHARE`` or ``MODEL=SHARE:INSTANCES``."""

    name = "MODEL=SHARE[:INSTANCES]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float, int | None]:  # fmt: skip
        """Parse; the share lies between nothing and all."""
        match = re.fullmatch(r"(.+)=([^=:]+)(?::(\d+))?", str(value))
        try:
            share = float(match[2]) if match else 0.0
        except ValueError:
            share = 0.0
        if not match or not 0.0 < share < 1.0:
            self.fail(f"{value!r} is no MODEL=SHARE with a share between 0 and 1, such as qwen3-8b=0.2", param, ctx)
        return match[1], share, int(match[3]) if match[3] else None


TENANTS = stacked(
    click.option("--also", type=Also(), multiple=True,
                 help="Another model on the same instances: its share of the sessions, and the instances that hold it "
                 "at first (by its share). An instance changes its model when no other holds the one asked for."),
    click.option("--crowd", type=Whole(1), metavar="REQUESTS",
                 help="With so many requests on each of its instances a model takes one over from a model that has "
                 "several, one with at most half as many; default: never."),
    click.option("--model-cache", type=SIZE,
                 help="Host memory that keeps models' weights; what is not there comes from an object store."),
)  # fmt: skip
"""Several models."""


def tenants_from(options: Mapping[str, Any]) -> dict[str, Any]:
    """What ``replay`` is to know of several models. Raises ``UsageError`` for a cache without them."""
    from taicang.predict.tenants import Tenant

    for name, flag in (("model_cache", "--model-cache"), ("crowd", "--crowd")):
        if options[name] and not options["also"]:
            raise click.UsageError(f"{flag} is of use to several models: give --also")
    also = [Tenant(model=model, share_ratio=share, instances=count) for model, share, count in options["also"]]
    return {"also": also, "model_cache_bytes": options["model_cache"] or 0.0, "crowd": options["crowd"] or 0}


class Event(click.ParamType[tuple[str, float, float | None]]):
    """What happens when, and for how long: 3@60s, node:2@60s+5min, scale_up=0.5@1min."""

    def __init__(self, name: str, example: str) -> None:
        self.name = name
        self.example = example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse both times through the catalogue's unit door."""
        if isinstance(value, tuple):
            return value
        what, at, times = value.partition("@")
        begin, _, lasts = times.partition("+")
        if not at or not what or not begin:
            self.fail(f"{value!r} is not {self.name} such as {self.example}", param, ctx)
        return what, TIME.convert(begin, param, ctx), DURATION.convert(lasts, param, ctx) if lasts else None


class Restart(Quantity):
    """A duration, or where the weights come from."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The words as they are."""
        return value if value in ("cold", "warm") else super().convert(value, param, ctx)


MOST_JITTER_S = 60.0
FAULTS = stacked(
    click.option("--fail", "outages", type=Event("PART@TIME[+TIME]", "3@60s+5min"), multiple=True,
                 help="A part fails (and is repaired): an instance by number, or chip:N, node:N, rack:N, switch:N."),
    click.option("--breakdowns", is_flag=True, help="Parts fail at random, at published rates."),
    click.option("--mtbf", type=Named(), multiple=True,
                 help="Mean time between failures of one chip, node, rack, switch, optical_module or of the software "
                 "per chip; without --breakdowns nothing else fails."),
    click.option("--degrade", type=Event("PLANE=RATIO@TIME[+TIME]", "scale_up=0.5@60s+5min"), multiple=True,
                 help="A plane keeps a share of its bandwidth; 0: it is dead, and instances that need it stop."),
    click.option("--slow", type=Event("INSTANCE=RATIO@TIME[+TIME]", "3=1.5@0s"), multiple=True,
                 help="The steps of an instance take RATIO times as long."),
    click.option("--drain", type=Event("INSTANCE@TIME[+TIME]", "3@60s+5min"), multiple=True,
                 help="An instance takes no new requests."),
    click.option("--switch", type=Event("INSTANCE@TIME", "3@60s"), multiple=True,
                 help="An instance goes over to the other pool once its work is done."),
    click.option("--spares", type=Whole(0), default=0, show_default=True,
                 help="Idle chips that stand in for failed ones."),
    click.option("--restart", type=Restart("s", "DURATION|cold|warm"), default=600.0, show_default="600s",
                 help="Restart on spare chips, after random failures, or in the other pool: a time, or cold or warm: "
                 "weights come from an object store, or from the hosts' memory pool."),
    click.option("--retries", type=Whole(0),
                 help="Times that a request starts over after its cache was lost; default: until it is served."),
    click.option("--jitter", type=DURATION, default=0.0,
                 help="Mean time by which each rank's host is late in each step, e.g. 50us; the slowest decides."),
)  # fmt: skip
"""What goes wrong."""


def faults_from(options: Mapping[str, Any]) -> Faults:
    """What the options describe."""
    from taicang.predict.faults import Faults, Outage

    if options["jitter"] > MOST_JITTER_S:
        raise click.BadParameter(f"at most {MOST_JITTER_S:g} s in a step", param_hint="--jitter")
    outages = []
    for what, at_s, down_s in options["outages"]:
        part, colon, number = what.partition(":")
        part, number = (part, number) if colon else ("instance", part)
        if not digits(number):
            raise click.BadParameter(f"{what!r} is not an instance's number or PART:NUMBER such as node:3",
                                     param_hint="--fail")  # fmt: skip
        outages.append(Outage(part=part, number=int(number), at_s=at_s, down_s=down_s))
    switched = []
    for number, at_s, lasts_s in options["switch"]:
        if lasts_s is not None or not digits(number):
            raise click.BadParameter("expected INSTANCE@TIME such as 3@60s", param_hint="--switch")
        switched.append((int(number), at_s))
    return Faults(
        outages=outages, degraded=_changes(options, "degrade"), slow=_changes(options, "slow"),
        drained=_changes(options, "drain"), switched=switched, breakdowns=options["breakdowns"],
        mtbf_s=dict(options["mtbf"]), spare_chips=options["spares"], restart_s=options["restart"],
        retries=options["retries"], jitter_s=options["jitter"],
    )  # fmt: skip


def _changes(options: Mapping[str, Any], name: str) -> list[Any]:
    from taicang.predict.faults import Change

    made = []
    for text, at_s, for_s in options[name]:
        what, equals, share = text.partition("=")
        ratio = 1.0
        if name == "drain" and equals:
            raise click.BadParameter(f"{text!r}: expected INSTANCE@TIME such as 3@60s", param_hint="--drain")
        if name != "drain":
            try:
                ratio = float(share)
            except ValueError:
                ratio = -1.0
            least, most = (0.0, 1.0) if name == "degrade" else (1e-3, 1e6)
            if not equals or not least <= ratio <= most:
                raise click.BadParameter(
                    f"{text!r}: expected WHAT=RATIO with a ratio from {least:g} to {most:g}", param_hint=f"--{name}"
                )
        made.append(Change(what=what, at_s=at_s, for_s=for_s, change_ratio=ratio))
    return made


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
    from taicang.predict.system import System
    from taicang.search.door import plan_of

    fitted_skew(options, model)
    fields = fields_of(System, options) | {
        "plan": plan_of(options), "faults": faults_from(options), "tiers": tiers_from(options),
        "ttl_s": options["ttl"], "swap_bytes": options["swap"] or 0.0, "late": options["late"].replace("-", "_"),
    }  # fmt: skip
    return System(**fields)
