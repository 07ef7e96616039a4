"""Nothing half-written, nothing lost: every command that writes, killed, interrupted, without room or permission."""

import ctypes
import json
import os
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import click
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import hostile_files

from taicang.app.main import cli
from taicang.app.options import context_of
from taicang.errors import InvalidInput
from taicang.search import evaluate, workers
from taicang.search.journal import Journal, inputs_of

HERE = Path(__file__).parents[2]
STUDY = """base: {model: llama-3.1-8b, on: hgx-h100, input: 1000, output: 200, tp: 1, mode: agg}
axes: {batch: {from: 1, to: 64, steps: 40}}
sample: {kind: grid}
"""
PROGRAM = """import torch
layer = torch.nn.Linear(64, 64, device="cuda")
layer(torch.ones(8, 64, device="cuda")).sum().backward()
"""
LOAD = ("--rate", "2/s", "--requests", "60", "--input", "256", "--output", "32")
WRITERS = {
    "replay": (("replay", *LOAD, "llama-3.1-8b", "--on", "hgx-h100", "--instances", "2", "--perfetto", "--out", "OUT"),
               {"summary.json", "requests.csv", "usage.csv", "trace.json"}),
    "search": (("search", "llama-3.1-8b", "--on", "hgx-h100", "--confirm", "0", "--pareto", "OUT"),
               {"pareto.csv", "pareto.json", "pareto.svg", "pareto.png"}),
    "emit": (("search", "llama-3.1-8b", "--on", "hgx-h100", "--confirm", "0", "--emit", "vllm", "--out", "OUT"), None),
    "compare": (("compare", "llama-3.1-8b", "--on", "hgx-h100", "--pareto", "OUT"),
                {"comparison.csv", "comparison.json", "pareto.csv", "pareto.json", "pareto.svg", "pareto.png"}),
    "train": (("train", "llama-3-8b", "--on", "hgx-h100", "--global-batch", "64", "--perfetto", "OUT/t.json"),
              {"t.json"}),
    "score": (("score", "ROWS", "--rows", "OUT/rows.csv"), {"rows.csv"}),
    "trace": (("trace", "convert", "TRACE", "OUT/t.jsonl"), {"t.jsonl"}),
    "sweep": (("sweep", "run", "STUDY", "--workers", "1", "--out", "OUT"), {"journal.jsonl", "results.jsonl"}),
    "infer": (("infer", "llama-3.1-8b", "--on", "hgx-h100", "--html", "OUT/i.html"), {"i.html"}),
    "save": (("infer", "llama-3.1-8b", "--on", "hgx-h100", "--save", "OUT/q.yaml"), {"q.yaml"}),
    "check": (("check", "BENCH", "llama-3.1-8b", "--on", "hgx-h100", "--no-causes", "--html", "OUT/c.html"),
              {"c.html"}),
    "centre": (("centre", "hgx-h100", "--serve", "llama-3.1-8b", "--samples", "100", "--html", "OUT/c.html"),
               {"c.html"}),
    "fabric": (("fabric", "hgx-h100 x 4", "--svg", "OUT/f.svg"), {"f.svg"}),
    "workload": (("fabric", "run", "WORK", "--on", "hgx-h100", "--perfetto", "OUT/w.json"), {"w.json"}),
    "port": (("port", "REPOSITORY", "--json", "OUT/p.json"), {"p.json"}),
    "view": (("view", "RESULT", "--html", "OUT/v.html"), {"v.html"}),
    "step": (("infer", "llama-3.1-8b", "--on", "hgx-h100", "--chakra", "OUT/c"), {"c.0.et"}),
    "graph": (("train", "llama-3-8b", "--on", "hgx-h100", "--global-batch", "64", "--chakra", "OUT/c"), {"c.0.et"}),
    "launch": (("train", "llama-3-8b", "--on", "hgx-h100", "--global-batch", "64", "--emit", "megatron",
                "--out", "OUT"),
               {"train.sh", "train.yaml"}),
    "collective": (("fabric", "hgx-h100 x 2", "--collective", "all-reduce", "--bytes", "1MB", "--chakra", "OUT/c"),
                   {"c.0.et"}),
    "sarif": (("port", "REPOSITORY", "--sarif", "OUT/p.sarif"), {"p.sarif"}),
    "capture": (("run", "--on", "hgx-h100", "--world", "1", "--out", "OUT", "SCRIPT"),
                {"capture.json", "rank-0.json", "rank-0.npz"}),
    "log": (("run", "--on", "atlas-800-a2", "--world", "1", "--log", "OUT/l.json", "SCRIPT"), {"l.json"}),
    "timeline": (("run", "--on", "hgx-h100", "--world", "1", "--perfetto", "OUT/t.json", "SCRIPT"), {"t.json"}),
    "rank": (("run", "--on", "hgx-h100", "--world", "1", "--chakra", "OUT/c", "SCRIPT"), {"c.0.et"}),
    "profile": (("calibrate", "ROWS", "--out", "OUT/my.yaml"), {"my.yaml"}),
}  # fmt: skip
TORCH = {name for name, (words, _) in WRITERS.items() if words[0] == "run"}
HERE_TOO = sorted(WRITERS.keys() - (set() if find_spec("torch") else TORCH))
TEXTS = ["infer", "check", "centre", "fabric", "workload", "port"]
ALIKE = {"--html", "--save"}
"""One piece of code for all commands that have it."""
READS = {"--tokenizer", "--claims", "--libraries", "file", "study"}
READS_HERE = {
    ("serve", "--answers"),
    ("port", "--log"),
    ("port", "path"),
    ("trace info", "path"),
    ("fabric run", "workload"),
}
ELSEWHERE = {
    ("serve", "--out"): "written when it is stopped: test_live_sockets.py",
    ("measure", "--out"): "never the same figures: tests/unit/test_measure.py",
    ("trace fetch", "--out"): "from the network: tests/unit/test_trace_command.py",
}
PLOTS = {"pareto.svg", "pareto.png", "results.parquet"}
"""What is only there with extras."""


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    path = tmp_path_factory.mktemp("stored") / "infer.json"
    path.write_text(run([sys.executable, "-m", "taicang", *WRITERS["infer"][0][:4], "--json"]).stdout)
    return path


