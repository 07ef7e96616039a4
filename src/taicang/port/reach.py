"""Which files a program reaches: modules by their imports, kernels by the extension they are built into, scripts by
what they start."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from pathlib import PurePosixPath

from taicang.port import tree
from taicang.port.tables import Import, Read

_WORD = re.compile(r"\w+")
_LISTS = re.compile(r"^(?:from[^\n(]+import\b(?:\s*\([^)]*\)|[^\n]*)|__all__\s*\+?=\s*[\[(][^\])]*[\])])", re.MULTILINE)
_TEXT = re.compile(r"[\"']([\w./-]{3,120})[\"']")
_VALUE = re.compile(r"(?:[:\s,\[-]|^)[\"']?([\w./-]{3,120})[\"']?\s*(?=[,\]}#\n]|$)")
_SCRIPT = re.compile(r"[\w./-]*?([\w-]+)\.py\b|-m[ \t]+([\w.]+)")


class Modules:
    """Names under which the Python files of a repository can be imported."""

    def __init__(self, reads: Mapping[str, Read], entries: Iterable[str] = ()) -> None:
        python = [path for path, read in reads.items() if read.language == "python"]
        self.folders = {str(parent) for path in python for parent in PurePosixPath(path).parents}
        self.paths = set(python)
        self.settings = {path for path, read in reads.items() if read.language == "yaml"}
        starts = {"", "src", *map(posixpath.dirname, entries)}
        built = {
            posixpath.dirname(path) for path in reads if PurePosixPath(path).name in {"setup.py", "pyproject.toml"}
        }
        self.starts = sorted(root for root in starts if root in self.folders or not root)
        self.roots = sorted({root for root in built if root in self.folders} | {*self.starts})
        self.moved = {
            package: posixpath.join(posixpath.dirname(path), folder)
            for path, read in reads.items()
            for package, folder in read.package_folders.items()
            if package
        }

        self.tails: dict[str, list[str]] = {}  # last part of a module's name -> modules, as paths without suffix
        for path in python:
            module = path.removesuffix("/__init__.py").removesuffix(".py")
            self.tails.setdefault(posixpath.basename(module), []).append(module)

    def own(self) -> frozenset[str]:
        """Modules at the top that the repository holds itself: an import of them is not one of a library."""
        names = set(self.moved)
        for path in self.paths:
            folder, name = posixpath.split(path)
            for root in self.roots:
                if folder == root and name not in {"setup.py", "__init__.py"}:
                    names.add(name.removesuffix(".py"))
                elif name == "__init__.py" and posixpath.dirname(folder) == root and folder:
                    names.add(posixpath.basename(folder))
        return frozenset(names)

    def packages(self, path: str) -> Iterator[str]:
        """The ``__init__`` files that run before a module does."""
        folder = posixpath.dirname(path)
        while folder and f"{folder}/__init__.py" in self.paths:
            yield f"{folder}/__init__.py"
            folder = posixpath.dirname(folder)

    def find(self, importer: str, one: Import) -> Iterator[str]:
        """Files of the repository that an import statement of ``importer`` runs or takes names from."""
        here = posixpath.dirname(importer)
        if one.level:
            for _ in range(one.level - 1):
                here = posixpath.dirname(here)
            bases = [here]
        else:
            bases = [*self.roots, here] if here not in self.roots else self.roots
        parts = one.module.split(".") if one.module else []
        for base in bases:
            found = list(self._at(base, parts, one.names))
            if found:
                yield from found
                return
        if not one.level and parts and parts[0] in self.moved:
            yield from self._at(self.moved[parts[0]], parts[1:], one.names)
        elif not one.level and parts and len(bases := self._put_on_path(importer, parts)) == 1:
            yield from self._at(bases[0], parts, one.names)

    def _put_on_path(self, importer: str, parts: list[str]) -> list[str]:
        """Folders below which the module lies: one above the importer, which its program was started in, or those that
        are no packages, which a program may put on its path."""
        tail = "/" + "/".join(parts)
        bases = [each[: -len(tail)] for each in self.tails.get(parts[-1], ()) if each.endswith(tail)]
        above = [each for each in bases if importer.startswith(f"{each}/")]
        return above or [each for each in bases if f"{each}/__init__.py" not in self.paths]

    def _at(self, base: str, parts: list[str], names: tuple[str, ...]) -> Iterator[str]:
        path = base
        for number, part in enumerate(parts):
            path = posixpath.join(path, part)
            if number == len(parts) - 1 and f"{path}.py" in self.paths:
                yield f"{path}.py"
                return
            if f"{path}/__init__.py" in self.paths:
                yield f"{path}/__init__.py"
            elif path not in self.folders:
                return
        for name in names:
            for each in (f"{name}.py", f"{name}/__init__.py"):
                if (place := posixpath.join(path, each)) in self.paths:
                    yield place
        if not parts and (place := posixpath.join(path, "__init__.py")) in self.paths:
            yield place


def python(
    reads: Mapping[str, Read], modules: Modules, starts: Collection[str], texts: Mapping[str, str] | None
) -> set[str]:
    """Python files that ``starts``, settings in YAML among them, reach. With ``texts``, a module that only an
    ``__init__`` imports counts when a file that counts says one of its names: packages that register all they hold
    import far more than a run uses."""
    reached: set[str] = set()
    waiting: dict[str, set[str]] = {
        path: set() for path, read in reads.items() if texts is not None and read.registered
    }
    said: set[str] = set()  # by all files that count
    told: dict[str, set[str]] = {}  # __init__ -> what files that import it say
    passed: dict[str, set[str]] = {}  # __init__ -> those that it imports in turn
    todo = set(starts)
    while todo:
        path = todo.pop()
        reached.add(path)
        quiet = texts is not None and path.endswith("__init__.py")
        words: set[str] = set()
        if quiet and texts is not None:  # what it defines itself may use what it imports
            told.setdefault(path, set()).update(_WORD.findall(_LISTS.sub("", texts[path])))
        elif texts is not None:
            words = set(_WORD.findall(texts[path]))
            said |= words
            todo.update(_named_files(path, texts[path], modules))
        for one in reads[path].imports:
            for target in modules.find(path, one):
                if target.endswith("__init__.py"):
                    told.setdefault(target, set()).update(words)
                    passed.setdefault(path, set()).add(target)
                    todo.add(target)
                elif quiet:
                    waiting.setdefault(target, set()).add(path)
                else:
                    todo.add(target)
        todo -= reached
        if not todo:
            _pass_on(told, passed)
            named = {
                each
                for each, inits in waiting.items()
                if each not in reached
                and (
                    reads[each].registered & said
                    if reads[each].registered
                    else any(reads[each].defined & told.get(init, set()) for init in inits)
                )
            }
            todo = named | {each for path in named for each in modules.packages(path)} - reached
    return reached & modules.paths


def _pass_on(told: dict[str, set[str]], passed: Mapping[str, set[str]]) -> None:
    """Let what is said to an ``__init__`` reach those that it takes its names from."""
    changed = set(told)
    while changed:
        path = changed.pop()
        for target in passed.get(path, ()):
            known = told.setdefault(target, set())
            if not told.get(path, set()) <= known:
                known |= told[path]
                changed.add(target)


def _named_files(path: str, text: str, modules: Modules) -> Iterator[str]:
    """Files that a text names as a constant: bases of a configuration, folders of plugins, modules or what they define;
    where it is Hydra that reads a folder of settings, all in it."""
    code = path in modules.paths
    for name in (_TEXT if code else _VALUE).findall(text):
        for base in {posixpath.dirname(path), *(modules.starts if {"/", "."} & {*name} else ("",))}:
            at = posixpath.normpath(posixpath.join(base, name))
            if code and "hydra" in text:
                yield from (each for each in modules.settings if each.startswith(f"{at}/"))
            below = posixpath.normpath(posixpath.join(base, name.replace(".", "/")))
            named = [below] if "/" in name or "." not in name else [below, posixpath.dirname(below)]
            for each in (at, *(f"{each}{end}" for each in named for end in (".py", "/__init__.py"))):
                if each in modules.paths or each in modules.settings:
                    yield each


def native(reads: Mapping[str, Read], reached: Collection[str], *, whole: bool) -> set[str]:
    """C++ and CUDA files that are built into an extension that a reached file imports.

    Of one that no build file names, the extensions without listed sources above it decide, else whether the Python next
    above it is reached; with neither, it counts where the repository is read as a ``whole``.
    """
    imported = _Imported(one for path in reached for one in reads[path].imports)
    folders = {posixpath.dirname(path) for path in reached}
    built: dict[str, set[str]] = {}  # source -> extensions that are built from it
    open_ended: dict[str, set[str]] = {}  # folder -> extensions built from something below it
    for path, read in reads.items():
        base = posixpath.dirname(path)
        for each in read.extensions:
            sources = [posixpath.normpath(posixpath.join(base, source)) for source in each.sources]
            for source in sources:
                built.setdefault(source, set()).add(each.name)
            if read.language == "python" and not any(source in reads for source in sources):
                open_ended.setdefault(base, set()).add(each.name)
    found = set()
    python_folders = {
        posixpath.dirname(p) for p, r in reads.items() if r.language == "python" and posixpath.basename(p) != "setup.py"
    }
    for path, read in reads.items():
        if read.language not in {"cuda", "native"}:
            continue
        role = tree.role(PurePosixPath(path))
        near, above = _nearest(path, python_folders), _nearest(path, open_ended)
        if path in built:
            counts = any(imported.whole(name) or imported.parts(name) for name in built[path])
        elif above is not None and any(imported.takes(name, path) for name in open_ended[above]):
            counts = True
        elif above is not None and not whole:
            counts = False
        elif near:
            # what others wrote, and tests, are no part of the Python above them
            counts = near in folders and role in {"source", tree.role(PurePosixPath(near, "x.py"))}
        else:
            counts = whole and role == "source"
        if counts:
            found.add(path)
    return found


def operators(reads: Mapping[str, Read]) -> dict[str, list[str]]:
    """Last part of the name of an extension -> its files with CUDA kernels; below its folder, where none is listed."""
    kernels = [path for path, read in reads.items() if read.language == "cuda" and read.kernels]
    found = {}
    for path, read in reads.items():
        base = posixpath.dirname(path)
        for each in read.extensions:
            listed = {posixpath.normpath(posixpath.join(base, source)) for source in each.sources}
            some = [one for one in kernels if one in listed]
            if not some and not listed & reads.keys():
                some = [one for one in kernels if not base or one.startswith(f"{base}/")]
            if some:
                found[each.name.rpartition(".")[2]] = some
    return found


class _Imported:
    """What import statements take from extensions."""

    def __init__(self, statements: Iterable[Import]) -> None:
        self.modules: set[str] = set()
        self.taken: dict[str, set[str]] = {}  # last part of a module -> names taken from it
        for one in statements:
            last = one.module.rpartition(".")[2]
            if not one.names:
                self.modules.add(last)
            self.modules.update(one.names)
            self.taken.setdefault(last, set()).update(one.names)

    def whole(self, extension: str) -> bool:
        """Whether an extension is imported as a module."""
        return extension.rpartition(".")[2] in self.modules

    def parts(self, extension: str) -> set[str]:
        """Names that are taken from an extension."""
        return self.taken.get(extension.rpartition(".")[2], set())

    def takes(self, extension: str, path: str) -> bool:
        """Whether an extension is imported whole, or a name is taken from it that begins as the source's name does."""
        own = set(tree.heads(PurePosixPath(path).stem))
        return self.whole(extension) or any(own & set(tree.heads(name)) for name in self.parts(extension))


def _nearest(path: str, folders: Container[str]) -> str | None:
    """The nearest of ``folders`` above ``path``."""
    at = posixpath.dirname(path)
    while at not in folders:
        if not at:
            return None
        at = posixpath.dirname(at)
    return at


def starts_reached(text: str, reached: Collection[str]) -> bool:
    """Whether a script starts a reached file, or no Python file at all."""
    named = {match[1] or match[2].rpartition(".")[2] for match in _SCRIPT.finditer(text)}
    return not named or bool(named & {PurePosixPath(path).stem for path in reached})
