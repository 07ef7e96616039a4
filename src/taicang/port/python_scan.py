"""Python by its syntax tree: names as their imports bind them, calls, text constants, kernels, what is imported.

A file is parsed as a whole; then only statements on whose lines a word of a rule stands are looked at.
"""

from __future__ import annotations

import ast
import re
import warnings
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from taicang.port.tables import Extension, Finding, Import, Kernel, Read, Rule, Rules, Use

_KERNEL_ROOTS = {"triton": "triton", "numba": "numba", "cupyx": "cupy", "cupy": "cupy", "cuda": "cutile"}
_STARTS = frozenset({"startswith", "endswith"})
_BUILDS = ("Extension", "_ext", "extension")  # the last two as builds wrap the first
_PACKAGE = re.compile(r"\s*([A-Za-z0-9][\w.-]*)\s*(?:\[[^\]]*\])?\s*(?:[<>=!~;@].*)?$", re.DOTALL)


def scan(path: str, text: str, rules: Rules, own: frozenset[str] = frozenset()) -> Read:
    """Everything of one Python file; a syntax error is told with its line. ``own`` modules are no libraries."""
    lines = text.count("\n") + (not text.endswith("\n") and bool(text))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the repository's own strings
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None) or 1
        said = error.msg if isinstance(error, SyntaxError) else str(error) or type(error).__name__
        return Read(path=path, language="python", lines=lines, error=f"line {line}: {said}")
    found = _File(rules, text, own)
    found.read(tree)
    return Read(
        path=path,
        language="python",
        lines=lines,
        findings=tuple(sorted(found.findings.values(), key=lambda each: (each.line, each.column))),
        kernels=tuple(found.kernels),
        uses=tuple(used(text, found.bound, rules.uses)),
        imports=tuple(found.imports),
        defined=frozenset(_defined(tree)),
        registered=frozenset(_registered(tree)),
        extensions=tuple(found.extensions),
        package_folders=found.package_folders,
        runs=found.runs,
    )


def _defined(tree: ast.Module) -> Iterator[str]:
    for each in tree.body:
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield each.name
        elif isinstance(each, ast.Assign):
            yield from (target.id for target in each.targets if isinstance(target, ast.Name))


def _registered(tree: ast.Module) -> Iterator[str]:
    for each in tree.body:
        for decorator in getattr(each, "decorator_list", ()):
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            if isinstance(called, ast.Attribute | ast.Name) and "register" in ast.unparse(called).lower():
                yield each.name  # type: ignore[attr-defined]
                yield from (str(text.value) for text in _texts(decorator))


@lru_cache(maxsize=64)
def _trigger(words: frozenset[str]) -> re.Pattern[str] | None:
    return re.compile(branches(words)) if words else None


