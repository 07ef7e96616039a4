"""Small pictures on a terminal."""

from __future__ import annotations

from typing import Any

import numpy as np

BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Any) -> str:
    """Bars from zero to the largest value."""
    top = max(float(np.max(values)), 1e-30)
    return "".join(BARS[min(int(v / top * 8), 7)] for v in np.asarray(values).tolist())
