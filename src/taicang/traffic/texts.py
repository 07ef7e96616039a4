"""Lengths of requests that come as text: ShareGPT conversations, prompts, chat messages. Nothing is guessed: the user
names a tokenizer, or says how many characters make a token."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from taicang import reading
from taicang.errors import InvalidInput, NotModelled

Counter: TypeAlias = Callable[[str], int]
"""Tokens of a text."""


def counter(*, chars_per_token: float | None = None, tokenizer: Path | None = None) -> Counter | None:
    """Counts by a Hugging Face ``tokenizer.json``, or by a ratio; None where neither is given."""
    if tokenizer is not None:
        read = loaded(tokenizer)
        return lambda text: len(read.encode(text, add_special_tokens=False).ids)
    if chars_per_token is None:
        return None
    ratio = chars_per_token
    return lambda text: max(round(len(text) / ratio), 1)


def loaded(tokenizer: Path) -> Any:
    """The tokenizer of a ``tokenizer.json``. Raises ``InvalidInput`` where it cannot be read."""
    try:
        library: Any = import_module("tokenizers")
    except ImportError:
        raise NotModelled("--tokenizer needs the tokenizers package: pip install 'taicang[tokenizer]'") from None
    try:
        return library.Tokenizer.from_file(str(tokenizer))
    except Exception as error:  # the library raises bare exceptions
        raise InvalidInput(f"cannot read the tokenizer ({error})", where=str(tokenizer)) from None


def text_of(row: Mapping[str, Any]) -> str | None:
    """The prompt in ``row``, of chat messages all their contents; None where it has none."""
    for key in ("prompt", "text_input", "text"):
        if isinstance(row.get(key), str):
            return str(row[key])
    messages = row.get("messages")
    if not isinstance(messages, list):
        return None
    parts: list[str] = []
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        pieces = content if isinstance(content, list) else [{"text": content}]
        parts += [str(piece["text"]) for piece in pieces if isinstance(piece, dict) and piece.get("text")]
    return "\n".join(parts)


def conversations(text: str, path: str, count: Counter) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, lengths) of ShareGPT conversations, their first prompt and answer, as the engines' benchmarks take them.

    Conversations without an answer are left out: ``{}``.
    """
    for line, item in items(text, path):
        turns = item.get("conversations", item.get("conversation")) if isinstance(item, dict) else None
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            yield line, {"": "is no conversation: expected 'conversations' with a list of turns"}
            continue
        said = [turn.get("value", turn.get("content")) for turn in turns[:2]]
        if len(said) < 2 or not all(isinstance(each, str) and each for each in said):
            yield line, {}
            continue
        yield line, {"prompt_len": count(said[0]), "output_tokens": count(said[1])}


def items(text: str, path: str) -> Iterator[tuple[int, Any]]:
    """(line, value) of each element of a JSON array, so that a fault can be found in a file of one line or millions."""
    decoder = json.JSONDecoder(object_pairs_hook=reading.one_voice)
    at, line = text.index("[") + 1, 1
    seen = 0
    while True:
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        line, seen = line + text.count("\n", seen, at), at
        if text[at : at + 1] == "]":
            return
        try:
            value, at = decoder.raw_decode(text, at)
        except reading.FAULTS as error:
            raise InvalidInput(f"not JSON ({error})", where=f"{path}:{line}") from None
        yield line, value
