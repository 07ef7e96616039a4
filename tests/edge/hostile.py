"""Command lines and hostile files, drawn from a grammar.

``python tests/edge/hostile.py 20000 10000 [SEED]`` runs so many lines and so many files.
"""

import contextlib
import io
import json
import multiprocessing
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import click
import hostile_files
import hostile_lines

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
import banded
from click.testing import CliRunner

from taicang.app.main import COMMANDS, cli
from taicang.app.study_points import ASKED
from taicang.errors import TaicangError
from taicang.search.study import read_study

LONGEST_S, PATIENCE_S = 60.0, 900
"""Of a processor, and of waiting for anything but one: others may share the machine."""
MOST_BYTES = 6 << 30
PORTION = 250
"""Cases of one process."""
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
    data = bytearray(text.encode("utf-8", "surrogateescape"))
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


FILES = ("chip", "machine", "model", "study", "trace", "skew", "config", "bench", *["file"] * 4)
LINES = (*["line"] * 3, *["example"] * 4)
KINDS = {"lines": LINES, "files": FILES, "both": FILES + 2 * LINES}


def argv(rng: random.Random, folder: Path, which: str = "both") -> list[str]:
    """A command over a hostile file, or a random command line."""
    path = folder / f"f{rng.randrange(10**9)}"
    kind = rng.choice(KINDS[which])
    if kind == "file":
        return hostile_files.argv(rng, folder, garbled)
    if kind == "example":
        lines = [words for words in hostile_lines.examples() if not {*words[:2]} & (LEFT_OUT | NEVER | MINUTES)]
        words = hostile_lines.argv(rng, lambda each, hostile: value(rng, each, folder, hostile), lines, NEVER)
        return _ending(_asking(rng, words), folder)
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
    if kind == "config":
        path.mkdir()
        (path / "config.json").write_bytes(garbled(rng, config(rng)))
        return rng.choice(
            (["models", "show", str(path), "--json"], ["infer", str(path), "--on", "hgx-h100", "--json"],
             ["models", "show", str(path), "--approximate"])
        )  # fmt: skip
    if kind == "bench":
        path.write_bytes(garbled(rng, table(rng)))
        return ["check", str(path), "llama-3.1-8b", "--on", "hgx-h100", "--tp", "1", "--no-causes", "--json"]
    return line(rng, folder)


MODELS = ("llama-3.1-8b", "qwen3-8b", "mixtral-8x7b", "deepseek-v2-lite", "qwen3-30b-a3b")
NAMES = {
    "stack": ("vllm", "sglang@0.5.9", "tensorrt-llm", "vllm-ascend", "megatron", "torchtitan"),
    "quant": ("auto", "bf16", "fp8", "int8", "w4a8", "nvfp4", "w8a8"),
    "kv": ("auto", "fp8", "bf16"),
    "router": ("least-loaded", "round-robin", "prefix-aware"),
    "profile": ("servegen-deepseek-r1",),
    "slo": ("mlperf-interactive", "mlperf-server"),
    "prefill": ("1x8", "2x4"),
    "decode": ("1x8", "2x4"),
    "machine": ("hgx-h100", "hgx-h100 x 2", "hgx-a100", "cloudmatrix384", "atlas-800-a2-280t", "gb200-nvl72"),
    "machines": ("hgx-h100,cloudmatrix384", "hgx-a100"),
    "on": ("hgx-h100", "hgx-h100,cloudmatrix384"),
    "model": MODELS,
    "sets": ("chip.memory.bandwidth=4 TB/s", "pue=1.2"),
    "objective": ("tokens/s/chip", "tokens/s/w"),
    "collective": ("all-reduce", "all-to-all", "all-gather"),
    "size": ("1MB", "7.5KB*128*8"),
    "skew": ("1.01", "0"),
    "claim": ("mfu-50", "electricity"),
    "columns": ("input=prompt_len,output=output_len",),
}
"""Values of options and arguments that name something."""
QUANTITIES = {
    "s": ("50ms", "2s", "1h"),
    "per_s": ("4/s", "100/min"),
    "bytes": ("20GB", "1 MiB"),
    "bytes_per_s": ("100GB/s", "400Gb/s"),
}
HOSTILE = ("", "-1", "0", "1e999", "nan", "x", "1,5k", "010", "9" * 40, "1:30", "\x1b[31m", "../..", "=", "vlm",
           "llama-3.1-9b", "hgx-h10", "hgx-h100 x 99999999999999999999", "50", "0s", "-1s", "1e-300s", "1e400s", "0x4",
           "chip.l2=x", "a.b=c")  # fmt: skip