@pytest.fixture
def inputs(tmp_path, result):
    sizes = [(m, n, 0.002 + m * n * 4096 * 2.0 / 7e11) for m in (64, 128, 1024, 4096) for n in (1024, 4096)]
    rows = ["system,gemm_dtype,m,n,k,latency_ms_best", *(f"h100_sxm,bfloat16,{m},{n},4096,{t}" for m, n, t in sizes)]
    made = {
        "STUDY": (tmp_path / "study.yaml", STUDY),
        "ROWS": (tmp_path / "rows.csv", "\n".join(rows) + "\n"),
        "TRACE": (tmp_path / "trace.jsonl", '{"timestamp": 0, "input_length": 9, "output_length": 9}\n' * 2000),
        "BENCH": (tmp_path / "bench.csv", "prompt_tokens,completion_tokens,ttft_ms,latency_s\n" + "9,9,30,0.2\n" * 9),
        "WORK": (tmp_path / "work.txt", hostile_files.SIMAI),
        "RESULT": (tmp_path / "infer.json", result.read_text()),
        "SCRIPT": (tmp_path / "step.py", PROGRAM),
    }
    for path, text in made.values():
        path.write_text(text)
    return {name: str(path) for name, (path, _) in made.items()} | {"REPOSITORY": str(HERE / "examples" / "to-port")}


def line(name, inputs, out):
    words = [inputs.get(word, word).replace("OUT", str(out)) for word in WRITERS[name][0]]
    return [sys.executable, "-m", "taicang", *words]


LOUD = {"stderr": subprocess.PIPE, "text": True}


def run(words, **more):
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=300, **more)


def little(room):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))


UNCOMPILED = {"PYTHONDONTWRITEBYTECODE": "1"}
"""For runs without room, which would leave compiled files cut short to all others."""


def told(done, *codes):
    assert done.returncode in codes, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def whole(folder):
    """What lies in ``folder`` by name; hidden stages of killed runs are no results."""
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*") if path.is_file()} if folder.exists() else {}


