"""Collectives, exchanges and moves beyond the kernel tables of ``kernels``.

Published collectives and MoE kernels of whole machines are operators on the fabrics that they were measured on: kernels
are priced through ``Exchange``, copies through ``Transfer``. Moves of KV caches between machines are of Mooncake on
eight RoCE ports of an H800 node.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from taicang.catalog import calibration
from taicang.cost.collective import Fits, Line
from taicang.cost.exchange import ExchangeFit
from taicang.cost.routing import distinct_groups
from taicang.cost.transfer import transfer
from taicang.errors import NotModelled
from taicang.evidence.exchange_rows import (
    Row,
    call,
    exchange_parts,
    exchange_published,
    exchange_rows,
    exchange_seconds,
)
from taicang.evidence.measured import Measured, attempt
from taicang.evidence.score import Outcome
from taicang.evidence.systems import KINDS, fabric_of, fabric_tables, level, machine_stated, nodes_stated, scale_out
from taicang.evidence.tables import Cells, held_out, lines
from taicang.hardware import Machine
from taicang.ops import CollectiveKind, Transfer
from taicang.search.collective import Ask, closed_s


def outcomes(folder: Path) -> Iterator[Outcome]:
    """Suites "published_collective", "kv_transfer", "alltoall_gb200", "deepep_ll" and "deepep_normal"."""
    yield from published_outcomes(folder)
    moves, machine = moves_measured(folder), fabric_of(scale_out("roce", 16, PORT_BYTES_PER_S), plane="rdma")
    fits = calibration.fits("collective", Line)
    yield from moves.outcomes(lambda: transfer(moves.op, machine, fits).seconds, unit="ms")
    yield from call_outcomes(exchange_rows(folder))


def carried_calls(suite: str) -> list[Outcome]:
    """Published figures that the package carries: "ascend_operators" (CloudMatrix384) or "deepep_h800".

    The latter is all held out: H100 constants at H800's NVLink bandwidth.
    """
    return call_outcomes(row for row in exchange_published() if row.suite == suite)


def call_outcomes(rows: Iterable[Row]) -> list[Outcome]:
    """One outcome per dispatch or combine, in microseconds."""
    fits = calibration.fits("exchange", ExchangeFit)
    parts = exchange_parts(rows)
    return [o for part in parts for o in part.rows.outcomes(partial(exchange_seconds, part, fits), unit="us")]


SUITE = "published_collective"
FILES = ("published_collective.csv", "published_collective_2.csv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One published collective; ``metric`` "busbw" is in GB/s, "latency" in microseconds."""

    id: str
    source: str
    system: str
    kind: CollectiveKind
    metric: str
    value: float
    ranks: int
    payload_bytes: float
    eager: bool
    """Timed through PyTorch, launch by launch, rather than inside a graph or a benchmark loop."""
    machine: Machine
    held_out: bool
    stack: str = ""
    """Whose kernels ran, where it was no library alone."""
    doubtful: str = ""
    """Why the figure does not tell about the collective."""

    @property
    def bus_ratio(self) -> float:
        """Bus bytes per byte of payload (the convention of nccl-tests)."""
        passes = 2.0 if self.kind == "all_reduce" else 1.0
        return passes * (self.ranks - 1) / self.ranks


def question(row: Published) -> Ask:
    """What one row asks."""
    return Ask(kind=row.kind, payload_bytes=row.payload_bytes, ranks=row.ranks, stack=row.stack)


def predict_s(row: Published, fits: Fits | None = None) -> float:
    """Seconds that one published row should take, without the eager launch; ``fits`` replace what is calibrated."""
    return closed_s(row.machine, question(row), row.ranks, fits)


def measured_s(row: Published) -> float:
    """Seconds that one published row took."""
    return row.value * 1e-6 if row.metric == "latency" else row.payload_bytes * row.bus_ratio / (row.value * 1e9)


def _stated(cells: Cells, key: str) -> Mapping[str, Any]:
    loaded: Mapping[str, Any] = json.loads(cells.get(key) or "{}")
    return loaded


def _machine(row: Cells) -> Machine:
    """The fabric of a row: one node's level, a named network around it, or as many of the catalogue's as it needs."""
    system, ranks = fabric_tables()["chips"].get(row["chip"], ""), int(row["count"])
    if system not in fabric_tables()["levels"]:
        return machine_stated(row["system"], row["chip"], ranks, _stated(row, "extra"), links=True)
    said = f"{row['model']} {row['notes']} {row['sw']}"
    switched = None
    if row["src"] == "nv_gtc" and row["model"] == "all_reduce":
        switched = "SHARP" in said  # the slide gives ring and in-switch figures side by side
    elif "NVLS off" in said:
        switched = False
    near, outer = level(system, reduces=switched), fabric_tables()["outer"].get(row["system"])
    if outer is not None:
        return fabric_of(near, scale_out(outer["profile"], ranks, outer["gb_s"] * 1e9, reduces=switched is True))
    if ranks <= near.ranks and nodes_stated(row["system"]) == 1:
        return fabric_of(near)
    whole = machine_stated(row["system"], row["chip"], ranks, _stated(row, "extra"), links=True)
    return whole if ranks > 2 * near.ranks or _adding(said) else _without_adders(whole)


