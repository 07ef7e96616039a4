"""The catalogue: YAML of chips, machines and stacks to domain types, every figure with its source."""

from taicang.catalog import own
from taicang.catalog.build import chip, machine, machines_with
from taicang.catalog.check import Finding, check, digest
from taicang.catalog.entry import Entry, Figure, Reading, Source, entry, find, sources
from taicang.catalog.resolve import names
from taicang.catalog.stack_entry import fit_for, stack

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
    "fit_for",
    "machine",
    "machines_with",
    "names",
    "own",
    "sources",
    "stack",
]
