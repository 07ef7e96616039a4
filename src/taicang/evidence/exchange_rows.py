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
from typing import cast

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


def _alltoall(folder: Path) -> Iterator[Row]:
    for r in lines(folder / "kernels" / FILES[0]):
        kind = r["op_name"].removeprefix("alltoall_")
        # A low-precision combine still moves the table's format, but quantises on the way: a kernel of its own.
        low = kind == "combine_low_precision"
        dtype = r["moe_dtype"] if kind == "dispatch" or low else "bfloat16"
        shape = [r[c] for c in ("kernel_source", "moe_dtype", "num_tokens", "hidden_size", "topk", "num_experts")]
        shape += [r["moe_ep_size"], r["distribution"]]
        library = fabric_tables()["libraries"][r["kernel_source"]]
        yield Row(
            id=f"{FILES[0]}:{r['line']}",
            suite="alltoall_gb200",
            system=r["system"],
            nodes=1,
            library=library + ("_low_precision" if low else ""),
            kind="combine" if low else kind,
            tokens=float(r["num_tokens"]),
            token_bytes=dispatch_bytes(dtype, float(r["hidden_size"])),
            topk=float(r["topk"]),
            experts=float(r["num_experts"]),
            ranks=float(r["moe_ep_size"]),
            cores=0.0,
            spread="strided",
            measured_s=float(r["latency_ms"] or "nan") * 1e-3,
            held=held_out("alltoall", r["op_name"], *shape),
        )


def dispatch_bytes(dtype: str, hidden: float) -> float:
    """Bytes of a token that TensorRT-LLM sends in this format."""
    if dtype.lower() not in (known := fabric_tables()["dispatched_bytes"]):
        raise NotModelled(f"tokens sent in {dtype}")
    return hidden * float(known[dtype.lower()])


def sent_bytes(kind: str, hidden: float, *, normal: bool) -> float:
    """Bytes of a token that DeepEP sends."""
    if kind == "combine":
        return 2 * hidden
    return hidden * (1 + 4 / 128) + (0.0 if normal else 16.0)


def call_split(row: Row, hidden: float, form: str) -> bool:
    """Whether the evidence split of the kernel tables keeps a call from every fit; ``form`` is TensorRT-LLM's."""
    tokens, topk, experts = (str(int(v)) for v in (row.tokens, row.topk, row.experts))
    if row.library.startswith("trtllm"):
        style = next(name for name, library in fabric_tables()["libraries"].items() if library == row.library)
        dtype = {"bf16": "bfloat16"}.get(form.lower(), form.lower())
        shape = (style, dtype, tokens, str(int(hidden)), topk, experts, str(int(row.ranks)))
        return held_out("alltoall", f"alltoall_{row.kind}", *shape, "balanced")
    cores = [str(int(row.cores))] if row.library == "deepep_normal" else []
    return held_out(row.library, row.kind, str(row.nodes), str(int(hidden)), tokens, topk, experts, *cores)


def _deepep(folder: Path, *, normal: bool) -> Iterator[Row]:
    suite, name = ("deepep_normal", FILES[2]) if normal else ("deepep_ll", FILES[1])
    seen: set[tuple[str, ...]] = set()
    for r in lines(folder / "kernels" / name):
        nodes, tokens, hidden = int(r["node_num"]), float(r["num_token"]), float(r["hidden_size"])
        shape = [r[c] for c in ("node_num", "hidden_size", "num_token", "num_topk", "num_experts")]
        older = r["fwver"] == "0.5.6.post2"
        system = "h100_sxm" if older else r["system"]
        topk = float(r["num_topk"])
        if older and not normal:  # ten strikes at random among tokens * topk choices, with replacement
            topk = topk * float(np.power(1 - 1 / (tokens * topk), 10.0))
        for kind in ("dispatch", "combine"):
            cores = r[f"{kind}_sms"] if normal else "0"
            key = (kind, *shape, cores)
            if older and key in seen:
                continue
            if older:
                seen.add(key)
            if normal:
                micro = float(r[f"{kind}_transmit_us"]) + float(r[f"{kind}_notify_us"])
            else:
                micro = float(r[f"{kind}_avg_t_us"])
            yield Row(
                id=f"{name}:{r['line']}:{kind}",
                suite=suite,
                system=system,
                nodes=nodes,
                library=suite,
                kind=kind,
                tokens=tokens,
                token_bytes=sent_bytes(kind, hidden, normal=normal),
                topk=topk,
                experts=float(r["num_experts"]),
                ranks=float(nodes * (4 if system.startswith("gb") else 8)),
                cores=float(cores),
                spread="random",
                measured_s=micro * 1e-6,
                held=held_out(suite, kind, *shape, *([cores] if normal else [])),
            )


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