class _File:
    """One file while it is read."""

    def __init__(self, rules: Rules, text: str, own: frozenset[str]) -> None:
        self.rules, self.text, self.own = rules, text, own
        self.bound: dict[str, str] = {}  # local name -> dotted name
        self.findings: dict[tuple[int, str, str], Finding] = {}
        self.kernels: list[Kernel] = []
        self.imports: list[Import] = []
        self.extensions: list[Extension] = []
        self.package_folders: dict[str, str] = {}
        self.runs = False
        self.hot: list[int] = []  # lines on which a word of a rule stands

    def read(self, tree: ast.Module) -> None:
        """Imports first, since they say what names mean; then the statements that can hold something."""
        self._import_all(tree)
        words = self.rules.hints | {
            name for name, dotted in self.bound.items() if self.rules.imported(dotted) is not None
        }
        self.hot = self._hot_lines(_trigger(words))
        if self.hot:
            self._walk(tree)

    def _hot_lines(self, pattern: re.Pattern[str] | None) -> list[int]:
        starts, found = [0], []
        if pattern is None:
            return []
        starts.extend(match.end() for match in re.finditer("\n", self.text))
        previous = 0
        for match in pattern.finditer(self.text):
            line = bisect_left(starts, match.end())
            if line != previous:
                found.append(line)
                previous = line
        return found

    def _import_all(self, tree: ast.Module) -> None:
        stack: list[Any] = list(tree.body)
        while stack:
            node = stack.pop()
            if isinstance(node, ast.Import):
                for alias in node.names:
                    self.imports.append(Import(module=alias.name, level=0, names=(), line=node.lineno))
                    root = alias.name if alias.asname else alias.name.partition(".")[0]
                    if not self._own(root):
                        self.bound[alias.asname or root] = root
                        self._imported(node, alias.name)
            elif isinstance(node, ast.ImportFrom):
                module = node.module or ""
                names = tuple(alias.name for alias in node.names)
                self.imports.append(Import(module=module, level=node.level, names=names, line=node.lineno))
                for alias in node.names if not node.level and not self._own(module) else ():
                    self.bound[alias.asname or alias.name] = f"{module}.{alias.name}"
                    # ``from a import b, c`` is one edit where the rule is one of the module
                    rule = self.rules.imported(module)
                    self._imported(node if rule else alias, module if rule else f"{module}.{alias.name}")
            else:
                if isinstance(node, ast.If) and _is_main(node.test):
                    self.runs = True
                for part in ("body", "orelse", "finalbody", "handlers", "cases"):
                    inner = getattr(node, part, None)
                    if isinstance(inner, list):
                        stack.extend(inner)

    def _own(self, module: str) -> bool:
        return module.partition(".")[0] in self.own

    def _imported(self, node: ast.stmt | ast.alias, dotted: str) -> None:
        rule = self.rules.imported(dotted)
        if rule is not None:
            self._add(node.lineno, node.col_offset, rule, dotted)

    def _add(self, line: int, column: int, rule: Rule, text: str) -> None:
        """One finding for each line, rule and text."""
        found = Finding(line=line, column=column + 1, rule=rule, text=text[:80])
        self.findings.setdefault((line, rule.name, found.text), found)

    def _walk(self, tree: ast.Module) -> None:
        stack: list[Any] = [tree]
        hot, count = self.hot, len(self.hot)
        while stack:
            node = stack.pop()
            if isinstance(node, list):
                stack.extend(each for each in reversed(node) if isinstance(each, ast.AST))
                continue
            if isinstance(node, ast.stmt):
                first = min((each.lineno for each in getattr(node, "decorator_list", ())), default=node.lineno)
                at = bisect_left(hot, first)
                if at == count or hot[at] > (node.end_lineno or node.lineno):
                    continue
            handler = _HANDLERS.get(node.__class__)
            if handler is None or handler(self, node, stack):
                stack.extend(value for value in _children(node))

    # Each handler returns whether the node's children are still to be looked at.

    def _attribute(self, node: ast.Attribute, stack: list[Any]) -> bool:
        dotted, root = self._dotted(node)
        if dotted:
            rule = self.rules.named(dotted)
            if rule is not None:
                self._add(node.lineno, node.col_offset, rule, dotted)
                return False
        rule = self.rules.attributes.get(node.attr)
        if rule is not None:
            self._add(node.lineno, node.col_offset, rule, node.attr)
        stack.append(node.value if root is None else root)
        return False

    def _name(self, node: ast.Name, _stack: list[Any]) -> bool:
        dotted = self.bound.get(node.id)
        rule = self.rules.named(dotted) if dotted else None
        if rule is not None and dotted:
            self._add(node.lineno, node.col_offset, rule, dotted)
        return False

    def _call(self, node: ast.Call, stack: list[Any]) -> bool:
        func = node.func
        if isinstance(func, ast.Attribute):
            dotted, _ = self._dotted(func)
            if func.attr in self.rules.methods and not (dotted and self.rules.named(dotted)):
                line, column = func.end_lineno or func.lineno, (func.end_col_offset or 0) - len(func.attr)
                self._add(line, column, self.rules.methods[func.attr], f".{func.attr}()")
            if func.attr in _STARTS and node.args:
                self._compared(node.args[0])
                stack.extend((func, *node.args[1:]))
                return False
        name = func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")
        if name.endswith(_BUILDS) or name in {"load", "load_inline", "setup"}:
            self._build(node, name)
        return True

    def _build(self, node: ast.Call, name: str) -> None:
        """Extensions, package folders and requirements of a setup file."""
        given = {each.arg: each.value for each in node.keywords}
        if name == "setup":
            folders = given.get("package_dir")
            if isinstance(folders, ast.Dict):
                for key, value in zip(folders.keys, folders.values, strict=True):
                    if isinstance(key, ast.Constant) and isinstance(value, ast.Constant):
                        self.package_folders[str(key.value)] = str(value.value)
            for keyword in ("install_requires", "setup_requires"):
                for each in _texts(given.get(keyword)):
                    named = _PACKAGE.match(str(each.value))
                    rule = self.rules.package(named[1]) if named else None
                    if rule is not None:
                        self._add(each.lineno, each.col_offset, rule, str(each.value))
            return
        label = given.get("name", node.args[0] if node.args else None)
        sources = given.get("sources", node.args[1] if len(node.args) > 1 else None)
        if isinstance(label, ast.Constant) and isinstance(label.value, str) and not name.startswith("load_ext"):
            found = tuple(str(each.value) for some in (sources, given.get("sources_cuda")) for each in _texts(some))
            module = given.get("module")
            if isinstance(module, ast.Constant) and isinstance(module.value, str):  # sources are below it
                found = tuple("/".join((*filter(None, module.value.split(".")), each)) for each in found)
            self.extensions.append(Extension(name=label.value, sources=found))

    def _constant(self, node: ast.Constant, _stack: list[Any]) -> bool:
        if isinstance(node.value, str) and len(node.value) <= 80:
            rule = self.rules.whole("strings", node.value) or self.rules.whole("env", node.value)
            if rule is not None:
                self._add(node.lineno, node.col_offset, rule, repr(node.value))
        return False

    def _compare(self, node: ast.Compare, stack: list[Any]) -> bool:
        for each in (node.left, *node.comparators):
            if isinstance(each, ast.Constant | ast.List | ast.Tuple | ast.Set):
                self._compared(each)
            else:
                stack.append(each)
        return False

    def _compared(self, node: ast.expr) -> None:
        for each in _texts(node):
            rule = self.rules.whole("compared", str(each.value)) or self.rules.whole("env", str(each.value))
            if rule is not None:
                self._add(each.lineno, each.col_offset, rule, repr(each.value))

    def _statement(self, node: ast.Expr, _stack: list[Any]) -> bool:
        return not isinstance(node.value, ast.Constant)  # a docstring

    def _import(self, _node: ast.Import, _stack: list[Any]) -> bool:
        return False

    def _function(self, node: ast.FunctionDef, _stack: list[Any]) -> bool:
        for each in node.decorator_list:
            called = each.func if isinstance(each, ast.Call) else each
            dotted = self._dotted(called)[0] if isinstance(called, ast.Attribute | ast.Name) else ""
            rule = self.rules.named(dotted) if dotted else None
            if rule is not None and rule.tier == "kernel":
                first = min(each.lineno for each in node.decorator_list)
                lines = (node.end_lineno or node.lineno) - first + 1
                language = _KERNEL_ROOTS.get(dotted.partition(".")[0], "python")
                self.kernels.append(Kernel(name=node.name, line=first, lines=lines, language=language))
                break
        return True

    def _dotted(self, node: ast.Attribute | ast.Name) -> tuple[str, ast.expr | None]:
        """A chain of attributes as the dotted name its imports give it, and the expression it begins with."""
        parts: list[str] = []
        at: ast.expr = node
        while isinstance(at, ast.Attribute):
            parts.append(at.attr)
            at = at.value
        if isinstance(at, ast.Name) and at.id in self.bound:
            return ".".join((self.bound[at.id], *reversed(parts))), at
        return "", None


