"""Rows times their length, on a GPU."""

from . import rows_cuda


def scale_rows(x):
    return rows_cuda.scale_rows(x)