LEFT_OUT = {"serve", "run", "doctor", "fit", "demo"}
"""Commands that listen, start programs, take minutes, or write into the package."""
MINUTES = {"score", "audit"}
"""Commands whose documented lines take half a minute: their own options are drawn in ``line``."""
NEVER = {"help", "freeze", "fetch", "address"}
"""Options and commands that do so."""
FACTS = {"measure", "trace", "sweep"}
"""Commands that answer with what was measured or asked for in SQL, not with predictions."""
LARGE = {"requests": ("8", "32"), "hours": ("0.001",), "seeds": ("2",), "draws": ("5",), "clients": ("2", "8"),
         "turns": ("2",), "confirm": ("0", "1", "3"), "jobs": ("1",), "top": ("2",),
         "samples": ("100",), "workers": ("1",), "suite": ("gemm",)}  # fmt: skip
"""Options whose honest values would make a case long."""


def value(rng: random.Random, option: click.Parameter, folder: Path, hostile: float) -> str:
    """A value for ``option``, by its declared type, or with a chance a hostile one."""
    name, kind = option.name or "", option.type
    if rng.random() < hostile:
        return rng.choice(HOSTILE)
    if name in LARGE:
        return rng.choice(LARGE[name])
    if isinstance(kind, click.Choice):
        return str(rng.choice([str(each) for each in kind.choices]))
    if name in NAMES:
        return rng.choice(NAMES[name])
    if getattr(kind, "dimension", ""):
        return rng.choice(QUANTITIES.get(kind.dimension, ("1",)))
    if isinstance(kind, click.IntRange):
        low = int(kind.min or 0)
        return str(rng.choice([low, low + 1, 2 * low + 2, 64, 4096] if low < 64 else [low]))
    if isinstance(kind, click.FloatRange):
        return str(rng.choice((kind.min or 0.0, 0.3, 0.9, kind.max or 2.0)))
    if isinstance(kind, click.Path) and isinstance(option, click.Argument):
        path = folder / f"bench{rng.randrange(3)}.json"
        path.write_text(table(random.Random(rng.randrange(3))))
        return str(path)
    if isinstance(kind, click.Path):
        return str(folder / rng.choice(("out", "a/b", "f.html")))
    return rng.choice(("1", "a", "all", "auto"))


def _asking(rng: random.Random, words: list[str]) -> list[str]:
    """The same, for programs, every other time."""
    command = hostile_lines.tree()[hostile_lines.path_of(words)]
    flags = {name for each in command.params if getattr(each, "is_flag", False) for name in each.opts}
    return [*words, "--json"] if "--json" in flags and "--json" not in words and rng.random() < 0.5 else words


def _ending(words: list[str], folder: Path) -> list[str]:
    """The same line, but a page is written rather than served until Ctrl-C."""
    shown = words[:1] == ["view"] and not any(word.startswith("--html") for word in words)
    return [words[0], "--html", str(folder / "page.html"), *words[1:]] if shown else words


def line(rng: random.Random, folder: Path) -> list[str]:
    """A command with options of its own, each with a value of its type; two lines in five have hostile ones."""
    name = rng.choice([each for each in COMMANDS if each not in LEFT_OUT])
    command = cli.get_command(click.Context(cli), name)
    args, hostile = [name], rng.choice((0.0, 0.0, 0.0, 0.1, 0.3))
    while isinstance(command, click.Group):
        inner = rng.choice([each for each in command.commands if each not in NEVER])
        args.append(inner)
        command = command.commands[inner]
    options = [each for each in command.params if isinstance(each, click.Option) and not each.hidden]
    for each in command.params:
        if isinstance(each, click.Argument):
            many = each.nargs == -1 and not isinstance(each.type, click.Path)
            args.append(rng.choice(MODELS) if many else value(rng, each, folder, hostile))
    for each in options:
        if not (each.required or rng.random() < 3.0 / len(options)) or each.name in NEVER:
            continue
        flag = rng.choice([*each.opts, *each.secondary_opts])
        args += [flag] if each.is_flag else [flag, value(rng, each, folder, hostile)]
    args = _ending(_asking(rng, args), folder)
    if name == "replay" and not {"--rate", "--closed-loop"} & set(args):
        args += ["--closed-loop", "2"]
    if name == "replay" and "--requests" not in args:
        args += ["--requests", "8"]
    return args


