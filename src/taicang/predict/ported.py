"""What to expect of a port's speed: the operators that its code calls, on the chips before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from taicang import catalog
from taicang.catalog.costing import default_stack, training_price
from taicang.errors import MissingFigure, NotModelled
from taicang.hardware import Machine
from taicang.ops import Attend, Gemm, Lookup, Operator, Pointwise
from taicang.port.tables import Use
from taicang.units import Num

Floats: TypeAlias = NDArray[np.float64]
ROWS: Final = np.geomspace(2.0**10, 2.0**18, 9)[:, None, None]
WIDTHS: Final = np.geomspace(2.0**6, 2.0**13, 8)
HEAD: Final = 64.0
SEQUENCE: Final = 2.0**10
SIZED: Final = ("product", "convolution", "attention", "lookup")
"""Kinds whose first arguments are widths; of the others the speed hangs on the bytes alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Time on a chip before over that on a chip after: quartiles over sizes; above one it gets faster."""

    kind: str
    calls: Mapping[str, int]
    """Places in the code by the operator's name."""
    sized: int
    """Of them with their sizes in the code."""
    low_ratio: float
    middle_ratio: float
    high_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ported:
    """Operators of a repository on two machines' chips."""

    before: str
    after: str
    operators: tuple[Ratio, ...]
    assumptions: tuple[str, ...]


def ported(uses: Iterable[Use], before: Machine, after: Machine) -> Ported:
    """The speed of each operator after over before. Raises where neither chip can be priced."""
    kinds: dict[str, list[Use]] = {}
    for each in uses:
        kinds.setdefault(each.kind, []).append(each)
    made, told = [], []
    for kind, found in sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0])):
        sizes = [each.sizes if kind in SIZED and all(each.sizes) else () for each in found]
        try:
            low, middle, high = np.quantile(_ratios(kind, sizes, before, after), (0.25, 0.5, 0.75)).tolist()
        except (NotModelled, MissingFigure) as error:
            told.append(f"{kind} is not priced: {error}")
            continue
        calls = dict(Counter(each.name for each in found).most_common())
        made.append(
            Ratio(
                kind=kind, calls=calls, sized=sum(map(bool, sizes)),
                low_ratio=low, middle_ratio=middle, high_ratio=high,
            )
        )  # fmt: skip
    notes = [
        "kernels in bf16 as training stacks run them, a chip against a chip; not the host that issues them, data, "
        "or communication: --log with a virtual run's folder has these",
        "sizes that the code does not state: 1,024 to 262,144 rows, widths of 64 to 8,192; half of them lie between "
        "both ends",
    ]
    for on in (before, after):
        if not on.chip.measured:
            notes.append(f"kernels of {on.chip.name} were not measured: constants of {on.chip.profile}")
    return Ported(before=before.name, after=after.name, operators=tuple(made), assumptions=(*notes, *told))


def _ratios(kind: str, sizes: Sequence[tuple[int, ...]], before: Machine, after: Machine) -> Floats:
    times: list[list[Num]] = []
    for on in (before, after):
        price = training_price(on, catalog.stack(default_stack(on)))
        rows = ROWS / on.chip.dies  # which share a chip's work
        times.append([price(_operator(kind, each, rows), 1.0, 1.0).seconds for each in sizes])
    return np.concatenate([np.ravel(one / other) for one, other in zip(*times, strict=True)])


def _operator(kind: str, sizes: tuple[int, ...], rows: Num) -> Operator:
    """One operator over all sizes that the code leaves open: rows, width in, width out are the axes."""
    inward = float(sizes[0]) if sizes else WIDTHS[None, :, None]
    outward = float(sizes[1]) if len(sizes) > 1 else inward if sizes else WIDTHS[None, None, :]
    if kind in ("product", "convolution"):
        taps = float(sizes[2]) ** 2 if len(sizes) > 2 and kind == "convolution" else 1.0
        return Gemm(m=rows, n=outward + 0.0 * rows, k=inward * taps + 0.0 * rows, dtype="bf16")
    if kind == "attention":
        heads = float(sizes[1]) if len(sizes) > 1 else np.maximum(inward / HEAD, 1.0)
        width = inward / heads
        pairs = rows * SEQUENCE
        return Attend(kind="gqa", phase="prefill", sequences=rows / SEQUENCE, queries=rows, pairs=pairs, context=rows,
                      heads=heads, kv_heads=heads, qk_dim=width, v_dim=width, dtype="bf16",
                      kv_dtype="bf16")  # fmt: skip
    elements = rows * inward
    if kind == "lookup":
        return Lookup(rows=rows, row_bytes=2.0 * (outward if len(sizes) > 1 else inward))
    return Pointwise(kind=kind, elements=elements, moved_bytes=4.0 * elements)  # type: ignore[arg-type]