def _children(node: ast.AST) -> Iterator[Any]:
    for name in reversed(node._fields):
        value = getattr(node, name, None)
        if isinstance(value, list | ast.AST):
            yield value


def _texts(node: ast.expr | None) -> list[ast.Constant]:
    """The text constants of a constant, a list of them, or sums of those."""
    if isinstance(node, ast.Constant):
        return [node] if isinstance(node.value, str) else []
    inside: Iterable[ast.expr] = ()
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        inside = node.elts
    elif isinstance(node, ast.BinOp):
        inside = (node.left, node.right)
    elif isinstance(node, ast.JoinedStr) and len(node.values) == 1:
        inside = (node.values[0],)
    elif isinstance(node, ast.ListComp):
        inside = (node.generators[0].iter,)
    elif isinstance(node, ast.Call):
        inside = node.args
    return [text for each in inside for text in _texts(each)]


def _is_main(test: ast.expr) -> bool:
    return isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and test.left.id == "__name__"


_HANDLERS: dict[type, Any] = {
    ast.Attribute: _File._attribute,
    ast.Name: _File._name,
    ast.Call: _File._call,
    ast.Constant: _File._constant,
    ast.Compare: _File._compare,
    ast.Expr: _File._statement,
    ast.Import: _File._import,
    ast.ImportFrom: _File._import,
    ast.FunctionDef: _File._function,
    ast.AsyncFunctionDef: _File._function,
}


