"""Options of ``taicang replay`` about several models on the same instances."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import click

from taicang.app.options import Whole, stacked
from taicang.app.replay_memory import SIZE


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
    from taicang.predict.standing import Tenant

    for name, flag in (("model_cache", "--model-cache"), ("crowd", "--crowd")):
        if options[name] and not options["also"]:
            raise click.UsageError(f"{flag} is of use to several models: give --also")
    also = [Tenant(model=model, share_ratio=share, instances=count) for model, share, count in options["also"]]
    return {"also": also, "model_cache_bytes": options["model_cache"] or 0.0, "crowd": options["crowd"] or 0}
