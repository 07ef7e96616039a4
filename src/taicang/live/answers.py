"""What is said: filler of the asked length, the prompt again, or answers on record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from taicang.errors import InvalidInput
from taicang.live.tokens import Tokenizer, escaped
from taicang.reading import text as read_text

HASH = (1 << 61) - 1


@dataclass(frozen=True, slots=True)
class Answer:
    """``length`` tokens: those of ``ring`` (escaped for JSON) from ``start`` on, around and around."""

    ring: Sequence[bytes]
    start: int
    length: int
    why: str
    """It ends: "stop" or "length"."""

    def text(self, begin: int, end: int) -> bytes:
        """Tokens ``begin`` to ``end``, escaped."""
        ring, size = self.ring, len(self.ring)
        if end - begin == 1:
            return ring[(self.start + begin) % size]
        return b"".join([ring[(self.start + i) % size] for i in range(begin, end)])


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
        self, prompt: str, *, seed: int, most: int | None, least: int, room: int, stop: Sequence[str] = (),
        to_the_end: bool = False,
    ) -> Answer:  # fmt: skip
        """The answer to ``prompt``, of ``most`` tokens (None: as it comes), at least ``least`` and within ``room``."""
        known = self.said.get(prompt, prompt if self.echo else None)
        limit = room if most is None else min(most, room)
        if known is None:
            length = min(self.usual if most is None and not to_the_end else limit, limit)
            length = max(length, least)
            made = Answer(self._ring, seed % len(self._ring), length, "stop" if length < limit else "length")
        else:
            pieces = self.tokenizer.pieces(known) or [""]
            short = max(least, limit if to_the_end else 0) - len(pieces)
            words = self.tokenizer.words
            pieces += [words[(seed + i) % len(words)] for i in range(max(short, 0))]
            why = "stop" if len(pieces) <= limit and not to_the_end else "length"
            made = Answer([escaped(piece) for piece in pieces], 0, min(len(pieces), limit), why)
        return self._until(made, stop, least) if stop else made

    def _until(self, answer: Answer, stop: Sequence[str], least: int) -> Answer:
        """``answer`` up to the first of the ``stop`` texts that ends after ``least`` tokens."""
        pieces = [json.loads(b'"%b"' % answer.text(i, i + 1)) for i in range(answer.length)]
        text, longest = "", max(map(len, stop))
        for i, piece in enumerate(pieces):
            before = len(text)
            text += piece
            if i + 1 <= least:
                continue
            found = [at for each in stop if (at := text.find(each, max(before - longest + 1, 0))) >= 0]
            if found:
                return _cut(pieces[: i + 1], min(found))
        return answer


def _cut(pieces: list[str], size: int) -> Answer:
    """The tokens of ``pieces``, of whose text only the first ``size`` characters are said."""
    made = []
    for piece in pieces:
        made.append(escaped(piece[: max(size, 0)]))
        size -= len(piece)
    return Answer(made, 0, len(made), "stop")


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
