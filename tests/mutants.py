"""Does a test notice? One constant, comparison or operator changed at a time, and the tests that run that line asked.

``python tests/mutants.py --count 200 --seed 1`` first records which tests run which line and how long they take (kept
in .mutants/), then makes mutants in copies of the source, never in the source itself, and lists the survivors. A mutant
dies when any test that reaches its line fails: those that keep figures are always asked, of the others laws and then
the shortest, up to ``--seconds`` of them, so that a mutant costs seconds. Tests that failed when they were recorded are
not asked.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from xml.etree import ElementTree

from coverage.numbits import numbits_to_nums

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "taicang"
ROOMS = ("cost", "lower", "serve", "train", "timeline.py", "reliability.py")
KEEPS, FIRST = "tests/golden/test_figures.py", "tests/laws"
FEW = "10"
"""Examples of a property."""
RECORD = ROOT / ".mutants" / "coverage"
SWAPS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
SAME = {"strict", "maxsize", "slots", "frozen", "kw_only", "dtype", "copy"}
"""Arguments that change no figure."""
NAMES = {"maximum": "minimum", "minimum": "maximum", "min": "max", "max": "min"}


def changed(node: ast.AST) -> ast.AST | None:
    """The node with one thing changed, or None where there is nothing to change."""
    match node:
        case ast.Constant(value=bool()):
            return ast.Constant(value=not node.value)
        case ast.Constant(value=int() | float()):
            return ast.Constant(value=node.value * 2 if node.value else 1)
        case ast.BinOp(op=op) if type(op) in SWAPS:
            return ast.BinOp(left=node.left, op=SWAPS[type(op)](), right=node.right)
        case ast.BoolOp(op=op):
            return ast.BoolOp(op=SWAPS[type(op)](), values=node.values)
        case ast.Compare(ops=[op]) if type(op) in SWAPS:
            return ast.Compare(left=node.left, ops=[SWAPS[type(op)]()], comparators=node.comparators)
        case ast.Attribute(attr=name) if name in NAMES:
            return ast.Attribute(value=node.value, attr=NAMES[name], ctx=node.ctx)
        case ast.Name(id=name) if name in NAMES:
            return ast.Name(id=NAMES[name], ctx=node.ctx)
    return None


def sites(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes that can be changed: in bodies and module constants, not in annotations, subscripts and decorators."""
    if changed(tree) is not None:
        yield tree
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "decorator_list", "slice"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not (
                isinstance(child, ast.Raise | ast.Assert | ast.JoinedStr)
                or (isinstance(tree, ast.Call) and isinstance(child, ast.Constant) and _guard(child.value))
                or (isinstance(child, ast.keyword) and child.arg in SAME)
            ):
                yield from sites(child)


def _guard(value: object) -> bool:
    """Whether an argument only keeps a division from zero."""
    return isinstance(value, float) and 0.0 < value <= 1e-6


def record() -> None:
    """Run the fast tests once and keep which test function runs which line, how long it takes and whether it fails."""
    RECORD.parent.mkdir(exist_ok=True)
    config = RECORD.parent / "coveragerc"
    config.write_text(f"[run]\nsource={PACKAGE}\ndynamic_context=test_function\ndata_file={RECORD}\n")
    command = [sys.executable, "-m", "coverage", "run", f"--rcfile={config}", "-m", "pytest", "-m", "not slow", "-q"]
    command += ["-p", "no:cacheprovider", "--timeout=0", f"--junitxml={RECORD.with_suffix('.xml')}"]
    subprocess.run(command, cwd=ROOT, check=False, env=os.environ | {"MUTANT": FEW})


def durations() -> dict[str, float]:
    """Seconds by test function, all its parameters together; infinity where one failed."""
    found: dict[str, float] = {}
    for path in RECORD.parent.glob("*.xml"):
        for case in ElementTree.parse(path).iter("testcase"):
            parts = case.attrib["classname"].split(".")
            at = next((i for i, part in enumerate(parts) if part.startswith("test_")), None)
            if at is None:
                continue  # a file that was skipped whole
            inner = [*parts[at + 1 :], case.attrib["name"].partition("[")[0]]
            test = "::".join(["/".join(parts[: at + 1]) + ".py", *inner])
            bad = any(each.tag in ("failure", "error") for each in case)
            found[test] = found.get(test, 0.0) + (float("inf") if bad else float(case.attrib["time"]))
    return found


def reaching() -> dict[Path, dict[int, list[str]]]:
    """Test ids by file and line."""
    where = {path.stem: path.relative_to(ROOT) for path in (ROOT / "tests").rglob("test_*.py")}
    found: dict[Path, dict[int, list[str]]] = {}
    with sqlite3.connect(RECORD) as data:
        rows = data.execute(
            "select file.path, context.context, numbits from line_bits join file on file.id = file_id "
            "join context on context.id = context_id where context.context != ''"
        ).fetchall()
    for path, context, bits in rows:
        parts = context.split(".")
        at = next((i for i, part in enumerate(parts) if part in where), None)
        if at is None:
            continue
        test = f"{where[parts[at]]}::{'::'.join(parts[at + 1 :])}"
        for line in numbits_to_nums(bits):
            found.setdefault(Path(path), {}).setdefault(line, []).append(test)
    return found


