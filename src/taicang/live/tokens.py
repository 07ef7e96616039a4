"""Text and tokens: what a prompt counts, and words to answer with, each of which is one token.

The tokenizer that ships has no vocabulary: a token is up to six bytes of text, and its id is those bytes as a number.
Words, numbers and signs are told apart first, so that English comes to about as many tokens as real tokenizers make of
it; a word of up to five letters with the blank before it is one. One of your own (a folder with tokenizer.json) is read
through the ``tokenizers`` package.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

from taicang.errors import InvalidInput
from taicang.traffic.texts import loaded

BYTES = 6
"""Of a token, at most."""
PARTS = re.compile(r" ?[^\W\d_]+| ?\d{1,3}| ?(?:[^\w\s]|_)+|\s+")
WORDS = 4096
CONSONANTS, VOWELS = "bdfghklmnprstvwz", "aeiou"


class Tokenizer(Protocol):
    """Text to tokens and back."""

    name: str

    @property
    def words(self) -> Sequence[str]:
        """Text of tokens that stay themselves in any order."""

    def encode(self, text: str) -> list[int]:
        """The tokens of ``text``."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``."""

    def pieces(self, text: str) -> list[str]:
        """``text`` cut at its tokens."""


class Plain:
    """The tokenizer that ships."""

    name = "taicang"

    @cached_property
    def words(self) -> Sequence[str]:
        """Words of four letters, in an order of their own."""
        heads = [c + v for c in CONSONANTS for v in VOWELS]
        drawn = random.Random(0).sample([f" {a}{b}" for a in heads for b in heads], WORDS)
        return drawn

    def encode(self, text: str) -> list[int]:
        """The bytes of each token as a number, with a one before them (they may begin with zeros)."""
        return [int.from_bytes(b"\1" + part.encode(), "big") for part in self.pieces(text)]

    def pieces(self, text: str) -> list[str]:
        """See ``Tokenizer``."""
        made: list[str] = []
        for part in PARTS.findall(text):
            if len(part) <= BYTES and part.isascii():
                made.append(part)
            else:
                made += _cut(part)
        return made

    def decode(self, ids: Sequence[int]) -> str:
        """What each token stands for; a number that is none of them stands for a word."""
        return "".join(map(self._one, ids))

    def _one(self, token: int) -> str:
        data = token.to_bytes(max((token.bit_length() + 7) // 8, 1), "big")
        if 1 < len(data) <= BYTES + 1 and data[0] == 1:
            try:
                return data[1:].decode()
            except UnicodeDecodeError:
                pass
        return self.words[token % WORDS]


def _cut(part: str) -> list[str]:
    """``part`` in pieces of up to ``BYTES`` bytes, between characters."""
    made, piece, size = [], "", 0
    for each in part:
        width = len(each.encode())
        if size + width > BYTES:
            made.append(piece)
            piece, size = "", 0
        piece += each
        size += width
    return [*made, piece]


class Given:
    """A tokenizer of the user's, from ``folder``/tokenizer.json. Raises ``InvalidInput`` where it cannot be read."""

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json" if os.path.isdir(folder) else folder
        self._read = loaded(path)
        self.name = folder.resolve().name if os.path.isdir(folder) else path.stem

    @cached_property
    def words(self) -> Sequence[str]:
        """Of the vocabulary's words, those that stay one token each beside each other.

        Raises ``InvalidInput`` where there are too few.
        """
        ids = sorted(self._read.get_vocab().values())
        texts = [(token, self._read.decode([token])) for token in random.Random(0).sample(ids, min(len(ids), 20_000))]
        good = [" " + text.strip() for _, text in texts if re.fullmatch(r" ?[a-z]{3,12}", text)]
        good = [word for word in dict.fromkeys(good) if len(self.encode(word)) == 1][:WORDS]
        if len(good) < 64 or len(self.encode("".join(good))) != len(good):
            raise InvalidInput(f"{self.name} has no words that are one token each in any order", where="--tokenizer")
        return good

    def encode(self, text: str) -> list[int]:
        """See ``Tokenizer``; nothing is put before or after the text."""
        ids: list[int] = self._read.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """See ``Tokenizer``. Raises ``InvalidInput`` for what is no token."""
        try:
            text: str = self._read.decode(list(ids), skip_special_tokens=False)
        except (OverflowError, TypeError):
            raise InvalidInput("there is no such token") from None
        return text

    def pieces(self, text: str) -> list[str]:
        """By the places that the tokenizer gives; a token of part of a character goes to the one after it."""
        ends = [end for _, end in self._read.encode(text, add_special_tokens=False).offsets]
        made, at = [], 0
        for i, end in enumerate(ends):
            upto = len(text) if i == len(ends) - 1 else max(end, at)
            made.append(text[at:upto])
            at = upto
        return made


def escaped(text: str) -> bytes:
    """``text`` as it stands between the quotes of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8", "replace")


def block_ids(tokens: Sequence[int], size: int) -> list[int]:
    """Ids of the whole blocks of a prompt: each stands for its tokens and all before them."""
    made: list[int] = []
    before = 0
    for at in range(0, len(tokens) - size + 1, size):
        before = hash((before, *tokens[at : at + size]))
        made.append(before)
    return made
