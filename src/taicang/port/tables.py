"""Rules of the scanner, which the catalogue reads from its data, look-ups that are made of them, and what is found."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

TIERS: Final = ("auto", "edit", "library", "kernel", "blocked")
"""What a finding asks for, from nothing to a decision: the shim does it, edit the line, another library, write the
kernel anew, no counterpart known."""
KINDS: Final[Mapping[str, str]] = {
    "drop_in": "library",
    "api_change": "library",
    "rewrite": "kernel",
    "none": "blocked",
}
"""How a library's counterpart is taken up, and the tier of that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One thing to look for, in each kind of file, and what it means."""

    name: str
    tier: str
    why: str
    source: str
    counterpart: str = ""
    kind: str = ""
    """Of a library: how its counterpart is taken up (``KINDS``)."""
    operators: bool = False
    """Of a library: it brings CUDA operators of its own."""
    names: tuple[str, ...] = ()
    """Dotted Python names; ``a.b.*`` is ``a.b`` and all below it."""
    imports: tuple[str, ...] = ()
    """Modules of which only the import is a finding, not every use."""
    methods: tuple[str, ...] = ()
    """Names that are called on an object."""
    attributes: tuple[str, ...] = ()
    """Names that are read on an object."""
    strings: str = ""
    """Whole text constants in Python, values in YAML."""
    compared: str = ""
    """Whole text constants that something is compared with."""
    env: str = ""
    """Names of environment variables, in Python, shell and YAML."""
    native: str = ""
    """Words of C++ and CUDA."""
    shell: str = ""
    build: str = ""
    packages: tuple[str, ...] = ()
    """Names in requirements, ``*`` at the end stands for the rest."""
    requirement: str = ""
    """A line of a requirements file."""


OWN: Final = Rule(
    name="own-operator", tier="edit", source="driving_sdk",
    why="calls a CUDA operator that the repository builds for itself: calls take the other side's names and layouts",
)  # fmt: skip
"""Of a Python file that imports operators of the repository's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """All rules of one direction as look-ups."""

    to: str
    all: tuple[Rule, ...]
    exact: Mapping[str, Rule]
    below: Mapping[str, Rule]
    imports: Mapping[str, Rule]
    methods: Mapping[str, Rule]
    attributes: Mapping[str, Rule]
    packages: Mapping[str, Rule]
    package_heads: Mapping[str, Rule]
    words: Mapping[str, tuple[re.Pattern[str] | None, tuple[Rule, ...]]] = field(repr=False)
    """Kind of text (``strings``, ``compared``, ...) -> all its patterns in one, a group for each rule."""
    hints: frozenset[str] = frozenset()
    """Words without which no rule holds in a Python file, but for names that imports bind."""
    uses: Mapping[str, str] = field(default_factory=dict)
    """Dotted name of an operator that carries a model's time, or ``.method`` -> how it is priced."""

    def named(self, dotted: str) -> Rule | None:
        """The rule for a dotted name: its own, or that of the longest name above it."""
        found = self.exact.get(dotted)
        while found is None and dotted:
            found = self.below.get(dotted)
            dotted = dotted.rpartition(".")[0]
        return found

    def imported(self, dotted: str) -> Rule | None:
        """The rule for an imported name; at equal length, one for imports alone comes first."""
        found = self.exact.get(dotted)
        while found is None and dotted:
            found = self.imports.get(dotted, self.below.get(dotted))
            dotted = dotted.rpartition(".")[0]
        return found

    def whole(self, kind: str, text: str) -> Rule | None:
        """The first rule of ``kind`` that is all of ``text``."""
        pattern, rules = self.words[kind]
        found = pattern.fullmatch(text) if pattern else None
        return rules[int(str(found.lastgroup)[1:])] if found else None

    def inside(self, kind: str, text: str) -> Iterable[tuple[Rule, re.Match[str]]]:
        """Rules of ``kind`` wherever they hold in ``text``."""
        pattern, rules = self.words[kind]
        for found in pattern.finditer(text) if pattern else ():
            yield rules[int(str(found.lastgroup)[1:])], found

    def package(self, name: str) -> Rule | None:
        """The rule for a package of a requirements file."""
        name = re.sub(r"[-_.]+", "-", name).lower()
        found = self.packages.get(name)
        if found is None:
            found = next((rule for head, rule in self.package_heads.items() if name.startswith(head)), None)
        return found


