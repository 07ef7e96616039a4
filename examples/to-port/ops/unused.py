"""An operator that training does not use."""

from . import pool_cuda


def pool(x):
    return pool_cuda.pool(x)
