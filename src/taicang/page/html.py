"""The page itself: one file with everything in it, so that it can be sent to a colleague and opened from disk."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from html import escape
from importlib import resources
from typing import Any

from taicang.page.parts import Section

ENGINE = "echarts.common.min.js"

KINDS = {"Table": "table", "Lines": "list", "Spans": "spans", "Picture": "picture", "Pick": "pick"}


@cache
def static(name: str) -> str:
    """A file that ships with the package."""
    return (resources.files("taicang.page") / "static" / name).read_text(encoding="utf-8")


def page(title: str, sections: Sequence[Section]) -> str:
    """The whole page; its data are in it."""
    data = json.dumps({"title": title, "sections": [_plain(each) for each in sections]}, allow_nan=False)
    return _whole(title, "page.js", data=data.replace("<", "\\u003c"))  # no text of a result can end the script


@cache
def live_page() -> str:
    """The page of a machine at work, which asks the endpoint that it came from."""
    return _whole("taicang", "live.js", main=static("live.html"), reach="; connect-src 'self'")


def _whole(title: str, script: str, *, main: str = "", reach: str = "", data: str = "null") -> str:
    """One frame for all pages; what comes from a result is put in last, so that nothing in it is taken for a place."""
    made = static("page.html")
    for place, text in (
        ("style", static("page.css")), ("reach", reach), ("main", main), ("engine", static(ENGINE)),
        ("script", "".join(map(static, ("shared.js", "canvas.js", script)))),
    ):  # fmt: skip
        made = made.replace(f"{{{{{place}}}}}", text)
    return re.sub(
        r"\{\{(title|data)\}\}", lambda found: {"title": escape(title, quote=False), "data": data}[found[1]], made
    )


def _plain(made: Any) -> Any:
    """A part as the page's script reads it."""
    if isinstance(made, tuple):
        return [_plain(each) for each in made]
    if not is_dataclass(made):
        return made
    kind = {} if isinstance(made, Section) else {"kind": getattr(made, "kind", KINDS.get(type(made).__name__))}
    return kind | {each.name: _plain(getattr(made, each.name)) for each in fields(made) if each.name != "kind"}
