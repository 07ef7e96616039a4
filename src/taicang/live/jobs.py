"""One call on its way: its choices, each a request on the machine, and what has been told of them.

The timer that lets steps happen also writes: it drives ``send`` by hand as far as that goes without waiting, so that a
token costs no switch to a task. Where the client's buffer is full, a task waits for it, and what was made meanwhile
goes out as one part; nothing is kept for a client that does not read but a count.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from taicang.live.answers import Answer
from taicang.live.asked import Asked, Refused
from taicang.live.replies import Chat, usage
from taicang.live.supernode import Stream

Send = Callable[[dict[str, Any]], Awaitable[None]]
PART = "taicang.part"
"""Extension of our server: the ``Line`` to the client."""


class Line:
    """How bytes of a begun, chunked answer get on the wire at once: by ``write``, unless ``full``, which is so from
    when the server has ``paused`` until what was made since is on its way. A small object: a step touches it for each
    stream, and what it takes is time to fetch it."""

    __slots__ = ("full", "paused", "write")

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.write = write
        self.full = self.paused = False


class Choice(Stream):
    """One answer of a call."""

    __slots__ = (
        "adapter", "answer", "around", "closed", "head", "index", "job", "line", "prompt_tokens", "ring", "sent",
        "start", "tail", "tokens",
    )  # fmt: skip

    def __init__(self, job: Job, index: int, answer: Answer, prompt_tokens: int) -> None:
        super().__init__()
        self.job = job
        self.index = index
        self.answer = answer
        self.prompt_tokens = prompt_tokens
        self.adapter: str | None = None
        self.tokens: Sequence[int] = ()
        """Of prompt and answer, where somebody wants to know."""
        self.sent = 0
        self.closed = False
        self.head, self.tail = (b"", b"") if job.form is None else job.form.around(index)
        self.around = len(self.head) + len(self.tail)
        self.ring, self.start, self.line = answer.ring, answer.start, job.line

    @property
    def why(self) -> str:
        """See ``Stream``."""
        return self.answer.why

    def told(self, now: int, *, ended: bool = False) -> None:
        """See ``Stream``."""
        line, sent = self.line, self.sent
        if line is not None and not line.full and self.out == sent + 1 and sent and not ended:  # nearly every time
            ring = self.ring
            text = ring[(self.start + sent) % len(ring)]
            self.sent = sent + 1
            try:
                line.write(b"%x\r\n%b%b%b\r\n" % (self.around + len(text), self.head, text, self.tail))
            except RuntimeError:  # the connection is closed: the call ends when that is known
                line.full = True
            return
        job = self.job
        if job.form is None:
            if ended and not self.closed:
                self.closed = True
                job.close()
        elif not job.blocked and (ended or self.out - self.sent >= job.interval or not self.sent):
            body = self.take()
            if body:
                job.push(body)

    def take(self) -> bytes:
        """What is to be told by now."""
        job, begin, end = self.job, self.sent, min(self.out, self.answer.length)
        form, ended = job.form, self.request.end >= 0
        assert form is not None
        if self.closed or (end == begin and not ended):
            return b""
        self.sent = end
        body = b"" if begin else form.lead(self.index)
        text = self.answer.text(begin, end)
        if not ended:
            return body + form.part(self.index, text, None, self.used() if job.asked.always else None)
        self.closed = True
        if self.request.failed or self.request.first < 0:
            body += b"data: " + lost().body() + b"\n\n"
        else:
            body += form.part(self.index, text, self.answer.why, self.used() if job.asked.always else None)
        job.close()
        return body + (form.end(job.used() if job.tells else None) if job.left == 0 else b"")

    def used(self) -> dict[str, Any]:
        """Tokens that it took up to here."""
        return usage(self.prompt_tokens, self.out, max(self.request.cached, 0))


def lost() -> Refused:
    """What becomes of an answer whose instance failed too often, or whose turn came too late."""
    return Refused("the request was given up by the machine", status=500, kind="server_error", code="lost")


class Job:
    """``form`` is that of a stream, None where the whole answer is waited for (``done``)."""

    __slots__ = (
        "_kept", "_send", "_task", "asked", "blocked", "choices", "done", "form", "interval", "left", "line",
    )  # fmt: skip

    def __init__(
        self, asked: Asked, send: Send, form: Chat | None, interval: int,
        line: Line | None = None,
    ) -> None:  # fmt: skip
        self.asked = asked
        self.form = form
        self.interval = interval
        self.choices: list[Choice] = []
        self.left = 0
        self.blocked = False
        """The client's buffer is full."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._send = send
        alike = form is not None and form.plain and interval == 1 and not asked.always
        self.line = line if alike else None
        """Takes a part of one token at once, where such parts are alike."""
        self._kept = b""
        self._task: asyncio.Task[None] | None = None

    @property
    def tells(self) -> bool:
        """Whether the tokens used are told at the end."""
        return self.asked.usage or self.asked.always or self.asked.kind == "response"

    def add(self, answer: Answer, prompt_tokens: int) -> Choice:
        """One more answer."""
        choice = Choice(self, len(self.choices), answer, prompt_tokens)
        self.choices.append(choice)
        self.left += 1
        return choice

    def close(self) -> None:
        """One choice has ended."""
        self.left -= 1
        if self.left == 0 and not self.done.done():
            self.done.set_result(None)

    def used(self) -> dict[str, Any]:
        """Tokens that all choices took; those of one prompt count once."""
        each = self.choices[:: self.asked.n]
        return usage(
            sum(one.prompt_tokens for one in each), sum(one.out for one in self.choices),
            sum(max(one.request.cached, 0) for one in each),
        )  # fmt: skip

    def push(self, body: bytes) -> None:
        """Write now what can be written now."""
        message = {"type": "http.response.body", "body": body, "more_body": self.left > 0}
        going: Any = self._send(message)
        try:
            going.send(None)
        except StopIteration:
            return self._flows()
        except (RuntimeError, OSError):  # the connection is closing: the call ends when that is known
            self.blocked = True
            return
        going.close()  # it waits for room before it writes anything
        self.blocked = True
        self._kept = body
        self._task = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        """Write what is kept, and what has come since, as the client takes it."""
        body, self._kept = self._kept, b""
        with suppress(RuntimeError, OSError):  # the connection is closing
            while body:
                await self._send({"type": "http.response.body", "body": body, "more_body": self.left > 0})
                body = b"".join(choice.take() for choice in self.choices)
            self.blocked = False
            self._flows()

    def _flows(self) -> None:
        if self.line is not None:
            self.line.full = self.line.paused

    def drop(self) -> None:
        """Nobody reads any more."""
        if self._task is not None:
            self._task.cancel()

    def texts(self) -> list[tuple[str, str]]:
        """Text and why it ends, by choice. Raises ``Refused`` where the machine gave up."""
        if any(one.request.failed or one.request.first < 0 for one in self.choices):
            raise lost()
        return [
            (json.loads(b'"%b"' % one.answer.text(0, one.answer.length)) if one.answer.length else "", one.answer.why)
            for one in self.choices
        ]


async def until_gone(receive: Callable[[], Coroutine[Any, Any, dict[str, Any]]]) -> None:
    """Return when the client is gone, or has all that it was to get."""
    while (await receive())["type"] != "http.disconnect":
        pass
