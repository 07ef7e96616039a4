"""How engines are launched by published scripts, where that is not what they do by themselves: ``data/launch.yaml``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from taicang.catalog import files
from taicang.catalog.rules import section, settings
from taicang.hardware import Chip
from taicang.models.types import Model
from taicang.stacks import Stack

FILE = files.DATA / "launch.yaml"


def generation(chip: str) -> str:
    """Of a chip of the catalogue; "" where scripts tell none."""
    return next((name for name, chips in section(FILE, "generations").items() if chip in chips), "")


def launch(engine: str, chip: str, model: str) -> dict[str, Any]:
    """What scripts set: "memory_ratio", "kv" (the cache's format)."""
    facts = {"engine": engine, "chip": chip, "generation": generation(chip), "model": model}
    return settings(FILE, "settings", facts)


def launched(stack: Stack, chip: Chip, model: Model) -> Stack:
    """``stack`` as scripts launch it for ``model``: memory, and the cache of checkpoints in 4 or 8 bits."""
    said = launch(stack.engine, chip.name, model.name)
    ratio = said.get("memory_ratio", stack.memory.usable_ratio)
    kept = {"bf16": ""}.get(said.get("kv", ""), said.get("kv", stack.quantised_cache))
    return replace(stack, quantised_cache=kept, memory=replace(stack.memory, usable_ratio=ratio))
