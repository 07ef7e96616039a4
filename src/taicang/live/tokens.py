"""Text and tokens: what a prompt counts, how messages are written, and words to answer with, each of them one token.

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
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from taicang.errors import InvalidInput, NotModelled
from taicang.reading import document
from taicang.reading import text as read_text
from taicang.traffic.texts import loaded

Template: TypeAlias = Callable[[Sequence[Mapping[str, Any]], Mapping[str, Any]], str]
"""Messages and further words of the template to a text. Raises ``InvalidInput`` for messages that it does not take."""
MARKS = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")


def template_of(folder: Path) -> Template | None:
    """Of chat_template.jinja, else of tokenizer_config.json; None where neither says one. It sees nothing of the host.

    Raises ``InvalidInput`` where it cannot be read, ``NotModelled`` without the package that runs it.
    """
    beside, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    given = document(read_text(settings), str(settings)) if settings.is_file() else {}
    if not isinstance(given, dict):
        raise InvalidInput("expected a JSON object", where=str(settings))
    where = str(beside if beside.is_file() else settings)
    source = read_text(beside) if beside.is_file() else given.get("chat_template")
    if isinstance(source, list):
        named = {each.get("name"): each.get("template") for each in source if isinstance(each, dict)}
        source = named.get("default")
    if source is None:
        return None
    if not isinstance(source, str):
        raise InvalidInput("chat_template: expected a text, or templates by name", where=where)
    marks = {name: mark for name in MARKS if (mark := _mark(given.get(name))) is not None}
    return _compiled(source, marks, where)


def _mark(value: Any) -> str | None:
    """A special token: its text, or the object that holds it."""
    found = value.get("content") if isinstance(value, dict) else value
    return found if isinstance(found, str) else None


def _compiled(source: str, marks: Mapping[str, str], where: str) -> Template:
    try:
        import jinja2  # noqa: PLC0415
        from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415
    except ImportError:
        raise NotModelled("a chat template needs the jinja2 package: pip install 'taicang[tokenizer]'") from None

    def refuse(message: object) -> None:
        raise jinja2.TemplateError(str(message))

    def as_json(value: Any, indent: int | None = None, **_: Any) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    box = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"],
    )  # fmt: skip
    box.filters["tojson"] = as_json
    box.globals |= {"raise_exception": refuse, "strftime_now": lambda form: datetime.now().strftime(str(form))}
    try:
        made = box.from_string(source)
    except (jinja2.TemplateError, RecursionError) as error:
        raise InvalidInput(f"the chat template cannot be read: {error}", where=where) from None

    def written(messages: Sequence[Mapping[str, Any]], words: Mapping[str, Any]) -> str:
        usual = {"add_generation_prompt": True, "tools": None, "documents": None}
        try:
            return str(made.render({**usual, **marks, **words, "messages": messages}))
        except Exception as error:  # a template is a program
            raise InvalidInput(f"the chat template does not take these messages: {str(error)[:200]}") from None

    return written


BYTES = 6
"""Of a token, at most."""
PARTS = re.compile(r" ?[^\W\d_]+| ?\d{1,3}| ?(?:[^\w\s]|_)+|\s+")
WORDS, FEW = 4096, 64
CONSONANTS, VOWELS = "bdfghklmnprstvwz", "aeiou"


class Tokenizer(Protocol):
    """Text to tokens and back."""

    name: str
    template: Template | None
    """How messages are written, where the tokenizer's folder says it."""

    @property
    def words(self) -> Sequence[str]:
        """Texts of one token each that stay themselves one after the other, around and around."""

    @property
    def word_ids(self) -> Sequence[int]:
        """Their tokens."""

    def encode(self, text: str, *, marks: bool = False) -> list[int]:
        """The tokens of ``text``, with those that the tokenizer puts before and after a text if ``marks``."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``."""

    def pieces(self, text: str) -> list[str]:
        """``text`` cut at its tokens: each with what is whole since the one before, as engines stream it."""


