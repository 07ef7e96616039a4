"""The page itself: one file with everything in it, so that it can be sent to a colleague and opened from disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from taicang.page.parts import Chart, Section, Table

ENGINE = "echarts.common.min.js"
ENGINE_SHA256 = "55974cf42cc160e6cf9099cd3ed8cdedfaa9779919fcee7e2272c85f6ca30e27"


@cache
def static(name: str) -> str:
    """A file that ships with the package."""
    return (resources.files("taicang.page") / "static" / name).read_text(encoding="utf-8")


def page(title: str, sections: Sequence[Section]) -> str:
    """The whole page; its data are in it."""
    data = json.dumps({"title": title, "sections": [_section(each) for each in sections]}, allow_nan=False)
    made = static("page.html").replace("{{style}}", static("page.css")).replace("{{script}}", static("page.js"))
    made = made.replace("{{title}}", _escaped(title)).replace("{{engine}}", static(ENGINE))
    return made.replace("{{data}}", data.replace("<", "\\u003c"))  # no text of a result can end the script


@cache
def live_page() -> str:
    """The page of a machine at work, which asks the endpoint that it came from."""
    return static("live.html").replace("{{style}}", static("page.css")).replace("{{script}}", static("live.js"))


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _section(section: Section) -> dict[str, Any]:
    return {"key": section.key, "title": section.title, "parts": [_part(each) for each in section.parts]}


def _part(part: Any) -> dict[str, Any]:
    kind = "table" if isinstance(part, Table) else part.kind if isinstance(part, Chart) else "list"
    return {"kind": kind} | {name: getattr(part, name) for name in part.__slots__ if name != "kind"}
