"""The measured dispatch and combine rows of the shared tables, as operators on machines.

What the tables hold (read from the columns and the benchmarks' own documentation):

* ``alltoall_trtllm_gb200.csv``: ``num_tokens`` is per rank. Routing is strided: a token goes to min(topk, ranks)
  distinct ranks. Dispatch sends the named format (nvfp4: half a byte and one scale byte per 16), combine always bf16.
* ``deepep_low_latency.csv``: dispatch fp8 with scales and a 16-byte header, combine bf16, one copy per expert, random
  routing. The 0.5.6 rows strike out ten random choices, which the bandwidth columns show; with few tokens that is most.
  A node is 8 GPUs, 4 on GB200 and GB300.
* ``deepep_normal.csv``: the best chunk sizes for each number of SMs; dispatch fp8, combine bf16, random routing limited
  to four nodes. ``notify`` is a second kernel; it is part of the call (0 on one node: included).
* H200 rows of more than one node are the H100 ones under another name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from taicang.cost.exchange import ExchangeFit, Setting, exchange, prepare
from taicang.errors import NotModelled
from taicang.evidence.measured import Measured, pick
from taicang.evidence.systems import exchange_machine, fabric_tables
from taicang.evidence.tables import CARRIED, Array, held_out, lines, record
from taicang.hardware import Machine
from taicang.ops import Exchange, ExchangeKind, Spread
from taicang.units import Count

FILES = ("alltoall_trtllm_gb200.csv", "deepep_low_latency.csv", "deepep_normal.csv")
PUBLISHED = CARRIED / "exchange_published.csv"
LOW = "_low_precision"
"""End of the names of combines that quantise on the way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured call. ``kind`` is "prepare" for the count exchange of its own."""

    id: str
    suite: str
    system: str
    nodes: int
    library: str
    kind: str
    tokens: float
    token_bytes: float
    topk: Count
    experts: Count
    ranks: Count
    cores: Count
    spread: Spread
    measured_s: float
    held: bool


def call(library: str, kind: str, hidden: float, form: str = "", *, sent: float = 0.0, **given: Any) -> Row:
    """A call as the tables state theirs, kept from the fits by their split; ``form`` is the format that TensorRT-LLM
    sends, ``sent`` the bytes of a token where a source states them."""
    own = library.startswith("trtllm")
    row = Row(
        suite="alltoall_gb200" if own else library,
        library=library,
        kind=kind,
        token_bytes=sent or _token_bytes(library, kind, hidden, form),
        spread="strided" if own else "random",
        held=False,
        **given,
    )
    return replace(row, held=_split(row, hidden, form))


def _token_bytes(library: str, kind: str, hidden: float, form: str) -> float:
    """Bytes of a token that a library sends."""
    if library.startswith("deepep"):
        return 2 * hidden if kind == "combine" else hidden * (1 + 4 / 128) + (library != "deepep_normal") * 16.0
    # A low-precision combine still moves the table's format, but quantises on the way: a kernel of its own.
    form = form if kind == "dispatch" or library.endswith(LOW) else "bf16"
    if form.lower() not in (known := fabric_tables()["dispatched_bytes"]):
        raise NotModelled(f"tokens sent in {form}")
    return hidden * float(known[form.lower()])


def _split(row: Row, hidden: float, form: str) -> bool:
    """Whether the evidence split of the tables keeps a call from every fit."""
    tokens, topk, experts, width = (str(int(v)) for v in (row.tokens, row.topk, row.experts, hidden))
    if row.library.startswith("trtllm"):
        plain = row.library.removesuffix(LOW)
        style = next(name for name, library in fabric_tables()["libraries"].items() if library == plain)
        dtype = {"bf16": "bfloat16"}.get(form.lower(), form.lower())
        name = f"alltoall_{row.kind}{row.library.removeprefix(plain)}"
        return held_out("alltoall", name, style, dtype, tokens, width, topk, experts, int(row.ranks), "balanced")
    cores = [int(row.cores)] if row.library == "deepep_normal" else []
    return held_out(row.library, row.kind, row.nodes, width, tokens, topk, experts, *cores)


def _alltoall(folder: Path) -> Iterator[Row]:
    for r in lines(folder / "kernels" / FILES[0]):
        kind, low, _ = r["op_name"].removeprefix("alltoall_").partition(LOW)
        yield call(
            fabric_tables()["libraries"][r["kernel_source"]] + low,
            kind,
            float(r["hidden_size"]),
            r["moe_dtype"],
            id=f"{FILES[0]}:{r['line']}",
            system=r["system"],
            nodes=1,
            tokens=float(r["num_tokens"]),
            topk=float(r["topk"]),
            experts=float(r["num_experts"]),
            ranks=float(r["moe_ep_size"]),
            cores=0.0,
            measured_s=float(r["latency_ms"] or "nan") * 1e-3,
        )


def _deepep(folder: Path, *, normal: bool) -> Iterator[Row]:
    library, name = ("deepep_normal", FILES[2]) if normal else ("deepep_ll", FILES[1])
    times = ("transmit_us", "notify_us") if normal else ("avg_t_us",)
    seen: set[tuple[str, ...]] = set()
    for r in lines(folder / "kernels" / name):
        older, nodes = r["fwver"] == "0.5.6.post2", int(r["node_num"])
        system = "h100_sxm" if older else r["system"]
        for kind in ("dispatch", "combine"):
            cores = r[f"{kind}_sms"] if normal else "0"
            key = (kind, *(r[c] for c in ("node_num", "hidden_size", "num_token", "num_topk", "num_experts")), cores)
            if older and key in seen:
                continue
            row = call(
                library,
                kind,
                float(r["hidden_size"]),
                id=f"{name}:{r['line']}:{kind}",
                system=system,
                nodes=nodes,
                tokens=float(r["num_token"]),
                topk=float(r["num_topk"]),
                experts=float(r["num_experts"]),
                ranks=float(nodes * (4 if system.startswith("gb") else 8)),
                cores=float(cores),
                measured_s=sum(float(r[f"{kind}_{part}"]) for part in times) * 1e-6,
            )
            if older:
                seen.add(key)
            if older and not normal:  # ten strikes at random among tokens * topk choices, with replacement
                row = replace(row, topk=row.topk * float(np.power(1 - 1 / (row.tokens * row.topk), 10.0)))
            yield row


def exchange_published() -> list[Row]:
    """Published figures that the package carries: CANN on CloudMatrix384, DeepEP on H800."""
    return [
        record(
            Row,
            r,
            suite="ascend_operators" if r["system"] == "cloudmatrix384" else "deepep_h800",
            nodes=max(int(r["ranks"]) // {"h800": 8, "h800-nic": 1}.get(r["system"], 768), 1),
            cores=0.0,
            spread="random",
            measured_s=float(r["measured_us"]) * 1e-6,
            held=r["part"] == "held-out",
        )
        for r in lines(PUBLISHED)
    ]


def exchange_rows(folder: Path) -> list[Row]:
    """All rows of the three tables under ``folder``; FileNotFoundError if one is missing."""
    return [*_alltoall(folder), *_deepep(folder, normal=False), *_deepep(folder, normal=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Rows of one kernel on one machine, and how its library was run."""

    rows: Measured[Exchange]
    setting: Setting
    nodes: int
    library: str
    kind: str

    @property
    def machine(self) -> Machine:
        """The machine under the rows."""
        congested = self.rows.suite == "deepep_normal" and self.nodes > 4 and self.rows.system != "h800"
        return exchange_machine(self.rows.system, self.nodes, congested)

    def fitted(self) -> Part:
        """The rows that a fit may see."""
        return replace(self, rows=self.rows.fitted(), setting=pick(self.setting, ~self.rows.held))


