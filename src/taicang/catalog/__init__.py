"""The catalogue: YAML of chips, machines and stacks to domain types, every figure with its source."""

from taicang.catalog.build import chip, machine
from taicang.catalog.check import Finding, check, digest
from taicang.catalog.entry import Entry, Figure, Reading, Source, entry, find, sources
from taicang.catalog.resolve import names
from taicang.catalog.stack_entry import stack

__all__ = [
    "Entry",
    "Figure",
    "Finding",
    "Reading",
    "Source",
    "check",
    "chip",
    "digest",
    "entry",
    "find",
    "machine",
    "names",
    "sources",
    "stack",
]
