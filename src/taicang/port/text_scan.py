"""C++ and CUDA by their tokens; shell, build files, YAML, requirements by their lines. Comments count for nothing."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator

from taicang.port.tables import Extension, Finding, Kernel, Read, Rule, Rules

_NATIVE = re.compile(
    r"^[ \t]*\#[ \t]*include[^\n]*|//[^\n]*|/\*.*?(?:\*/|\Z)"
    r"|R\"(?P<mark>[^ ()\\\n]{0,16})\(.*?\)(?P=mark)\"|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'",
    re.DOTALL | re.MULTILINE,
)
_HASH = re.compile(r"\"(?:\\.|[^\"\\\n])*\"|'[^'\n]*'|(?<![^\s;&|(])\#[^\n]*")
_BODY = r"(?:[^{};]*?\b)?(?P<name>(?!__)\w+)\s*\((?=[^{};]*\{)"
_KERNELS = {
    "ascend": ("cuda", re.compile(rf"\b__global__\b(?!\s+__aicore__\b){_BODY}")),
    "cuda": ("ascend", re.compile(rf"\b__global__\s+__aicore__\b{_BODY}")),
}
"""Direction -> language of the kernels that it has to do with, and what tells one."""
_BLOCK = re.compile(r"[{}]")
_YAML = re.compile(
    r"^[ \t]*(?:-[ \t]+)?(?:(?P<key>[\w.]+)[ \t]*:(?=\s))?[ \t]*(?P<value>[\"']?[^\s\"'#][^\s\"']*[\"']?)?[ \t]*$",
    re.MULTILINE,
)
_PINNED = re.compile(
    r"^[ \t]*(?:-[ \t]+)?(?P<open>[\w-]+[ \t]*=[ \t]*)?[\[\"']*(?P<name>[A-Za-z0-9][\w.-]*)[ \t]*"
    r"(?:\[[^\]\n]*\])?[ \t]*(?=[<>=!~;@,\"'\]\n#]|$)",
    re.MULTILINE,
)
_QUOTED = re.compile(r"[\"'](?P<name>[A-Za-z0-9][\w.-]*)[ \t]*(?:\[[^\]\n]*\])?[ \t]*(?=[<>=!~;@\"'])")
_EXTENSION = re.compile(
    r"\b(?:add_library|pybind11_add_module|cuda_add_library|Python_add_library)\s*\(\s*(?P<name>[\w${}]+)(?P<rest>[^)]*)\)"
)


class _Text:
    """A file with what is found in it."""

    def __init__(self, path: str, language: str, text: str) -> None:
        self.path, self.language, self.text = path, language, text
        self.starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self.findings: dict[tuple[int, str, str], Finding] = {}

    def line(self, offset: int) -> int:
        return bisect_right(self.starts, offset)

    def add(self, offset: int, rule: Rule, said: str) -> None:
        line = self.line(offset)
        said = " ".join(said.split())[:80]
        column = offset - self.starts[line - 1] + 1
        self.findings.setdefault((line, rule.name, said), Finding(line=line, column=column, rule=rule, text=said))

    def done(self, kernels: tuple[Kernel, ...] = (), extensions: tuple[Extension, ...] = ()) -> Read:
        return Read(
            path=self.path,
            language=self.language,
            lines=len(self.starts) - self.text.endswith("\n") - (not self.text),
            findings=tuple(sorted(self.findings.values(), key=lambda each: (each.line, each.column))),
            kernels=kernels,
            extensions=extensions,
        )


def _blank(found: re.Match[str]) -> str:
    """As many lines and columns of nothing; an include stays."""
    text = found[0]
    if text.lstrip().startswith("#"):
        return text
    return "".join("\n" if each == "\n" else " " for each in text) if "\n" in text else " " * len(text)


def native(path: str, language: str, text: str, rules: Rules) -> Read:
    """C, C++, CUDA or Ascend C."""
    file = _Text(path, language, text)
    code = _NATIVE.sub(_blank, text)
    for rule, match in rules.inside("native", code):
        file.add(match.start(), rule, match[0])
    return file.done(tuple(_kernels(file, code, rules.to)))


def _kernels(file: _Text, code: str, to: str) -> Iterator[Kernel]:
    language, pattern = _KERNELS[to]
    for match in pattern.finditer(code):
        depth, end = 0, len(code)
        for brace in _BLOCK.finditer(code, match.end()):
            depth += 1 if brace[0] == "{" else -1
            if depth == 0:
                end = brace.start()
                break
        first = file.line(match.start())
        yield Kernel(name=match["name"], line=first, lines=file.line(end) - first + 1, language=language)


def _commented(text: str) -> str:
    return _HASH.sub(lambda found: " " * len(found[0]) if found[0].startswith("#") else found[0], text)


def shell(path: str, language: str, text: str, rules: Rules) -> Read:
    """Shell scripts and container files."""
    file = _Text(path, language, text)
    code = _commented(text)
    for kind in ("shell", "env"):
        for rule, match in rules.inside(kind, code):
            if kind == "shell" or _word(code, match):
                file.add(match.start(), rule, match[0])
    return file.done()


def _word(code: str, match: re.Match[str]) -> bool:
    before, after = code[match.start() - 1 : match.start()], code[match.end() : match.end() + 1]
    return not (before.isalnum() or before == "_" or after.isalnum() or after == "_")


def build(path: str, language: str, text: str, rules: Rules) -> Read:
    """CMake and make."""
    file = _Text(path, language, text)
    code = _commented(text)
    for rule, match in rules.inside("build", code):
        file.add(match.start(), rule, match[0])
    made = tuple(
        Extension(name=match["name"], sources=tuple(match["rest"].split())) for match in _EXTENSION.finditer(code)
    )
    return file.done(extensions=made)


def yaml(path: str, language: str, text: str, rules: Rules) -> Read:
    """Values, and names of environment variables, of a YAML file; packages of a conda environment."""
    file = _Text(path, language, text)
    code = _commented(text)
    for match in _YAML.finditer(code):
        value = (match["value"] or "").strip("\"'")
        rule = rules.whole("strings", value) if value else None
        if rule is not None:
            file.add(match.start("value"), rule, value)
        rule = rules.whole("env", match["key"]) if match["key"] else None
        if rule is not None:
            file.add(match.start("key"), rule, match["key"])
    if "dependencies:" in code:
        _packages(file, code, rules)
    return file.done()


def packages(path: str, language: str, text: str, rules: Rules) -> Read:
    """Requirements, pyproject.toml, setup.cfg."""
    file = _Text(path, language, text)
    _packages(file, _commented(text), rules)
    return file.done()


def _packages(file: _Text, code: str, rules: Rules) -> None:
    for pattern in (_PINNED, _QUOTED) if file.path.endswith(".toml") else (_PINNED,):
        for match in pattern.finditer(code):
            rule = rules.package(match["name"])
            if rule is not None:
                file.add(match.start("name"), rule, match["name"])
    for rule, match in rules.inside("requirement", code):
        file.add(match.start(), rule, match[0])


READERS = {"cuda": native, "native": native, "shell": shell, "build": build, "yaml": yaml, "packages": packages}
"""Language -> its reader; Python has a module of its own."""