def commands(group, path=()):
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def test_every_option_that_writes_is_struck():
    struck, named = set(), set()
    for path, command in commands(cli):
        name, many = " ".join(path), len(path)
        for words, _ in WRITERS.values():
            if words[:many] == path:
                given = context_of(command, words[many:], resilient_parsing=True).params
                struck |= {(name, key) for key, value in given.items() if "OUT" in str(value)}
        named |= {
            (name, each.opts[0], each.name)
            for each in command.params
            if isinstance(each.type, click.Path) and not each.type.exists
        }
    assert {option for _, option, _ in named} >= ALIKE | READS
    missing = {
        (name, option)
        for name, option, key in named
        if (name, key) not in struck
        and option not in READS | ALIKE
        and (name, option) not in READS_HERE | set(ELSEWHERE)
    }
    assert not missing


def test_compiled_files_that_a_full_disk_cut_short_are_removed(tmp_path):
    """Python keeps them, and would end every later run as if somebody had interrupted it."""
    words = [sys.executable, "-m", "taicang", "train", "llama-3-8b", "--on", "hgx-h100"]
    where = {each: text for each, text in os.environ.items() if each not in UNCOMPILED}
    where["PYTHONPYCACHEPREFIX"] = str(tmp_path)
    told(run(words, env=where), 0)
    compiled = [
        each
        for each in tmp_path.rglob("*.pyc")
        if "taicang" in each.parts and each.parent.name != "taicang"  # its own face is Python's to load
    ]
    assert len(compiled) > 50
    for each in compiled:
        each.write_bytes(each.read_bytes()[:100])
    found = run(words, env=where)
    told(found, 2)
    assert f"taicang: {len(compiled)} compiled files were cut short" in found.stderr
    told(run(words, env=where), 0)


@pytest.mark.parametrize("name", ["replay", "train", "sweep", "trace", "score", "view", *TEXTS])
def test_without_room_nothing_is_lost_and_nothing_half_there(name, inputs, tmp_path):
    out = tmp_path / "out"
    before = dict.fromkeys(WRITERS[name][1], b"before") if name != "sweep" else {}
    out.mkdir()
    for each, content in before.items():
        (out / each).write_bytes(content)
    done = run(line(name, inputs, out), preexec_fn=little(100), env=os.environ | UNCOMPILED)
    told(done, 2)
    assert "File too large" in done.stderr
    assert not list(out.glob(".*"))
    if name == "sweep":
        again = run(line(name, inputs, out))
        told(again, 0)
        run(line(name, inputs, tmp_path / "alone"))
        assert whole(out)["results.jsonl"] == whole(tmp_path / "alone")["results.jsonl"]
        return
    assert whole(out) == before
    if name != "trace":
        assert done.stdout == run(line(name, inputs, tmp_path / "room")).stdout


@pytest.mark.parametrize("name", ["replay", "train", "score", "compare", "trace", "save", "view", *TEXTS])
def test_what_cannot_be_written_is_refused_before_the_work(name, inputs, tmp_path):
    for place in (tmp_path / "study.yaml" / "below", "/proc/x"):
        done = run(line(name, inputs, place))
        told(done, 2)
        assert "cannot write into" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not done.stdout


@pytest.mark.parametrize("place", ["/dev/null", "", "LINK", "FOLDER"])
def test_devices_links_and_folders_stay_what_they_are(place, tmp_path):
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "LINK").symlink_to("/dev/null")
    told(run([*line("train", {}, "OUT")[:-1], place], cwd=tmp_path), 2)
    assert not os.path.isfile("/dev/null")
    assert (tmp_path / "LINK").is_symlink()
    assert not list((tmp_path / "FOLDER").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("name", ["replay", "train", "score", "sweep", "save", "view", *TEXTS])
def test_another_users_folder_is_refused_in_one_line(name, taicang, inputs, tmp_path):
    private = tmp_path / "private"
    private.mkdir(mode=0o755)
    words = line(name, inputs, private / "out")[3:]
    assert taicang(*line(name, inputs, tmp_path / "mine")[3:])[0] == 0  # what it imports may be root's alone
    for each in (tmp_path, *tmp_path.parents[:3]):
        each.chmod(each.stat().st_mode | 0o055)
    os.seteuid(65534)
    try:
        code, _, said = taicang(*words)
    finally:
        os.seteuid(0)
    assert code == 2
    assert "Permission denied" in said
    assert not list(private.iterdir())


@pytest.mark.parametrize("words", [("catalog", "list"), ("--help",), ("infer", "llama-3.1-8b", "--on", "hgx-h100")])
def test_a_full_standard_output_is_told_in_one_line(words):
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "taicang", *words], check=False, stdout=full, **LOUD)
    told(done, 2)
    assert done.stderr == "taicang: cannot write to standard output: No space left on device\n"


