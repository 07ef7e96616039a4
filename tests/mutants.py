"""Does a test notice? One constant, comparison or operator changed at a time, and the tests that run that line asked.

``python tests/mutants.py --count 200 --seed 1`` first records which tests run which line (``reached``), then replaces
one module at a time in a process that has not imported it yet, and lists the survivors. Asked first are some seconds of
the tests that killed its neighbours and the shortest; survivors are asked all the rest that run the line, up to
``--seconds``. A test counts only if it passes in the same way without the change. Verdicts are kept in
.mutants/verdicts: a run that was interrupted goes on; one whose source changed since asks first what killed a mutant
before; one with more tests, or ``--seconds``, asks survivors only those that they have not outlived yet.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.abc
import importlib.util
import json
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import reached
from reached import PACKAGE, ROOT

ROOMS = ("cost", "lower", "serve", "train", "timeline.py", "reliability.py")
FIRST_S = 6.0
"""Seconds of tests, as recorded, that every mutant is asked."""
VERDICTS = reached.KEPT / "verdicts"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One change: where, what it was, what it becomes."""

    path: str
    function: str
    """"" for what runs on import."""
    lines: tuple[int, int]
    text: str
    new: str
    source: str
    """Of the whole module with the change."""
    nth: int
    """Of the same changes in the function."""

    def __str__(self) -> str:
        return f"{self.path}:{self.lines[0]}: {self.text} -> {self.new}"

    @property
    def key(self) -> str:
        """Stays when lines above it come or go."""
        return f"{self.path} {self.function} {self.text} -> {self.new} {self.nth}"


def sites(tree: ast.AST, function: str = "") -> Iterator[tuple[ast.expr, str]]:
    """Nodes that can be changed, and their functions: in bodies and module constants, not in annotations, subscripts
    and decorators."""
    if isinstance(tree, ast.expr) and changed(tree) is not None and not (_shape(tree) or _rounds(tree)):
        yield tree, function
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "decorator_list", "slice"):
            continue
        if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.LShift):
            continue  # beyond all that is counted, or what is kept at most
        inner = isinstance(tree, ast.FunctionDef) and field == "body"
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not (
                isinstance(child, ast.Raise | ast.Assert | ast.JoinedStr)
                or (isinstance(tree, ast.Call) and isinstance(child, ast.Constant) and _guard(child.value))
                or (isinstance(child, ast.keyword) and child.arg in SAME)
            ):
                yield from sites(child, f"{function}.{tree.name}" if inner else function)  # type: ignore[attr-defined]


def _guard(value: object) -> bool:
    """Whether an argument only keeps a division from zero."""
    return isinstance(value, float) and 0.0 < value <= 1e-6


def _rounds(tree: ast.AST) -> bool:
    """Whether it only keeps what is nearly whole from falling short, or makes a whole number a float: ``x * 1.0``."""
    if isinstance(tree, ast.Constant):
        return isinstance(tree.value, float) and 0.0 < tree.value <= 1e-9
    return (
        isinstance(tree, ast.BinOp) and isinstance(tree.right, ast.Constant)
        and (_rounds(tree.right) or (isinstance(tree.op, ast.Mult | ast.Div) and tree.right.value == 1.0))
    )  # fmt: skip


def _shape(tree: ast.AST) -> bool:
    """Whether a sum only takes the shape of what it adds none of: ``floor + 0.0 * rows``."""
    return (
        isinstance(tree, ast.BinOp) and isinstance(tree.right, ast.BinOp)
        and isinstance(tree.right.left, ast.Constant) and tree.right.left.value == 0.0
    )  # fmt: skip


def mutants(path: Path) -> Iterator[Mutant]:
    """All of a file."""
    source = path.read_text()
    lines, seen = source.splitlines(keepends=True), defaultdict(int)
    for node, function in sites(ast.parse(source)):
        text, new, at = ast.get_source_segment(source, node) or "", ast.unparse(changed(node)), node.lineno - 1  # type: ignore[arg-type]
        before = "".join(lines[:at]) + lines[at].encode()[: node.col_offset].decode()
        seen[function, text, new] += 1
        yield Mutant(
            path=str(path.relative_to(ROOT)), function=function, lines=(node.lineno, node.end_lineno or node.lineno),
            text=text, new=new, source=before + f"({new})" + source[len(before) + len(text) :],
            nth=seen[function, text, new],
        )  # fmt: skip


