"""Hostile files and command lines, drawn from a grammar; ``python tests/edge/hostile.py 10000 [SEED]`` runs many."""

import contextlib
import io
import json
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import click
from click.testing import CliRunner

from taicang.app.main import cli
from taicang.errors import TaicangError
from taicang.search.study import read

LONGEST_S = 60.0
SCALARS = (
    "1:30", "010", "0x10", "9" * 400, "1e-300 B/s", "1e999", "-1", "0", ".nan", ".inf", "null", "true", "~", "[]", "{}",
    "[[1]]", "{a: {b: 1}}", '"\\e[31m"', "2025-99-99", "3,35 TB/s", "1,000 GB", "4 TB/s", "80 GB", "1 kW", "10 us",
    "abc", "''", "1e18", "1000000000000", "none", "unknown", "all", "*p", "&p [1]", "!!python/none", "[null]", "7 %",
    "µ", "8", "1.5", "32k",
)  # fmt: skip
CHIP = ("memory.bandwidth", "memory.capacity", "peak.bf16", "dies", "cores", "l2", "power.tdp", "facts.x", "title",
        "vendor", "base", "bins", "from", "clock", "profile", "measured", "price", "note", "status")  # fmt: skip
MACHINE = ("chips", "chips_per_node", "power.load", "pue", "planes", "planes.scale_up.nvlink.ranks", "chip", "facts.a",
           "planes.scale_up.nvlink.latency", "planes.scale_up.nvlink.bandwidth", "host.memory", "price.usd",
           "overlap_tax", "chip.memory.bandwidth", "chips_per_rack", "base")  # fmt: skip
MODEL = ("name", "hidden", "vocab", "blocks", "tied_embeddings", "dtype", "assumptions", "max_context", "mtp_layers")
STUDY = ("base", "axes", "sample", "base.input", "axes.input", "axes.tp", "sample.kind", "base.on", "axes.tpot",
         "axes.chip.memory.bandwidth", "base.model", "axes.batch", "sample.points", "sample.seed")  # fmt: skip


def mapping(rng: random.Random, keys: tuple[str, ...], head: str) -> str:
    """A file of ``head`` and a few keys with any values, in either spelling."""
    lines = [head] if rng.random() < 0.8 else []
    for _ in range(rng.randrange(1, 4)):
        key, value = rng.choice(keys), rng.choice(SCALARS)
        if "." in key and rng.random() < 0.7:
            for part in reversed(key.split(".")[1:]):
                value = f"{{{part}: {value}}}"
            key = key.partition(".")[0]
        lines.append(f"{key}: {value}")
    if rng.random() < 0.03:
        lines.append("x: " + rng.choice(("[", "{a: ")) * 3000)
    return "\n".join(lines) + "\n"


def garbled(rng: random.Random, text: str) -> bytes:
    """``text`` with a few bytes changed, sometimes."""
    data = bytearray(text.encode())
    for _ in range(rng.choice((0, 0, 1, 3))):
        data[rng.randrange(len(data) or 1) : rng.randrange(len(data) + 1)] = rng.choice(
            (b"", b"\xff", b"\0", b"[", b"'")
        )
    return bytes(data)


def trace(rng: random.Random) -> str:
    """JSON lines or CSV of requests with a few that are not."""
    values = (1, 0, -1, 1e400, "7", "x", None, True, [1], 1e300, 10**400, "NaN")
    rows = []
    for at in range(rng.randrange(0, 6)):
        row = {"timestamp": at * 1000, "input_length": 100, "output_length": 5}
        if rng.random() < 0.5:
            row[rng.choice(("timestamp", "input_length", "output_length", "hash_ids"))] = rng.choice(values)
        rows.append(json.dumps(row))
    csv = ["arrived_at,num_prefill_tokens,num_decode_tokens"]
    csv += [",".join(str(rng.choice((1, 5, "x", "", "1e999", "-3"))) for _ in range(3)) for _ in range(4)]
    return "\n".join(rng.choice((rows, csv)))


def skew(rng: random.Random) -> str:
    """Loads of experts, or not."""
    return rng.choice(
        ("[" * 5000, "1 2 3", "[1, [2]]", "[[]]", "[{}]", "nan " * 8, "1 " * 8, "[" + "1," * 7 + "1]", "")
    )


