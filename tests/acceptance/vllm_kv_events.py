"""KV events of the endpoint, read with vLLM's own classes: ``vllm_kv_events.py URL REPLAY`` prints what came."""

from __future__ import annotations

import json
import sys
import urllib.request
from typing import Any

import msgspec
import zmq
from vllm.distributed.kv_events import BlockStored, KVEventBatch, ZmqEventPublisher


def ask(url: str, path: str, body: dict[str, Any]) -> Any:
    """A JSON answer."""
    headers = {"authorization": "Bearer sesame", "content-type": "application/json"}
    call = urllib.request.Request(url + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(call, timeout=120) as answer:
        return json.load(answer)


def main() -> None:
    """Blocks of one prompt and its answer, as they were missed and asked for again."""
    url, replay = sys.argv[1:]
    messages = [{"role": "user", "content": "Where is the grain? " * 40}]
    said = ask(url, "/v1/chat/completions", {"model": "qwen3-32b", "messages": messages, "max_tokens": 50})
    prompt = ask(url, "/tokenize", {"messages": messages})["tokens"]
    context = zmq.Context()
    asker = context.socket(zmq.DEALER)
    asker.connect(replay)
    asker.send_multipart([b"", (0).to_bytes(8, "big")])
    decoder = msgspec.msgpack.Decoder(type=KVEventBatch)
    tokens: list[int] = []
    while True:
        _, _, number, payload = asker.recv_multipart()
        if number == ZmqEventPublisher.END_SEQ:
            break
        for event in decoder.decode(payload).events:
            assert isinstance(event, BlockStored)
            tokens += event.token_ids
    context.destroy(linger=0)
    whole = said["usage"]["total_tokens"] - 1
    assert tokens[: len(prompt)] == prompt[: len(tokens)]
    assert len(tokens) == whole // 16 * 16
    print(json.dumps({"blocks": len(tokens) // 16}))


if __name__ == "__main__":
    main()