class Plain:
    """The tokenizer that ships."""

    name = "taicang"
    template: Template | None = None

    @cached_property
    def words(self) -> Sequence[str]:
        """Words of four letters, in an order of their own."""
        heads = [c + v for c in CONSONANTS for v in VOWELS]
        drawn = random.Random(0).sample([f" {a}{b}" for a in heads for b in heads], WORDS)
        return drawn

    @cached_property
    def word_ids(self) -> Sequence[int]:
        """See ``Tokenizer``."""
        return [self.encode(word)[0] for word in self.words]

    def encode(self, text: str, *, marks: bool = False) -> list[int]:
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
        self.template = template_of(folder) if os.path.isdir(folder) else None

    @cached_property
    def _ring(self) -> Sequence[tuple[int, str]]:
        """Words where the vocabulary has some that are one token each, else whatever prints.

        Raises ``InvalidInput`` where nothing stays itself.
        """
        special = self._read.get_added_tokens_decoder()
        ids = sorted(set(self._read.get_vocab().values()) - set(special))
        texts = [(token, self._inside(token)) for token in random.Random(0).sample(ids, min(len(ids), 20_000))]
        words = [each for each in texts if re.fullmatch(r" [a-z]{3,12}", each[1])]
        made = self._chain(words)
        if len(made) < FEW:
            shown = [each for each in texts if each[1].strip() and each[1].isprintable() and "\ufffd" not in each[1]]
            made = self._chain(words + shown)
        if not made or self.encode("".join(text for _, text in made))[1 - len(made) :] != [at for at, _ in made[1:]]:
            raise InvalidInput(f"{self.name} has no texts that are one token each in a row", where="--tokenizer")
        return made

    def _inside(self, token: int) -> str:
        """The text of a token that others stand before: some tokenizers drop the first blank of all."""
        one, two = (self._read.decode([token] * count, skip_special_tokens=False) for count in (1, 2))
        return str(two[len(one) :])

    def _chain(self, found: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
        """Of those ``found`` some that follow each other, and the first of them the last."""
        made: list[tuple[int, str]] = []
        for each in found:
            if self._follows(each, each) and (not made or self._follows(made[-1], each)):
                made.append(each)
                if len(made) == WORDS:
                    break
        while made and not self._follows(made[-1], made[0]):
            made.pop()
        return made

    def _follows(self, first: tuple[int, str], then: tuple[int, str]) -> bool:
        """Whether ``then`` stays itself behind ``first``: for byte pairs neighbours are all that counts."""
        return [first[0], then[0]] in (self.encode(first[1] + then[1]), self.encode(first[1].lstrip() + then[1]))

    @cached_property
    def words(self) -> Sequence[str]:
        """See ``Tokenizer``."""
        return [text for _, text in self._ring]

    @cached_property
    def word_ids(self) -> Sequence[int]:
        """See ``Tokenizer``."""
        return [token for token, _ in self._ring]

    def encode(self, text: str, *, marks: bool = False) -> list[int]:
        """See ``Tokenizer``."""
        ids: list[int] = self._read.encode(text, add_special_tokens=marks).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """See ``Tokenizer``. Raises ``InvalidInput`` for what is no token."""
        try:
            text: str = self._read.decode(list(ids), skip_special_tokens=False)
        except (OverflowError, TypeError):
            raise InvalidInput("there is no such token") from None
        return text

    def pieces(self, text: str) -> list[str]:
        """By the places that the tokenizer gives; a character of several tokens comes with the last of them."""
        places = self._read.encode(text, add_special_tokens=False).offsets
        made, at = [], 0
        for (_, end), (begin, _) in zip(places, [*places[1:], (len(text), 0)], strict=False):
            upto = max(min(end, begin), at) if begin < len(text) else len(text)
            made.append(text[at:upto])
            at = upto
        return made


def opening(tokenizer: Tokenizer, before: str, at: int) -> tuple[str, int]:
    """Word ``at`` as it begins an answer to a prompt that ends with ``before``, so that prompt and answer are the same
    tokens when they come back as one text. Without its blank if that will do, since chat templates strip answers."""
    words, ids = tokenizer.words, tokenizer.word_ids
    known, then = tokenizer.encode(before), (at + 1) % len(words)
    for text in (words[at].lstrip(), words[at]):
        found = tokenizer.encode(before + text + words[then])
        if text and len(found) == len(known) + 2 and found[-1] == ids[then] and found[: len(known)] == known:
            return text, found[-2]
    return words[at], ids[at]


def escaped(text: str) -> bytes:
    """``text`` as it stands between the quotes of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8", "replace")


def block_ids(tokens: Sequence[int], size: int, before: int = 0) -> list[int]:
    """Ids of the whole blocks of a prompt: each stands for its tokens and all ``before`` them."""
    made: list[int] = []
    for at in range(0, len(tokens) - size + 1, size):
        before = hash((before, *tokens[at : at + size]))
        made.append(before)
    return made