_CHAIN: Final = re.compile(r"[A-Za-z_][\w.]*\.$")
_SIZES: Final = re.compile(r"\s*\(\s*(\d+)\s*(?:,\s*(\d+)\s*(?:,\s*(?:kernel_size\s*=\s*)?\(?\s*(\d+))?)?")


def branches(words: Iterable[str]) -> str:
    """A pattern of any of ``words`` that branches letter by letter: several times faster than a list of them."""
    tails: dict[str, set[str]] = {}
    for word in words:
        tails.setdefault(word[0], set()).add(word[1:])
    made = (re.escape(first) + ("" if "" in rest else branches(rest)) for first, rest in sorted(tails.items()))
    return f"(?:{'|'.join(made)})"


@lru_cache(maxsize=64)
def _pattern(words: frozenset[str]) -> re.Pattern[str]:
    return re.compile(rf"(?<=[ .(\[=,])(?:{branches(words)}\(|@ )")


def used(text: str, bound: Mapping[str, str], table: Mapping[str, str]) -> Iterator[Use]:
    """Calls of operators of ``table`` in ``text``, of which imports have ``bound`` names, and products by ``@``."""
    local = {name: dotted for name, dotted in bound.items() if dotted in table}
    words = _words(tuple(table)) | frozenset(local)
    for found in _pattern(words).finditer(text) if table else ():
        at = found.start()
        before = text[text.rfind("\n", 0, at) + 1 : at]
        if "#" in before:
            continue
        word = found[0][:-1]
        if word == "@":
            yield Use("@", table.get(".matmul", "product"))
            continue
        chain = _CHAIN.search(before)
        root, _, rest = chain[0][:-1].partition(".") if chain else (word, "", "")
        if chain and root in bound:
            name = ".".join(part for part in (bound[root], rest, word) if part)
        elif before.endswith("."):
            name = f".{word}"
        else:
            name = local.get(word, "")
        kind = table.get(name)
        if kind is not None:
            sizes = _SIZES.match(text, found.end() - 1)
            yield Use(
                name.removeprefix("."), kind, tuple(int(each) for each in sizes.groups() if each) if sizes else ()
            )


@lru_cache(maxsize=8)
def _words(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(name.rpartition(".")[2] for name in names)
