"""The waist: one calibrated model that prices every operator of the union on one machine under one software stack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np

from taicang.cost import attend_gqa, attend_mla, experts, gemm, pointwise
from taicang.cost.attend_pass import FORWARD, Pass
from taicang.cost.collective import Wires, collective
from taicang.cost.cost import Cost
from taicang.cost.exchange import exchange
from taicang.cost.transfer import transfer
from taicang.formats import number_format
from taicang.hardware import Chip, Machine
from taicang.ops import Attend, Collective, Exchange, Gemm, GroupedGemm, Host, Lookup, Operator, Pointwise, Transfer
from taicang.stacks import Stack
from taicang.units import Num


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """Calibrated constants of one chip's kernel profile and of all levels, as the catalogue read them."""

    gemm: Mapping[str, gemm.GemmFit]
    pointwise: pointwise.PointwiseFit
    gqa_prefill: Mapping[str, attend_gqa.GqaPrefillFit]
    gqa_decode: Mapping[str, attend_gqa.GqaDecodeFit]
    mla_prefill: Mapping[str, attend_mla.MlaPrefillFit]
    mla_decode: Mapping[str, attend_mla.MlaDecodeFit]
    backward: Pass
    experts: Mapping[str, experts.ExpertsFit]
    collective: Mapping[str, Any]
    exchange: Mapping[str, Any]
    collective_ratio: Mapping[str, float] = field(default_factory=dict)
    """Times of collectives inside a domain over those of these lines, by kind, where a user measured them."""


FAMILY = {
    Gemm: "gemm",
    GroupedGemm: "experts",
    Attend: "attend",
    Pointwise: "pointwise",
    Lookup: "pointwise",
    Collective: "collective",
    Exchange: "exchange",
    Transfer: "transfer",
    Host: "host",
}
"""Family of an operator, which is the key of a stack's ``kernel_ratio``."""


KNOWN_LENGTH = 4096
"""Longest arrays that are remembered."""
_COLLECTIVE = tuple(each.name for each in fields(Collective))


