"""What links are called: where each resource lies, in words."""

from __future__ import annotations

from taicang.fabric.even import Net
from taicang.fabric.topology import Direct, Switched, Wired


def name(net: Net, resource: int) -> str:
    """Name of a resource: "rank 17 up (7 links)", "unit 3 to l2-switch 5"."""
    for network, bases in zip(net.fabric.networks, net.found.base, strict=True):
        if isinstance(network, Wired):
            link = resource - bases[0][0]
            return f"{network.names[network.tail[link]]} to {network.names[network.head[link]]}"
        if isinstance(network, Direct):
            found = _direct(net, network, resource, bases[0][0])
        else:
            found = _switched(network, bases, resource)
        if found:
            return found
    raise AssertionError(resource)


def _direct(net: Net, network: Direct, resource: int, base: int) -> str:
    level = net.fabric.levels[network.levels[0]].name
    width = sum(network.widths)
    index = resource - base
    if not 0 <= index < network.units * width:
        hubs = 2 * net.fabric.ranks if network.up >= 0 else 0
        if -hubs <= index < 0:
            rank = (index + hubs) % net.fabric.ranks
            return f"{level}: rank {rank} {'up' if index + hubs < net.fabric.ranks else 'down'}"
        return ""
    unit, link = divmod(index, width)
    stride, offset = 1, 0
    for size, links in zip(network.dims, network.widths, strict=True):
        if link < offset + links:
            step = (1, size - 1)[link - offset] if network.torus else link - offset + 1
            here = unit // stride % size
            return f"{level}: unit {unit} to unit {unit + ((here + step) % size - here) * stride}"
        offset, stride = offset + links, stride * size
    raise AssertionError(resource)


def _switched(network: Switched, bases: tuple[tuple[int, int, int], ...], resource: int) -> str:
    for depth, (stage, (up, down, each)) in enumerate(zip(network.stages, bases, strict=True)):
        for first, way in ((up, "up"), (down, "down")):
            if first <= resource < first + stage.things * each:
                thing, part = divmod(resource - first, each)
                below = ("adapter" if network.adapters else "rank") if depth == 0 else network.stages[depth - 1].switch
                what = f"{below} {thing}" if depth == 0 else f"{below}es of unit {thing}"
                if each == stage.fan:
                    return f"{what} {'to' if way == 'up' else 'from'} {stage.switch} {stage.above[part]}"
                plane = f", plane {part}" if each > 1 else ""
                return f"{what} {way} to {stage.switch}{plane} ({stage.fan // each} links)".replace(
                    "down to", "down from"
                )
    return ""
