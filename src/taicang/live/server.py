"""Sockets: an endpoint behind uvicorn, with limits on what a client may keep waiting."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from taicang.errors import InvalidInput
from taicang.live.clock import LoopClock
from taicang.live.endpoint import Endpoint
from taicang.live.jobs import PART, Line

MOST_HEAD = 64 << 10
"""Bytes of a request's first line and headers."""
REQUEST_S = 30.0
"""In which a request has to be there whole, from its connection or its first byte on."""
STUCK_S = 60.0
"""After which a client that does not read is let go."""
DRAIN_S = 1
BACKLOG = 4096


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ``InvalidInput`` where that is not to be had."""
    try:
        if port >= 1 << 16:
            raise OSError("ports end at 65535")
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError, AttributeError):  # a token's time is the machine's: no pacing beside it (BBR)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        try:
            made.bind((host, port))
            made.listen(BACKLOG)
        except OSError:
            made.close()
            raise
    except OSError as error:
        raise InvalidInput(f"cannot listen on {host}:{port}: {error.strerror or error}", where="--port") from None
    made.setblocking(False)
    return made


class Guarded(HttpToolsProtocol):  # type: ignore[misc]
    """Lets clients go that send no whole request, send too long a head, or do not read."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head = 0
        self._unread = True
        self._due: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """A client comes."""
        super().connection_made(transport)
        self._line = Line(transport.write)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        for timer in (self._due, self._stuck):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def _expect(self) -> None:
        if self._due is not None:
            self._due.cancel()
        self._due = self.loop.call_later(REQUEST_S, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        """Some of a request."""
        self._head += len(data)
        super().data_received(data)
        if self._unread and self._head > MOST_HEAD and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n"
                                 b"content-length: 0\r\n\r\n")  # fmt: skip
            self.transport.close()

    def on_message_begin(self) -> None:
        """The parser sees a request."""
        self._head, self._unread = 0, True
        self._expect()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head is there."""
        self._unread = False
        self.scope["extensions"] = {PART: self._line}
        if sum(len(name) + len(value) for name, value in self.headers) > MOST_HEAD:  # it came at once
            self.app = _too_long
        elif self.parser.get_http_version() == "1.0":
            self.app = self._unframed
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """All of it is."""
        if self._due is not None:
            self._due.cancel()
        super().on_message_complete()

    async def _unframed(self, scope: Any, receive: Any, send: Any) -> None:
        """HTTP/1.0 knows no chunks: an answer without a length ends with its connection."""
        cycle, known = self.cycle, False

        async def plain(message: Any) -> None:
            nonlocal known
            if message["type"] == "http.response.start":
                known = any(name == b"content-length" for name, _ in message["headers"])
                cycle.chunked_encoding = None if known else False
            elif not known:
                cycle.expected_content_length = len(message["body"]) + message.get("more_body", False)
            await send(message)

        await self.config.loaded_app({**scope, "extensions": {}}, receive, plain)

    def pause_writing(self) -> None:
        """The client's buffers are full."""
        super().pause_writing()
        self._line.paused = self._line.full = True
        self._stuck = self.loop.call_later(STUCK_S, self.transport.abort)

    def resume_writing(self) -> None:
        """They are not any more."""
        super().resume_writing()
        self._line.paused = False
        if self._stuck is not None:
            self._stuck.cancel()


async def _too_long(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"connection", b"close"), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 431, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


class Server(uvicorn.Server):  # type: ignore[misc]
    """Signals are taken by who runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Not here."""
        yield


def listen_all(host: str, port: int, count: int) -> list[socket.socket]:
    """As ``listen``, on ``count`` ports from ``port`` on (0: any that are free)."""
    made: list[socket.socket] = []
    try:
        for at in range(count):
            made.append(listen(host, port + at if port else 0))
    except InvalidInput:
        for each in made:
            each.close()
        raise
    return made


def run(
    listening: Sequence[socket.socket], build: Callable[[LoopClock], Endpoint], ready: Callable[[], None], *,
    access_log: bool = False,
) -> Endpoint:  # fmt: skip
    """Serve until the user stops it; what is under way then has ``DRAIN_S`` seconds."""
    _many_files()
    if access_log:
        logging.getLogger("uvicorn.access").addHandler(logging.StreamHandler())
        logging.getLogger("uvicorn.access").setLevel(logging.INFO)

    async def main() -> Endpoint:
        loop = asyncio.get_running_loop()
        clock = LoopClock(loop)
        endpoint = build(clock)
        server = Server(uvicorn.Config(
            endpoint, http=Guarded, ws="none", lifespan="off", log_config=None, log_level="critical",
            access_log=access_log, server_header=False, date_header=False, timeout_graceful_shutdown=DRAIN_S,
            backlog=BACKLOG, timeout_keep_alive=30,
        ))  # fmt: skip

        def stop() -> None:
            server.force_exit = server.should_exit
            endpoint.closing = server.should_exit = True

        for each in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(each, stop)
        gc.collect()
        gc.freeze()  # what is built by now stays
        ready()
        try:
            await server.serve(sockets=list(listening))
        finally:
            clock.close()
        return endpoint

    with asyncio.Runner(loop_factory=_fast_loop()) as runner:
        return runner.run(main())


def _many_files() -> None:
    """As many connections as the host allows a process."""
    try:
        import resource  # noqa: PLC0415
    except ImportError:  # of Unix
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return None
    made: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return made