def _hashed(value: object) -> object:
    return (value.dtype.char, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """Prices operators; they are remembered, since a step repeats the same few shapes and a search of training the same
    few collectives over arrays of plans."""

    machine: Machine
    stack: Stack
    book: Book
    wires: Wires | None = None
    """Prices what crosses the fabric link by link; None: in closed form."""
    tiles: experts.Tiles | None = None
    """Of the engine's kernels of experts on this chip; None: as those that were measured."""
    known: dict[Any, Cost] = field(default_factory=dict, repr=False, compare=False)

    def price(self, op: Operator, cube_ratio: float = 1.0, vector_ratio: float = 1.0) -> Cost:
        """Cost of ``op`` on one rank whose stream holds these shares of the matrix and vector cores."""
        key: Any = (op, cube_ratio, vector_ratio)
        try:
            found = self.known.get(key)
        except TypeError:  # arrays do not hash
            if not isinstance(op, Collective) or np.size(op.payload_bytes) > KNOWN_LENGTH:
                return self._price(op, cube_ratio, vector_ratio)
            key = (*(_hashed(getattr(op, name)) for name in _COLLECTIVE), cube_ratio, vector_ratio)
            found = self.known.get(key)
        if found is None:
            found = self.known[key] = self._price(op, cube_ratio, vector_ratio)
        return found

    def _price(self, op: Operator, cube_ratio: float, vector_ratio: float) -> Cost:
        chip = self.machine.chip
        if cube_ratio != 1.0 or vector_ratio != 1.0:
            reach = self.stack.partition_reach_ratio
            chip = chip.partition(cube_ratio=cube_ratio, vector_ratio=vector_ratio, reach_ratio=reach)
        cost = _met(op, self._on(_anywhere(op, self.machine), chip), self.machine)
        run = as_run(op, cost, self.stack)
        return run if run is cost else _bounded(op, run, chip)

    def _on(self, op: Operator, chip: Chip) -> Cost:  # one arm per operator of the closed union
        book = self.book
        match op:
            case Gemm():
                return gemm.gemm(op, chip, gemm.fit_for(book.gemm, op.dtype))
            case GroupedGemm():
                engine = "" if op.exchanged else KERNELS_OF.get(self.stack.engine, "")
                unrouted = op.dtype in self.stack.unrouted
                return experts.priced(op, chip, book.experts, engine=engine, unrouted=unrouted, tiles=self.tiles)
            case Attend():
                return self._attend(op, chip)
            case Pointwise():
                return pointwise.pointwise(op, chip, book.pointwise)
            case Lookup():
                return pointwise.lookup(op, chip, book.pointwise)
            case Collective():
                return self._collective(op)
            case Exchange():
                return exchange(op, self.machine, book.exchange, wires=self.wires)
            case Transfer():
                return transfer(op, self.machine, book.collective, self.wires)
            case Host():
                return host(op, self.stack)

    def _attend(self, op: Attend, chip: Chip) -> Cost:
        book, formats = self.book, (op.dtype, op.kv_dtype)
        over = book.backward if op.phase == "backward" else FORWARD
        match op.kind, op.phase:
            case "mla", "decode":
                return attend_mla.attend_mla(op, chip, attend_mla.fit_for(book.mla_decode, *formats))
            case "mla", _:
                return attend_mla.attend_mla(op, chip, attend_mla.fit_for(book.mla_prefill, *formats), over)
            case _, "decode":
                engine = KERNELS_OF.get(self.stack.engine, "")
                return attend_gqa.attend_gqa(op, chip, attend_gqa.fit_for(book.gqa_decode, *formats, engine))
        return attend_gqa.attend_gqa(op, chip, attend_gqa.fit_for(book.gqa_prefill, *formats), over=over)

    def _collective(self, op: Collective) -> Cost:
        cost = collective(op, self.machine, self.book.collective, self.stack.all_reduce, self.wires)
        ratio = self.book.collective_ratio.get(op.kind)
        inside = ratio is not None and np.all(op.ranks * op.stride <= self.machine.domain)
        return _slower(cost, ratio) if ratio is not None and inside else cost


def _anywhere(op: Operator, machine: Machine) -> Operator:
    """``op`` among ranks at random places, where the machine says so: a group lies as far apart as there is room."""
    if machine.links is None or machine.links.placed is None or machine.ranks == 1:
        return op
    if isinstance(op, Collective | Exchange):
        return replace(op, stride=np.maximum(machine.ranks // np.maximum(op.ranks, 1), op.stride)[()])
    if isinstance(op, Transfer) and op.plane == "scale_up":
        return replace(op, distance=np.maximum(machine.ranks // 2, op.distance)[()])
    return op


def _met(op: Operator, cost: Cost, machine: Machine) -> Cost:
    """``cost`` with its bytes at the levels where ranks at random places meet: any two as likely as all others."""
    if machine.links is None or machine.links.placed is None or machine.ranks == 1 or not cost.level_bytes:
        return cost
    if not isinstance(op, Collective | Exchange | Transfer) or getattr(op, "plane", "scale_up") != "scale_up":
        return cost
    held = [1, *(min(level.ranks, machine.ranks) for level in machine.plane("scale_up").levels)]
    whole: Num = sum(cost.level_bytes)
    shares = [(outer - inner) / (machine.ranks - 1) for inner, outer in pairwise(held)]
    return replace(cost, level_bytes=tuple(whole * share for share in shares))


KERNELS_OF = {
    "tensorrt-llm": "trtllm",
    "sglang": "sglang",
    "vllm": "vllm",
    "vllm-stream": "vllm",
}
"""Engine of a stack -> whose kernels of attention and experts it runs; others run the fastest."""
CHAINED = (Gemm, GroupedGemm, Attend, Pointwise, Lookup)
"""Kernels whose launch can overlap the end of the kernel before."""


def as_run(op: Operator, cost: Cost, stack: Stack) -> Cost:
    """``cost`` of the best known kernel, measured alone, as ``stack`` runs it among others.

    Its kernels are slower by ``kernel_ratio`` (of the family and format, or of experts with biases, else of the
    family), and of the launch latency ``launch_ratio`` remains where kernels follow each other.
    """
    family, ratios = FAMILY[type(op)], stack.kernel_ratio
    kind = "biased" if getattr(op, "biased", False) else getattr(op, "dtype", "")
    ratio = ratios.get(f"{family}/{kind}", ratios.get(family, 1.0))
    saved: Num = 0.0
    if stack.launch_ratio != 1.0 and isinstance(op, CHAINED):
        saved = (1.0 - stack.launch_ratio) * cost.latency_s
        if ratio == 1.0:
            return replace(cost, seconds=cost.seconds - saved, latency_s=cost.latency_s - saved)
    return cost if ratio == 1.0 else _slower(cost, ratio, saved)


def _bounded(op: Operator, cost: Cost, chip: Chip) -> Cost:
    """``cost`` at its roofline or above: whatever a stack was fitted at, no kernel beats the chip's peaks."""
    if not isinstance(op, CHAINED):
        return cost
    floor: Num = cost.moved_bytes / chip.memory.bandwidth_bytes_per_s
    if not isinstance(op, Pointwise | Lookup):
        names = {number_format(op.dtype).peak}
        if isinstance(op, Attend):  # a narrow cache may be multiplied in its own format
            names.add(number_format(op.kv_dtype).peak)
        # attention in a format that the chip lacks is widened to bf16 by its kernels
        best = max(chip.peak(name) for name in (names & chip.peak_flop_per_s.keys()) or {"bf16"})
        floor = np.maximum(floor, cost.flop / best)
    return replace(cost, seconds=np.maximum(cost.seconds, floor))


def _slower(cost: Cost, ratio: float, saved: Num = 0.0) -> Cost:
    """``cost`` without ``saved`` seconds of its latency, and ``ratio`` times as long."""
    return replace(
        cost,
        seconds=(cost.seconds - saved) * ratio,
        compute_s=cost.compute_s * ratio,
        memory_s=cost.memory_s * ratio,
        network_s=cost.network_s * ratio,
        latency_s=(cost.latency_s - saved) * ratio,
    )


def host(op: Host, stack: Stack) -> Cost:
    """Step scheduling, per-sequence work, graph launches and the idle gaps between a layer's kernels."""
    seconds = (
        stack.step_host_s
        + op.graphs * stack.graph_launch_s
        + op.sequences * stack.sequence_host_s
        + op.layers * stack.layer_gap_s
        + np.minimum(op.drafting, 1.0) * stack.draft_host_s
        + op.drafting * stack.draft_sequence_host_s
    )
    return Cost(seconds=seconds, latency_s=seconds, origin=f"stack {stack.name}")
