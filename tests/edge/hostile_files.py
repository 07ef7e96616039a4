"""Files that commands read, made as they should be and then broken in a place or two."""

import contextlib
import gzip
import json
import random
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import yaml
from click.testing import CliRunner

from taicang.app.main import cli
from taicang.interop import chakra
from taicang.interop.work import Task, Workload
from taicang.virtual.capture import save

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from test_virtual import capture

HERE = Path(__file__).resolve().parents[2]
JUNK = (None, True, -1, 0, 0.5, 1e400, float("nan"), 10**30, "", "x", "\x1b[31m", [], [[]], {}, {"a": 1}, "9" * 400)
RESULTS = {
    "infer.json": "infer llama-3.1-8b --on hgx-h100",
    "search.json": "search llama-3.1-8b --on hgx-h100 --confirm 0 --top 2",
    "train.json": "train llama-3-8b --on hgx-h100 --global-batch 64 --tokens 1B",
    "compare.json": "compare llama-3.1-8b --on hgx-h100,hgx-h200",
    "replay.json": "replay llama-3.1-8b --on hgx-h100 --closed-loop 2 --requests 4",
    "fabric.json": "fabric hgx-h100 --collective all-reduce --bytes 1MB",
    "centre.json": "centre hgx-h100 --count 2 --serve llama-3.1-8b --samples 100",
}
TABLES = b"arrival_s,input_tokens,output_tokens,ttft_s,e2e_s,time_s\n0.0,9,9,0.1,0.5,0\n1.0,9,9,0.1,0.5,1\n"
NETWORK = "topology: [ Ring ]\nnpus_count: [ 8 ]\nbandwidth: [ 50.0 ]\nlatency: [ 500.0 ]\n"
SYSTEM = {"endpoint-delay": 10, "active-chunks-per-dimension": 1, "preferred-dataset-splits": 4, "local-mem-bw": 50}
SIMAI = (
    "HYBRID_TRANSFORMER_FWD_IN_BCKWD model_parallel_NPU_group: 2 ep: 1 pp: 1 vpp: 1 ga: 1 all_gpus: 8 "
    "checkpoints: 0 checkpoint_initiates: 0\n2\nembedding -1 1000 ALLREDUCE 8192 1 NONE 0 1 NONE 0 100\n"
    "layer -1 5000 ALLREDUCE 1048576 5000 NONE 0 5000 ALLREDUCE 8192 100\n"
)


def said(line: str) -> str:
    """What a command prints."""
    return CliRunner().invoke(cli, line.split(), standalone_mode=False).stdout


@cache
def right(kind: str, name: str) -> bytes:
    """A file as it should be."""
    if kind == "result":
        return said(f"{RESULTS[name]} --json").encode()
    if kind == "claims":
        return (HERE / "src/taicang/catalog/data/claims" / name).read_bytes()
    return (HERE / "examples" / name).read_bytes()


def node(rng: random.Random, value: object) -> object:
    """``value`` with one thing in it replaced, left out or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        if rng.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: node(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        if rng.random() < 0.2:
            return value[:at] + value[at:] * 2
        return [*value[:at], node(rng, value[at]), *value[at + 1 :]]
    return rng.choice(JUNK)


def broken(rng: random.Random, data: bytes, garbled: Callable[[random.Random, str], bytes], *, form: str) -> bytes:
    """``data`` with a node or some bytes changed; sometimes as it is."""
    if form in ("json", "yaml") and rng.random() < 0.75:
        value = json.loads(data) if form == "json" else yaml.safe_load(data)
        for _ in range(rng.choice((0, 1, 1, 2))):
            value = node(rng, value)
        return (json.dumps(value) if form == "json" else yaml.safe_dump(value)).encode()
    if rng.random() < 0.2:
        text = data.decode("utf-8", "replace")
        return rng.choice((text.encode("utf-16"), b"\xef\xbb\xbf" + data, text.replace("\n", "\r\n").encode(),
                           text.replace("\n", "\r").encode(), gzip.compress(data), data * 3))  # fmt: skip
    if rng.random() < 0.5:
        return data[: rng.randrange(len(data) + 1)]
    return garbled(rng, data.decode("utf-8", "surrogateescape")) if data else data


def put(path: Path, data: bytes) -> str:
    """Write and name it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