TEXTS: Final = ("strings", "compared", "env", "native", "shell", "build", "requirement")
_FLAGS: Final[Mapping[str, re.RegexFlag]] = {"requirement": re.MULTILINE, "shell": re.MULTILINE, "build": re.MULTILINE}


def compile_rules(to: str, rules: Iterable[Rule], uses: Mapping[str, str] = MappingProxyType({})) -> Rules:
    """Look-ups of ``rules``; a later rule with a name or package of an earlier one takes its place."""
    every = tuple(rules)
    names = [(name, rule) for rule in every for name in rule.names]
    packages = [(re.sub(r"[-_.]+", "-", name).lower(), rule) for rule in every for name in rule.packages]
    words = {}
    for kind in TEXTS:
        chosen = tuple(rule for rule in every if getattr(rule, kind))
        joined = "|".join(f"(?P<g{number}>{getattr(rule, kind)})" for number, rule in enumerate(chosen))
        words[kind] = (re.compile(joined, _FLAGS.get(kind, re.NOFLAG)) if chosen else None, chosen)
    return Rules(
        to=to,
        all=every,
        exact={name: rule for name, rule in names if not name.endswith(".*")},
        below={name[:-2]: rule for name, rule in names if name.endswith(".*")},
        imports={name: rule for rule in every for name in rule.imports},
        methods={name: rule for rule in every for name in rule.methods},
        attributes={name: rule for rule in every for name in rule.attributes},
        packages={name: rule for name, rule in packages if not name.endswith("*")},
        package_heads={name[:-1]: rule for name, rule in packages if name.endswith("*")},
        words=words,
        hints=frozenset(_hints(every)),
        uses=uses,
    )


def _hints(rules: Iterable[Rule]) -> Iterable[str]:
    for rule in rules:
        yield from (name.removesuffix(".*").rpartition(".")[2] for name in (*rule.names, *rule.imports))
        yield from (*rule.methods, *rule.attributes)
        for pattern in (rule.strings, rule.compared, rule.env):
            yield from hints_of(pattern)


def hints_of(pattern: str) -> list[str]:
    """The letters that each alternative of a pattern begins with; the reader of rules refuses a pattern without."""
    return [found[0] for part in pattern.split("|") if (found := re.match(r"\w{2,}", part))] if pattern else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One place that a port has to think of."""

    line: int
    column: int
    rule: Rule
    text: str
    """What stands there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A kernel and the lines it takes, its decorators included."""

    name: str
    line: int
    lines: int
    language: str
    """triton, cuda, ascend or numba."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """A module that a file imports: as written, with the dots before it, and the names taken from it."""

    module: str
    level: int
    names: tuple[str, ...]
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """A native extension that a build file declares."""

    name: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Use:
    """An operator of the framework that the code calls, by how it is priced, and the sizes that stand there."""

    name: str
    kind: str
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What one file of the repository holds."""

    path: str
    language: str
    lines: int
    findings: tuple[Finding, ...] = ()
    kernels: tuple[Kernel, ...] = ()
    uses: tuple[Use, ...] = ()
    imports: tuple[Import, ...] = ()
    defined: frozenset[str] = frozenset()
    """Names that a Python module defines at its top."""
    registered: frozenset[str] = frozenset()
    """Those of them that a decorator puts into a registry, so that a configuration can name them."""
    extensions: tuple[Extension, ...] = ()
    package_folders: Mapping[str, str] = field(default_factory=dict)
    """Of a setup.py: package -> folder it lies in."""
    runs: bool = False
    """Begins by itself: ``if __name__ == "__main__"``."""
    error: str = ""
    """Why it could not be read as its language, with the line."""