def test_a_closed_standard_output_is_told():
    done = run(["sh", "-c", f"{sys.executable} -m taicang catalog list >&-"])
    told(done, 2)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("place", [">/dev/full", ">&-"])
def test_a_standard_error_that_cannot_be_written_costs_no_answer(place, inputs, tmp_path):
    words = shlex.join(line("save", inputs, tmp_path))
    done = run(["sh", "-c", f"{words} 2{place}"])
    assert (done.returncode, done.stdout) == (0, run(line("save", inputs, tmp_path)).stdout)
    assert run(["sh", "-c", f"{sys.executable} -m taicang infer nothing --on hgx-h100 2{place}"]).returncode == 2


def test_a_full_standard_output_costs_no_file(inputs, tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(line("replay", inputs, tmp_path / "out"), check=False, stdout=full, **LOUD)
    told(done, 2)
    assert set(whole(tmp_path / "out")) == WRITERS["replay"][1]


def used(pid):
    """Processor seconds of ``pid`` so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def stopped(process, how):
    """Send ``how``: processor seconds until the end, since on a busy machine others pass too; exit code; words."""
    before = used(process.pid)
    os.kill(process.pid, how)  # Popen's own would reap one that has just ended, and its usage with it
    said = process.stderr.read()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # one that has ended says what it took itself until it is
    took = used(process.pid) - before  # reaped; usage would hold its children's whole lives, where it reaped them
    process.returncode = os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])
    return took, process.returncode, said


def consistent(name, seen, want):
    """``seen`` is all of the results or none; a study may also have a journal only."""
    if name == "sweep":
        assert "results.jsonl" not in seen or seen["results.jsonl"] == want["results.jsonl"]
    else:
        assert seen in ({}, want)


STOPPED = (130, -signal.SIGINT)
"""What a shell sees as 130; Python ends by the signal itself where it came while a module was imported."""


BUSY = "start = threading.Thread.start; threading.Thread.start = lambda self: (start(self), time.sleep(0.03))"
INSIDE_A_FINALIZER = """
import signal, threading, time, weakref
from taicang import __main__
from taicang.app import main

signal.signal(signal.SIGINT, signal.default_int_handler)

def last(_):
    signal.raise_signal(signal.SIGINT)
    time.sleep(0.05)

class Held: pass

def command(*_, **__):
    held = Held()
    {how}
    del held
    time.sleep(30)

Held.__del__ = last if {finalizer} else object.__repr__
main.cli.main = command
__main__.main()
"""


@pytest.mark.parametrize(
    ("how", "finalizer"), [("", True), ("ref = weakref.ref(held, last)", False), (BUSY, True)],
    ids=["finalizer", "weak reference", "a busy machine"],
)  # fmt: skip
def test_ctrl_c_is_not_lost_where_python_drops_exceptions(how, finalizer):
    done = run([sys.executable, "-c", INSIDE_A_FINALIZER.format(how=how, finalizer=finalizer)])
    assert (done.returncode, done.stderr) == (130, "taicang: interrupted\n")


WHERE_PYTHON_CALLS = """
import signal, sys
from taicang.__main__ import main

def tracer(frame, event, arg, seen=set()):
    seen.add(frame.f_code)
    if {condition}:
        sys.settrace(None)
        signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = {words}
sys.settrace(tracer)
main()
"""


def struck(words, condition):
    """Run the command, struck by Ctrl-C as soon as a function begins for which ``condition`` holds: had it ended."""
    program = WHERE_PYTHON_CALLS.format(words=["taicang", *words], condition=condition)
    done = run([sys.executable, "-c", program])
    assert "Traceback" not in done.stderr, (words, condition, done.stderr)
    assert done.returncode in (0, *STOPPED), (words, condition, done.stderr)
    return done.returncode == 0


def test_ctrl_c_is_told_in_a_line_where_a_class_is_made():
    assert not struck(["infer", "llama-3.1-8b", "--on", "hgx-h100"], "frame.f_code.co_name == '__set_name__'")


def test_ctrl_c_where_a_class_is_made_is_no_fault_of_the_point_that_needed_it():
    class Striking:
        def __set_name__(self, owner, name):
            raise KeyboardInterrupt

    def row(_):
        return type("Made", (), {"name": Striking()})

    with pytest.raises(KeyboardInterrupt):
        evaluate.guarded(row, {})


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(WRITERS) - TORCH))
def test_ctrl_c_where_any_function_begins(name, inputs, disk):
    """In each of which it may be turned into something else, or be dropped."""
    words = line(name, inputs, disk / name)[3:]
    dice = random.Random(f"{os.environ.get('FAULT_SEED', '2')} {name}")
    for _ in range(int(os.environ.get("FAULTS", "40")) // 20):
        if struck(words, f"len(seen) == {int(10 ** dice.uniform(1.0, 3.7))}"):
            shutil.rmtree(disk / name, ignore_errors=True)
        else:
            assert not list((disk / name).glob(".*"))


class Trial(NamedTuple):
    """A command under way, and what may befall it."""

    process: subprocess.Popen
    words: list
    out: Path
    dice: random.Random
    largest: int
    """Bytes of the largest of its files."""


def killed(trial):
    stopped(trial.process, signal.SIGKILL)


def interrupted(trial):
    took, code, said = stopped(trial.process, signal.SIGINT)
    assert took < 2.0
    assert code in (0, *STOPPED), said
    assert "Traceback" not in said
    assert not list(trial.out.glob(".*"))


def cramped(trial):
    """No file of it may grow beyond a random size any more."""
    room = trial.dice.randrange(trial.largest + 1)
    resource.prlimit(trial.process.pid, resource.RLIMIT_FSIZE, (room, room))
    refused(trial)


def filled(trial):
    """Its disk has a random number of bytes left, until it ends."""
    if not os.path.ismount(trial.out.parent):
        return cramped(trial)
    filler = trial.out.parent / ".filler"
    left = os.statvfs(filler.parent)
    room = left.f_bavail * left.f_frsize - trial.dice.randrange(2 * trial.largest + 1)
    with filler.open("wb") as file, suppress(OSError):  # the command may have taken of it since
        os.posix_fallocate(file.fileno(), 0, room)
    try:
        return refused(trial)
    finally:
        filler.unlink()


def revoked(trial):
    """Nobody may write into its folder any more, until it ends."""
    trial.out.mkdir(exist_ok=True)
    trial.out.chmod(0o500)
    try:
        refused(trial)
    finally:
        trial.out.chmod(0o700)


def doubled(trial):
    """Another runs in the same folder."""
    told(run(trial.words), 0)
    told_at_the_end(trial.process, 0)


def refused(trial):
    told_at_the_end(trial.process, 0, 2)


def told_at_the_end(process, *codes):
    said = process.communicate(timeout=300)[1]
    told(subprocess.CompletedProcess(process.args, process.returncode, "", said), *codes)
    assert process.returncode == 0 or re.search(r"cannot write|No space|too large|denied", said), said


STRIKES = (killed, interrupted, cramped, filled, revoked, doubled)
DAC_OVERRIDE, DROP_FROM_BOUNDING_SET = 1, 24
LIBC = ctypes.CDLL(None)


def bound_by_permissions():
    """As for everybody, though root starts it."""
    LIBC.prctl(DROP_FROM_BOUNDING_SET, DAC_OVERRIDE)


@pytest.fixture
def disk(tmp_path):
    """A folder on a disk of its own, where root may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() == 0:
        run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", place])
    yield place
    if os.path.ismount(place):
        run(["umount", place])


def strike(names, trials, seed, inputs, disk):
    dice = random.Random(seed)
    want, lasts = {}, {}
    for name in names:
        start = time.monotonic()
        told(run(line(name, inputs, disk / name)), 0)
        lasts[name], want[name] = time.monotonic() - start, whole(disk / name)
    for number in range(trials):
        name, how = dice.choice(names), STRIKES[number % len(STRIKES)]
        words, out = line(name, inputs, disk / f"{number}"), disk / f"{number}"
        how_started = {"stdout": subprocess.DEVNULL, "env": os.environ | UNCOMPILED, **LOUD}
        process = subprocess.Popen(words, preexec_fn=bound_by_permissions, **how_started)  # noqa: PLW1509
        try:
            process.wait(dice.uniform(0.5 if how is interrupted else 0.0, 1.05) * lasts[name])  # Python is up by then
            refused(Trial(process, words, out, dice, 0))
        except subprocess.TimeoutExpired:
            how(Trial(process, words, out, dice, max(map(len, want[name].values()))))
        if not (name == "replay" and process.returncode in STOPPED):  # that one writes what is finished and says so
            consistent(name, whole(out), want[name])
        told(run(words), 0)
        kept = whole(out)
        assert kept.get("results.jsonl") == want[name].get("results.jsonl")
        if name != "sweep":
            assert kept == want[name]
        shutil.rmtree(out)


def test_struck_at_random_moments(inputs, disk):
    strike(["replay", "sweep"], len(STRIKES), 1, inputs, disk)


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_many_faults(inputs, disk):
    """FAULTS=300 takes some 25 minutes; FAULT_SEED=7 are others."""
    strike(HERE_TOO, int(os.environ.get("FAULTS", "40")), int(os.environ.get("FAULT_SEED", "2")), inputs, disk)


LONG = (
    "audit", "demo", "fabric 'hgx-a100 x 128' --collective all-to-all --ranks 512 --stride 2 --bytes 64MB --seeds 20",
    "centre hgx-h100 --serve llama-3.1-8b --samples 1000000", f"port {HERE}", "search deepseek-r1 --on cloudmatrix384",
    "train llama-3-8b --on 'hgx-h100 x 100' --global-batch 1000000 --search", "score --suite gemm",
    "replay llama-3.1-8b --on hgx-h100 --rate 100/s --requests 100000 --input 256 --output 64",
    "compare deepseek-r1 --on cloudmatrix384,gb200-nvl72", "run --on hgx-h100 --world 2 WAITS",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("words", LONG)
def test_ctrl_c_ends_what_takes_long_within_a_second(words, tmp_path):
    if words.startswith("run") and not find_spec("torch"):
        pytest.skip("PyTorch is an extra")
    (tmp_path / "waits.py").write_text("import torch\nwhile True:\n    torch.ones(8, device='cuda')\n")
    given = shlex.split(words.replace("WAITS", str(tmp_path / "waits.py")))
    process = subprocess.Popen([sys.executable, "-m", "taicang", *given], stdout=subprocess.DEVNULL, **LOUD)
    at, most = random.Random(words).uniform(0.4, 1.5), time.monotonic() + 20  # which one that only waits never spends
    while process.poll() is None and used(process.pid) < at and time.monotonic() < most:
        time.sleep(0.01)
    if process.returncode is None:
        took, code, said = stopped(process, signal.SIGINT)
        assert took < 1.0
        assert code in (0, *STOPPED)
        assert "Traceback" not in said


def test_an_interrupted_study_ends_at_once_and_leaves_no_worker(inputs, tmp_path):
    words = line("sweep", inputs, tmp_path / "out")
    words[words.index("--workers") + 1] = "2"
    many = "axes: {input: {from: 100, to: 1000, steps: 100}, "  # more than end while a busy machine lets this sleep
    (tmp_path / "study.yaml").write_text(STUDY.replace("input: 1000, ", "").replace("axes: {", many))
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    journal = tmp_path / "out" / "journal.jsonl"
    while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < 3):
        time.sleep(0.01)
    took, code, said = stopped(process, signal.SIGINT)  # to the command alone, as a scheduler sends it
    assert took < 2.0
    assert code == 130
    assert "Traceback" not in said


def test_two_runs_in_one_folder_do_not_meet(inputs, tmp_path):
    for name in ("replay", "sweep"):
        both = [subprocess.Popen(line(name, inputs, tmp_path / name), stdout=subprocess.DEVNULL) for _ in range(2)]
        assert [process.wait() for process in both] == [0, 0]
        run(line(name, inputs, tmp_path / f"{name}-alone"))
        seen, alone = whole(tmp_path / name), whole(tmp_path / f"{name}-alone")
        assert {n: seen[n] for n in seen if n != "journal.jsonl"} == {
            n: alone[n] for n in alone if n != "journal.jsonl"
        }
        assert not list((tmp_path / name).glob(".*"))


def test_a_study_with_other_inputs_is_refused_until_told(taicang, tmp_path):
    machine, study, out = tmp_path / "my.yaml", tmp_path / "study.yaml", tmp_path / "out"
    machine.write_text("base: hgx-h200\n")
    text = "base: {model: llama-3.1-8b, on: MINE, tp: 1, mode: agg}\naxes: {batch: [1, 2]}\n"
    study.write_text(text.replace("MINE", str(machine)))
    words = ("sweep", study, "--workers", 1, "--out", out)
    assert taicang(*words)[0] == 0
    first = (out / "results.jsonl").read_bytes()
    assert taicang(*words)[0] == 0
    machine.write_text("base: hgx-b200\n")
    code, _, said = taicang(*words)
    assert code == 2
    assert "changed: " + str(machine) in said
    assert "--fresh" in said
    assert (out / "results.jsonl").read_bytes() == first
    assert taicang(*words, "--fresh")[0] == 0
    assert (out / "results.jsonl").read_bytes() != first


def test_a_file_behind_a_file_is_an_input_too(tmp_path):
    (tmp_path / "deep.yaml").write_text("base: hgx-h200\n")
    (tmp_path / "my.yaml").write_text("base: ./deep.yaml\n")
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "config.json").write_text("{}")
    values = {"on": [f"{tmp_path / 'my.yaml'} x 4"], "model": str(tmp_path / "net")}
    named = {path.rpartition("/")[2] for path in inputs_of(values)}
    assert named == {"my.yaml", "deep.yaml", "config.json", "catalogue", "version"}


