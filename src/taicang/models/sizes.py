"""Sums of products of sizes, as data files state them: "2*head_dim + -1*heads"."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from taicang.models.keys import Keys


def sum_of(text: str, sizes: Mapping[str, int], keys: Keys) -> int:
    """The value of ``text``; a word that is none of ``sizes`` is one of ``keys``. Raises ``InvalidInput`` naming it."""

    def value(word: str) -> int:
        if word.removeprefix("-").isdigit():
            return int(word)
        return sizes[word] if word in sizes else keys.number(word, low=0)

    return sum(prod(value(word.strip()) for word in term.split("*")) for term in text.split("+") if text)
