"""Kernels and collectives of the machine at hand, timed with PyTorch, as rows of the tables that ``score`` takes.

A plan is a list of shapes in an order in which every kernel is covered coarsely before any is covered finely, so that
time that runs out costs density alone. Each timing is a line of a journal as soon as it is known; the tables are
written from the journal, and shapes that are in it are not measured again. A launch is repeated on the same operands,
as in the tables of the package; where the device can, the repeats are one captured graph, so that the host does not
count. The kernels are PyTorch's own (products of the vendor's library, its attention), not an engine's. torch is
imported where it is used.
"""

from __future__ import annotations

import csv
import io
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from taicang import reading
from taicang.errors import InvalidInput, NotModelled
from taicang.output import check_place, write, write_file

JOURNAL = "journal.jsonl"
NOTES = "notes.json"
MEASURED_S = 0.05
"""Time that one shape is repeated for, warm-up apart."""
WARM = 3
MOST_REPEATS = 200
SAMPLED = 20
"""Shapes between two looks at clock and power."""
Shape = Mapping[str, Any]
_GEMM = {"table": "gemm", "gemm_dtype": "bfloat16"}
_PREFILL = {"table": "attention_prefill_gqa", "attn_dtype": "bfloat16", "kv_cache_dtype": "bfloat16", "window_size": 0}
_DECODE = _PREFILL | {"table": "attention_decode_gqa"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What kernels run on."""

    kind: str
    """ "cuda", "npu" or "cpu"."""
    name: str
    """As the driver calls it."""
    count: int
    torch: str
    """Version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a run measured."""

    device: Device
    planned: int
    done: int
    """Shapes in the journal."""
    new: int
    failed: tuple[str, ...]
    """Shapes that the device refused, with the reason."""
    files: tuple[Path, ...]
    notes: tuple[str, ...]
    seconds: float


def torch_module() -> Any:
    """PyTorch; ``NotModelled`` where it is not installed."""
    try:
        import torch  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise NotModelled("measuring needs PyTorch: pip install 'taicang[torch]'") from None
    return torch


def device(wanted: str = "") -> Device:
    """The device of this machine: CUDA, an NPU (with torch_npu), else the CPU; ``wanted`` names one."""
    torch = torch_module()
    with suppress(ImportError):
        import torch_npu  # type: ignore[import-not-found]  # noqa: F401, PLC0415 - brings torch.npu
    found = {"cpu": 1}
    for kind in ("npu", "cuda"):
        one = getattr(torch, kind, None)
        if one is not None and one.is_available():
            found = {kind: int(one.device_count()), **found}
    kind = wanted or next(iter(found))
    if kind not in found:
        raise InvalidInput(f"this PyTorch sees no {kind}; it sees {', '.join(found)}", where="--device")
    name = "CPU" if kind == "cpu" else str(getattr(torch, kind).get_device_name(0))
    return Device(kind=kind, name=name, count=found[kind], torch=str(torch.__version__))


def plan(on: Device) -> list[Shape]:
    """All shapes, coarse before fine; a handful of small ones on a CPU."""
    if on.kind == "cpu":
        products: list[Shape] = [
            _GEMM | {"m": m, "n": 256, "k": k} for m in (1, 16, 128) for k in (128, 256, 512, 1024)
        ]
        return [*products, *_prompts((1,), (64, 128), ((4, 2),)), *_steps((1, 2), (128, 256), ((4, 2),))]
    widths = ((4096, 4096), (1024, 8192), (8192, 2048), (28672, 4096), (4096, 14336), (512, 7168), (7168, 18432))
    tokens = (1, 16, 128, 1024, 8192, 4, 64, 512, 4096, 32, 256, 2048)
    heads = ((32, 8), (8, 1), (64, 8), (16, 16))
    parts: list[list[Shape]] = [
        [_GEMM | {"m": m, "n": n, "k": k} for m in tokens for n, k in widths],
        _prompts((1, 4, 16), (256, 2048, 8192, 1024, 4096, 512), heads),
        _steps((1, 16, 64, 4, 128), (1024, 8192, 32768, 4096, 16384), heads),
        _rounds(on.count),
    ]
    longest = max(len(part) for part in parts)
    return [part[i] for i in range(longest) for part in parts if i < len(part)]


def _prompts(batches: Sequence[int], lengths: Sequence[int], heads: Sequence[tuple[int, int]]) -> list[Shape]:
    return [_PREFILL | {"head_dim": 128, "num_heads": h, "num_key_value_heads": kv, "batch_size": b, "isl": length}
            for length in lengths for b in batches for h, kv in heads if b * length <= 32768]  # fmt: skip


def _steps(batches: Sequence[int], lengths: Sequence[int], heads: Sequence[tuple[int, int]]) -> list[Shape]:
    return [_DECODE | {"head_dim": 128, "num_heads": h, "num_key_value_heads": kv, "batch_size": b, "kv_len": length}
            for length in lengths for b in batches for h, kv in heads if b * length * kv <= 4 << 20]  # fmt: skip


def _rounds(count: int) -> list[Shape]:
    """Collectives over all devices, and over half of them."""
    sizes = [1 << power for power in (10, 20, 26, 15, 23, 12, 18, 25, 13, 21, 24, 16)]
    ranks = [each for each in dict.fromkeys((count, count // 2)) if each > 1]
    kinds = ("all_reduce", "all_gather", "reduce_scatter", "alltoall")
    return [{"table": "nccl", "op_name": op, "nccl_dtype": "half", "num_gpus": r, "message_size": size}
            for size in sizes for r in ranks for op in kinds]  # fmt: skip


def measure(
    folder: Path, system: str, on: Device, *, limit_s: float, progress: Callable[[int, int], None] | None = None
) -> Taken:
    """Measure into ``folder`` until the plan or the time is at its end; ``system`` is what rows call the machine."""
    begun, shapes = time.monotonic(), plan(on)
    known, failed = journal(folder, system, on)
    samples, new = [_clock(on)], 0
    together: dict[str, dict[str, Any]] = {}
    folder.mkdir(parents=True, exist_ok=True)
    check_place(folder / JOURNAL, "--out")
    with (folder / JOURNAL).open("a", encoding="utf-8") as out:
        try:
            if (folder / JOURNAL).read_bytes()[-1:] not in (b"", b"\n"):
                out.write("\n")  # the line that was written when the power went ends here
            for count, shape in enumerate(shapes):
                if progress is not None:
                    progress(count, len(shapes))
                if time.monotonic() - begun > limit_s:
                    break
                if _key(shape) in known or _key(shape) in failed:
                    continue
                if shape["table"] == "nccl" and _key(shape) not in together:
                    kin = [each for each in shapes if each.get("num_gpus") == shape["num_gpus"]]
                    together |= _collectives(kin, on)
                line = together.get(_key(shape)) or _timed(shape, on)
                line = line | {"system": system, "device": on.name}
                out.write(json.dumps({**shape, **line}) + "\n")
                out.flush()
                new += 1
                if "ms" in line:
                    known[_key(shape)] = {**shape, **line}
                else:
                    failed[_key(shape)] = str(line["failed"])
                if new % SAMPLED == 0:
                    samples.append(_clock(on))
        finally:  # what is measured is written, also where the user stops it
            files = _written(folder, list(known.values()))
    samples.append(_clock(on))
    notes = _notes(folder, on, [each for each in samples if each], len(known), len(shapes))
    return Taken(
        device=on, planned=len(shapes), done=len(known), new=new, failed=tuple(failed.values()), files=files,
        notes=notes, seconds=time.monotonic() - begun,
    )  # fmt: skip


def _key(shape: Shape) -> str:
    return json.dumps({key: value for key, value in shape.items() if key not in ("ms", "failed", "system", "device")})


def journal(folder: Path, system: str, on: Device) -> tuple[dict[str, Shape], dict[str, str]]:
    """Shapes that the journal in ``folder`` has, measured and refused; ``InvalidInput`` for one of another device."""
    known: dict[str, Shape] = {}
    failed: dict[str, str] = {}
    path = folder / JOURNAL
    for number, text in enumerate(
        reading.text(path, most=reading.DOCUMENT).splitlines() if path.is_file() else (), start=1
    ):
        line = reading.line(text)
        if line is None:
            continue
        if not isinstance(line, dict):
            raise InvalidInput("no line of a journal of measure", where=f"{path}:{number}")
        if (line.get("system"), line.get("device")) != (system, on.name):
            other = f"{line.get('system')} on {line.get('device')}"
            raise InvalidInput(f"is of {other}, not of {system} on {on.name}: another --out", where=f"{path}:{number}")
        if "ms" in line:
            known[_key(line)] = line
        else:
            failed[_key(line)] = str(line.get("failed"))
    return known, failed


def _timed(shape: Shape, on: Device) -> dict[str, Any]:
    """Milliseconds of one launch, or why there are none."""
    torch = torch_module()
    try:
        with torch.inference_mode():
            return {"ms": _launch_ms(_call(shape, on), on)}
    except (RuntimeError, ValueError, NotImplementedError) as error:  # out of memory, no such kernel
        return _failed(shape, error)


def _failed(shape: Shape, error: Exception) -> dict[str, Any]:
    said = str(error).strip().splitlines() or [type(error).__name__]
    return {"failed": f"{shape['table']}: {said[0][:120]}"}


def _call(shape: Shape, on: Device) -> Callable[[], Any]:
    """One launch of the kernel of ``shape``, on operands of its own."""
    torch = torch_module()

    def random(*sizes: int) -> Any:
        return torch.randn(*sizes, device=on.kind, dtype=torch.bfloat16)

    if shape["table"] == "gemm":
        left, right = random(shape["m"], shape["k"]), random(shape["n"], shape["k"]).t()
        return lambda: left @ right
    batch, heads, kv, dim = (shape[key] for key in ("batch_size", "num_heads", "num_key_value_heads", "head_dim"))
    prompt = shape["table"] == _PREFILL["table"]
    length = shape["isl"] if prompt else shape["kv_len"]
    query, keys, values = (
        random(batch, heads, length if prompt else 1, dim),
        *(random(batch, kv, length, dim) for _ in "kv"),
    )
    attend = torch.nn.functional.scaled_dot_product_attention
    return lambda: attend(query, keys, values, is_causal=prompt, enable_gqa=heads != kv)


def _launch_ms(call: Callable[[], Any], on: Device) -> float:
    """Mean milliseconds of ``call`` over repeats, the host left out where the device captures graphs."""
    torch = torch_module()
    for _ in range(WARM):
        call()
    if on.kind == "cpu":
        return _repeated(call, lambda: None, time.perf_counter)
    one = getattr(torch, on.kind)
    one.synchronize()
    many = max(1, min(MOST_REPEATS, int(MEASURED_S / max(_once(call, one), 1e-6))))

    def run() -> None:
        for _ in range(many):
            call()

    if on.kind == "cuda":
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        replay: Callable[[], None] = graph.replay
    else:
        replay = run
    replay()
    begin, end = one.Event(enable_timing=True), one.Event(enable_timing=True)
    begin.record()
    replay()
    end.record()
    one.synchronize()
    return float(begin.elapsed_time(end)) / many


def _once(call: Callable[[], Any], one: Any) -> float:
    begun = time.perf_counter()
    call()
    one.synchronize()
    return time.perf_counter() - begun


def _repeated(call: Callable[[], Any], settle: Callable[[], Any], now: Callable[[], float]) -> float:
    count, begun = 0, now()
    while count < WARM or (now() - begun < MEASURED_S and count < MOST_REPEATS):
        call()
        count += 1
    settle()
    return (now() - begun) / count * 1e3


def _collectives(shapes: Sequence[Shape], on: Device) -> dict[str, dict[str, Any]]:
    """Mean milliseconds of all collectives of one number of ranks: starting the processes takes longer than they do."""
    torch = torch_module()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    queue, ranks = torch.multiprocessing.get_context("spawn").SimpleQueue(), shapes[0]["num_gpus"]
    try:
        torch.multiprocessing.spawn(_rank, args=([dict(each) for each in shapes], on.kind, port, queue), nprocs=ranks)
    except Exception as error:  # whatever a rank died of
        return {_key(each): _failed(each, error) for each in shapes}
    return {_key(each): {"ms": float(queue.get())} for each in shapes}


def _rank(rank: int, shapes: Sequence[Shape], kind: str, port: int, queue: Any) -> None:
    """One rank of the collectives; the first tells the times."""
    torch, ranks = torch_module(), int(shapes[0]["num_gpus"])
    spread, here = torch.distributed, f"tcp://127.0.0.1:{port}"
    spread.init_process_group(
        {"cuda": "nccl", "npu": "hccl"}.get(kind, "gloo"), init_method=here, rank=rank, world_size=ranks
    )
    place = kind if kind == "cpu" else f"{kind}:{rank}"
    if kind != "cpu":
        getattr(torch, kind).set_device(rank)
    settle = (lambda: None) if kind == "cpu" else getattr(torch, kind).synchronize
    for shape in shapes:
        whole = torch.ones(int(shape["message_size"]) // ranks * ranks, device=place, dtype=torch.float16)
        part, other = whole[: whole.numel() // ranks].clone(), torch.empty_like(whole)
        call = {
            "all_reduce": partial(spread.all_reduce, whole),
            "all_gather": partial(spread.all_gather_into_tensor, other, part),
            "reduce_scatter": partial(spread.reduce_scatter_tensor, part, whole),
            "alltoall": partial(spread.all_to_all_single, other, whole),
        }[shape["op_name"]]
        for _ in range(WARM):
            call()
        settle()
        spread.barrier()
        settle()
        begun = time.perf_counter()
        for _ in range(SAMPLED):
            call()
        settle()
        if rank == 0:
            queue.put((time.perf_counter() - begun) / SAMPLED * 1e3)
    spread.destroy_process_group()


def _written(folder: Path, lines: Sequence[Shape]) -> tuple[Path, ...]:
    """The tables of all that is in the journal."""
    texts: dict[str, str] = {}
    for name in dict.fromkeys(str(line["table"]) for line in lines):
        rows = [dict(_row(line)) for line in lines if line["table"] == name]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        texts[f"{name}.csv"] = text.getvalue()
    return tuple(write(texts, folder, "--out")) if texts else ()


def _row(line: Shape) -> Iterator[tuple[str, Any]]:
    yield "system", line["system"]
    yield from ((key, each) for key, each in line.items() if key not in ("table", "ms", "system", "device"))
    yield "latency_ms" if line["table"] == "nccl" else "latency_ms_best", f"{line['ms']:.7g}"


_QUERY = ("nvidia-smi", "--query-gpu=clocks.sm,power.draw,temperature.gpu", "--format=csv,noheader,nounits")


def _clock(on: Device) -> dict[str, float]:
    """Clock (MHz), power (W) and temperature of the first device at this moment, where its tool tells."""
    if on.kind != "cuda":
        return {}
    try:
        said = subprocess.run(_QUERY, capture_output=True, text=True, timeout=5, check=True).stdout.splitlines()[0]
        clock, power, heat = (float(each) for each in said.split(","))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return {}
    return {"clock_mhz": clock, "power_w": power, "celsius": heat}


def _notes(
    folder: Path, on: Device, samples: Sequence[Mapping[str, float]], done: int, planned: int
) -> tuple[str, ...]:
    """What is to be said of the run, also beside the tables."""
    notes = [f"{on.name}, PyTorch {on.torch}: its own kernels, not an engine's"]
    if on.kind == "cpu":
        notes.append("this is a CPU: a few small shapes, to see that measuring works; no chip of the catalogue")
    if samples:
        clocks, powers = ([each[key] for each in samples] for key in ("clock_mhz", "power_w"))
        notes.append(
            f"clock {min(clocks):.0f} to {max(clocks):.0f} MHz, power {min(powers):.0f} to {max(powers):.0f} W"
        )
    else:
        notes.append("clock and power: not told by this device's tools")
    if done < planned:
        notes.append(f"{done} of {planned} shapes: the same command goes on where this one ended")
    told = {"device": on.name, "torch": on.torch, "samples": list(samples), "notes": notes}
    write_file(folder / NOTES, json.dumps(told, indent=1) + "\n", "--out")
    return tuple(notes)
