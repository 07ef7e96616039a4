"""A repository read as a whole: every file, and which of them count."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

from taicang.errors import InvalidInput, UnknownName
from taicang.port import python_scan, reach, text_scan, tree
from taicang.port.tables import OWN, TIERS, Finding, Read, Rule, Rules

SCOPES: Final = ("counted", "unreached", "test", "vendored", "docs", "ported")
"""Where a file stands: part of what is ported, or apart from it and why; ``ported`` is for the other side already."""
MOST: Final = 2**29
"""Characters of source in a repository."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """A repository with what was found in it."""

    root: str
    to: str
    entries: tuple[str, ...]
    files: Mapping[str, Read]
    scope: Mapping[str, str]
    """Path -> one of ``SCOPES``."""
    notes: tuple[str, ...] = ()

    def counted(self) -> Iterable[Read]:
        """Files that are part of what is ported, in order of path."""
        return (read for path, read in self.files.items() if self.scope[path] == "counted")

    def tiers(self, scope: str = "counted") -> Counter[str]:
        """Findings by tier."""
        return Counter(
            each.rule.tier for path, read in self.files.items() if self.scope[path] == scope for each in read.findings
        )

    def worst(self) -> str:
        """The worst tier among the files that count, empty where nothing was found."""
        found = self.tiers()
        return next((tier for tier in reversed(TIERS) if found[tier]), "")


def scan(
    root: Path, rules: Rules, operators: Mapping[str, str], entries: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Scan:  # fmt: skip
    """Read the repository at ``root``. ``operators``: words of a path that tell an operator which a library has.

    Raises ``InvalidInput`` where there is no folder, no source file in it or more than a repository has, or an entry
    is not one of its files.
    """
    if not os.path.exists(root):
        raise InvalidInput("no such folder", where=str(root))
    if not os.path.isdir(root):
        raise InvalidInput(
            "not a folder: give the repository that holds it, and the file with --entry", where=str(root)
        )
    texts: dict[str, str] = {}
    reads: dict[str, Read] = {}
    size = 0
    for path, place in tree.files(root):
        if size > MOST:
            raise InvalidInput(f"more than {MOST:,} characters of source: no repository", where=str(root))
        try:
            texts[path] = tree.text(place)
            size += len(texts[path])
        except InvalidInput as error:
            reads[path] = Read(path=path, language=tree.language(PurePosixPath(path)), lines=0, error=str(error))
    if not any(tree.language(PurePosixPath(path)) in {"python", "cuda", "native"} for path in texts):
        raise InvalidInput("no source file in it (Python, C++, CUDA)", where=str(root))
    own = _own(texts)
    collecting = gc.isenabled()
    gc.disable()  # syntax trees hold no cycles, and looking for some takes a third of the time
    try:
        for done, (path, text) in enumerate(texts.items()):
            if progress is not None:
                progress(done, len(texts))
            reads[path] = read(path, text, rules, own)
    finally:
        if collecting:
            gc.enable()
    reads = {path: _with_counterparts(each, operators) for path, each in sorted(reads.items())}
    reads |= _with_own_operators(reads)
    chosen = tuple(_entry(each, reads) for each in entries)
    return Scan(
        root=str(root), to=rules.to, entries=chosen, files=reads, scope=_scopes(reads, texts, chosen, rules.to),
        notes=tuple(_notes(reads, chosen)),
    )  # fmt: skip


def read(path: str, text: str, rules: Rules, own: frozenset[str] = frozenset()) -> Read:
    """One file, by its language."""
    language = tree.language(PurePosixPath(path))
    if language == "python":
        return python_scan.scan(path, text, rules, own)
    reader = text_scan.READERS.get(language)
    if reader is None:
        return Read(path=path, language=language, lines=text.count("\n"))
    return reader(path, language, text, rules)


def _own(texts: Mapping[str, str]) -> frozenset[str]:
    bare = {
        path: Read(path=path, language=language, lines=0)
        for path in texts
        if (language := tree.language(PurePosixPath(path))) in {"python", "packages"}
        and tree.role(PurePosixPath(path)) != "vendored"
    }
    return reach.Modules(bare).own()


def _entry(given: str, reads: Mapping[str, Read]) -> str:
    path = PurePosixPath(given).as_posix().removeprefix("./")
    known = [each for each, one in reads.items() if one.language in {"python", "yaml"}]
    if path not in known:
        raise UnknownName("Python or YAML file of the repository", given, known, where="--entry")
    return path


def _scopes(reads: Mapping[str, Read], texts: Mapping[str, str], entries: Sequence[str], to: str) -> dict[str, str]:
    roles = {path: tree.role(PurePosixPath(path)) for path in reads}
    python = [path for path, each in reads.items() if each.language == "python"]
    modules = reach.Modules(reads, entries)
    starts = entries or [path for path in python if roles[path] == "source"]
    reached = reach.python(reads, modules, starts, texts if entries else None)
    reached |= {path for path in python if roles[path] == "source" and PurePosixPath(path).name == "setup.py"} & set(
        python if not entries else _setups(reads, reached)
    )
    built = reach.native(reads, reached, whole=not entries)
    scope = {}
    for path, each in reads.items():
        if tree.is_for(to, PurePosixPath(path)):
            scope[path] = "ported"
            continue
        if path in reached or path in built:
            counts = True
        elif each.language in {"python", "stub", "cuda", "native"}:
            counts = False
        elif each.language == "shell":
            counts = roles[path] == "source" and reach.starts_reached(texts.get(path, ""), reached)
        else:
            counts = roles[path] == "source"
        scope[path] = "counted" if counts else roles[path] if roles[path] != "source" else "unreached"
    return scope


def _setups(reads: Mapping[str, Read], reached: Iterable[str]) -> set[str]:
    """Setup files in or above the folders of what is reached."""
    folders = {str(parent) for path in reached for parent in PurePosixPath(path).parents}
    return {path for path in reads if path.endswith("setup.py") and str(PurePosixPath(path).parent) in folders}


def _with_counterparts(found: Read, operators: Mapping[str, str]) -> Read:
    """A kernel of an operator which the other side's libraries have is taken from there, not written anew."""
    if found.language not in {"cuda", "native"} or not any(each.rule.tier == "kernel" for each in found.findings):
        return found
    path = PurePosixPath(found.path.lower())
    stems = (path.stem, *(each.name.lower() for each in found.kernels))
    words = {*path.parts[:-1], *(head for stem in stems for head in tree.heads(stem))}
    there = next((there for word, there in operators.items() if word in words), None)
    if there is None:
        return found
    swaps: dict[str, Rule] = {}

    def swapped(each: Finding) -> Finding:
        if each.rule.tier != "kernel":
            return each
        rule = swaps.setdefault(
            each.rule.name,
            replace(
                each.rule,
                tier="library",
                counterpart=there,
                why=f"{there} has this operator; {each.rule.why} otherwise",
            ),
        )
        return replace(each, rule=rule)

    return replace(found, findings=tuple(map(swapped, found.findings)))


def _with_own_operators(reads: Mapping[str, Read]) -> dict[str, Read]:
    """Python files that import CUDA operators which the repository builds for itself: their calls are edited, and with
    the operators that a library of the other side has, its names stand there."""
    built = reach.operators(reads)
    changed = {}
    for path, each in reads.items():
        found = []
        for one in each.imports:
            name = next((name for name in (*one.names, one.module.rpartition(".")[2]) if name in built), None)
            if name is not None:
                there = {hit.rule.counterpart for source in built[name] for hit in reads[source].findings} - {""}
                rule = replace(OWN, counterpart=", ".join(sorted(there)))
                found.append(Finding(line=one.line, column=1, rule=rule, text=name))
        if found and each.language == "python":
            merged = sorted((*each.findings, *found), key=lambda one: (one.line, one.column))
            changed[path] = replace(each, findings=tuple(merged))
    return changed


def _notes(reads: Mapping[str, Read], entries: Sequence[str]) -> Iterable[str]:
    broken = [each for each in reads.values() if each.error]
    if broken:
        yield f"{len(broken)} file{'s' * (len(broken) > 1)} could not be read and are left out"
    if not entries:
        yield "no --entry: every source file outside tests, documentation and vendored folders counts"