CONFIGS = (
    {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
     "num_hidden_layers": 3, "intermediate_size": 128, "vocab_size": 1000, "max_position_embeddings": 2048},
    {"model_type": "mixtral", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
     "num_hidden_layers": 3, "intermediate_size": 128, "vocab_size": 1000, "num_local_experts": 8,
     "num_experts_per_tok": 2, "max_position_embeddings": 2048},
    {"model_type": "deepseek_v3", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 4,
     "intermediate_size": 128, "vocab_size": 1000, "kv_lora_rank": 16, "q_lora_rank": 32, "qk_nope_head_dim": 16,
     "qk_rope_head_dim": 8, "v_head_dim": 16, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1,
     "moe_intermediate_size": 32, "first_k_dense_replace": 1, "max_position_embeddings": 2048},
)  # fmt: skip
JUNK = (None, True, -1, 0, 1, 3, 10**30, 1e400, 0.5, "x", "", [], [1], {}, {"a": 1}, ["sliding_attention"] * 3,
        {"quant_method": "fp8"}, {"quant_method": "x"}, {"quant_method": 3}, {"rope_type": "yarn"})  # fmt: skip
ODD_KEYS = ("quantization_config", "sliding_window", "layer_types", "text_config", "architectures", "head_dim",
            "tie_word_embeddings", "rope_scaling", "attention_bias", "unknown_size", "torch_dtype",
            "expert_count")  # fmt: skip


def config(rng: random.Random) -> str:
    """A Hugging Face config.json with a few keys that are missing, odd or junk."""
    made: dict[str, object] = dict(rng.choice(CONFIGS))
    for _ in range(rng.randrange(0, 4)):
        key = rng.choice((*made, *ODD_KEYS))
        if rng.random() < 0.3:
            made.pop(key, None)
        else:
            made[key] = rng.choice(JUNK)
    return json.dumps(made)


def table(rng: random.Random) -> str:
    """What a benchmark saved, or a table with latencies, with a few cells that are none."""
    junk = (1, 5, 100, "x", None, -1, 0.1, 1e400, [0.1], True, "1e999", {})
    cell = lambda right: right if rng.random() < 0.9 else rng.choice(junk)  # noqa: E731
    many = rng.randrange(0, 4)
    run = {
        "input_lens": [cell(100) for _ in range(many)],
        "output_lens": [cell(5) for _ in range(many)],
        "ttfts": [cell(0.1) for _ in range(many)],
        "itls": [cell([0.01] * 4) for _ in range(many)],
        "max_concurrency": cell(2),
        "completed": cell(many),
        "total_input_tokens": cell(100 * many),
        "total_output_tokens": cell(5 * many),
        "mean_ttft_ms": cell(100.0),
    }
    for key in rng.sample(sorted(run), rng.randrange(0, 4)):
        run.pop(key)
    document = {
        "benchmarks": [cell({"requests": {"successful": [{"prompt_tokens": cell(10), "output_tokens": cell(3)}]}})]
    }
    return json.dumps(run if rng.random() < 0.7 else document)


def late(*_: object) -> None:
    """What a clock does to a command that goes on and on."""
    raise RuntimeError(f"no end after {2.0 * LONGEST_S} s of a processor or {PATIENCE_S} s without need of one")


def blocked_s() -> float:
    """On a clock that stands still while this process could run and others have the processors."""
    try:
        starved = int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):  # a system that does not say
        starved = 0.0
    return time.monotonic() - starved


def patiently(until_s: float) -> None:
    """An alarm at ``until_s`` by ``blocked_s``."""

    def rings(*_: object) -> None:
        left = until_s - blocked_s()
        if left <= 0.0:
            late()
        signal.setitimer(signal.ITIMER_REAL, max(left, 0.1))

    signal.signal(signal.SIGALRM, rings)
    rings()