def test_a_file_that_changes_while_the_study_runs_ends_it(tmp_path):
    (tmp_path / "my.yaml").write_text("a: 1\n")
    journal = Journal(tmp_path / "out", {"study": "x", str(tmp_path / "my.yaml"): "y"})
    journal.add({"point": 0})
    (tmp_path / "my.yaml").write_text("a: 12\n")
    with pytest.raises(InvalidInput, match="changed while it ran"):
        journal.add({"point": 1})


def test_a_point_that_crashes_is_a_row():
    assert evaluate.guarded(lambda point: 1 / 0, {})["error"] == "crashed: ZeroDivisionError: division by zero"


def deadly(task, _):
    """A row, but point 3 ends its process whoever takes it."""
    if task[0] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"point": task[0], "feasible": True}


def test_a_point_that_always_kills_its_worker_is_a_row(monkeypatch):
    monkeypatch.setattr(workers, "row_of", deadly)
    rows = {row["point"]: row for row in workers.local([(i, {}) for i in range(12)], 2, evaluate.guarded)}
    assert sorted(rows) == list(range(12))
    assert [number for number, row in rows.items() if not row["feasible"]] == [3]
    assert "died" in rows[3]["error"]


HOSTILE = (
    "copy results to '{0}/x.csv'",
    "attach '{0}/x.db'",
    "install httpfs",
    "load httpfs",
    "export database '{0}/x'",
    "select * from read_text('/etc/hostname')",
    "select * from '{0}/journal.jsonl'",
    "set enable_external_access = true",
    "pragma enable_profiling; set profiling_output = '{0}/x'",
    "select * from rows",
)


