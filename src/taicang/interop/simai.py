"""SimAI's workloads (AICB), which are also the text workloads of ASTRA-sim 1.0: layers with three computations each.

A line of header with the parallel degrees, the number of layers, then twelve columns for each: its forward computation
and collective, those of the gradient of its input, and those of the gradient of its weights (nanoseconds and bytes).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from taicang import reading
from taicang.errors import InvalidInput, UnknownName
from taicang.interop.work import Collective, Task, Workload
from taicang.units import digits

COLUMNS = 12
MOST_BYTES = 256 * 2**20
NS = 1e-9
NAMES: dict[str, Collective] = {
    "ALLREDUCE": "all_reduce", "ALLGATHER": "all_gather", "REDUCESCATTER": "reduce_scatter", "ALLTOALL": "all_to_all",
    "BROADCAST": "broadcast",
}  # fmt: skip
SUFFIXES = {"_DP_EP": "dp_ep", "_EP": "ep", "_DP": "dp", "_TP": "tp", "": ""}
DEGREES = {"model_parallel_NPU_group": "tp", "ep": "ep", "pp": "pp", "ga": "steps", "all_gpus": "all"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One line: (seconds, collective, bytes, group) forward, backward by input, backward by weights."""

    name: str
    parts: tuple[tuple[float, Collective | None, float, str], ...]


def is_one(path: Path) -> bool:
    """Whether ``path`` begins as such a workload does."""
    try:
        with reading.opened(path, packed=True) as file:
            first = file.readline(4096).decode("utf-8", errors="replace")
    except (OSError, EOFError, zlib.error):
        return False
    return first.startswith(("HYBRID", "DATA", "MODEL", "MICRO", "TRANSFORMER"))


def read(path: Path) -> Workload:
    """The workload of ``path``: one graph that stands for all ranks. Raises ``InvalidInput`` with file and line."""
    lines = reading.data(path, most=MOST_BYTES, packed=True).decode("utf-8", errors="replace").splitlines()
    degrees = _degrees(lines[0] if lines else "", path)
    layers = [_layer(line, f"{path}:{number}") for number, line in enumerate(lines[2:], 3) if line.strip()]
    said = lines[1].strip() if len(lines) > 1 else ""
    if not digits(said) or int(said) != len(layers):
        raise InvalidInput(f"{said!r} layers announced, {len(layers)} there", where=f"{path}:2")
    tp, ep, whole = degrees.get("tp", 1), degrees.get("ep", 1), degrees.get("all", 0)
    notes = ["the pipeline is not split: all layers run on each rank"] if degrees.get("pp", 1) > 1 else []
    groups = {"tp": tuple(range(tp))}
    if whole:
        groups |= {
            "ep": tuple(range(ep)),
            "dp": tuple(range(0, whole, tp)),
            "dp_ep": tuple(range(0, whole, max(ep, 1))),
        }
    micro = lines[0].startswith("MICRO")
    tasks = list(_tasks(layers, grouped=bool(whole) and not micro))
    return Workload(name=path.name, ranks={0: tasks}, groups=groups, notes=tuple(notes))


def _degrees(line: str, path: Path) -> dict[str, int]:
    words = line.split()
    if not words or not is_one(path):
        raise InvalidInput("the first line is no header of a SimAI workload", where=f"{path}:1")
    found = {}
    for name, value in pairwise(words):
        key = DEGREES.get(name.rstrip(":"))
        if key:
            if not digits(value) or not 1 <= int(value) <= 10**7:
                raise InvalidInput(f"{name} {value}: not a degree", where=f"{path}:1")
            found[key] = int(value)
    return found


def _layer(line: str, where: str) -> Layer:
    cells = line.split()
    if len(cells) < COLUMNS:
        raise InvalidInput(f"{len(cells)} columns, {COLUMNS} are needed", where=where)
    parts = []
    for at, default in ((2, "tp"), (5, "tp"), (8, "dp")):
        seconds, size = (_number(cells[index], where) for index in (at, at + 2))
        kind, group = _collective(cells[at + 1], where)
        parts.append((seconds * NS, kind, size, group or default))
    return Layer(name=cells[0], parts=tuple(parts))


def _number(text: str, where: str) -> float:
    try:
        found = float(text)
    except ValueError:
        raise InvalidInput(f"{text!r} is not a number", where=where) from None
    if not 0.0 <= found < 1e18:
        raise InvalidInput(f"{text!r} is not a time or size", where=where)
    return found


def _collective(text: str, where: str) -> tuple[Collective | None, str]:
    if text.upper() == "NONE":
        return None, ""
    for suffix, group in SUFFIXES.items():
        base = text.upper().removesuffix(suffix) if suffix else text.upper()
        if base in NAMES and (not suffix or text.upper().endswith(suffix)):
            return NAMES[base], group
    raise UnknownName("collective", text, [*NAMES, "NONE"], where=where)


def _tasks(layers: list[Layer], *, grouped: bool) -> Iterator[Task]:
    """Forward through all layers, then backward; what only the optimizer waits for runs beside the rest."""
    number = 0
    last: tuple[int, ...] = ()
    beside: list[int] = []
    order = [(layer, (0,)) for layer in layers] + [(layer, (1, 2)) for layer in reversed(layers)]
    for layer, which in order:
        for at in which:
            seconds, kind, size, group = layer.parts[at]
            task = Task(id=number, name=f"{layer.name} {('forward', 'backward', 'weights')[at]}", kind="compute",
                        after=last, seconds=seconds)  # fmt: skip
            yield task
            last, number = (number,), number + 1
            if kind is None or not size:
                continue
            yield replace(task, id=number, name=f"{layer.name} {kind}", kind="collective", after=last, collective=kind,
                          payload_bytes=size, group=group if grouped or group == "tp" else "")  # fmt: skip
            if at == 2:
                beside.append(number)
            else:
                last = (number,)
            number += 1
    yield Task(id=number, name="optimizer", kind="none", after=(*last, *beside))
