"""Networks of users as graphs: node-link data, which NetworkX writes as JSON, the same in YAML, or ASTRA-sim's files.

Nodes are ranks or switches, links join them with a bandwidth (one way) and a latency. In YAML the names may be ranges:
``gpu[0-7]`` are eight. ``through`` names a node that all messages out of a rank pass: host memory, where cards have no
access to each other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

import yaml

from taicang import reading
from taicang.errors import InvalidInput, UnknownName
from taicang.interop import astra
from taicang.units import parse

MOST_NODES = 4096
KINDS = {
    "rank": True, "npu": True, "gpu": True, "device": True, "accelerator": True, "switch": False, "memory": False,
    "cpu": False, "router": False, "nic": False, "host": False,
}  # fmt: skip
"""What a node may be called -> whether it is a rank; a graph whose nodes are not called anything is all ranks."""
KEYS = ("name", "directed", "multigraph", "graph", "nodes", "links", "edges")
LINK = ("source", "target", "bandwidth", "latency", "key", "capacity")
_RANGE = re.compile(r"\[(\d{1,5})-(\d{1,5})\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Nodes by number; ``links`` are one way: (from, to)."""

    name: str
    nodes: tuple[str, ...]
    ranks: tuple[int, ...]
    """Nodes that are ranks, in their order."""
    through: tuple[int, ...]
    """Of each rank: the node that its messages pass first, or -1."""
    links: tuple[tuple[int, int], ...]
    bandwidth_bytes_per_s: tuple[float, ...]
    latency_s: tuple[float, ...]


def is_one(path: Path) -> bool:
    """Whether ``path`` is a file that holds a graph rather than a machine of the catalogue."""
    if path.suffix.lower() not in (".json", ".yaml", ".yml") or not path.is_file():
        return False
    return path.suffix.lower() == ".json" or not _loaded(path).keys().isdisjoint(("nodes", "npus_count"))


def read(path: Path) -> Graph:
    """The graph of a file. Raises ``InvalidInput`` (``UnitError``, ``UnknownName``) with file and key."""
    found, where = _loaded(path), str(path)
    if "npus_count" in found:
        return _dimensions(path)
    for key in found:
        if key not in KEYS:
            raise UnknownName("key", str(key), KEYS, where=where)
    names, kinds, through = _nodes(_list(found, "nodes", where), where)
    number = {name: index for index, name in enumerate(names)}
    directed = found.get("directed") is True
    links, rates, waits = [], [], []
    key = "links" if "links" in found else "edges"
    for place, source, target, rate, wait in _links(_list(found, key, where), f"{where}: {key}"):
        a, b = (_at(number, each, place) for each in (source, target))
        for ends in ((a, b),) if directed else ((a, b), (b, a)):
            links.append(ends)
            rates.append(rate)
            waits.append(wait)
    said = any(kind is not None for kind in kinds)
    ranks = tuple(index for index, kind in enumerate(kinds) if kind or not said)
    if not ranks:
        raise InvalidInput("no node is a rank (kind: rank)", where=f"{where}: nodes")
    via = tuple(-1 if (at := through[rank]) is None else _at(number, at, f"{where}: nodes.through") for rank in ranks)
    return Graph(name=str(found.get("name") or path.stem), nodes=tuple(names), ranks=ranks, through=via,
                 links=tuple(links), bandwidth_bytes_per_s=tuple(rates), latency_s=tuple(waits))  # fmt: skip


