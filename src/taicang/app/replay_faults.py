"""Options of ``taicang replay`` about what goes wrong, and what the system does about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from taicang.app.options import DURATION, Named, Quantity, Whole, stacked
from taicang.app.trace_options import TIME
from taicang.units import digits

if TYPE_CHECKING:
    from taicang.predict.faults import Faults


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
