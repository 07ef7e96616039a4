"""One HTTP request, and how it is answered."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

from taicang.live.jobs import Send

Receive: TypeAlias = Callable[[], Coroutine[Any, Any, dict[str, Any]]]
JSON_TYPE = (b"content-type", b"application/json")
PLAIN_TYPE = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
EVENTS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
HTML_TYPE = (b"content-type", b"text/html; charset=utf-8")


@dataclass(slots=True, kw_only=True)
class Call:
    """One HTTP request."""

    scope: Mapping[str, Any]
    receive: Receive
    send: Send
    body: bytes = b""

    @property
    def headers(self) -> dict[bytes, bytes]:
        """The last of each name."""
        return dict(self.scope["headers"])

    @property
    def asked(self) -> dict[str, str]:
        """The parameters of its address, the last of each name."""
        return dict(parse_qsl(self.scope.get("query_string", b"").decode("latin-1")))

    async def answer(self, status: int, body: bytes, kind: tuple[bytes, bytes] = JSON_TYPE) -> None:
        """Answer at once."""
        await self.send({"type": "http.response.start", "status": status,
                         "headers": [kind, (b"content-length", b"%d" % len(body))]})  # fmt: skip
        await self.send({"type": "http.response.body", "body": body})

    async def json(self, value: Any, status: int = 200) -> None:
        """Answer with a JSON value."""
        await self.answer(status, json.dumps(value).encode())
