"""How much a port touches: class, files, lines that must change, kernels. From measured pairs, each with its band.

Person-hours are not among it: no public pair tells them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from taicang.port.tables import OWN

if TYPE_CHECKING:
    from taicang.port.scan import Scan

CLASSES: Final[Mapping[str, str]] = {
    "A": "pure PyTorch",
    "B": "CUDA operators through libraries",
    "C": "CUDA operators of its own",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What of a scan tells the size of a port."""

    kind: str
    """Key of ``CLASSES``; R towards CUDA."""
    programs: int
    """Python files that begin by themselves: each loads the shim."""
    found: int
    """Python files in which something was found."""
    operators: int
    """Python files that import CUDA operators which the repository builds for itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """An estimated count, and what half of the measured pairs lay within."""

    low: int
    middle: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """A count as a sum of what each term brings, or as a product of powers; quartiles of measured over computed."""

    weights: Mapping[str, float]
    low_ratio: float
    high_ratio: float
    powers: bool = False

    def of(self, known: Mapping[str, float]) -> Band:
        """The count and its band for these terms; nothing is less than one."""
        middle = sum(weight * known[name] for name, weight in self.weights.items())
        middle = math.exp(middle) if self.powers else middle
        low, middle, high = (
            max(round(each), 1) for each in (middle * self.low_ratio, middle, middle * self.high_ratio)
        )
        return Band(low=low, middle=middle, high=high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What the measured pairs say, as the catalogue gives it."""

    files: Law
    must_change: Law
    kernels: Mapping[str, Law]
    """Lines of a ported kernel file by language: triton, cuda."""
    kept_ratio: Mapping[str, float]
    """Share of the original's lines that stay, by language."""
    speed: Mapping[str, tuple[float, float, float]]
    """By class: quartiles of 8 NPU cards over 8 cards of an unnamed rival after the port."""
    speed_source: str
    pairs: int
    """Ports of whole repositories that the laws were fitted to."""
    evidence: tuple[str, ...]
    """What took how long, with sources."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFile:
    """A file with kernels to write anew."""

    path: str
    language: str
    kernels: int
    lines: int
    ported: Band | None
    kept_lines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Size of a port."""

    features: Features
    title: str
    files: Band | None
    must_change: Band | None
    kernels: tuple[KernelFile, ...]
    taken: int
    """Kernels whose operator a library of the other side has."""
    speed: tuple[float, float, float] | None
    speed_source: str
    pairs: int
    evidence: tuple[str, ...]


def features(found: Scan) -> Features:
    """The features of a scan's files that count."""
    counted = list(found.counted())
    own = any(read.kernels and read.language == "cuda" for read in counted)
    library = any(each.rule.operators and read.language != "packages" for read in counted for each in read.findings)
    return Features(
        kind="R" if found.to == "cuda" else "C" if own else "B" if library else "A",
        programs=sum(read.runs for read in counted),
        found=sum(bool(read.findings) for read in counted if read.language == "python"),
        operators=sum(any(each.rule.name == OWN.name for each in read.findings) for read in counted),
    )


def terms(one: Features) -> Mapping[str, float]:
    """Terms of the laws: the class as 0 or 1; programs share what they need, so that each more brings less."""
    return {kind: float(one.kind == kind) for kind in CLASSES} | {
        "programs": math.sqrt(one.programs), "found": float(one.found), "operators": float(one.operators)
    }  # fmt: skip


def _at_most(band: Band, count: int) -> Band:
    """A port touches no more files than there are."""
    return Band(low=min(band.low, count), middle=min(band.middle, count), high=min(band.high, count))


def kernel_terms(lines: int) -> Mapping[str, float]:
    """Terms of the laws of kernels: a power of the lines."""
    return {"one": 1.0, "lines": math.log(max(lines, 1))}


def estimate(found: Scan, effort: Effort) -> Estimate:
    """The size of a port. Towards CUDA there is a single measured pair, so only kernels are counted."""
    one = features(found)
    forward = found.to == "ascend"
    kernels, taken = [], 0
    for read in found.counted():
        tiers = {each.rule.tier for each in read.findings}
        if not read.kernels:
            continue
        if "kernel" not in tiers:
            taken += len(read.kernels)
            continue
        language = read.kernels[0].language
        law = effort.kernels.get(language) if forward else None
        kernels.append(
            KernelFile(
                path=read.path,
                language=language,
                kernels=len(read.kernels),
                lines=read.lines,
                ported=law.of(kernel_terms(read.lines)) if law else None,
                kept_lines=round(effort.kept_ratio[language] * read.lines) if law else 0,
            )
        )
    return Estimate(
        features=one,
        title=CLASSES[one.kind] if forward else "from Ascend to CUDA",
        files=_at_most(effort.files.of(terms(one)), len(list(found.counted()))) if forward else None,
        must_change=effort.must_change.of(terms(one)) if forward else None,
        kernels=tuple(kernels),
        taken=taken,
        speed=effort.speed[one.kind] if forward else None,
        speed_source=effort.speed_source if forward else "",
        pairs=effort.pairs if forward else 0,
        evidence=effort.evidence if forward else (),
    )
