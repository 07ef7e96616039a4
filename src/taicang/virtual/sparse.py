"""Tensors of coordinates and values (COO), and of compressed rows (CSR): what computes on them, of PyTorch's operators
on their parts.
So every launch is one that has a price, and values that are known stay so. Where a vendor's library has one kernel for
a product, here it is three: rows that are gathered, their products, and their sums.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from taicang.virtual.spec import NeedsDevice

MANY = ("mul", "div")
"""Operators with a number that work on the values alone."""


def install() -> torch.library.Library:
    """For tensors of the device; the library is to be kept."""
    library = torch.library.Library("aten", "IMPL")
    for name, function in (
        ("_coalesce", coalesce), ("_to_dense", to_dense), ("mm", product), ("addmm", added), ("add.Tensor", add),
        ("add_.Tensor", add_), ("sparse_mask", mask), ("zero_", zero),
    ):  # fmt: skip
        library.impl(name, function, "SparsePrivateUse1")
    rows: dict[str, Any] = {
        "mm": _expanded(product), "addmm": _expanded(added, 1), "_to_dense": _expanded(to_dense),
        "_to_sparse": expanded, "_to_sparse.sparse_dim": expanded, "mul.Tensor": scaled, "mul.Scalar": scaled,
        "sparse_sampled_addmm": sampled,
    }  # fmt: skip
    for name, made in rows.items():
        library.impl(name, made, "SparseCsrPrivateUse1")
    for key in ("PrivateUse1", "SparsePrivateUse1"):
        library.impl("_to_sparse_csr", compressed, key, allow_override=True)
    for name in MANY:
        library.impl(f"{name}.Tensor", _on_values(name), "SparsePrivateUse1")
        library.impl(f"{name}_.Tensor", _on_values(f"{name}_"), "SparsePrivateUse1")
    return library


def _of(indices: Tensor, values: Tensor, like: Tensor, *, coalesced: bool = False) -> Tensor:
    return torch.sparse_coo_tensor(indices, values, like.shape, check_invariants=False, is_coalesced=coalesced)


def places(sparse: Tensor) -> Tensor:
    """Where each value lies among all places of the sparse dimensions."""
    at, step = sparse._indices(), 1
    found = torch.zeros(at.shape[1], dtype=torch.int64, device=at.device)
    for i in reversed(range(at.shape[0])):
        found = found + at[i] * step
        step *= sparse.shape[i]
    return found


def coalesce(sparse: Tensor) -> Tensor:
    """Values of the same place summed."""
    at, many = places(sparse).unique(return_inverse=True)
    values = sparse._values()
    summed = values.new_zeros(at.shape[0], *values.shape[1:]).index_add_(0, many, values)
    rows, indices = at, []
    for size in reversed(sparse.shape[: sparse.sparse_dim()]):
        indices.append(rows % size)
        rows = rows // size
    return _of(torch.stack(indices[::-1]), summed, sparse, coalesced=True)


def _flat(dense: Tensor, sparse: Tensor) -> Tensor:
    lead = sparse.sparse_dim()
    return dense.view(math.prod(sparse.shape[:lead]), *sparse.shape[lead:])


def to_dense(sparse: Tensor, dtype: Any = None, masked_grad: Any = None) -> Tensor:
    """All places."""
    values = sparse._values().to(dtype or sparse.dtype)
    dense = torch.zeros(sparse.shape, dtype=values.dtype, device=values.device)
    _flat(dense, sparse).index_add_(0, places(sparse), values)
    return dense


def product(left: Tensor, right: Tensor) -> Tensor:
    """A sparse matrix by a dense one."""
    if not left.is_sparse or right.is_sparse:
        raise NeedsDevice("aten::mm: of a sparse matrix and a dense one alone, in this order")
    rows, columns = left._indices()
    out = right.new_zeros(left.shape[0], right.shape[1])
    return out.index_add_(0, rows, left._values()[:, None] * right[columns])


def added(start: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """The same, added to something."""
    made = product(left, right)
    made = made if alpha == 1 else made * alpha
    return made if beta == 0 else made + start * beta


def add(left: Tensor, right: Tensor, *, alpha: float = 1) -> Tensor:
    """Two sparse tensors, or a dense and a sparse one."""
    if not left.is_sparse or not right.is_sparse:
        dense, sparse = (right, left) if left.is_sparse else (left, right)
        return add_(dense.clone(), sparse, alpha=alpha)
    values = torch.cat((left._values(), right._values() * alpha))
    return _of(torch.cat((left._indices(), right._indices()), 1), values, left)


def add_(dense: Tensor, sparse: Tensor, *, alpha: float = 1) -> Tensor:
    """Values added in place: to a dense tensor, or behind those of a sparse one."""
    if dense.is_sparse:
        dense.copy_(add(dense, sparse, alpha=alpha))
        return dense
    _flat(dense, sparse).index_add_(0, places(sparse), sparse._values(), alpha=alpha)
    return dense


def mask(dense: Tensor, sparse: Tensor) -> Tensor:
    """Of a dense tensor what lies at a sparse one's places."""
    return _of(sparse._indices(), _flat(dense, sparse)[places(sparse)], sparse, coalesced=sparse.is_coalesced())


