"""Launch settings of engines that differ from their own, and how they divide a device: ``data/launch.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from taicang.catalog import files
from taicang.catalog.rules import section, settings
from taicang.catalog.stack_entry import order
from taicang.hardware import Chip, Machine
from taicang.models.types import Latent, Model
from taicang.stacks import BARE, Stack

FILE = files.DATA / "launch.yaml"
_GIB = 2.0**30


def generation(chip: str) -> str:
    """Of a chip of the catalogue; "" where scripts tell none."""
    return next((name for name, chips in section(FILE, "generations").items() if chip in chips), "")


def launch(engine: str, chip: str, model: str) -> dict[str, Any]:
    """What scripts set: "memory_ratio", "kv" (the cache's format), "all_reduce" (whose kernels, besides its own)."""
    facts = {"engine": engine, "chip": chip, "generation": generation(chip), "model": model}
    return settings(FILE, "settings", facts)


def reducing(stack: Stack, said: Mapping[str, Any]) -> str:
    """Whose all-reduce kernels run: those of the engine, and what scripts add."""
    known, added = stack.all_reduce.split("+"), said.get("all_reduce")
    return stack.all_reduce if added is None or added in known or "best" in known else f"{added}+{stack.all_reduce}"


def launched(stack: Stack, chip: Chip, model: Model) -> Stack:
    """``stack`` as scripts launch it for ``model``: memory, all-reduce, and the cache of checkpoints in 4 or 8 bits."""
    said = launch(stack.engine, chip.name, model.name)
    ratio = said.get("memory_ratio", stack.memory.usable_ratio)
    kept = {"bf16": ""}.get(said.get("kv", ""), said.get("kv", stack.quantised_cache))
    memory = replace(stack.memory, usable_ratio=ratio)
    return replace(stack, quantised_cache=kept, memory=memory, all_reduce=reducing(stack, said))


def divided(stack: Stack, machine: Machine, model: Model) -> Stack:
    """``stack`` with the shares of device memory that it takes on such devices for such a model, and with the sizes of
    steps that it chooses there where its file says none."""
    inner = next((level for level in machine.plane("scale_up").levels if level.ranks > machine.chip.dies), None)
    facts = {
        "engine": stack.engine,
        "release": sum(
            step * part
            for step, part in zip((10_000, 100, 1), order(stack.asked) or order(stack.version), strict=False)
        ),
        "chip": machine.chip.name,
        "capacity_gib": machine.chip.memory.capacity_bytes / _GIB,
        "links": "pcie" if inner is None or inner.name == "pcie" else "own",
        "tower": model.tower_ratio,
        "latent": any(isinstance(block.attention, Latent) for block in model.blocks),
    }
    said = settings(FILE, "memory", facts)
    shares = {key.removesuffix("_gib") + "_bytes": value * _GIB for key, value in said.items() if key.endswith("_gib")}
    plain = {key: value for key, value in said.items() if not key.endswith("_gib")}
    chosen = settings(FILE, "defaults", facts)
    unsaid = {key: value for key, value in chosen.items() if getattr(stack, key) == getattr(BARE, key)}
    return replace(stack, memory=replace(stack.memory, **shares, **plain), **unsaid)
