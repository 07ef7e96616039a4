"""Options of ``taicang replay`` about caches: memory beside the instances, what goes first, what is shared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from taicang.app.options import DURATION, Quantity, stacked

if TYPE_CHECKING:
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
