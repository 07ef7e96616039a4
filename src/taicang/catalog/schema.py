"""Which keys an entry may hold, and of which type or dimension each is."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Final, Literal, TypeAlias

Kind: TypeAlias = Literal["chip", "machine", "stack"]
KINDS: Final = ("chip", "machine", "stack")
FOLDERS: Final[Mapping[str, str]] = {"chip": "chips", "machine": "machines", "stack": "stacks"}
PROVENANCE: Final = ("measured-here", "published", "datasheet", "calibrated", "assumed", "unknown")
PEAKS: Final = ("fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4")
PROFILES: Final = ("a100", "h100", "h200", "b200", "b300", "gb200", "gb300", "l40s", "ascend-910c")
"""Chips whose kernels were measured; every other chip borrows the constants of one of them."""
STATUS: Final = ("shipping", "announced", "cancelled")
ROUTINGS: Final = ("adaptive", "striped", "ecmp")
TOPOLOGIES: Final = ("switch", "mesh", "clos", "torus")
SCHEDULERS: Final = ("mixed", "prefill_first", "disaggregated")

TEXTS: Final = frozenset({"text", "status", "topology", "routing", "scheduler", "name", "flag", "words", "extents"})
"""Types that describe rather than measure: they need no source."""

_CHIP: dict[str, str] = {
    "title": "text",
    "note": "text",
    "vendor": "text",
    "status": "status",
    "profile": "name",
    "measured": "flag",
    "dies": "count",
    "cores": "count",
    "vector_cores": "count",
    "peak.*": "flop_per_s",
    "vector.fp32": "flop_per_s",
    "vector.fp16": "flop_per_s",
    "memory.capacity": "bytes",
    "memory.nominal": "bytes",
    "memory.bandwidth": "bytes_per_s",
    "l2": "bytes",
    "clock": "hz",
    "sustained": "ratio",
    "power.tdp": "w",
    "power.idle": "w",
    "price": "usd",
    "rental": "usd_per_h",
    "kernels.*.*.*": "any",
    "package.peak.*": "flop_per_s",
    "package.memory": "bytes",
    "package.bandwidth": "bytes_per_s",
    "facts.*": "any",
}
_MACHINE: dict[str, str] = {
    "title": "text",
    "note": "text",
    "status": "status",
    "chip": "name",
    "chips": "count",
    "chips_per_node": "count",
    "chips_per_rack": "count",
    "overlap_tax": "ratio",
    "planes.*.*.ranks": "ranks",
    "planes.*.*.bandwidth": "bytes_per_s",
    "planes.*.*.latency": "s",
    "planes.*.*.topology": "topology",
    "planes.*.*.reduces": "flag",
    "planes.*.*.profile": "name",
    "planes.*.*.switches": "count",
    "planes.*.*.planes": "count",
    "planes.*.*.links_per_module": "count",
    "planes.*.*.adapters": "count",
    "planes.*.*.leaf": "count",
    "planes.*.*.rails": "flag",
    "planes.*.*.switch_boxes": "count",
    "planes.*.*.switch_racks": "count",
    "planes.*.*.dims": "extents",
    "links.routing": "routing",
    "links.seed": "seed",
    "links.placed": "seed",
    "links.failed": "text",
    "host.memory": "bytes",
    "power.load": "w",
    "power.max": "w",
    "pue": "ratio",
    "price.usd": "usd",
    "price.cny": "cny",
    "aggregate.peak.*": "flop_per_s",
    "aggregate.memory": "bytes",
    "aggregate.memory_bandwidth": "bytes_per_s",
    "facts.*": "any",
}
_STACK: dict[str, str] = {
    "title": "text",
    "note": "text",
    "engine": "name",
    "epoch": "text",
    "scheduler": "scheduler",
    "chunk": "count",
    "step_host": "s",
    "sequence_host": "s",
    "draft_host": "s",
    "draft_sequence_host": "s",
    "layer_gap": "s",
    "burst": "ratio",
    "launch": "ratio",
    "graph_launch": "s",
    "eager_kernel": "s",
    "quantise_kernels": "flag",
    "partition.matrix": "ratio",
    "partition.vector": "ratio",
    "overlap_tax": "ratio",
    "all_reduce": "name",
    "quantised_cache": "name",
    "memory.base": "name",
    "memory.ratio": "ratio",
    "memory.reserve": "bytes",
    "memory.context": "bytes",
    "memory.group": "bytes",
    "memory.sampled": "count",
    "memory.graphs": "bytes",
    "memory.sampling": "bytes",
    "graphs": "flag",
    "graph_tokens": "count",
    "grouped_experts": "flag",
    "experts_sharded": "flag",
    "fused": "words",
    "unrouted": "words",
    "overlap": "words",
    "kernel_ratio.*": "ratio",
    "keeps.gradients": "name",
    "keeps.logit": "bytes",
    "keeps.sharded_logit": "bytes",
    "keeps.loss": "bytes",
    "keeps.outputs": "flag",
    "keeps.merged": "flag",
    "keeps.buffered": "flag",
    "keeps.eager": "flag",
    "keeps.recompute": "name",
    "keeps.sharding": "name",
}
FIELDS: Final[Mapping[str, Mapping[str, str]]] = {
    "chip": _CHIP,
    "machine": _MACHINE | {f"chip.{path}": type_ for path, type_ in _CHIP.items()} | {"chip.base": "name"},
    "stack": _STACK,
}
RECORDED: Final = (
    "note", "title", "memory.nominal", "vector_cores", "vector.fp16", "clock", "rental", "price", "package.", "facts.",
    "aggregate.", "power.max",
)  # fmt: skip
"""Keys (or their beginnings, that end in a dot) that entries keep for the record: no prediction reads them."""

EXTENSIVE: Final = ("host.memory", "power.load", "power.max", "price.usd", "price.cny")
"""Figures of a whole machine that grow with its chips."""


def recorded(path: str) -> bool:
    """Whether ``path`` is kept for the record."""
    return any(path == each or (each.endswith(".") and path.startswith(each)) for each in RECORDED)


@cache
def field_type(kind: str, path: str) -> str | None:
    """Type of the key ``path``, None when there is no such key; ``*`` in the schema stands for one part."""
    fields = FIELDS[kind]
    if path in fields:
        return fields[path]
    parts = path.split(".")
    for pattern, type_ in fields.items():
        wanted = pattern.split(".")
        if len(wanted) == len(parts) and all(w in ("*", p) for w, p in zip(wanted, parts, strict=True)):
            return type_ if not (wanted[-2:] == ["peak", "*"] and parts[-1] not in PEAKS) else None
    return None


def spelled(kind: str) -> list[str]:
    """Keys that need no invented part, for suggestions."""
    paths = [path for path in FIELDS[kind] if "*" not in path]
    for pattern in FIELDS[kind]:
        if pattern.endswith("peak.*"):
            paths += [pattern[:-1] + peak for peak in PEAKS]
    return paths
