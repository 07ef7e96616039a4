"""Seconds of CPU to score every served row on one core: python benchmarks/score_speed.py path/to/served_e2e.csv

The house rule is 20 s for 1,800 rows. Peers, as published or measured by their users: NVIDIA AIConfigurator 7 ms a row
memoised and 930 ms otherwise (13 s and 28 min for 1,800 rows); Huawei's msModeling 21 s a row (10.5 h).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from taicang.evidence import intake

DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "evidence" / "served_e2e.csv"
FLOOR_S = 20.0


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    if not file.is_file():
        print(f"skipped: no served rows at {file.name} (give a file as argument)")
        return
    start = time.process_time()
    found = intake.file_outcomes(file)
    spent = time.process_time() - start
    rows = len({one.id for one in found})
    said = sum(one.predicted is not None for one in found)
    verdict = "" if spent <= FLOOR_S else f"  MORE than {FLOOR_S:.0f} s"
    print(
        f"{rows} served rows, {said} predictions: {spent:.1f} s CPU, {spent / max(rows, 1) * 1e3:.1f} ms a row{verdict}"
    )
    print(
        f"peers for as many rows: AIConfigurator {rows * 7e-3:.0f} s memoised, {rows * 0.93 / 60:.0f} min otherwise; "
        f"msModeling {rows * 21 / 3600:.1f} h"
    )


if __name__ == "__main__":
    main()
