"""Start the ranks of a program, each a process of its own, and gather what they captured."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from taicang import reading
from taicang.catalog.schema import ARCHITECTURE
from taicang.errors import InvalidInput
from taicang.hardware import Machine
from taicang.output import scratch
from taicang.virtual import build, spec
from taicang.virtual.capture import Capture, load_rank
from taicang.virtual.watch import Watch, where

CAPABILITY = {"ampere": (8, 0), "ada": (8, 9), "hopper": (9, 0), "blackwell": (10, 0)}
"""Compute capability by architecture; a chip that has none shows the newest that most programs know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What to run."""

    script: Path
    arguments: tuple[str, ...]
    ranks: tuple[int, ...]
    world: int
    names: str
    """"cuda" or "npu": the device's printed name."""
    steps: int = 0
    real: bool = False
    skew: float = 0.0
    clock: bool = True
    stack: str = ""
    issue_s: float | None = None
    sets: tuple[str, ...] = ()


def world_of(machine: Machine, ranks: str, world: int) -> tuple[tuple[int, ...], int]:
    """Ranks to execute and how many the program believes in, from ``--ranks`` and ``--world``."""
    world = world or machine.ranks
    if world > machine.ranks:
        raise InvalidInput(f"{world} ranks are more than the {machine.ranks} of {machine.name}", where="--world")
    if ranks == "all":
        return tuple(range(world)), world
    if ranks in ("reps", "one"):
        return (0,), world
    try:
        found: set[int] = set()
        for part in ranks.split(","):
            low, _, high = part.partition("-")
            if not (some := set(range(int(low), int(high or low) + 1))):
                raise ValueError(part)
            found |= some
    except ValueError:
        raise InvalidInput(f"expected all, reps or a list such as 0-7,16, got {ranks!r}", where="--ranks") from None
    if max(found) >= world:
        raise InvalidInput(f"rank {max(found)} is outside the world of {world} ranks", where="--ranks")
    return tuple(sorted(found)), world


def names_of(script: Path, given: str) -> str:
    """Whether the program speaks of "npu" or "cuda": as given, else by whether it imports torch_npu."""
    if given != "auto":
        return given
    return "npu" if b"torch_npu" in reading.data(script) else "cuda"


def run(wish: Wish, machine: Machine, name: str, folder: Path) -> tuple[Capture, int]:
    """Run the program's ranks side by side into ``folder``; the capture, and the worst exit status.

    Raises ``InvalidInput`` where PyTorch or a compiler is missing, or a rank left nothing.
    """
    version, _ = build.torch_place()
    native = build.native()
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        statuses = _once(wish, machine, name, folder, native)
        for path in sorted(folder.glob("refused-*")):
            place, _, said = path.read_text().partition("\n")
            raise InvalidInput(said, where=place)
        needed = {int(rank) for path in folder.glob("missing-*") for rank in path.read_text().split()} - set(wish.ranks)
        for path in folder.glob("missing-*"):
            path.unlink()
        if not needed:
            break
        wish = replace(wish, ranks=tuple(sorted({*wish.ranks, *needed})))
    left = [rank for rank in wish.ranks if (folder / f"rank-{rank}.json").is_file()]
    missing = sorted(set(wish.ranks) - set(left))
    if missing:
        failed = next(((rank, each) for rank, each in zip(wish.ranks, statuses, strict=True) if each > 0), None)
        if failed:
            sys.stderr.write(f"taicang: rank {failed[0]} ended with status {failed[1]}, the others were ended\n")
            raise SystemExit(failed[1])
        at = wish.ranks.index(missing[0])
        raise InvalidInput(f"rank {missing[0]} ended with status {statuses[at]} and left no capture", where="run")
    capture = Capture(
        command=(str(wish.script), *wish.arguments),
        machine=name,
        world=wish.world,
        torch=version,
        ranks=tuple(load_rank(folder, rank) for rank in wish.ranks),
    )
    return capture, max(statuses, key=abs)


