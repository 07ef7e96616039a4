"""Error bands that the frozen scoreboard carries into predictions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).parent / "data" / "scoreboard.yaml"


@cache
def frozen_bands() -> Mapping[str, Mapping[str, Any]]:
    """Suites that speak for predictions: title, held-out errors, rows. Empty before the first scoreboard is frozen."""
    if not FILE.exists():
        return {}
    loaded = yaml.load(FILE.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    bands: Mapping[str, Mapping[str, Any]] = loaded["bands"]
    return bands