def main() -> int:
    """Make mutants, ask the tests, list survivors; exit code 1 where fewer than ``--least`` died."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=40.0, help="tests asked of each mutant, in seconds")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--least", type=float, default=0.9, help="share that must die")
    parser.add_argument("--rooms", nargs="*", default=ROOMS)
    parser.add_argument("--fresh", action="store_true", help="record anew which tests run which line")
    options = parser.parse_args()
    if options.fresh or not RECORD.exists():
        record()
    tests, seconds = reaching(), durations()
    files = [path for room in options.rooms for path in ([PACKAGE / room] if room.endswith(".py") else
             sorted((PACKAGE / room).glob("*.py")))]  # fmt: skip
    spots = [(path, i) for path in files for i, _ in enumerate(sites(ast.parse(path.read_text())))]
    drawn = random.Random(options.seed).sample(spots, min(options.count, len(spots)))
    print(f"{len(spots)} places, {len(drawn)} mutants, seed {options.seed}", flush=True)
    copies: SimpleQueue[Path] = SimpleQueue()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        for number in range(options.jobs):
            copy = Path(folder) / f"{number}" / "src"
            shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__"))
            compileall.compile_dir(copy, quiet=2)
            copies.put(copy)

        def one(spot: tuple[Path, int]) -> str:
            copy = copies.get()
            try:
                return _mutant(*spot, copy, tests.get(spot[0], {}), seconds, options.seconds)
            finally:
                copies.put(copy)

        alive = []
        for said in pool.map(one, drawn):
            if said:
                alive.append(said)
                print(said, flush=True)
    died = 1.0 - len(alive) / max(len(drawn), 1)
    print(f"{died:.1%} of {len(drawn)} mutants died, {len(alive)} live")
    return int(died < options.least)


def _chosen(node: ast.AST, tests: dict[int, list[str]], seconds: dict[str, float], most: float) -> list[str]:
    """Tests that run the node's lines: what keeps figures, then the shortest, at most ``most`` seconds of them."""
    every = {test for at in tests.values() for test in at}
    asked = {test for at in range(node.lineno, (node.end_lineno or node.lineno) + 1) for test in tests.get(at, [])}  # type: ignore[attr-defined]
    asked |= {test for test in every if test.startswith(KEEPS)}
    if not asked:  # a module's constants run on import: ask those who run the file
        asked = every
    known = [test for test in asked if seconds.get(test, float("inf")) < float("inf")]
    known.sort(key=lambda test: (not test.startswith(FIRST), seconds[test]))
    spent, chosen = 0.0, [test for test in known if test.startswith(KEEPS)]
    for test in known:
        spent += seconds[test]
        if chosen and spent > most:
            break
        chosen.append(test)
    return list(dict.fromkeys(chosen))


def _mutant(
    path: Path, index: int, copy: Path, tests: dict[int, list[str]], seconds: dict[str, float], most: float
) -> str:
    """What the mutant is, if it lives; "" if a test notices it."""
    source = path.read_text()
    tree = ast.parse(source)
    node = list(sites(tree))[index]
    new = changed(node)
    assert new is not None
    lines, line = source.splitlines(keepends=True), node.lineno - 1  # type: ignore[attr-defined]
    text = ast.get_source_segment(source, node) or ""
    before = "".join(lines[:line]) + lines[line].encode()[: node.col_offset].decode()  # type: ignore[attr-defined]
    target = copy / path.relative_to(ROOT / "src")
    target.write_text(before + f"({ast.unparse(new)})" + source[len(before) + len(text) :])
    name = f"{path.relative_to(ROOT)}:{node.lineno}: {text} -> {ast.unparse(new)}"  # type: ignore[attr-defined]
    asked = _chosen(node, tests, seconds, most)
    if not asked:
        return f"{name} (no test runs it)"
    env = os.environ | {"PYTHONPATH": str(copy), "MUTANT": FEW, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--no-header", *asked]
    patience_s = round(60.0 + 5.0 * most)
    ran = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           start_new_session=True)  # fmt: skip
    resource.prlimit(ran.pid, resource.RLIMIT_CPU, (patience_s, patience_s))
    try:  # an endless loop is noticed; others may share the machine, and one that sleeps takes no processor
        ran.communicate(timeout=10.0 * patience_s)
    except subprocess.TimeoutExpired:
        os.killpg(ran.pid, signal.SIGKILL)
        ran.wait()
    finally:
        target.write_text(source)
    return "" if ran.returncode else name


if __name__ == "__main__":
    sys.exit(main())