def _dimensions(path: Path) -> Graph:
    """ASTRA-sim's network of dimensions, the innermost first: rings, full meshes, or a switch for each group."""
    made = astra.network(path)
    count = math.prod(each.ranks for each in made)
    if count > MOST_NODES:
        raise InvalidInput(f"{count:,} ranks; up to {MOST_NODES:,} are followed", where=f"{path}: npus_count")
    names = [f"rank{number}" for number in range(count)]
    joined: list[tuple[int, int, astra.Dimension]] = []
    below = 1
    for place, each in enumerate(made):
        for first in (rank for rank in range(count) if rank // below % each.ranks == 0):
            group = [first + below * step for step in range(each.ranks)]
            if each.topology == "Switch":
                joined += [(rank, len(names), each) for rank in group]
                names.append(f"switch{place}.{first}")
            else:
                apart = (1, each.ranks - 1) if each.topology == "Ring" else range(1, each.ranks)
                joined += [(a, b, each) for a, b in combinations(group, 2) if (b - a) // below in apart]
        below *= each.ranks
    both = [(*ends, each) for a, b, each in joined for ends in ((a, b), (b, a))]
    return Graph(
        name=path.stem, nodes=tuple(names), ranks=tuple(range(count)), through=(-1,) * count,
        links=tuple((a, b) for a, b, _ in both),
        bandwidth_bytes_per_s=tuple(each.bandwidth_bytes_per_s for *_, each in both),
        latency_s=tuple(each.latency_s for *_, each in both),
    )  # fmt: skip


def _loaded(path: Path) -> dict[str, Any]:
    written, where = reading.text(path, most=64 * reading.SETTINGS), str(path)
    if path.suffix.lower() == ".json":
        found = reading.document(written, where)
    else:
        try:
            found = yaml.safe_load(written)
        except (yaml.YAMLError, RecursionError) as error:
            raise InvalidInput(f"not YAML ({' '.join(str(error).split())})", where=where) from None
    if not isinstance(found, dict):
        raise InvalidInput("not a mapping", where=where)
    return found


def _list(found: Mapping[str, Any], key: str, where: str) -> list[Any]:
    said = found.get(key)
    if not isinstance(said, list) or not said:
        raise InvalidInput(f"needs a list of {key}", where=where)
    return said


def _nodes(listed: Sequence[Any], where: str) -> tuple[list[str], list[bool | None], list[str | None]]:
    names: list[str] = []
    kinds: list[bool | None] = []
    through: list[str | None] = []
    for index, each in enumerate(listed):
        place = f"{where}: nodes[{index}]"
        node = each if isinstance(each, dict) else {"id": each}
        if "id" not in node or isinstance(node["id"], (dict, list)):
            raise InvalidInput("a node needs an id", where=place)
        kind = node.get("kind", node.get("type"))
        if kind is not None and str(kind).lower() not in KINDS:
            raise UnknownName("kind of node", str(kind), KINDS, where=place)
        for name in spread(str(node["id"]), place):
            names.append(name)
            kinds.append(None if kind is None else KINDS[str(kind).lower()])
            through.append(None if node.get("through") is None else str(node["through"]))
    if len(names) > MOST_NODES:
        raise InvalidInput(f"{len(names):,} nodes; up to {MOST_NODES:,} are followed", where=where)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidInput(f"two nodes are called {twice!r}", where=f"{where}: nodes")
    return names, kinds, through


def _links(listed: Sequence[Any], where: str) -> Iterator[tuple[str, str, str, float, float]]:
    """Place, ends, bandwidth and latency of every link; ranges at an end stand for a link of each."""
    for index, each in enumerate(listed):
        place = f"{where}[{index}]"
        if not isinstance(each, dict):
            raise InvalidInput("expected source, target, bandwidth and latency", where=place)
        for key in each:
            if key not in LINK:
                raise UnknownName("key", str(key), LINK, where=place)
        for key in ("source", "target"):
            if key not in each:
                raise InvalidInput(f"no {key}", where=place)
        rate = parse(each.get("bandwidth", each.get("capacity")), "bytes_per_s", where=f"{place}.bandwidth")
        wait = parse(each.get("latency", "0 s"), "s", where=f"{place}.latency")
        if not rate > 0.0 or wait < 0.0:
            raise InvalidInput("a link needs a bandwidth above nothing and no negative latency", where=place)
        ends = (spread(str(each["source"]), place), spread(str(each["target"]), place))
        for source, target in product(*ends):
            if source != target:
                yield place, source, target, rate, wait


def spread(name: str, where: str) -> list[str]:
    """The names that a range stands for: "leaf[0-1]" are two."""
    match = _RANGE.search(name)
    if match is None:
        return [name]
    first, last = int(match[1]), int(match[2])
    if last < first:
        raise InvalidInput(f"{name!r}: a range runs upward", where=where)
    return [each for number in range(first, last + 1)
            for each in spread(f"{name[: match.start()]}{number}{name[match.end() :]}", where)]  # fmt: skip


def _at(number: Mapping[str, int], name: str, where: str) -> int:
    if name not in number:
        raise UnknownName("node", name, number, where=where)
    return number[name]