def argv(rng: random.Random, folder: Path) -> list[str]:
    """A command over a hostile file, or a random command line."""
    path = folder / f"f{rng.randrange(10**9)}"
    kind = rng.choice(("chip", "machine", "model", "study", "trace", "skew", "line", "line"))
    if kind in ("chip", "machine"):
        path = path.with_suffix(".yaml")
        keys, head = (CHIP, "base: h100") if kind == "chip" else (MACHINE, "base: hgx-h100")
        path.write_bytes(garbled(rng, mapping(rng, keys, head)))
        show, check = ["catalog", "show", str(path)], ["catalog", "check", str(path)]
        return rng.choice((show, check, [*show, "--json"], ["infer", "llama-3.1-8b", "--on", str(path), "--json"]))
    if kind == "model":
        path = path.with_suffix(".yaml")
        block = rng.choice(("blocks: [{count: 2, attention: {kind: grouped, heads: 8, kv_heads: 8, head_dim: 64}, "
                            "ffn: {kind: dense, width: 256}}]", "blocks: 3"))  # fmt: skip
        path.write_bytes(garbled(rng, mapping(rng, MODEL, f"hidden: 512\nvocab: 1000\n{block}")))
        return rng.choice((["models", "show", str(path)], ["infer", str(path), "--on", "hgx-h100", "--json"]))
    if kind == "study":
        path = path.with_suffix(".yaml")
        path.write_bytes(garbled(rng, mapping(rng, STUDY, "base: {model: llama-3.1-8b, on: hgx-h100, tp: 1}")))
        return ["read-study", str(path)]
    if kind == "trace":
        path.write_bytes(garbled(rng, trace(rng) or "x"))
        return ["trace", "info", str(path), *rng.choice(([], ["--repair"], ["--json"]))]
    if kind == "skew":
        path.write_bytes(garbled(rng, skew(rng) or "x"))
        return ["infer", "mixtral-8x7b", "--on", "hgx-h100", "--skew", str(path), "--json"]
    return line(rng)


def line(rng: random.Random) -> list[str]:
    """Model, machine and options of a command."""
    model = rng.choice(("llama-3.1-8b", "qwen3-8b", "mixtral-8x7b", "no-such"))
    on = rng.choice(
        ("hgx-h100", "hgx-h100 x 2", "cloudmatrix384", "atlas-800-a2-280t", "hgx-h100 x 99999999999999999999")
    )
    options = {
        "--input": ("1", "128", "32k", "1,5k", "010", "2T", "0"),
        "--output": ("1", "64", "x", "1e3"),
        "--tpot": ("50ms", "50", "1,5 s", "1e-300s", "1e400s"),
    }
    command = rng.choice(("infer", "train", "replay"))
    if command == "train":
        options = {
            "--tp": ("1", "2", "3", "1e9"),
            "--global-batch": ("64", "512", "-1"),
            "--tokens": ("2T", "1,5T", "0"),
        }
    more = [part for name, values in options.items() if rng.random() < 0.5 for part in (name, rng.choice(values))]
    if command == "replay":
        return ["replay", model, "--on", on, "--rate", "4/s", "--requests", "8", *more, "--json"]
    return [command, model, "--on", on, *more, "--json"]


def fault(args: list[str]) -> str:
    """What is wrong with how the command ends; nothing where it ends as it should."""
    began = time.monotonic()
    try:
        if args[0] == "read-study":
            with contextlib.suppress(TaicangError):
                read(args[1])
            return ""
        found = CliRunner().invoke(cli, args, standalone_mode=False)
    except Exception:
        return traceback.format_exc()
    error = found.exception
    if error is not None and not isinstance(error, (TaicangError, click.ClickException, SystemExit)):
        return "".join(traceback.format_exception(error))
    if found.exit_code not in (0, 1, 2):
        return f"exit code {found.exit_code}"
    if "--json" in args and error is None:
        try:
            json.loads(found.stdout, parse_constant=lambda word: word / 0)
        except (ValueError, TypeError) as problem:
            return f"no JSON: {problem}"
    spent = time.monotonic() - began
    return f"took {spent:.0f} s" if spent > LONGEST_S else ""


def run(seed: int, cases: int) -> list[tuple[list[str], str]]:
    """Faults of ``cases`` cases."""
    rng, found = random.Random(seed), []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(cases):
            args = argv(rng, Path(folder))
            wrong = fault(args)
            if wrong:
                body = Path(args[-1] if args[0] == "read-study" else args[2] if len(args) > 2 else "x")
                text = body.read_bytes()[:300] if body.is_file() else b""
                found.append(([str(number), *args], f"{text!r}\n{wrong}"))
    return found


if __name__ == "__main__":
    total, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else int.from_bytes(os.urandom(4), "big")
    say = sys.stdout.write
    say(f"seed {seed}, {total} cases\n")
    with contextlib.redirect_stderr(io.StringIO()):
        faults = run(seed, total)
    kinds = Counter(text.strip().splitlines()[-1] for _, text in faults)
    for args, text in faults[:20]:
        say(f"{args}\n{text}\n")
    say(f"{len(faults)} faults of {len(kinds)} kinds: {dict(kinds)}\n")
    sys.exit(bool(faults))