def exchange_parts(rows: Iterable[Row]) -> list[Part]:
    """Rows by suite, machine and kernel."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        # Times out of a running service hold waiting for other ranks, which the kernel's price leaves out.
        live = " in-service" if row.id.startswith("xds_v6/s6") else ""
        groups.setdefault((row.suite, row.system, row.nodes, row.library, row.kind, live), []).append(row)
    return [_part(listed, str(live)) for (*_, live), listed in groups.items()]


def _part(rows: list[Row], note: str) -> Part:
    def column(name: str) -> Array:
        return np.array([getattr(row, name) for row in rows], dtype=np.float64)

    first = rows[0]
    crowd = "" if first.nodes == 1 else f"x{first.nodes} "
    measured = Measured(
        suite=first.suite,
        system=first.system,
        kernel=f"{crowd}{first.library} {first.kind}{note}",
        op=Exchange(
            kind=cast(ExchangeKind, "dispatch" if first.kind == "prepare" else first.kind),
            spread=first.spread,
            low_latency=not first.library.endswith("normal"),
            **{name: column(name) for name in ("tokens", "token_bytes", "topk", "experts", "ranks")},
        ),
        ids=tuple(row.id for row in rows),
        measured_s=column("measured_s"),
        held=np.array([row.held for row in rows]),
    )
    # Without node limits a call on four nodes or fewer is the same.
    setting = Setting(cores=column("cores"), node_limit=4.0)
    return Part(rows=measured, setting=setting, nodes=first.nodes, library=first.library, kind=first.kind)


def exchange_seconds(part: Part, fits: Mapping[str, Mapping[str, ExchangeFit]]) -> Array:
    """Seconds of the rows of one kernel on one machine."""
    library, op = part.library.removesuffix("-sgl"), part.rows.op
    counts = prepare(op, part.machine, fits, library=library) if library == "trtllm_twosided" else 0.0
    if part.kind == "prepare":
        return np.asarray(counts, dtype=np.float64)
    seconds = exchange(op, part.machine, fits, library=library, setting=part.setting).seconds
    # The table times the count exchange by itself, the price of a dispatch holds both.
    return np.asarray(seconds - (counts if part.kind == "dispatch" else 0.0), dtype=np.float64)
