"""Options about what serves: pools, caches beside them, several models, and what goes wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from taicang.app.load_options import fields_of, fitted_skew
from taicang.app.options import DURATION, Parsed, quantity
from taicang.app.trace_options import TIME
from taicang.units import digits

if TYPE_CHECKING:
    from taicang.predict.faults import Faults
    from taicang.predict.system import System
    from taicang.serve.build import Tier


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


def also(text: str, _where: str) -> tuple[str, float, int | None]:
    """MODEL=SHARE or MODEL=SHARE:INSTANCES; the share lies between nothing and all."""
    match = re.fullmatch(r"(.+)=([^=:]+)(?::(\d+))?", text)
    try:
        share = float(match[2]) if match else 0.0
    except ValueError:
        share = 0.0
    if not match or not 0.0 < share < 1.0:
        raise click.BadParameter(f"{text!r} is no MODEL=SHARE with a share between 0 and 1, such as qwen3-8b=0.2")
    return match[1], share, int(match[3]) if match[3] else None


def tenants_from(options: Mapping[str, Any]) -> dict[str, Any]:
    """What ``replay`` is to know of several models. Raises ``UsageError`` for a cache without them."""
    from taicang.predict.standing import Tenant

    for name, flag in (("model_cache", "--model-cache"), ("crowd", "--crowd")):
        if options[name] and not options["also"]:
            raise click.UsageError(f"{flag} is of use to several models: give --also")
    also = [Tenant(model=model, share_ratio=share, instances=count) for model, share, count in options["also"]]
    return {"also": also, "model_cache_bytes": options["model_cache"] or 0.0, "crowd": options["crowd"] or 0}


def event(name: str, example: str) -> Parsed:
    """What happens when, and for how long: 3@60s, node:2@60s+5min, scale_up=0.5@1min."""

    def read(text: str, where: str) -> tuple[str, float, float | None]:
        what, at, times = text.partition("@")
        begin, _, lasts = times.partition("+")
        if not at or not what or not begin:
            raise click.BadParameter(f"{text!r} is not {name} such as {example}")
        return what, TIME.read(begin, where), DURATION.read(lasts, where) if lasts else None

    return Parsed(name, read)


def restart(dimension: str, name: str) -> Parsed:
    """A duration, or where the weights come from."""
    usual = quantity(dimension, name)
    return Parsed(name, lambda text, where: text if text in ("cold", "warm") else usual.read(text, where))


MOST_JITTER_S = 60.0


def faults_from(options: Mapping[str, Any]) -> Faults:
    """What the options describe."""
    from taicang.predict.faults import Faults, Outage

    if options["jitter_s"] > MOST_JITTER_S:
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
    return Faults(**fields_of(Faults, options) | {
        "outages": outages, "degraded": _changes(options, "degrade"), "slow": _changes(options, "slow"),
        "drained": _changes(options, "drain"), "switched": switched, "mtbf_s": dict(options["mtbf_s"]),
    })  # fmt: skip


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


def system_from(options: dict[str, Any], model: str) -> System:
    """The system that the options describe for ``model``."""
    from taicang.predict.system import System
    from taicang.search.door import plan_of

    fitted_skew(options, model)
    fields = fields_of(System, options) | {
        "plan": plan_of(options), "faults": faults_from(options), "tiers": tiers_from(options),
        "swap_bytes": options["swap_bytes"] or 0.0, "late": options["late"].replace("-", "_"),
    }  # fmt: skip
    return System(**fields)
