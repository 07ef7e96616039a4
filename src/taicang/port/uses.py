"""Operators of the framework that Python code calls, by its text: what carries the time after a port."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Final

from taicang.port.found import Use

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