def _once(wish: Wish, machine: Machine, name: str, folder: Path, native: build.Native) -> list[int]:
    """All ranks once, side by side; where one ends badly, those that wait for it are ended too."""
    PORTS.clear()
    for path in folder.glob("rank-*"):
        path.unlink()
    processes: list[subprocess.Popen[bytes]] = []
    with scratch() as work:
        try:
            for rank in wish.ranks:
                processes.append(_start(wish, machine, name, folder, work, native, rank))
            watch = Watch([process.pid for process in processes])
            import taicang.virtual.report  # while they run: it is what comes next  # noqa: F401

            while any(process.poll() is None for process in processes):
                if any(process.poll() for process in processes):
                    time.sleep(GRACE_S)
                    break
                if watch.idle():
                    _ask(wish, processes, folder)
                time.sleep(0.02)
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
        return [process.wait() for process in processes]


def _ask(wish: Wish, processes: list[subprocess.Popen[bytes]], folder: Path) -> None:
    """Where the ranks stand that all wait; ``InvalidInput`` if it is for each other."""
    for rank, process in zip(wish.ranks, processes, strict=True):
        if process.poll() is None and (at := where(process.pid, folder / f"stands-{rank}", wish.script)):
            few = len(wish.ranks) < wish.world
            others = f"others do not run: --ranks all runs all {wish.world}" if few else "and nobody goes on"
            raise InvalidInput(f"rank {rank} waits here for what another rank or process would do; {others}", where=at)


GRACE_S = 3.0
"""For other ranks to end by themselves after one did badly."""


def _start(
    wish: Wish, machine: Machine, name: str, folder: Path, work: Path, native: build.Native, rank: int
) -> subprocess.Popen[bytes]:
    node = machine.chips_per_node * machine.chip.dies
    local = min(node, wish.world)
    path = work / f"{rank}.json"
    spec.write(
        spec.Job(
            chip=chip_of(machine), machine=name, sets=wish.sets, stack=wish.stack, rank=rank, world=wish.world,
            local=local, script=str(wish.script), arguments=wish.arguments, out=str(folder.resolve()),
            steps=wish.steps, real=wish.real, skew=wish.skew, clock=wish.clock, issue_s=wish.issue_s,
            executed=wish.ranks,
        ),
        path,
    )  # fmt: skip
    preload = os.environ.get("LD_PRELOAD", "")
    environment = os.environ | {
        "LD_PRELOAD": f"{native.names}:{preload}" if preload else str(native.names),
        "TAICANG_DEVICE_NAME": wish.names,
        "RANK": str(rank), "WORLD_SIZE": str(wish.world), "LOCAL_RANK": str(rank % local),
        "LOCAL_WORLD_SIZE": str(local), "GROUP_RANK": str(rank // local), "NNODES": str(-(-wish.world // local)),
        "MASTER_ADDR": os.environ.get("MASTER_ADDR", "127.0.0.1"), "MASTER_PORT": str(port(0)),
        "TAICANG_PORT": str(port(1)),
        "TORCHELASTIC_RUN_ID": "taicang", "OMP_NUM_THREADS": "1",
        "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
    }  # fmt: skip
    if wish.world == 1:
        for key in (
            "RANK",
            "WORLD_SIZE",
            "LOCAL_RANK",
            "LOCAL_WORLD_SIZE",
            "GROUP_RANK",
            "NNODES",
            "TORCHELASTIC_RUN_ID",
        ):
            environment.pop(key, None)
    return subprocess.Popen([sys.executable, "-m", "taicang.virtual.child", str(path)], env=environment)


def port(at: int) -> int:
    """Free ports of this host, the same for all ranks of a run: the program's own, and that of the ranks' store."""
    if not PORTS:
        with socket.socket() as first, socket.socket() as second:
            for each in (first, second):
                each.bind(("127.0.0.1", 0))
                PORTS.append(each.getsockname()[1])
    return PORTS[at]


PORTS: list[int] = []


def chip_of(machine: Machine) -> spec.Chip:
    """The machine's chip as programs see it."""
    chip = machine.chip
    return spec.Chip(
        title=f"{chip.vendor} {chip.name}",
        memory_bytes=int(chip.memory.capacity_bytes),
        cores=chip.cores,
        l2_bytes=int(chip.l2_bytes),
        capability=CAPABILITY.get(ARCHITECTURE.get(chip.profile, ""), (9, 0)),
        huawei=chip.ascend,
    )
