"""What caches tell routers, and its frames."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from test_live_endpoint import CHAT, PATHS, World

from mirror import Mirror
from ports import free_port
from taicang.errors import InvalidInput
from taicang.live.kv_events import END, KvEvents, Publisher
from taicang.serve.cache import Cache
from taicang.serve.request import Request


def test_of_load_that_no_client_sends_nothing_is_told():
    mirror, cache = Mirror(), Cache(4, 16, 16)
    lone = SimpleNamespace(groups=[SimpleNamespace(cache=cache)])
    events = KvEvents([lone], lambda request: (), mirror.send)
    request = Request(0, 0, 64, 1, blocks=[1, 2, 3, 4])
    assert cache.admit(request, 64)
    cache.publish(request, 64)
    cache.release(request)
    cache.claim(2)
    events.flush()
    assert mirror.held == {}


def test_the_blocks_of_prompt_and_answer_are_told_with_their_tokens(still_clock):
    async def main():
        world, mirror = World(still_clock()), Mirror()
        world.endpoint.tell(mirror.send)
        said = await world.answer(PATHS["chat"], {**CHAT, "max_tokens": 100})
        ids = await world.answer("/tokenize", {"messages": CHAT["messages"]})
        return world, mirror, ids.json["tokens"], said.json["choices"][0]["message"]["content"]

    world, mirror, prompt, content = asyncio.run(main())
    tokens = [*prompt, *world.endpoint.tokenizer.encode(content)]
    (held,) = (each for each in mirror.held.values() if each)
    assert list(held.values()) == [tokens[at : at + 16] for at in range(0, len(tokens) - 16, 16)]


def test_frames_and_what_was_missed():
    zmq = pytest.importorskip("zmq", reason="pyzmq is an extra")
    msgpack = pytest.importorskip("msgpack", reason="msgpack is an extra")
    first, missed = free_port(), free_port()
    publisher = Publisher(3, f"tcp://*:{first}", f"tcp://127.0.0.1:{missed}", "kv@here", apart=False)
    context = zmq.Context()
    try:
        listener, asker = context.socket(zmq.SUB), context.socket(zmq.DEALER)
        listener.subscribe("kv@")
        listener.connect(f"tcp://127.0.0.1:{first}")
        asker.connect(f"tcp://127.0.0.1:{missed}")
        number = 0
        while not listener.poll(50):  # until it has heard that somebody listens
            publisher.send(2, [1.0, [{"type": "AllBlocksCleared"}], 2])
            number += 1
            assert number < 2000
        topic, seen, payload = listener.recv_multipart()
        assert (topic, msgpack.unpackb(payload)) == (b"kv@here", [1.0, [{"type": "AllBlocksCleared"}], 2])
        assert int.from_bytes(seen, "big") < number
        asker.send_multipart([b"", (1).to_bytes(8, "big")])
        answered = []
        while not answered or answered[-1][2] != END:
            assert asker.poll(60_000)
            answered.append(asker.recv_multipart())
        assert [int.from_bytes(each[2], "big") for each in answered[:-1]] == list(range(1, number))
        assert answered[-1] == [b"", b"", END, b""]
        with pytest.raises(InvalidInput, match="--kv-replay"):
            Publisher(1, f"tcp://*:{free_port()}", f"tcp://127.0.0.1:{missed}", "", apart=False)
    finally:
        context.destroy(linger=0)
        publisher.close()


@pytest.mark.parametrize("endpoint", ["5557", "tcp://*", "udp://*:1", "tcp://*:0", "tcp://*:65536", "tcp://*:x"])
def test_an_endpoint_that_is_none_is_refused(endpoint):
    pytest.importorskip("zmq", reason="pyzmq is an extra")
    pytest.importorskip("msgpack", reason="msgpack is an extra")
    with pytest.raises(InvalidInput, match="--kv-events"):
        Publisher(1, endpoint, None, "", apart=True)