def _adding(said: str) -> bool:
    """Whether a row's words tell that switches added on two nodes: NVLS is named, or an NCCL that has it in trees
    (2.18). Others ran without (assumed): two nodes give 330 GB/s without and 430 with (NVIDIA/nccl issue 1221),
    and rows that say nothing are near the former. On more nodes the network is what counts."""
    library = re.search(r"NCCL\D{0,3}(\d+)\.(\d+)", said)
    return "NVLS" in said or (library is not None and (int(library[1]), int(library[2])) >= (2, 18))


def _without_adders(machine: Machine) -> Machine:
    plane = machine.plane("scale_up")
    levels = tuple(replace(level, reduces=False) for level in plane.levels)
    return replace(machine, planes={**machine.planes, "scale_up": replace(plane, levels=levels)})


def _collective(row: Cells) -> Published:
    name, ranks = row["model"].split()[0], int(row["count"])
    if name not in KINDS:
        raise NotModelled(f"{row['model']} is neither a collective nor a MoE kernel")
    if row["metric"] not in ("busbw", "latency"):
        raise NotModelled(f"{row['metric']} of a collective")
    size = float(_stated(row, "batch").get("bytes", fabric_tables()["assumed_bytes"]["large"]))
    key: tuple[object, ...] = (SUITE, row["model"], ranks, int(size))
    if row["src"] == "aic":  # rows that repeat the kernel table keep its split
        key = ("nccl", name, ranks, int(size) // 2)
    return Published(
        id=row["id"],
        source=row["src"],
        system=row["system"] if row["src"] != "aic" else row["chip"],
        kind=KINDS[name],
        metric=row["metric"],
        value=float(row["value"]),
        ranks=ranks,
        payload_bytes=size,
        eager=row["src"] == "stas_net" and "bytes" in _stated(row, "batch"),
        machine=_machine(row),
        held_out=held_out(*key),
        stack=row["sw"] if "@" in row["sw"] else "",
        doubtful=fabric_tables()["doubtful"].get(row["id"], ""),
    )


def _rows(folder: Path) -> Iterator[tuple[Cells, bool]]:
    """Every row, and whether it came later than the fits: no constant has seen it."""
    return ((row, name != FILES[0]) for name in FILES if (folder / name).exists() for row in lines(folder / name))


def published(folder: Path) -> Iterator[tuple[Published, bool]]:
    """The collectives of the evidence ``folder`` whose machine is known, and whether no fit has seen the row."""
    for cells, later in _rows(folder):
        row = attempt(partial(_collective, cells))[0]
        if row is not None:
            yield row, later or row.held_out


def collectives(folder: Path) -> list[Published]:
    """Those of the first file, for fits."""
    found = [attempt(partial(_collective, row))[0] for row in lines(folder / FILES[0])]
    return [row for row in found if row is not None]


def published_outcomes(folder: Path) -> Iterator[Outcome]:
    """Every row of the file in the evidence ``folder``: bus bandwidth or microseconds; a refusal names its reason."""
    calls = calibration.fits("exchange", ExchangeFit)
    launch_s = calibration.fits("collective", Line)["host"]["eager/launch"].base_s
    for cells, later in _rows(folder):
        first = cells["model"].split()[0] if cells["model"] else ""
        price: Callable[[], tuple[float | None, bool, str]] = partial(_time, cells, launch_s)
        if first == "MoE":
            price = partial(call_price, cells, calls)
        elif first in fabric_tables()["copies"]:
            price = partial(copy_price, cells)
        known, why = attempt(price)
        predicted, held, group = known or (None, True, cells["system"])
        yield Outcome(
            id=cells["id"],
            suite=SUITE,
            group=f"{cells['src']} {group}",
            measured=float(cells["value"]),
            predicted=predicted,
            unit="us" if cells["metric"] == "latency" else "GB/s",
            held_out=held or later,
            refused=why or (fabric_tables()["doubtful"].get(cells["id"], "") if predicted is None else ""),
        )


def _time(cells: Cells, launch_s: float) -> tuple[float | None, bool, str]:
    row = _collective(cells)
    seconds = predict_s(row) + (launch_s if row.eager else 0.0)
    figure = seconds * 1e6 if row.metric == "latency" else row.payload_bytes * row.bus_ratio / seconds / 1e9
    return None if row.doubtful else figure, row.held_out, f"{row.system} {row.kind}"


def _call(row: Cells) -> Row:
    """A MoE kernel as the tables of such kernels state theirs."""
    _, kind, style = row["model"].split()
    libraries = fabric_tables()["libraries"]
    if style not in libraries:
        raise NotModelled(f"no constants of {row['model']} kernels")
    if row["chip"] not in fabric_tables()["chips"]:
        raise NotModelled(f"no machine of {row['chip']} in the catalogue")
    library, batch, ranks = libraries[style], _stated(row, "batch"), int(row["count"])
    own = library.startswith("trtllm")
    made = call(
        library,
        kind,
        float(batch["hidden"]),
        row["dtype"] if own else "",
        sent=float(batch.get("bytes_per_token") or 0) if own and kind == "dispatch" else 0.0,
        id=row["id"],
        system=fabric_tables()["chips"][row["chip"]],
        nodes=1 if row["chip"].startswith("GB") else -(-ranks // 8),
        tokens=float(batch["tokens_per_gpu"]),
        topk=float(batch["topk"]),
        experts=float(batch.get("experts", 256.0)),  # DeepEP's own tests have as many
        ranks=float(ranks),
        cores=float(fabric_tables()["many_cores"].get(style) or _stated(row, "par").get("sms", 0)),
        measured_s=float(row["value"]) * 1e-6,
    )
    return made if row["src"] == "aic" else replace(made, held=True)


def logical_bytes(row: Row, groups: float) -> float:
    """What DeepEP divides by the time: copies per distinct rank of a node, or per distinct node beyond one.

    Its own rank and node count too; a router limited to ``groups`` nodes (0: any) reaches no more.
    """
    places = row.ranks if row.nodes == 1 else min(float(row.nodes), groups or row.nodes)
    experts = row.experts if row.nodes == 1 else row.experts * places / row.nodes
    return row.tokens * row.token_bytes * float(distinct_groups(row.topk, experts, places))


def call_price(cells: Cells, fits: Mapping[str, Mapping[str, ExchangeFit]]) -> tuple[float, bool, str]:
    """What a row of a MoE kernel should state, whether it is held out, and its group."""
    row = _call(cells)
    if cells["metric"] not in ("latency", "bottleneck_bw"):
        raise NotModelled(f"{cells['metric']} of a MoE kernel")
    (part,) = exchange_parts([row])
    seconds = float(exchange_seconds(part, fits)[0])
    group = f"{row.system} {row.library} {row.kind}"
    if cells["metric"] == "latency":
        return seconds * 1e6, row.held, group
    logical = logical_bytes(row, float(_stated(cells, "batch").get("topk_groups", 0)))
    return logical / seconds / 1e9, True, f"{group} {cells['model'].split()[-1]}"


def copy_price(cells: Cells) -> tuple[float, bool, str]:
    """GB/s of a copy by the copy engine; its efficiency is of the one published sample, which these rows repeat."""
    plane, size = fabric_tables()["copies"][cells["model"].split()[0]], fabric_tables()["assumed_bytes"]["copy"]
    if cells["metric"] != "bandwidth":
        raise NotModelled(f"{cells['metric']} of a copy")
    machine = machine_stated(cells["system"], cells["chip"], 8, _stated(cells, "extra"), links=True)
    seconds = closed_s(machine, Ask(kind="send", payload_bytes=size, plane=plane), 2)
    return size / seconds / 1e9, False, f"copy {plane}"


RDMA_PORTS = 8
PORT_BYTES_PER_S = 25e9
"""The source states about 200 GB/s for the eight ports together."""


def moves_measured(folder: Path) -> Measured[Transfer]:
    """One rank's share of the moves of source ``mooncake_kv`` in ``published_serving.csv``; MB are 1e6 bytes."""
    listed = [line for line in lines(folder / "published_serving.csv") if line["src"] == "mooncake_kv"]
    read = [(line["id"], json.loads(line["extra"]), json.loads(line["seq"])) for line in listed]
    moves = [(name, extra, seq["isl"]) for name, extra, seq in read if "kv_transfer_ms" in extra]
    payload = np.array([extra["kv_mb"] * 1e6 / RDMA_PORTS for _, extra, _ in moves])
    return Measured(
        suite="kv_transfer",
        system="hgx-h800",
        kernel="roce",
        op=Transfer(payload_bytes=payload, plane="rdma", distance=8),
        ids=tuple(name for name, _, _ in moves),
        measured_s=np.array([extra["kv_transfer_ms"] * 1e-3 for _, extra, _ in moves]),
        held=np.array([held_out("kv_transfer", length) for _, _, length in moves]),
    )