class Replaced(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds one module in its changed form."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant
        self.name = mutant.path.removeprefix("src/").removesuffix(".py").replace("/", ".").removesuffix(".__init__")

    def find_spec(self, name: str, path: object, target: object = None) -> Any:
        """Of that module alone."""
        if name == self.name:
            return importlib.util.spec_from_file_location(name, ROOT / self.mutant.path, loader=self)
        return None

    def exec_module(self, module: Any) -> None:
        """The changed source."""
        exec(compile(self.mutant.source, str(ROOT / self.mutant.path), "exec"), vars(module))


def ask(task: tuple[Mutant | None, list[str]]) -> list[str]:
    """Tests that fail, of those asked in turn, up to the first; [""] where it failed in none of them."""
    mutant, tests = task
    if not tests:
        return []
    assert not any(name.partition(".")[0] == "taicang" for name in sys.modules), "the package was imported before"
    if mutant is not None:
        sys.meta_path.insert(0, Replaced(mutant))
    watch = reached.Watch(wanted=tests)
    files = dict.fromkeys(test.partition("::")[0] for test in tests)
    code = pytest.main([*reached.QUIET, "-x", *(file for file in files if (ROOT / file).exists())], plugins=[watch])
    return watch.failed or ([] if code in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) else [""])


def state_of(test: str) -> str:
    """Of the file that it is in; "" of no test, or of one that is no more."""
    file = test.partition("::")[0]
    return reached.state(file) if file and (ROOT / file).exists() else ""


class Court:
    """Which tests are asked of a mutant, and what became of each."""

    def __init__(self, known: dict[str, Any], most_s: float) -> None:
        self.tests, self.seconds = reached.reaching(known)
        self.most_s = most_s
        self.kills: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        """By file, and by file and function: how many each test killed."""
        self.sound: dict[str, bool] = {}
        self.source = reached.digest(*sorted(PACKAGE.rglob("*.py")))
        self.kept: dict[str, dict[str, Any]] = {}
        if VERDICTS.exists():
            for line in VERDICTS.read_text().splitlines():
                self.kept[json.loads(line)["key"]] = json.loads(line)

    def reach(self, mutant: Mutant) -> set[str]:
        """Tests that run its lines; those of its file for what runs on import."""
        lines = self.tests.get(mutant.path, {})
        if not mutant.function:
            return set().union(*lines.values()) if lines else set()
        at = [lines[line] for line in range(mutant.lines[0], mutant.lines[1] + 1) if line in lines]
        if not at:  # new since it was recorded: as the nearest line above
            above = [line for line in lines if line < mutant.lines[0]]
            at = [lines[max(above)]] if above else []
        return {test for test in set().union(*at) if test in self.seconds and self.sound.get(test, True)}

    def outlived(self, mutant: Mutant) -> dict[str, str]:
        """Tests that it survived, with this source, and their states then."""
        kept = self.kept.get(mutant.key, {})
        return kept.get("outlived", {}) if kept.get("source") == self.source else {}

    def order(self, mutant: Mutant) -> list[str]:
        """Tests that reach it: those likely to kill it, by what they take."""
        file, near = self.kills[mutant.path], self.kills[mutant.path + mutant.function]
        before, outlived = self.kept.get(mutant.key, {}).get("by", ""), self.outlived(mutant)

        def hope(test: str) -> float:
            prior = 10.0 if "golden/test_figures" in test else 0.2
            return (prior + 3 * file[test] + 10 * near[test] + 1e6 * (test == before)) / (self.seconds[test] + 0.1)

        left = {test for test in self.reach(mutant) if outlived.get(test) != state_of(test)}
        return sorted(left, key=lambda test: (-hope(test), test))

    def asked(self, mutant: Mutant, before: list[str] | None = None) -> list[str]:
        """Of the first round, or of the second: those that were not asked ``before``."""
        spent, chosen = 0.0, []
        for test in self.order(mutant):
            if before is None or test not in before:
                spent += self.seconds[test]
                if chosen and spent > (FIRST_S if before is None else self.most_s):
                    break
                chosen.append(test)
        return chosen

    def patience_s(self, task: tuple[Mutant | None, list[str]]) -> float:
        """An endless loop is noticed."""
        return 10.0 + 3.0 * sum(self.seconds.get(test, 0.0) for test in task[1])

    def verdict(self, mutant: Mutant) -> bool | None:
        """Whether it died, where that was found with this source and the tests of today."""
        kept = self.kept.get(mutant.key)
        if kept is None or kept["source"] != self.source:
            return None
        if kept["died"]:
            good = state_of(kept["by"]) == kept["state"]
            if good and kept["by"]:
                self._killed(mutant, kept["by"])
            return True if good else None
        return None if self.order(mutant) else False

    def _killed(self, mutant: Mutant, test: str) -> None:
        self.kills[mutant.path][test] += 1
        self.kills[mutant.path + mutant.function][test] += 1

    def keep(self, mutant: Mutant, died: bool, test: str = "", tests: Collection[str] = ()) -> None:
        """For the next run, and for its neighbours; ``tests`` are those that it outlived."""
        if died and test:
            self._killed(mutant, test)
        made = {"key": mutant.key, "died": died, "by": test, "source": self.source, "state": state_of(test),
                "outlived": self.outlived(mutant) | {each: state_of(each) for each in tests}}  # fmt: skip
        self.kept[mutant.key] = made
        with VERDICTS.open("a") as file_:
            file_.write(json.dumps(made) + "\n")


