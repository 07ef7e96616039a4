"""ServeGen client sets: each client's rate and burstiness by window, and its lengths as distributions, not requests.

Form of the data: "ServeGen: Workload Characterization and Generation of Large Language Model Serving in Production"
(arXiv 2505.09999). A folder or tar archive with ``chunk-N-trace.csv`` (window start in s, rate in
1/s, coefficient of variation of the times between arrivals, their family) and ``chunk-N-dataset.json``.
"""

from __future__ import annotations

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
from taicang.traffic.generate import Process, gaps
from taicang.traffic.trace import Trace

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
        loaded = reading.document(data, where)
        made = {float(start): (each["input_tokens"], each["output_tokens"]) for start, each in loaded.items()}
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


def mixture(
    found: ClientSet, *, rate_per_s: float | None = None, span_s: float | None = None, begin_s: float = 0.0,
    seed: int = 0,
) -> Trace:  # fmt: skip
    """Requests of ``span_s`` seconds (default: all windows) from ``begin_s`` on, clients side by side.

    ``rate_per_s`` scales all rates so that this is their mean over that time. Windows repeat from the start when they
    run out. Arrivals are a renewal process in each client's own time, so bursts carry over from window to window.
    """
    whole = found.span_s
    span = whole - begin_s if span_s is None else span_s
    windows = np.floor(begin_s / found.window_s), np.ceil((begin_s + span) / found.window_s)
    edges = np.arange(*windows, dtype=np.float64) * found.window_s
    scale = 1.0
    if rate_per_s is not None:
        inside = np.minimum(edges + found.window_s, begin_s + span) - np.maximum(edges, begin_s)
        each = [float((_rates(client, edges % whole) * inside).sum()) for client in found.clients]
        expected = float(np.sum(each))
        if expected <= 0:
            raise InvalidInput("has no requests in this time", where=found.name)
        scale = rate_per_s * span / expected
    parts: list[tuple[NDArray[Any], ...]] = []
    for client in found.clients:
        rng = np.random.default_rng([seed, client.number])
        times = _arrivals(client, edges, found.window_s, whole, scale, rng)
        times = times[(times >= begin_s) & (times < begin_s + span)]
        if len(times):
            inputs, outputs = _drawn(client, times % whole, rng)
            parts.append((times, inputs, outputs, np.full(len(times), client.number)))
    if not parts:
        raise InvalidInput("has no requests in this time", where=found.name)
    times, inputs, outputs, numbers = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(times, kind="stable")
    notes = (f"{len(found.without)} of {len(found.without) + len(found.clients)} clients have no lengths: left out",)
    return Trace(
        name=found.name, kind="servegen", arrival_s=times[order] - times[order[0]], input_tokens=inputs[order],
        output_tokens=outputs[order], session=None, client=numbers[order], notes=notes if found.without else (),
    )  # fmt: skip


def _at(client: Client, times: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.clip(np.searchsorted(client.start_s, times, side="right") - 1, 0, None)


def _rates(client: Client, times: NDArray[np.float64]) -> NDArray[np.float64]:
    rates: NDArray[np.float64] = client.rate_per_s[_at(client, times)]
    return rates


def _arrivals(
    client: Client, edges: NDArray[np.float64], window_s: float, whole: float, scale: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Gaps of mean one in the time in which the client's rate is one, window by window; the last gap reaches over."""
    made: list[NDArray[np.float64]] = []
    left: float | None = None
    for edge, at in zip(edges.tolist(), _at(client, edges % whole).tolist(), strict=True):
        rate = float(client.rate_per_s[at]) * scale
        room = rate * window_s
        if room <= 0:
            continue
        if left is None:
            left = float(rng.random())  # somewhere within a gap when the run begins
        if left >= room:
            left -= room
            continue
        cv, family = float(client.cv_ratio[at]), client.family[at]
        cv = 1.0 if family == "poisson" or not np.isfinite(cv) or cv <= 0 else cv
        reached = np.asarray([left])
        while reached[-1] < room:
            more = gaps(family, 1.0, cv, int((room - reached[-1]) * 1.2) + 16, rng)
            reached = np.concatenate([reached, reached[-1] + np.cumsum(more)])
        inside = int(np.searchsorted(reached, room))
        left = float(reached[inside] - room)
        made.append(edge + reached[:inside] / rate)
    return np.concatenate(made) if made else np.zeros(0)


def _drawn(
    client: Client, times: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    inputs, outputs = np.ones(len(times), dtype=np.int64), np.ones(len(times), dtype=np.int64)
    which = np.clip(np.searchsorted(client.lengths_from_s, times, side="right") - 1, 0, None)
    for at, (prompt, answer) in enumerate(client.lengths):
        here = np.flatnonzero(which == at)
        inputs[here] = prompt.draw(rng.random(len(here)))
        outputs[here] = answer.draw(rng.random(len(here)))
    return inputs, outputs
