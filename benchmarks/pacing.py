"""How late the live clock lets tokens happen, beside a process that only waits on the same machine at the same time.

A busy host makes both late: the clock's own error is what tokens have beyond the other.

python benchmarks/pacing.py [SECONDS]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "edge"))

from test_live_pacing import lateness


def main() -> None:
    """Print both."""
    for name, late_s in zip(
        ("tokens", "bare timer"), lateness(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0), strict=True
    ):
        half, most, worst = np.quantile(late_s, [0.5, 0.99, 1.0]) * 1e3
        print(f"{name:<11} p50 {half:.3f} ms, p99 {most:.3f} ms, worst {worst:.3f} ms of {len(late_s):,}")


if __name__ == "__main__":
    main()
