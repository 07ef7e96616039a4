"""The chat template of a model: messages as the one text that its engine would see."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

from taicang.errors import InvalidInput, NotModelled
from taicang.reading import document, text

Template: TypeAlias = Callable[[Sequence[Mapping[str, Any]], Mapping[str, Any]], str]
"""Messages and further words of the template to a text. Raises ``InvalidInput`` for messages that it does not take."""
MARKS = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")


def template_of(folder: Path) -> Template | None:
    """Of chat_template.jinja, else of tokenizer_config.json; None where neither says one. It sees nothing of the host.

    Raises ``InvalidInput`` where it cannot be read, ``NotModelled`` without the package that runs it.
    """
    beside, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    given = document(text(settings), str(settings)) if settings.is_file() else {}
    if not isinstance(given, dict):
        raise InvalidInput("expected a JSON object", where=str(settings))
    where = str(beside if beside.is_file() else settings)
    source = text(beside) if beside.is_file() else given.get("chat_template")
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
