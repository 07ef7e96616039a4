"""Pareto fronts of columns."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def front(*, low: Any, high: Any) -> NDArray[np.int64]:
    """Rows that no other beats with a ``low`` as low and a ``high`` as high, by rising ``low``."""
    low, high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
    order = np.lexsort((-high, low))
    reached = np.maximum.accumulate(high[order]) if order.size else high
    first = np.ones(order.size, dtype=bool)
    first[1:] = high[order][1:] > reached[:-1]
    return order[first]
