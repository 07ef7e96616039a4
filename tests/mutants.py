"""Does a test notice? One constant, comparison or operator changed at a time, and the tests that run that line asked.

``python tests/mutants.py --count 200 --seed 1`` first records which tests run which line (kept in .mutants/), then
makes mutants in a copy of the source, never in the source itself, and lists the survivors. A mutant dies when any of at
most ``--tests`` tests that reach its line fails; those that reach few lines, and so say most, are asked first.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from coverage.numbits import numbits_to_nums

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "taicang"
ROOMS = ("cost", "lower", "serve", "train", "timeline.py", "reliability.py")
RECORD = ROOT / ".mutants" / "coverage"
SWAPS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
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
        if field in ("annotation", "returns", "decorator_list", "slice", "keywords" if _raises(tree) else ""):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.Raise | ast.Assert | ast.JoinedStr):
                yield from sites(child)


def _raises(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dataclass"


def record() -> None:
    """Run the fast tests once and keep which test function runs which line."""
    RECORD.parent.mkdir(exist_ok=True)
    config = RECORD.parent / "coveragerc"
    config.write_text(f"[run]\nsource={PACKAGE}\ndynamic_context=test_function\ndata_file={RECORD}\n")
    command = [sys.executable, "-m", "coverage", "run", f"--rcfile={config}", "-m", "pytest", "-m", "not slow", "-q"]
    subprocess.run([*command, "-p", "no:cacheprovider", "--timeout=0"], cwd=ROOT, check=True)


def reaching() -> dict[Path, dict[int, list[str]]]:
    """Test ids by file and line, the tests that reach the fewest lines first."""
    where = {path.stem: path.relative_to(ROOT) for path in (ROOT / "tests").rglob("test_*.py")}
    found: dict[Path, dict[int, list[str]]] = {}
    breadth: dict[str, int] = {}
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
        lines = numbits_to_nums(bits)
        breadth[test] = breadth.get(test, 0) + len(lines)
        for line in lines:
            found.setdefault(Path(path), {}).setdefault(line, []).append(test)
    for lines in found.values():
        for tests in lines.values():
            tests.sort(key=lambda test: breadth[test])
    return found


def main() -> int:
    """Make mutants, ask the tests, list survivors; exit code 1 where fewer than ``--least`` died."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tests", type=int, default=40, help="tests asked of each mutant at most")
    parser.add_argument("--least", type=float, default=0.9, help="share that must die")
    parser.add_argument("--rooms", nargs="*", default=ROOMS)
    parser.add_argument("--fresh", action="store_true", help="record anew which tests run which line")
    options = parser.parse_args()
    if options.fresh or not RECORD.exists():
        record()
    tests = reaching()
    files = [path for room in options.rooms for path in ([PACKAGE / room] if room.endswith(".py") else
             sorted((PACKAGE / room).glob("*.py")))]  # fmt: skip
    spots = [(path, i) for path in files for i, _ in enumerate(sites(ast.parse(path.read_text())))]
    drawn = random.Random(options.seed).sample(spots, min(options.count, len(spots)))
    print(f"{len(spots)} places, {len(drawn)} mutants, seed {options.seed}", flush=True)
    alive = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "src"
        shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__"))
        for path, index in drawn:
            said = _mutant(path, index, copy, tests.get(path, {}), options.tests)
            if said:
                alive.append(said)
                print(said, flush=True)
    died = 1.0 - len(alive) / max(len(drawn), 1)
    print(f"{died:.1%} of {len(drawn)} mutants died, {len(alive)} live")
    return int(died < options.least)


def _mutant(path: Path, index: int, copy: Path, tests: dict[int, list[str]], most: int) -> str:
    """What the mutant is, if it lives; "" if a test notices it."""
    source = path.read_text()
    tree = ast.parse(source)
    node = list(sites(tree))[index]
    new = changed(node)
    assert new is not None
    lines, line = source.splitlines(keepends=True), node.lineno - 1
    text = ast.get_source_segment(source, node) or ""
    before = "".join(lines[:line]) + lines[line].encode()[: node.col_offset].decode()
    target = copy / path.relative_to(ROOT / "src")
    target.write_text(before + f"({ast.unparse(new)})" + source[len(before) + len(text) :])
    name = f"{path.relative_to(ROOT)}:{node.lineno}: {text} -> {ast.unparse(new)}"
    asked = list(dict.fromkeys(test for at in range(node.lineno, (node.end_lineno or node.lineno) + 1)
                               for test in tests.get(at, [])))[:most]  # fmt: skip
    if not asked:  # a module's constants run on import: ask those who run the file
        every = [test for at in tests.values() for test in at]
        asked = sorted(set(every), key=every.count, reverse=True)[:most]
    try:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--no-header", *asked]
        env = os.environ | {"PYTHONPATH": str(copy)}
        ran = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, timeout=600, check=False)
        return name if asked and ran.returncode == 0 else "" if asked else f"{name} (no test runs it)"
    except subprocess.TimeoutExpired:
        return ""
    finally:
        target.write_text(source)


if __name__ == "__main__":
    sys.exit(main())