def told(args: list[str], out: str) -> str:
    """What is wrong with an answer: numbers that are none, figures without a band or the word for none."""
    if {"port", "catalog"} & set(args):  # which write a file, or what a user's file says
        return ""
    if "--json" not in args:
        return "a figure that is no number" if re.search(r"\b(nan|-?inf)\b", out, re.IGNORECASE) else ""
    try:
        answer = json.loads(out, parse_constant=lambda word: word / 0)
    except (ValueError, TypeError) as problem:
        return f"no JSON: {problem}"
    try:
        banded.check(answer if args[0] not in FACTS else {})
    except AssertionError as problem:
        return f"no band, or none as it should be: {str(problem).splitlines()[0]}"
    return ""


def fault(args: list[str]) -> str:
    """What is wrong with how the command ends; nothing where it ends as it should."""
    began = time.process_time()
    signal.signal(signal.SIGPROF, late)
    patiently(blocked_s() + PATIENCE_S)
    signal.setitimer(signal.ITIMER_PROF, 2.0 * LONGEST_S)
    try:
        if args[0] == "read-study":
            with contextlib.suppress(TaicangError):
                read_study(args[1], ASKED)
            return ""
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always", RuntimeWarning)
            found = CliRunner().invoke(cli, args, standalone_mode=False)
    except Exception:
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.setitimer(signal.ITIMER_PROF, 0.0)
    error = found.exception
    if error is not None and not isinstance(error, (TaicangError, click.ClickException, click.Abort, SystemExit)):
        return "".join(traceback.format_exception(error))
    if found.exit_code not in (0, 1, 2):
        return f"exit code {found.exit_code}"
    for each in warned:
        if each.category is RuntimeWarning:
            return f"{Path(each.filename).name}:{each.lineno} warns the user of {each.message}"
    if error is None and (wrong := told(args, found.stdout)):
        return wrong
    spent = time.process_time() - began
    return f"took {spent:.0f} s of a processor" if spent > LONGEST_S else ""


def run(seed: int, cases: int, which: str = "both") -> list[tuple[list[str], str]]:
    """Faults of ``cases`` cases."""
    rng, found = random.Random(seed), []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # some cases write where they are
        hostile_lines.furnish(Path(folder))
        for number in range(cases):
            args = argv(rng, Path(folder), which)
            wrong = fault(args)
            if wrong:
                body = Path(args[-1] if args[0] == "read-study" else args[2] if len(args) > 2 else "x")
                text = body.read_bytes()[:300] if body.is_file() else b""
                found.append(([f"{which} {seed}:{number}", *args], f"{text!r}\n{wrong}"))
    return found


def alone(task: tuple[int, int, str]) -> tuple[list[tuple[list[str], str]], int]:
    """A run in a process of its own, which may not have more than so much memory; its faults, and what it took."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    with contextlib.redirect_stderr(io.StringIO()):
        faults = run(*task)
    return faults, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    many = dict(zip(("lines", "files"), map(int, sys.argv[1:3]), strict=False))
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else int.from_bytes(os.urandom(4), "big")
    say = sys.stdout.write
    named = ", ".join(f"{count} {which}" for which, count in many.items())
    say(f"seed {seed}: {named}\n")
    tasks = sorted((seed + at, min(PORTION, count - at), which) for which, count in many.items()
                   for at in range(0, count, PORTION))  # fmt: skip
    kinds: Counter[str] = Counter()
    largest = done = 0
    with multiprocessing.get_context("spawn").Pool(2, maxtasksperchild=1) as pool:
        for (_, count, _), (faults, size) in zip(tasks, pool.imap(alone, tasks), strict=True):
            largest, done = max(largest, size), done + count
            sys.stderr.write(f"\r{done} of {sum(many.values())}, {kinds.total() + len(faults)} faults")
            for args, text in faults:
                kind = text.strip().splitlines()[-1]
                kinds[kind] += 1
                if kinds[kind] < 4:
                    say(f"{args}\n{text}\n")
                    sys.stdout.flush()
    say(f"{named}: {kinds.total()} faults of {len(kinds)} kinds {dict(kinds)}; {largest >> 10} MiB at most\n")
    sys.exit(bool(kinds))
