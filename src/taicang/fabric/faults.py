"""Parts of a fabric that fail: which links stop with each, by name or by chance."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from taicang.errors import InvalidInput, UnknownName
from taicang.fabric.topology import Direct, Fabric, Floats, Ints, Stage, Switched, Wired

_SPEC = re.compile(r"^(?P<kind>[a-z0-9-]+)(?:(?P<sign>[:#])(?P<number>\d{1,9}))?(?:@(?P<left>0?\.\d+|0|1))?$")


def parts(fabric: Fabric) -> dict[str, int]:
    """How many parts of each kind there are."""
    found: dict[str, int] = {"node": -(-fabric.ranks // fabric.node_ranks), "rank": fabric.ranks}
    for network in fabric.networks:
        if isinstance(network, Wired):
            return {"rank": fabric.ranks, "switch": len(_switches(network)), "link": len(_pairs(network))}
        if isinstance(network, Direct):
            found["mesh-link"] = found.get("mesh-link", 0) + network.units * sum(network.widths) // 2
            continue
        if network.adapters:
            found["adapter"] = network.stages[0].things
        if network.planes > 1:
            found["plane"] = network.planes
        for depth, stage in enumerate(network.stages):
            found[stage.switch] = found.get(stage.switch, 0) + stage.units * stage.switches
            found["link" if depth else "port"] = found.get("link" if depth else "port", 0) + stage.things * stage.fan
            each = fabric.levels[stage.level].links_per_module
            if each and (depth or network.adapters):
                found["module"] = found.get("module", 0) + 2 * (stage.things * stage.fan // each)
    return found


def stopped(fabric: Fabric, kind: str, index: int) -> Ints:
    """Links that stop, either way, with part ``index`` of a kind."""
    if kind in ("node", "rank", "adapter") and not isinstance(fabric.networks[0], Wired):
        size = fabric.node_ranks if kind == "node" else 1
        ranks = np.arange(index * size, min((index + 1) * size, fabric.ranks))
        return _both(_ports(fabric, ranks, adapter=index if kind == "adapter" else None))
    if isinstance(wired := fabric.networks[0], Wired):
        return wired.first + _cut(wired, kind, index)
    if kind == "plane":
        return _both(_plane(fabric, index))
    for count, links in _counted(fabric, kind):
        if 0 <= index < count:
            return links(index)
        index -= count
    return np.zeros(0, dtype=np.int64)


def _counted(fabric: Fabric, kind: str) -> Iterator[tuple[int, Callable[[int], Ints]]]:
    """How many parts of a kind each place holds, and the links of one of them."""
    for network in fabric.networks:
        if isinstance(network, Switched):
            for depth, stage in enumerate(network.stages):
                if kind == stage.switch:
                    yield stage.units * stage.switches, partial(_switch, network, depth)
                elif kind in ("link", "port", "module"):
                    yield from _cables(fabric, network, depth, kind)
        elif isinstance(network, Direct) and kind == "mesh-link":
            yield network.units * sum(network.widths) // 2, partial(_mesh, network)


def _cables(fabric: Fabric, network: Switched, depth: int, kind: str) -> Iterator[tuple[int, Callable[[int], Ints]]]:
    """Links of a stage, the ports of ranks below it, or the modules at both ends of its links."""
    stage, module = network.stages[depth], kind == "module"
    ports = depth == 0 and not (module and network.adapters)
    each = fabric.levels[stage.level].links_per_module if module else 1
    if each and ports == (kind == "port"):
        ends = 2 if module else 1
        count = ends * (stage.things * stage.fan // each)
        yield count, lambda index: _both([(stage, index // ends * each + np.arange(each))])


def _plane(fabric: Fabric, index: int) -> Iterator[tuple[Stage, Ints]]:
    for network in fabric.networks:
        if isinstance(network, Switched) and network.planes > 1:
            for stage in network.stages:
                yield stage, np.flatnonzero(np.tile(stage.plane, stage.things) == index)


def _switches(network: Wired) -> Ints:
    return np.setdiff1d(np.arange(len(network.names)), network.node)


def _pairs(network: Wired) -> Ints:
    """Ends of the links of a graph, both ways counted once."""
    return np.unique(np.sort(np.stack([network.tail, network.head], axis=1), axis=1), axis=0)


def _cut(network: Wired, kind: str, index: int) -> Ints:
    ends = np.stack([network.tail, network.head], axis=1)
    if kind == "link":
        return np.flatnonzero((np.sort(ends, axis=1) == _pairs(network)[index]).all(axis=1))
    node = network.node[index] if kind == "rank" else _switches(network)[index]
    return np.flatnonzero((ends == node).any(axis=1))


def _both(rows: Iterable[tuple[Stage, Ints]]) -> Ints:
    return np.concatenate([np.concatenate([stage.up + links, stage.down + links]) for stage, links in rows])


def _ports(fabric: Fabric, ranks: Ints, adapter: int | None) -> Iterator[tuple[Stage, Ints]]:
    for network in fabric.networks:
        if isinstance(network, Switched) and (adapter is None or network.adapters):
            stage = network.stages[0]
            things = np.unique(network.port[ranks]) if adapter is None else np.array([adapter])
            yield stage, (things[:, None] * stage.fan + np.arange(stage.fan)).ravel()


def _switch(network: Switched, depth: int, index: int) -> Ints:
    stage = network.stages[depth]
    unit, switch = divmod(index, stage.switches)
    things = np.flatnonzero(stage.unit == unit)
    found = [(stage, (things[:, None] * stage.fan + np.flatnonzero(stage.above == switch)).ravel())]
    if depth + 1 < len(network.stages):
        high = network.stages[depth + 1]
        found.append((high, unit * high.fan + np.flatnonzero(high.below == switch)))
    return _both(found)


def _mesh(network: Direct, index: int) -> Ints:
    """Both directions of one link of a mesh or torus."""
    width = sum(network.widths)
    unit = np.arange(network.units)
    pairs: list[Ints] = []
    offset, stride = 0, 1
    for size, links in zip(network.dims, network.widths, strict=True):
        here = unit // stride % size
        for link in range(links):
            step = (1, size - 1)[link] if network.torus else link + 1
            other = unit + ((here + step) % size - here) * stride
            back = links - 1 - link
            there = np.stack([unit * width + offset + link, other * width + offset + back])
            pairs.append(network.first + there[:, unit < other])
        offset, stride = offset + links, stride * size
    found: Ints = np.concatenate(pairs, axis=1)[:, index]
    return found


def read_failure(fabric: Fabric, text: str, rng: np.random.Generator) -> tuple[str, Ints, float]:
    """Kind, numbers and what is left of "l2-switch:2" (two by chance), "l2-switch#17" (this one), "link:5@0.5"."""
    match = _SPEC.match(text.strip().lower())
    known = parts(fabric)
    if match is None:
        raise InvalidInput(f"expected KIND:COUNT, KIND#NUMBER or KIND:COUNT@SHARE, got {text!r}", where="--fail")
    kind = match["kind"].removesuffix("es") if match["kind"].endswith("switches") else match["kind"].removesuffix("s")
    if kind not in known:
        raise UnknownName("part", match["kind"], known, where="--fail")
    number = int(match["number"] or 1)
    if match["sign"] == "#":
        if number >= known[kind]:
            raise InvalidInput(f"{kind} {number} of {known[kind]:,}: they are numbered from 0", where="--fail")
        chosen = np.array([number])
    else:
        if number > known[kind]:
            raise InvalidInput(f"{number:,} of {known[kind]:,} parts of kind {kind}", where="--fail")
        chosen = rng.choice(known[kind], number, replace=False)
    return kind, np.sort(chosen), float(match["left"] or 0.0)


def fail(fabric: Fabric, specs: Sequence[str], seed: int = 0) -> Fabric:
    """``fabric`` after the faults of ``specs``. Raises ``UnknownName`` and ``InvalidInput``."""
    if not specs:
        return fabric
    rng = np.random.default_rng(seed)
    alive: Floats = fabric.alive_ratio.copy()
    for text in specs:
        kind, numbers, left = read_failure(fabric, text, rng)
        for number in numbers.tolist():
            links = stopped(fabric, kind, number)
            alive[links] = np.minimum(alive[links], left)
    return replace(fabric, alive_ratio=alive)


def cut_off(fabric: Fabric) -> Ints:
    """Ranks that have lost a whole network: their jobs go on without them."""
    lost = np.zeros(fabric.ranks, dtype=bool)
    for network in fabric.networks:
        if isinstance(network, Wired):
            left = np.bincount(network.tail, weights=fabric.alive_ratio, minlength=len(network.names))
            lost |= left[network.node] <= 0
        if isinstance(network, Switched):
            stage = network.stages[0]
            count = stage.things * stage.fan
            for first in (stage.up, stage.down):
                left = fabric.alive_ratio[first : first + count].reshape(-1, stage.fan).sum(axis=1)
                lost |= (left <= 0)[network.port]
    return np.flatnonzero(lost)
