"""What the instances of a serving system put on each link of the bus that they scale up over, read off their log."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from taicang.fabric.collectives import collective, teams_of
from taicang.fabric.draw import tiers, used
from taicang.fabric.even import Net, even_loads
from taicang.fabric.names import name
from taicang.fabric.routing import resources
from taicang.fabric.topology import Floats, build
from taicang.ops import Collective, Exchange
from taicang.plans import Batch
from taicang.predict.standing import Standing
from taicang.serve.log import Log
from taicang.serve.record import STAMP
from taicang.serve.setup import Setup, step
from taicang.serve.steptable import GRAIN

HOTTEST = 12
NOTE = (
    "exchanges spread evenly over the ranks of an instance; collectives as rings; steps of a pool priced at their mean "
    "batch; caches that move between pools are not on these links",
    "专家交换在实例的各 rank 间均匀分布；集合通信按环计；每个池的步按平均批量计价；池间搬移的 KV 缓存不在这些链路上",
)
"""In English and Chinese."""


class Links:
    """Raises as ``fabric.topology.build`` does for a bus whose links are not known."""

    def __init__(self, standing: Standing) -> None:
        fabric = build(standing.machine)
        self.net = Net(fabric=fabric, found=resources(fabric))
        self._standing = standing
        self._ranks = {each.name: span for each, span in standing.breakage.spans.items()}
        self._alone: dict[tuple[int, str, int, int], Floats] = {}

    def busy(self, log: Log, begin: float, end: float) -> Floats:
        """Share of the time from ``begin`` to ``end`` (stamps) that each link is busy for."""
        total = np.zeros(len(self.net.found.capacity_bytes_per_s))
        for part in self._standing.parts:
            shares = {place: _steps(log, place, part.pool, begin, end) for place in log.names if place in self._ranks}
            whole: Floats = sum(shares.values(), np.zeros((2, 7)))
            for kind in range(2):  # steps that only decode, and those with prompts
                if whole[kind, 0] > 0.0:
                    sent = list(_sent(part.setup, whole[kind] / whole[kind, 0]))
                    for place, each in shares.items():
                        for what, ranks, stride, payload in sent:
                            if each[kind, 0] > 0.0:
                                total += each[kind, 0] * payload * self._pattern(place, what, ranks, stride)
        return used(self.net, total, (end - begin) / STAMP)

    def _pattern(self, place: int, what: str, ranks: int, stride: int) -> Floats:
        """Bytes on each link where groups of ``ranks`` within the instance exchange one byte a rank."""
        key = place, what, ranks, stride
        if key not in self._alone:
            span = self._ranks[place]
            teams = np.concatenate([
                span.start + first + teams_of(ranks, stride, stride)
                for first in range(0, len(span) - ranks * stride + 1, ranks * stride)
            ])  # fmt: skip
            if what == "exchange":
                self._alone[key] = even_loads(self.net, teams, 1.0 / (ranks - 1))
            else:
                phases = collective(self.net, what, teams, 1.0)
                self._alone[key] = np.sum([each.carried_bytes for each in phases], axis=0)
        return self._alone[key]

    def shown(self, busy: Floats) -> dict[str, object]:
        """Rows of the topology with their load, and the hottest links by name."""
        hot, first, alike = np.unique(np.round(busy, 4), return_index=True, return_counts=True)
        order = [at for at in range(len(hot) - 1, -1, -1) if hot[at] > 0.0][:HOTTEST]
        return {
            "rows": tiers(self.net, busy),
            "hottest": [[name(self.net, int(first[at])), float(hot[at]), int(alike[at]) - 1] for at in order],
            "note": NOTE,
        }


def _steps(log: Log, place: int, pool: str, begin: float, end: float) -> Floats:
    """Sums over the steps of an instance between two times, with and without prompts: steps, and steps times what is in
    each."""
    rows = log.of(place, pool)
    start, stop = rows["start"].astype(float), rows["end"].astype(float)
    inside = np.clip(np.minimum(stop, end) - np.maximum(start, begin), 0.0, None) / np.maximum(stop - start, 1.0)
    steps = np.maximum(rows["steps"], 1) * inside
    decodes = rows["steps"] > 0
    figures = np.stack(
        [
            np.ones(len(steps)), np.where(decodes, rows["sequences"], 0), np.where(decodes, rows["grains"], 0) / GRAIN,
            rows["tokens"], rows["prompts"], rows["pairs"], rows["keys"],
        ]
    ) * steps  # fmt: skip
    prompts = rows["tokens"] > 0
    return np.stack([figures[:, ~prompts].sum(axis=1), figures[:, prompts].sum(axis=1)])


def _sent(setup: Setup, mean: Floats) -> Iterator[tuple[str, int, int, float]]:
    """Kind, ranks, stride and bytes a rank of everything that a step of the ``mean`` batch sends among its ranks."""
    _, sequences, context, tokens, prompts, pairs, keys = (mean / setup.plan.dp).tolist()
    batch = Batch(decode_sequences=sequences, decode_context=context, prefill_tokens=tokens, prefill_sequences=prompts,
                  prefill_pairs=pairs, prefill_context=keys)  # fmt: skip
    for piece in step(setup, batch).slices:
        op, runs = piece.op, float(piece.repeat)
        if isinstance(op, Collective) and op.plane == "scale_up" and op.ranks > 1 and op.kind != "broadcast":
            yield op.kind, int(op.ranks), int(op.stride), float(op.payload_bytes) * runs
        elif isinstance(op, Exchange) and op.ranks > 1:
            yield "exchange", int(op.ranks), int(op.stride), float(piece.cost.sent_bytes) * runs
