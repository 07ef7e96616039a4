"""Chakra execution traces: protobuf streams, the feeder's JSON, and PyTorch's host traces.

Schema: mlcommons/chakra, schema/protobuf/et_def.proto (package ChakraProtoMsg, version 0.0.4).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from pathlib import Path
from typing import Any, Final

from taicang import reading
from taicang.errors import InvalidInput
from taicang.interop import protobuf
from taicang.interop.work import Collective, Kind, Task, Workload

VERSION: Final = "0.0.4"
MOST_BYTES, MOST_JSON, MOST_NODES = 2**28, 2**27, 2**21
"""Of all ranks together, a few GiB once they are read: two bytes may be a node."""
NODE_KINDS: Final[Mapping[int, Kind]] = {4: "compute", 5: "send", 6: "receive", 7: "collective"}
COLLECTIVES: Final[Mapping[int, Collective]] = {
    0: "all_reduce", 2: "all_gather", 5: "broadcast", 6: "all_to_all", 7: "reduce_scatter", 8: "reduce_scatter",
    9: "barrier",
}  # fmt: skip
_SCALARS: Final = {7: "int", 9: "int", 11: "uint", 13: "uint", 15: "zigzag", 17: "zigzag", 27: "bool"}
"""Number of a scalar in AttributeProto that is a varint, and what kind."""
_LISTS: Final = (8, 10, 12, 14, 28)
MICROSECOND: Final = 1e-6
NODE = {"id": 1, "name": 2, "type": 3, "ctrl": 4, "data": 5, "start": 6, "duration": 7, "attr": 10}
"""Numbers of Node's fields."""


def read(path: Path) -> Workload:
    """The workload of one rank's file, or of all files PREFIX.RANK.et where ``path`` is a prefix.

    Raises ``InvalidInput`` with file and place for what is none, another version, or cut short.
    """
    if os.path.isfile(path):
        return _named(path.name, {0: path})
    found = {}
    for each in sorted(path.parent.glob(f"{path.name}.*.et")):
        match = re.fullmatch(re.escape(path.name) + r"\.(\d+)\.et", each.name)
        if match:
            found[int(match[1])] = each
    if not found:
        raise InvalidInput("no such file, and no files PREFIX.RANK.et", where=str(path))
    lacking = sorted(set(range(max(found) + 1)) - set(found))
    if lacking:
        raise InvalidInput(f"no file of rank {lacking[0]}", where=str(path))
    return _named(path.name, found)


def _named(name: str, files: Mapping[int, Path]) -> Workload:
    groups: dict[str, tuple[int, ...]] = {}
    ranks = {}
    size = many = 0
    for rank, file in files.items():
        data = reading.data(file, most=MOST_BYTES, packed=True)
        size += len(data)
        if not data:
            raise InvalidInput("empty", where=str(file))
        written = data[:1] in (b"{", b"[")
        most = MOST_JSON if written else MOST_BYTES
        if size > most:
            raise InvalidInput(f"the ranks up to this one have more than {most:,} bytes", where=str(file))
        nodes = _json(data, file) if written else _protobuf(data, file)
        ranks[rank] = tuple(_tasks(nodes, groups, file, MOST_NODES - many))
        many += len(ranks[rank])
    return Workload(name=name, ranks=ranks, groups=groups)


def _protobuf(data: bytes, path: Path) -> Iterator[dict[str, Any]]:
    """Nodes of a stream: first the trace's own facts, then one message for each."""
    try:
        stream = protobuf.messages(data)
        _, head = next(stream)
        version = next((v.decode() for n, w, v in protobuf.fields(head) if n == 1 and isinstance(v, bytes)), "")
        if version and version != VERSION:
            raise InvalidInput(f"schema {version}; {VERSION} is read", where=str(path))
        for place, message in stream:
            yield _node(message, place)
    except protobuf.Torn as error:
        raise InvalidInput(f"no Chakra trace: {error}", where=f"{path}: byte {error.at:,}") from None
    except UnicodeDecodeError:
        raise InvalidInput("no Chakra trace: a name that is no text", where=str(path)) from None


