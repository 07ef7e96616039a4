"""The repository's own operators."""

from .rows import scale_rows
from .unused import pool

__all__ = ["pool", "scale_rows"]
