"""What is said: filler of the asked length, the prompt again, or answers on record."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from taicang.errors import InvalidInput
from taicang.live.tokens import Tokenizer, escaped, opening
from taicang.reading import text as read_text

HASH = (1 << 61) - 1


@dataclass(frozen=True, slots=True)
class Answer:
    """``length`` tokens: ``head``, then those of ``ring`` (escaped for JSON) after ``start``, around and around, whose
    ids are ``ids``."""

    ring: Sequence[bytes]
    ids: Sequence[int]
    start: int
    head: tuple[bytes, int]
    length: int
    why: str
    """It ends: "stop" or "length"."""

    def text(self, begin: int, end: int) -> bytes:
        """Tokens ``begin`` to ``end``, escaped."""
        parts = _around(self.ring, self.start + begin, end - begin)
        if begin == 0 and parts:
            parts[0] = self.head[0]
        return b"".join(parts)

    def tokens(self) -> list[int]:
        """All of them."""
        return [self.head[1], *_around(self.ids, self.start + 1, self.length - 1)]


class Answers:
    """``usual`` tokens where the client names no limit. ``said`` holds answers by prompt; ``echo``: the prompt is the
    answer."""

    def __init__(
        self, tokenizer: Tokenizer, *, usual: int, echo: bool = False, said: Mapping[str, str] | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.usual = usual
        self.echo = echo
        self.said = said or {}
        self._ring = [escaped(word) for word in tokenizer.words]

    def give(
        self, prompt: str, *, seed: int, most: int | None, least: int, room: int, before: str = "",
        stop: Sequence[str] = (), to_the_end: bool = False,
    ) -> Answer:  # fmt: skip
        """The answer to ``prompt``, of ``most`` tokens (None: as it comes), at least ``least`` and within ``room``;
        ``before`` is the end of what the model reads."""
        known = self.said.get(prompt, prompt if self.echo else None)
        limit = room if most is None else min(most, room)
        if known is None:
            length = min(self.usual if most is None and not to_the_end else limit, limit)
            length = max(length, least)
            start = seed % len(self._ring)
            text, token = opening(self.tokenizer, before, start)
            why = "stop" if length < limit else "length"
            made = Answer(self._ring, self.tokenizer.word_ids, start, (escaped(text), token), length, why)
        else:
            pieces = self.tokenizer.pieces(known) or [""]
            ids = self.tokenizer.encode(known) or [0]
            short = max(least, limit if to_the_end else 0) - len(pieces)
            words, known_ids = self.tokenizer.words, self.tokenizer.word_ids
            more = [(seed + i) % len(words) for i in range(max(short, 0))]
            pieces += [words[i] for i in more]
            ids += [known_ids[i] for i in more]
            why = "stop" if len(pieces) <= limit and not to_the_end else "length"
            made = _of(pieces, ids, min(len(pieces), limit), why)
        return self._until(made, stop, least) if stop else made

    def _until(self, answer: Answer, stop: Sequence[str], least: int) -> Answer:
        """``answer`` up to the first of the ``stop`` texts that ends after ``least`` tokens."""
        plain = [json.loads(b'"%b"' % each) for each in answer.ring]
        pieces = _around(plain, answer.start, answer.length)
        pieces[:1] = [json.loads(b'"%b"' % answer.head[0])]
        ends = list(accumulate(map(len, pieces)))
        text, free = "".join(pieces), ends[least - 1] if least else 0
        found = [(bisect_left(ends, at + len(each)), at) for each in stop
                 if (at := text.find(each, max(free - len(each) + 1, 0))) >= 0]  # fmt: skip
        if not found:
            return answer
        last = min(found)[0]
        return _cut(pieces[: last + 1], answer.tokens(), min(at for ends_in, at in found if ends_in == last))


def _around(ring: Sequence[Any], start: int, length: int) -> list[Any]:
    """``length`` of a ring, from ``start`` on."""
    at = start % len(ring)
    made = list(ring[at : at + length])
    while len(made) < length:
        made += ring[: length - len(made)]
    return made


def _of(pieces: list[str], ids: list[int], length: int, why: str) -> Answer:
    """An answer of its own tokens."""
    ring = [escaped(piece) for piece in pieces]
    return Answer(ring, ids, 0, (ring[0], ids[0]), length, why)


def _cut(pieces: list[str], ids: list[int], size: int) -> Answer:
    """The tokens of ``pieces``, of whose text only the first ``size`` characters are said."""
    made = []
    for piece in pieces:
        made.append(piece[: max(size, 0)])
        size -= len(piece)
    return _of(made, ids, len(made), "stop")


def seed_of(prompt: Sequence[int], seed: int, choice: int) -> int:
    """Where filler begins: the same for the same prompt, seed and choice."""
    return hash((*prompt[-64:], len(prompt), seed, choice)) % HASH


def recorded(path: Path) -> dict[str, str]:
    """Answers by prompt from JSON lines with "prompt" and "answer". Raises ``InvalidInput`` with file and line."""
    made = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InvalidInput(f"not JSON: {error}", where=where) from None
        if not (isinstance(row, dict) and isinstance(row.get("prompt"), str) and isinstance(row.get("answer"), str)):
            raise InvalidInput('expected {"prompt": TEXT, "answer": TEXT}', where=where)
        made[row["prompt"]] = row["answer"]
    return made