def _node(message: bytes, place: int) -> dict[str, Any]:
    node: dict[str, Any] = {"id": 0, "name": "", "type": 0, "ctrl": [], "data": [], "duration": 0, "attrs": {}}
    for number, _, value in protobuf.fields(message, place):
        if number in (NODE["ctrl"], NODE["data"]):
            node["ctrl" if number == NODE["ctrl"] else "data"] += protobuf.packed(value)
        elif number == NODE["attr"] and isinstance(value, bytes):
            name, found = _attribute(value, place)
            node["attrs"][name] = found
        elif number == NODE["name"] and isinstance(value, bytes):
            node["name"] = value.decode()
        elif isinstance(value, int):
            key = next((key for key, known in NODE.items() if known == number), "")
            if key:
                node[key] = value
    return node


def _attribute(message: bytes, place: int) -> tuple[str, Any]:
    """Whichever of the kinds a producer chose."""
    name = ""
    found: Any = None
    for number, _, value in protobuf.fields(message, place):
        if number == 1 and isinstance(value, bytes):
            name = value.decode()
        elif number in _SCALARS and isinstance(value, int):
            kind = _SCALARS[number]
            found = protobuf.zigzag(value) if kind == "zigzag" else protobuf.signed(value) if kind == "int" else value
            found = bool(found) if kind == "bool" else found
        elif number in (3, 5) and isinstance(value, bytes):
            found = protobuf.double(value)
        elif number in _LISTS and isinstance(value, bytes):
            found = [each for n, _, v in protobuf.fields(value, place) if n == 1 for each in protobuf.packed(v)]
        elif number == 29 and isinstance(value, bytes):
            found = value.decode()
    return name, found


def _json(data: bytes, path: Path) -> Iterator[dict[str, Any]]:
    read_in = reading.document(data, str(path))
    listed = read_in.get("workload_graph", read_in.get("nodes")) if isinstance(read_in, dict) else None
    if not isinstance(listed, list):
        raise InvalidInput("neither workload_graph nor nodes: no Chakra trace", where=str(path))
    version = str(read_in.get("schema", ""))
    if version and not version.endswith(f"chakra.{VERSION}"):
        raise InvalidInput(f"schema {version}; chakra.{VERSION} is read", where=str(path))
    for number, row in enumerate(listed):
        try:
            yield _row(row)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise InvalidInput(f"is no node ({error})", where=f"{path}: node {number}") from None


def _row(row: Any) -> dict[str, Any]:
    """The feeder's rows have capitals; the host traces have lists of attributes and no times."""
    attrs = {each["name"]: each["value"] for each in row.get("attrs", ())}
    attrs |= {key: row[key] for key in ("comm_type", "comm_size", "num_ops", "tensor_size", "pg_name") if key in row}
    ctrl, data = (_listed(row.get(first, row.get(second))) for first, second in DEPENDENCIES)
    name = str(row.get("Name", row.get("name", "")))
    kind = int(row.get("NodeType", row.get("type", 4)))
    if "record_param_comms" in name or name.startswith("nccl:"):
        kind = 7
    return {
        "id": int(row.get("Id", row.get("id"))), "name": name, "type": kind, "ctrl": [int(each) for each in ctrl],
        "data": [int(each) for each in data], "duration": float(row.get("runtime", 0.0)), "attrs": attrs,
    }  # fmt: skip


