"""What a process that runs a rank is told: plain data, without torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

STORAGE = "storage"
"""The plane that a checkpoint is written over."""

FEW = 16
"""Ranks of a group that are all run as soon as two of them exchange messages, not one after the other."""


class Enough(BaseException):
    """Raised into the program once it has done its steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """The device as the program sees it."""

    title: str
    memory_bytes: int
    cores: int
    l2_bytes: int
    capability: tuple[int, int]
    huawei: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One rank's process."""

    chip: Chip
    machine: str
    sets: tuple[str, ...]
    stack: str
    rank: int
    world: int
    local: int
    """Ranks of one node."""
    script: str
    arguments: tuple[str, ...]
    out: str
    """Folder for the capture."""
    steps: int
    """Steps after which the program ends; 0: when it ends itself."""
    real: bool
    skew: float
    issue_s: float | None
    executed: tuple[int, ...]
    """Ranks that run."""
    clock: bool
    """Whether ``time`` tells the machine's time."""

    def missing(self, rank: int, peers: tuple[int, ...] = ()) -> NoReturn:
        """A rank that this one sends to or receives from does not run: say which, and end; of a small group they all
        will be needed."""
        raise Missing((rank, *peers) if len(peers) <= FEW else (rank,))


class Missing(BaseException):
    """Raised into the program where it needs a rank that does not run."""

    def __init__(self, ranks: tuple[int, ...]) -> None:
        super().__init__(f"rank {ranks[0]} does not run")
        self.ranks = ranks


class NeedsDevice(NotImplementedError):
    """Raised into the program where only a real device could go on: says what to do."""


def write(job: Job, path: Path) -> None:
    """As a file."""
    path.write_text(json.dumps(asdict(job)))


def read(path: Path) -> Job:
    """From it."""
    found: dict[str, Any] = json.loads(path.read_text())
    chip = found.pop("chip")
    chip["capability"] = tuple(chip["capability"])
    rest: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
    return Job(chip=Chip(**chip), **rest)