def argv(rng: random.Random, folder: Path, garbled: Callable[[random.Random, str], bytes]) -> list[str]:
    """A command over such files."""
    at = folder / f"g{rng.randrange(10**9)}"
    bad = lambda data, form="": broken(rng, data, garbled, form=form)  # noqa: E731
    kind = rng.choice(("view", "ask", "chakra", "simai", "capture", "claims", "centre", "port", "rows", "study"))
    if kind == "view":
        names = rng.sample(sorted(RESULTS), rng.choice((1, 1, 2)))
        paths = [put(at / name, bad(right("result", name), "json")) for name in names]
        if rng.random() < 0.3:  # a run of replay, as --out leaves it
            put(at / "summary.json", right("result", "replay.json"))
            for table in ("requests.csv", "usage.csv"):
                put(at / table, bad(TABLES))
            paths = [str(at)]
        return ["view", *paths, "--html", str(at / "page.html")]
    if kind == "ask":
        words = {"ask": "infer", "model": "llama-3.1-8b", "on": "hgx-h100", "input": 1000, "tpot": "50ms", "mtp": 0}
        more = rng.choice(([], ["--json"], ["--tpot", "x"], ["--input"]))
        return ["ask", put(at / "q.yaml", bad(yaml.safe_dump(words).encode(), "yaml")), *more]
    if kind == "chakra":
        task = Task(id=1, name="ar", kind="collective", collective="all_reduce", payload_bytes=1048576.0)
        work = Workload(name="w", ranks=dict.fromkeys(range(8), (task,)), groups={})
        at.mkdir()
        for name, data in chakra.write(work, at / "w").items():
            put(at / name, bad(data) if rng.random() < 0.2 else data)
        network = put(at / "net.yml", bad(NETWORK.encode(), "yaml"))
        system = put(at / "sys.json", bad(json.dumps(SYSTEM).encode(), "json"))
        return ["fabric", "run", str(at / "w"), "--network", network, "--system", system, "--json"]
    if kind == "simai":
        name, data = rng.choice((("w.txt", SIMAI.encode()), ("w.txt.gz", gzip.compress(SIMAI.encode()))))
        return ["fabric", "run", put(at / name, bad(data)), "--on", "hgx-h100", "--json"]
    if kind == "capture":
        save(capture(), at)
        path = at / rng.choice(("capture.json", "rank-0.json", "rank-0.npz"))
        put(path, bad(path.read_bytes(), path.suffix[1:]))
        return ["reprice", str(at), "--on", rng.choice(("gb200-nvl72", "hgx-h100,cloudmatrix384", "x")), "--json"]
    if kind == "claims":
        path = put(at / "c.yaml", bad(right("claims", "2-rivals.yaml"), "yaml"))
        return ["audit", *rng.choice(([], ["x"], ["--json"])), "--verdict", "none", "--claims", path]
    if kind == "centre":
        return [
            "centre",
            put(at / "c.yaml", bad(right("example", "centre.yaml"), "yaml")),
            "--samples",
            "100",
            "--json",
        ]
    if kind == "port":
        shutil.copytree(HERE / "examples/to-port", at)
        files = sorted(path for path in at.rglob("*") if path.is_file())
        for path in rng.sample(files, 2):
            put(path, bad(path.read_bytes()))
        record = put(folder / f"{at.name}.log", bad(b'{"name": "mm", "file": "train.py", "line": 3}\n'))
        return ["port", str(at), *rng.choice(([], ["--all"], ["--json", "-"], ["--to", "cuda"], ["--log", record]))]
    if kind == "rows":
        rows = "system,gemm_dtype,m,n,k,latency_ms_best\nh100_sxm,bfloat16,64,4096,4096,0.0153\n"
        return ["score", put(at / "rows.csv", bad(rows.encode())), *rng.choice(([], ["--json"], ["--csv"]))]
    study = b"base: {model: llama-3.1-8b, on: hgx-h100, tp: 1, mode: agg}\naxes: {batch: [1, 4]}\n"
    path = put(at / "s.yaml", bad(study, "yaml"))
    with contextlib.suppress(OSError):
        if rng.random() < 0.3:
            put(at / "out" / "journal.jsonl", bad(b'{"study": "x"}\n{"point": 0}\n'))
    return ["sweep", path, "--workers", "1", "--out", str(at / "out")]
