"""What every fitting command shares: fingerprint the evidence, write the constants and say what they were fitted on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from taicang.catalog import calibration


def fingerprint(path: Path) -> str:
    """First 16 hex digits of the file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {str(k): _rounded(v) for k, v in value.items()}
    return value


def write(family: str, profiles: Mapping[str, Any], *, evidence: Path, rows: int, note: str) -> Path:
    """Write the calibration file of ``family``: ``profiles[profile][key][constant]``, rounded to five digits."""
    target = calibration.FOLDER / f"{family}.yaml"
    document = {
        "family": family,
        "kind": "calibrated",
        "fitted_on": {
            "file": evidence.name,
            "sha256": fingerprint(evidence),
            "rows": rows,
            "part": "calibrated-on rows of taicang.evidence.split (three keys in four)",
            "note": note,
        },
        "profiles": _rounded(profiles),
    }
    header = f"# Written by `taicang fit {family}`; do not edit.\n"
    target.write_text(header + yaml.safe_dump(document, sort_keys=False, width=120), encoding="utf-8")
    calibration.read.cache_clear()
    calibration.fits.cache_clear()
    return target
