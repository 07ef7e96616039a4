"""The catalogue: YAML of chips, machines and stacks to domain types, every figure with its source."""

from taicang.catalog.build import chip, machine
from taicang.catalog.resolve import names

__all__ = ["chip", "machine", "names"]