def _listed(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


DEPENDENCIES: Final = (("ctrlDeps", "ctrl_deps"), ("data_deps", "dataDeps"))
PEERS: Final[Mapping[Kind, str]] = {"send": "comm_dst", "receive": "comm_src"}
GROUP_INIT: Final = "## process_group:init ##"


def _tasks(
    nodes: Iterable[dict[str, Any]], groups: dict[str, tuple[int, ...]], path: Path, most: int
) -> Iterator[Task]:
    """Nodes, ``most`` at most, as tasks. Where control and data together run in a circle, as when a profiler's kernels
    were joined to the host's operators, control is what holds what, and only data must be there before."""
    found = list(islice(nodes, most + 1))
    if len(found) > most:
        raise InvalidInput(f"the ranks up to this one have more than {MOST_NODES:,} nodes", where=str(path))
    known = {node["id"] for node in found}
    before = {node["id"]: ({*node["ctrl"], *node["data"]} - {node["id"]}) & known for node in found}
    try:
        TopologicalSorter(before).prepare()
    except CycleError:
        before = {node["id"]: (set(node["data"]) - {node["id"]}) & known for node in found}
    for node in found:
        attrs, kind = node["attrs"], NODE_KINDS.get(node["type"], "none")
        if node["name"] == GROUP_INIT:
            _learn(attrs, groups)
        collective: Collective = "barrier"
        if kind == "collective":
            code = int(attrs.get("comm_type", 9) or 0)
            if code not in COLLECTIVES:
                raise InvalidInput(f"collective of type {code} is not modelled", where=f"{path}: node {node['id']}")
            collective = COLLECTIVES[code]
        yield Task(
            id=node["id"],
            name=node["name"],
            kind=kind,
            after=tuple(each for each in dict.fromkeys((*node["ctrl"], *node["data"])) if each in before[node["id"]]),
            seconds=float(node["duration"]) * MICROSECOND,
            flop=float(attrs.get("num_ops") or 0),
            moved_bytes=float(attrs.get("tensor_size") or 0),
            collective=collective,
            payload_bytes=float(attrs.get("comm_size") or 0),
            group=group if (group := str(attrs.get("pg_name") or "0")) != "0" else "",
            peer=int(attrs.get(PEERS[kind]) or 0) if kind in PEERS else -1,
            tag=int(attrs.get("comm_tag") or 0),
            dims=tuple(bool(each) for each in attrs.get("involved_dim") or ()),
        )


def _learn(attrs: Mapping[str, Any], groups: dict[str, tuple[int, ...]]) -> None:
    try:
        for each in json.loads(next(str(v) for v in attrs.values() if str(v).startswith("["))):
            groups[str(each["pg_name"])] = tuple(int(rank) for rank in each["ranks"])
    except (StopIteration, ValueError, KeyError, TypeError):
        return  # no group is said


def write(workload: Workload, prefix: Path) -> dict[str, bytes]:
    """Files PREFIX.RANK.et of ``workload`` by name; each describes the groups that its rank is in."""
    made = {}
    for rank, tasks in workload.ranks.items():
        mine = {task.group: workload.groups[task.group] for task in tasks if task.group in workload.groups}
        made[f"{prefix.name}.{rank}.et"] = _written(tasks, mine)
    return made


def _written(tasks: Sequence[Task], groups: Mapping[str, tuple[int, ...]]) -> bytes:
    def framed(message: bytes) -> bytes:
        return protobuf.encoded(len(message)) + message

    def attr(name: str, value: int | bool | str) -> bytes:
        number = 27 if isinstance(value, bool) else 29 if isinstance(value, str) else 9
        inner = protobuf.field(1, name) + protobuf.field(number, int(value) if isinstance(value, bool) else value)
        return protobuf.field(NODE["attr"], inner)

    made = [framed(protobuf.field(1, VERSION))]
    total = told = 0.0
    kinds = {kind: number for number, kind in NODE_KINDS.items()}
    codes = {name: number for number, name in sorted(COLLECTIVES.items(), reverse=True)}
    for task in tasks:
        message = protobuf.field(NODE["id"], task.id) + protobuf.field(NODE["name"], task.name)
        message += protobuf.field(NODE["type"], kinds.get(task.kind, 1))
        message += b"".join(protobuf.field(NODE["data"], each) for each in task.after)
        total += task.seconds / MICROSECOND  # the format has whole microseconds: what one lost, a later one gets
        message += protobuf.field(NODE["duration"], spent := round(total - told))
        told += spent
        message += attr("is_cpu_op", False)
        if task.kind == "collective":
            message += attr("comm_type", codes[task.collective]) + attr("comm_size", round(task.payload_bytes))
            message += attr("pg_name", task.group) if task.group else b""
        elif task.kind in ("send", "receive"):
            message += attr("comm_dst" if task.kind == "send" else "comm_src", task.peer) + attr("comm_tag", task.tag)
            message += attr("comm_size", round(task.payload_bytes))
        elif task.kind == "compute":
            message += attr("num_ops", round(task.flop)) + attr("tensor_size", round(task.moved_bytes))
        made.append(framed(message))
    if groups:  # behind all tasks, whose numbers stay
        said = json.dumps([{"pg_name": name, "ranks": list(ranks)} for name, ranks in groups.items()])
        number = max((task.id for task in tasks), default=-1) + 1
        message = protobuf.field(NODE["id"], number) + protobuf.field(NODE["name"], GROUP_INIT)
        made.append(framed(message + protobuf.field(NODE["type"], 1) + attr("is_cpu_op", True) + attr("ranks", said)))
    return b"".join(made)