def zero(sparse: Tensor) -> Tensor:
    """Nothing anywhere."""
    return sparse.sparse_resize_and_clear_(sparse.shape, sparse.sparse_dim(), sparse.dense_dim())


def _on_values(name: str) -> Any:
    def on(sparse: Tensor, number: Any) -> Tensor:
        if isinstance(number, Tensor) and number.dim():
            raise NeedsDevice(f"aten::{name}: of a sparse tensor and a number alone")
        made: Tensor = getattr(sparse._values(), name)(number)
        return sparse if name.endswith("_") else _of(sparse._indices(), made, sparse, coalesced=sparse.is_coalesced())

    return on


def expanded(rows: Tensor, *_: Any, **__: Any) -> Tensor:
    """Compressed rows, or columns, as coordinates."""
    if rows.layout == torch.sparse_csr:
        places = torch._convert_indices_from_csr_to_coo(rows.crow_indices(), rows.col_indices())
    elif rows.layout == torch.sparse_csc:
        places = torch._convert_indices_from_csr_to_coo(rows.ccol_indices(), rows.row_indices(), transpose=True)
    else:
        raise NeedsDevice(f"{rows.layout}: of compressed tensors those of single rows or columns alone")
    return _of(places.to(torch.int64), rows.values(), rows, coalesced=rows.layout == torch.sparse_csr)


def compressed(source: Tensor, dense_dim: int | None = None) -> Tensor:
    """Rows of a matrix, compressed."""
    sparse = (source if source.is_sparse else source.to_sparse()).coalesce()
    rows, columns = sparse._indices()
    ends = torch._convert_indices_from_coo_to_csr(rows.contiguous(), source.shape[0])
    return torch.sparse_csr_tensor(ends, columns, sparse._values(), source.shape, check_invariants=False)


def _expanded(function: Any, place: int = 0) -> Any:
    """``function`` of coordinates, for an operand of compressed rows."""

    def on(*args: Any, **kwargs: Any) -> Tensor:
        given = [*args]
        if isinstance(given[place], Tensor) and given[place].layout in (torch.sparse_csr, torch.sparse_csc):
            given[place] = expanded(given[place])
        made: Tensor = function(*given, **kwargs)
        return made

    return on


def _like(rows: Tensor, values: Tensor) -> Tensor:
    if rows.layout == torch.sparse_csc:
        return torch.sparse_csc_tensor(
            rows.ccol_indices(), rows.row_indices(), values, rows.shape, check_invariants=False
        )
    return torch.sparse_csr_tensor(rows.crow_indices(), rows.col_indices(), values, rows.shape, check_invariants=False)


def scaled(rows: Tensor, number: Any) -> Tensor:
    """Times a number."""
    if isinstance(number, Tensor) and number.dim():
        raise NeedsDevice("aten::mul: of compressed rows and a number alone")
    return _like(rows, rows.values() * number)


def sampled(rows: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """Of a dense product what lies at a sparse matrix's places, added to it."""
    at, column = expanded(rows)._indices()
    return _like(rows, rows.values() * beta + (left[at] * right.t()[column]).sum(-1) * alpha)
