"""Published MoE kernels and copies of whole machines, priced through ``Exchange`` and ``Transfer``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from taicang.cost.exchange import ExchangeFit
from taicang.cost.routing import distinct_groups
from taicang.errors import NotModelled
from taicang.evidence.exchange_rows import (
    Row,
    call_split,
    dispatch_bytes,
    exchange_parts,
    exchange_seconds,
    sent_bytes,
)
from taicang.evidence.fabrics import declared
from taicang.evidence.systems import machine_stated
from taicang.evidence.tables import Cells
from taicang.search.collective import Ask, closed_s

LIBRARIES = {
    "one-sided": "trtllm_onesided",
    "two-sided": "trtllm_twosided",
    "low-latency": "deepep_ll",
    "normal": "deepep_normal",
    "V2": "deepep_normal",
}
"""Last word of a MoE kernel's name -> the library whose constants price it."""
MANY_CORES = 132.0
"""DeepEP V2 fills the same wires from a few cores, at which its first version would be bound by them: priced with the
first version's wires and without its cores (assumed)."""
COPIES = {"p2p": "scale_up", "host->device": "host"}
"""First word of a copy by the copy engine -> the plane that it crosses."""
LARGE_BYTES = 2.0**29
"""Assumed size of a copy that is stated by its bandwidth (the default of nvbandwidth)."""


def _stated(cells: Cells, key: str) -> Mapping[str, Any]:
    loaded: Mapping[str, Any] = json.loads(cells.get(key) or "{}")
    return loaded


def _call(row: Cells) -> Row:
    """A MoE kernel as the tables of such kernels state theirs."""
    _, kind, style = row["model"].split()
    if style not in LIBRARIES:
        raise NotModelled(f"no constants of {row['model']} kernels")
    if row["chip"] not in declared()["chips"]:
        raise NotModelled(f"no machine of {row['chip']} in the catalogue")
    library, batch, ranks = LIBRARIES[style], _stated(row, "batch"), int(row["count"])
    hidden, own = float(batch["hidden"]), library.startswith("trtllm")
    if own:
        sent = float(batch.get("bytes_per_token") or 0) if kind == "dispatch" else 0.0
        sent = sent or dispatch_bytes(row["dtype"] if kind == "dispatch" else "bf16", hidden)
    else:
        sent = sent_bytes(kind, hidden, normal=library == "deepep_normal")
    made = Row(
        id=row["id"],
        suite=library if library.startswith("deepep") else "alltoall_gb200",
        system=declared()["chips"][row["chip"]],
        nodes=1 if row["chip"].startswith("GB") else -(-ranks // 8),
        library=library,
        kind=kind,
        tokens=float(batch["tokens_per_gpu"]),
        token_bytes=sent,
        topk=float(batch["topk"]),
        experts=float(batch.get("experts", 256.0)),  # DeepEP's own tests have as many
        ranks=float(ranks),
        cores=MANY_CORES if style == "V2" else float(_stated(row, "par").get("sms", 0)),
        spread="strided" if own else "random",
        measured_s=float(row["value"]) * 1e-6,
        held=False,
    )
    return replace(made, held=row["src"] != "aic" or call_split(made, hidden, row["dtype"] if own else ""))


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
    plane = COPIES[cells["model"].split()[0]]
    if cells["metric"] != "bandwidth":
        raise NotModelled(f"{cells['metric']} of a copy")
    machine = machine_stated(cells["system"], cells["chip"], 8)
    seconds = closed_s(machine, Ask(kind="send", payload_bytes=LARGE_BYTES, plane=plane), 2)
    return LARGE_BYTES / seconds / 1e9, False, f"copy {plane}"
