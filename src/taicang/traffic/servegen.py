"""ServeGen client sets: each client's rate and burstiness by window, and its lengths as distributions, not requests.

Form of the data: "ServeGen: Workload Characterization and Generation of Large Language Model Serving in Production"
(arXiv 2505.09999). A folder or tar archive with ``chunk-N-trace.csv`` (window start in s, rate in
1/s, coefficient of variation of the times between arrivals, their family) and ``chunk-N-dataset.json``.
"""

from __future__ import annotations

import json
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from taicang import reading
from taicang.errors import InvalidInput
from taicang.traffic.cells import LONGEST
from taicang.traffic.generate import Process

_NAME = re.compile(r"(?:.*/)?chunk-(\d+)-(trace\.csv|dataset\.json)$")
_FAMILY: Mapping[str, Process] = {"Gamma": "gamma", "Weibull": "weibull", "": "poisson", "Exponential": "poisson"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """A distribution: ``tokens`` with their cumulated chances."""

    tokens: NDArray[np.int64]
    upto: NDArray[np.float64]

    def draw(self, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """One length for each uniform number."""
        at = np.minimum(np.searchsorted(self.upto, uniform, side="right"), len(self.tokens) - 1)
        drawn: NDArray[np.int64] = np.maximum(self.tokens[at], 1)
        return drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Windows by their start; lengths hold from their start to the next."""

    number: int
    start_s: NDArray[np.float64]
    rate_per_s: NDArray[np.float64]
    cv_ratio: NDArray[np.float64]
    family: tuple[Process, ...]
    lengths_from_s: NDArray[np.float64]
    lengths: tuple[tuple[Lengths, Lengths], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSet:
    """All clients that have lengths; ``without`` are the others, whose requests are left out."""

    name: str
    clients: tuple[Client, ...]
    without: tuple[int, ...]
    window_s: float

    @property
    def span_s(self) -> float:
        """From the first window to the end of the last."""
        return float(max(client.start_s[-1] for client in self.clients)) + self.window_s


def is_client_set(path: Path) -> bool:
    """Whether ``path`` is a folder or an archive, as client sets come."""
    return os.path.isdir(path) or path.name.endswith((".tar", ".tar.xz", ".tar.gz", ".tgz"))


def read_clients(path: Path) -> ClientSet:
    """The client set in a folder or tar archive. ``InvalidInput`` names the file and line that is wrong."""
    files: dict[int, dict[str, tuple[str, bytes]]] = {}
    for name, data in _files(path):
        match = _NAME.match(name)
        if match:
            files.setdefault(int(match[1]), {})[match[2]] = (f"{path}:{name}", data)
    if not files:
        raise InvalidInput("holds no chunk-N-trace.csv of a ServeGen client set", where=str(path))
    clients, without, windows = [], [], []
    for number, parts in sorted(files.items()):
        if "trace.csv" not in parts or "dataset.json" not in parts:
            without.append(number)
            continue
        start, rate, cv, family = _windows(*parts["trace.csv"])
        windows.append(np.diff(start))
        if not rate.any():
            continue
        since, lengths = _lengths(*parts["dataset.json"])
        if lengths:
            clients.append(
                Client(
                    number=number, start_s=start, rate_per_s=rate, cv_ratio=cv, family=family, lengths_from_s=since,
                    lengths=lengths,
                )
            )  # fmt: skip
        else:
            without.append(number)
    if not clients:
        raise InvalidInput("no client has both rates and lengths", where=str(path))
    steps = np.concatenate(windows)
    return ClientSet(
        name=path.name, clients=tuple(clients), without=tuple(without),
        window_s=float(np.median(steps)) if len(steps) else 600.0,
    )  # fmt: skip


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    if os.path.isdir(path):
        found = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
        files = list(islice(found, reading.NODES + 1))
        if len(files) > reading.NODES:
            raise InvalidInput(f"a folder of more than {reading.NODES:,} files is no client set", where=str(path))
        for file in sorted(each for each in files if _NAME.match(each.name)):
            yield file.relative_to(path).as_posix(), reading.data(file, most=reading.LINE)
        return
    name = ""
    try:
        reading.check(path)
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = member.name
                packed = archive.extractfile(member) if member.isfile() else None
                if packed is not None:
                    yield name, _bounded(packed, f"{path}:{name}")
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        why = str(error).partition("\n")[0]
        raise InvalidInput(f"damaged archive ({why})", where=f"{path}:{name}" if name else str(path)) from None


def _bounded(packed: IO[bytes], where: str) -> bytes:
    """What a packed file holds: a few bytes may stand for any number of them."""
    found = packed.read(reading.LINE + 1)
    if len(found) > reading.LINE:
        raise InvalidInput(f"the file is longer than {reading.LINE:,} bytes", where=where)
    return found


def _windows(where: str, data: bytes) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], tuple[Process, ...]]:
    rows: list[tuple[float, float, float]] = []
    family: list[Process] = []
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        cells = line.split(",")
        try:
            start, rate, cv = (float(cell or "nan") for cell in cells[:3])
            family.append(_FAMILY[cells[3] if len(cells) > 3 else ""])
        except (ValueError, KeyError):
            raise InvalidInput("expected start,rate,cv,family,...", where=f"{where}:{number}") from None
        if not (rate >= 0 and np.isfinite(rate)) or (rows and start <= rows[-1][0]):
            raise InvalidInput(f"rate {cells[1]} from {cells[0]} s on", where=f"{where}:{number}")
        rows.append((start, rate, cv))
    if not rows:
        raise InvalidInput("empty", where=f"{where}:1")
    start_s, rates, cvs = np.asarray(rows).T
    return start_s, rates, cvs, tuple(family)


def _lengths(where: str, data: bytes) -> tuple[NDArray[Any], tuple[tuple[Lengths, Lengths], ...]]:
    try:
        loaded = json.loads(data)
        made = {float(start): (each["input_tokens"], each["output_tokens"]) for start, each in loaded.items()}
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"not JSON ({error})", where=where) from None
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InvalidInput("expected windows with input_tokens and output_tokens", where=where) from None
    kept = {}
    for start, texts in sorted(made.items()):
        pair = [_distribution(f"{where}: {start:g}", text) for text in texts]
        if pair[0] is not None and pair[1] is not None:
            kept[start] = (pair[0], pair[1])
    return np.asarray(list(kept)), tuple(kept.values())


def _distribution(where: str, text: Any) -> Lengths | None:
    """ "{length: chance, ...}" as text; None where it is empty."""
    inner = str(text).strip().removeprefix("{").removesuffix("}").strip()
    if not inner:
        return None
    try:
        flat = np.asarray(inner.replace(":", ",").split(","), dtype=float)
        tokens, chances = flat.reshape(-1, 2).T
    except ValueError:
        raise InvalidInput("is no distribution {length: chance, ...}", where=where) from None
    if not np.all(chances >= 0) or not np.all((tokens >= 0) & (tokens <= LONGEST)) or not chances.sum() > 0:
        raise InvalidInput("has negative chances or absurd lengths", where=where)
    order = np.argsort(tokens)
    return Lengths(tokens=np.round(tokens[order]).astype(np.int64), upto=np.cumsum(chances[order]) / chances.sum())