def judge(drawn: list[Mutant], court: Court, jobs: int) -> Iterator[tuple[Mutant, str]]:
    """What killed each mutant; "" where nothing did."""
    tasks: list[tuple[Mutant | None, list[str]]] = []
    second: dict[str, list[str]] = {}
    """What those in the second round outlived in the first."""
    waiting: dict[tuple[str, ...], list[Mutant]] = {}
    left = list(reversed(drawn))

    def more() -> None:
        """The next mutants: late, so that they are asked what killed those before."""
        while left and len(tasks) < jobs:
            mutant = left.pop()
            tasks.append((mutant, court.asked(mutant)))

    more()
    for (mutant, tests), failed in reached.forked(tasks, ask, jobs, court.patience_s):
        if mutant is None:  # without any change: does what was asked pass?
            by = tests[0] if len(tests) == 1 else ""
            if by:
                court.sound[by] = failed == []
            for each in waiting.pop(tuple(tests)):
                if failed == []:
                    court.keep(each, True, by)
                    yield each, by or "no import, no end"
                elif by:  # a test that fails anyway kept others from being asked
                    second.pop(each.key, None)
                    tasks.insert(0, (each, court.asked(each)))
                else:
                    print(f"tests fail without the change too: {failed}", flush=True)
                    yield each, ""
        elif failed == []:
            if mutant.key not in second and (rest := court.asked(mutant, tests)):
                second[mutant.key] = tests
                tasks.append((mutant, rest))
            else:
                court.keep(mutant, False, tests=[*tests, *second.pop(mutant.key, ())])
                yield mutant, ""
        else:
            by = failed[0] if failed else ""
            if by and court.sound.get(by):
                court.keep(mutant, True, by)
                yield mutant, by
            else:
                again = [by] if by else tests
                waiting.setdefault(tuple(again), []).append(mutant)
                if len(waiting[tuple(again)]) == 1:
                    tasks.insert(0, (None, again))
        more()


def main() -> int:
    """Make mutants, ask the tests, list survivors; exit code 1 where fewer than ``--least`` died."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="tests asked of each survivor, in seconds")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--least", type=float, default=0.9, help="share that must die")
    parser.add_argument("--rooms", nargs="*", default=ROOMS)
    parser.add_argument("--record", nargs="*", default=["tests/"], help="how names of tests begin that may be recorded")
    options = parser.parse_args()
    reached.prepare()
    files = [path for room in ROOMS for path in ([PACKAGE / room] if room.endswith(".py") else
             sorted((PACKAGE / room).glob("*.py")))]  # fmt: skip
    known = reached.record([str(path.relative_to(ROOT)) for path in files], options.jobs, tuple(options.record))
    court = Court(known, options.seconds)
    found = [each for path in files if path.relative_to(PACKAGE).parts[0] in options.rooms for each in mutants(path)]
    # each has its own lot, so that a change elsewhere draws the same ones again
    found.sort(key=lambda each: hashlib.sha256(f"{options.seed} {each.key}".encode()).digest())
    drawn = found[: options.count]
    known_ones = [(each, court.verdict(each)) for each in drawn]
    print(f"{len(found)} places, {len(drawn)} mutants, seed {options.seed}, "
          f"{sum(died is not None for _, died in known_ones)} known", flush=True)  # fmt: skip
    alive = [each for each, died in known_ones if died is False]
    for mutant, by in judge([each for each, died in known_ones if died is None], court, options.jobs):
        if not by:
            alive.append(mutant)
            print(f"{mutant}{'' if court.reach(mutant) else ' (no test runs it)'}", flush=True)
    print("\n".join(["", "survivors:", *map(str, alive)]))
    died = 1.0 - len(alive) / max(len(drawn), 1)
    print(f"{died:.1%} of {len(drawn)} mutants died, {len(alive)} live")
    return int(died < options.least)


if __name__ == "__main__":
    sys.exit(main())
