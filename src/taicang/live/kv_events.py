"""What the caches hold, told to routers over ZeroMQ in vLLM's words: blocks that are stored, removed, all gone.

A message is three frames: topic, number (eight bytes, from 0), and a batch in msgpack, ``[time, [event, ...], rank]``,
whose events are maps with their "type" and fields. Subscribers that missed some ask the replay socket with the first
number that they want; it answers with all from there that it keeps, and a last one numbered -1.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from taicang.errors import InvalidInput, NotModelled
from taicang.live.jobs import Choice
from taicang.live.supernode import Supernode
from taicang.serve.instance import Instance
from taicang.serve.request import Request
from taicang.units import digits

KEPT = 10_000
"""Batches for those that missed some."""
WORD = (1 << 64) - 1
END = (-1).to_bytes(8, "big", signed=True)
Event = dict[str, Any]


class Teller:
    """Hears of one cache (see ``Cache.watch``). ``tokens_of`` gives the tokens of a request, none where nobody knows
    them: of load that no client sends nothing is told. ``adapter_of`` gives the adapter that it asks for."""

    __slots__ = ("_told", "adapter_of", "block", "events", "tokens_of")

    def __init__(
        self, block: int, tokens_of: Callable[[Request], Sequence[int]], adapter_of: Callable[[Request], str | None]
    ) -> None:
        self.adapter_of = adapter_of
        self.block = block
        self.tokens_of = tokens_of
        self.events: list[Event] = []
        """Since they were last sent."""
        self._told: set[int] = set()

    def stored(self, request: Request, begin: int, end: int) -> None:
        """Blocks ``begin`` to ``end`` of ``request`` are new here."""
        tokens, size, blocks = self.tokens_of(request), self.block, request.blocks
        if not tokens:
            return
        self._told.update(blocks[begin:end])
        self.events.append({
            "type": "BlockStored", "block_hashes": [block & WORD for block in blocks[begin:end]],
            "parent_block_hash": blocks[begin - 1] & WORD if begin else None,
            "token_ids": list(tokens[begin * size : end * size]), "block_size": size, "lora_id": None, "medium": "GPU",
            "lora_name": self.adapter_of(request),
        })  # fmt: skip

    def removed(self, block: int) -> None:
        """A block made room."""
        if block not in self._told:
            return
        self._told.remove(block)
        if self.events and self.events[-1]["type"] == "BlockRemoved":
            self.events[-1]["block_hashes"].append(block & WORD)
        else:
            self.events.append({"type": "BlockRemoved", "block_hashes": [block & WORD], "medium": "GPU"})

    def cleared(self) -> None:
        """All is lost."""
        self._told.clear()
        self.events.append({"type": "AllBlocksCleared"})


class KvEvents:
    """The caches of ``instances``, one after the other by rank; ``send`` gets (rank, batch)."""

    def __init__(
        self, instances: Sequence[Instance], tokens_of: Callable[[Request], Sequence[int]],
        send: Callable[[int, list[Any]], None], adapter_of: Callable[[Request], str | None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._send = send
        self._tellers: list[Teller] = []
        for group in (group for instance in instances for group in instance.groups):
            group.cache.watch = Teller(group.cache.block, tokens_of, adapter_of)
            self._tellers.append(group.cache.watch)

    def flush(self) -> None:
        """Send what has happened, a batch for each rank."""
        for rank, teller in enumerate(self._tellers):
            if teller.events:
                events, teller.events = teller.events, []
                self._send(rank, [time.time(), events, rank])


def follow(machine: Supernode, send: Callable[[int, list[Any]], None]) -> None:
    """From now on what the caches of ``machine`` hold of clients' requests is sent, as (rank, batch)."""
    streams = machine.streams

    def tokens_of(request: Request) -> Sequence[int]:
        stream = streams.get(request)
        return stream.tokens if isinstance(stream, Choice) else ()

    def adapter_of(request: Request) -> str | None:
        stream = streams.get(request)
        return stream.adapter if isinstance(stream, Choice) else None

    machine.told = KvEvents(machine.cluster.entry, tokens_of, send, adapter_of).flush


class Publisher:
    """Sockets of vLLM's form: ``endpoint`` is bound where its host is ``*`` and else connected to; ``apart``: each rank
    has a port of its own, the endpoint's plus its number. Raises ``InvalidInput`` where that cannot be."""

    def __init__(self, ranks: int, endpoint: str, replay: str | None, topic: str, *, apart: bool) -> None:
        try:
            import msgpack  # noqa: PLC0415
            import zmq  # noqa: PLC0415
        except ImportError as error:
            raise NotModelled(f"--kv-events needs the {error.name} package: pip install 'taicang[events]'") from None
        self._pack: Callable[[Any], bytes] = msgpack.packb
        self._zmq = zmq
        self._topic = topic.encode()
        self._context = zmq.Context()
        self._apart = apart
        count = ranks if apart else 1
        self._kept: list[deque[tuple[int, bytes]]] = [deque(maxlen=KEPT) for _ in range(count)]
        self._next = [0] * count
        self._closing = threading.Event()
        try:
            self._out = [self._open(zmq.PUB, endpoint, "--kv-events", at) for at in range(count)]
            asked = [self._open(zmq.ROUTER, replay, "--kv-replay", at) for at in range(count)] if replay else []
        except InvalidInput:
            self._context.destroy(linger=0)
            raise
        self._thread = threading.Thread(target=self._answer, args=(asked,), daemon=True)
        self._thread.start()

    def _open(self, kind: int, endpoint: str, where: str, at: int) -> Any:
        address, _, port = endpoint.rpartition(":")
        if not address.startswith("tcp://") or not digits(port) or not 0 < int(port) + at < 1 << 16:
            raise InvalidInput(f"expected tcp://*:PORT or tcp://HOST:PORT, got {endpoint!r}", where=where)
        made = self._context.socket(kind)
        made.set_hwm(100_000)
        place = f"{address}:{int(port) + at}"
        try:
            bound = "*" in address or kind == self._zmq.ROUTER
            (made.bind if bound else made.connect)(place)
        except self._zmq.ZMQError as error:
            raise InvalidInput(f"cannot use {place}: {error}", where=where) from None
        return made

    def send(self, rank: int, batch: list[Any]) -> None:
        """Tell whoever listens; nobody is waited for."""
        at = rank if self._apart else 0
        payload, number = self._pack(batch), self._next[at]
        self._next[at] = number + 1
        self._kept[at].append((number, payload))
        self._out[at].send_multipart((self._topic, number.to_bytes(8, "big"), payload))

    def _answer(self, asked: Sequence[Any]) -> None:
        """In a thread of its own: give those that ask what they missed."""
        poller = self._zmq.Poller()
        for each in asked:
            poller.register(each, self._zmq.POLLIN)
        while not self._closing.is_set():
            if not asked:
                self._closing.wait()
                continue
            for socket, _ in poller.poll(100):
                frames = socket.recv_multipart()
                if len(frames) != 3:
                    continue
                client, _, first = frames
                for number, payload in list(self._kept[asked.index(socket)]):
                    if number >= int.from_bytes(first, "big"):
                        socket.send_multipart((client, b"", self._topic, number.to_bytes(8, "big"), payload))
                socket.send_multipart((client, b"", b"", END, b""))
        for each in asked:
            each.close(linger=0)

    def close(self) -> None:
        """Nothing is told any more."""
        self._closing.set()
        self._thread.join(5.0)
        self._context.destroy(linger=100)