def test_a_query_only_asks(taicang, tmp_path):
    pytest.importorskip("duckdb", reason="DuckDB is an extra")
    pytest.importorskip("pyarrow", reason="Parquet is an extra")
    journal = Journal(tmp_path / "study", {"study": "x"})
    journal.add({"point": 0, "huge": 10**20, "rate": float("inf")})
    before = sorted(path.name for path in tmp_path.rglob("*"))
    for sql in HOSTILE:
        code, _, said = taicang("sweep", "query", tmp_path / "study", sql.format(tmp_path / "study"))
        assert code == 2, sql
        assert "Traceback" not in said
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    journal.finish(1)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    for sql in HOSTILE:
        assert taicang("sweep", "query", tmp_path / "study", sql.format(tmp_path / "study"))[0] == 2, sql
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    code, out, _ = taicang("sweep", "query", tmp_path / "study", "select *, 'inf'::double i from results", "--json")
    assert code == 0
    assert json.loads(out) == [{"point": 0, "huge": str(10**20), "rate": "inf", "i": "inf"}]


def test_plots_have_the_same_bytes(inputs, tmp_path):
    pytest.importorskip("matplotlib", reason="plots are an extra")
    for where, moment in (("a", "0"), ("b", "1000000000")):
        told(run(line("compare", inputs, tmp_path / where), env=os.environ | {"SOURCE_DATE_EPOCH": moment}), 0)
    assert whole(tmp_path / "a") == whole(tmp_path / "b")
