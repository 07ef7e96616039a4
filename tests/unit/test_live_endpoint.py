"""The endpoint as its clients meet it, called without a socket and with a clock that stands still."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang.live.answers import Answers
from taicang.live.asked import FIELDS, NEEDED, REFUSED
from taicang.live.background import Background, from_profile_at
from taicang.live.endpoint import Endpoint, Settings
from taicang.live.supernode import Supernode
from taicang.live.tokens import Plain, block_ids
from taicang.plans import ServePlan
from taicang.predict.standing import stand
from taicang.predict.system import System

MODEL = "llama-3.1-8b"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Where is the grain?"}], "max_tokens": 5}
TEXT = {"model": MODEL, "prompt": "Where is the grain?", "max_tokens": 5}
RESPONSE = {"model": MODEL, "input": "Where is the grain?", "max_output_tokens": 5}
PATHS = {"chat": "/v1/chat/completions", "text": "/v1/completions", "response": "/v1/responses"}
CALLS = {"chat": CHAT, "text": TEXT, "response": RESPONSE}


class Client:
    """A connection that calls ``endpoint``. ``patient`` parts are read of a stream before its buffers are full."""

    def __init__(self, endpoint, method, path, body=None, headers=(), patient=10**9):
        self.messages = []
        self.patient = patient
        self._gone = asyncio.Event()
        self._roomy = asyncio.Event()
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        self._body = [raw[i : i + 65536] for i in range(0, len(raw), 65536)] or [b""]
        scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": list(headers)}
        self.task = asyncio.ensure_future(endpoint(scope, self.receive, self.send))

    async def receive(self):
        if self._body:
            part = self._body.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self._body)}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        if len(self.messages) >= self.patient:
            await self._roomy.wait()
        if self._gone.is_set():
            return
        self.messages.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self._gone.set()

    def read_on(self):
        self.patient = 10**9
        self._roomy.set()

    def leave(self):
        self._gone.set()

    @property
    def status(self):
        return self.messages[0]["status"]

    @property
    def parts(self):
        return [each["body"] for each in self.messages[1:]]

    @property
    def json(self):
        return json.loads(b"".join(self.parts))

    @property
    def events(self):
        lines = b"".join(self.parts).decode().split("\n")
        return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


class World:
    """An endpoint on a machine of two instances."""

    def __init__(self, clock, *, holds=None, tokenizer=None, **changes):
        system = System(instances=2, plan=ServePlan(tp=1), sequences=64)
        standing = stand(MODEL, "hgx-h100", system, context=2048.0, block_tokens=16)
        self.clock = clock
        self.machine = Supernode(standing.cluster, clock, strike=standing.strike)
        tokenizer = tokenizer or Plain()
        said = {name: changes.pop(name) for name in ("usual", "echo", "said") if name in changes}
        answers = Answers(tokenizer, **{"usual": 20, **said})
        longest = holds or 8192
        self.endpoint = Endpoint(
            self.machine, tokenizer, answers, Settings(names={MODEL: 0}, longest=longest, block_tokens=16, **changes)
        )

    async def turn(self):
        for _ in range(12):
            await asyncio.sleep(0)

    async def rest(self):
        """Until nothing is left to happen."""
        await self.turn()
        while self.clock.due is not None:
            self.clock.until(self.clock.due)
            await self.turn()

    def call(self, method, path, body=None, **how):
        return Client(self.endpoint, method, path, body, **how)

    async def answer(self, path, body=None, method=None, **how):
        client = self.call(method or ("GET" if body is None else "POST"), path, body, **how)
        await self.rest()
        await client.task
        return client

    def spent(self):
        """Whether every page is given back."""
        groups = [group for each in self.machine.instances.values() for group in each.groups]
        return not self.machine.streams and all(group.cache.spare == group.cache.pages for group in groups)


@pytest.fixture
def live(still_clock):
    """Runs a coroutine function with a ``World``."""

    def run(act, **changes):
        async def main():
            return await act(World(still_clock(), **changes))

        return asyncio.run(main())

    return run


def words(text):
    return text.split()


def test_answers_have_the_asked_length_and_are_the_same_streamed_or_whole(live):
    async def act(world):
        whole = {kind: await world.answer(PATHS[kind], body) for kind, body in CALLS.items()}
        parts = {kind: await world.answer(PATHS[kind], {**body, "stream": True}) for kind, body in CALLS.items()}
        return whole, parts

    whole, parts = live(act)
    said = {
        "chat": whole["chat"].json["choices"][0]["message"]["content"],
        "text": whole["text"].json["choices"][0]["text"],
        "response": whole["response"].json["output"][0]["content"][0]["text"],
    }
    assert all(len(words(text)) == 5 for text in said.values())
    streamed = parts["chat"].events
    assert streamed[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(each["choices"][0]["delta"]["content"] for each in streamed) == said["chat"]
    assert [each["choices"][0]["finish_reason"] for each in streamed] == [None] * 5 + ["length"]
    assert "".join(each["choices"][0]["text"] for each in parts["text"].events) == said["text"]
    deltas = [each["delta"] for each in parts["response"].events if each["type"] == "response.output_text.delta"]
    assert "".join(deltas) == said["response"]
    assert [each["sequence_number"] for each in parts["response"].events] == list(range(len(parts["response"].events)))
    assert all(b"".join(parts[kind].parts).endswith(b"data: [DONE]\n\n") for kind in ("chat", "text"))
    assert whole["chat"].json["usage"]["completion_tokens"] == 5


@pytest.mark.parametrize("kind", ["chat", "text"])
def test_usage_is_told_at_the_end_or_all_along(live, kind):
    async def act(world):
        body = {**CALLS[kind], "stream": True}
        last = await world.answer(PATHS[kind], {**body, "stream_options": {"include_usage": True}})
        each = await world.answer(PATHS[kind], {**body, "stream_options": {"continuous_usage_stats": True}})
        return last.events, each.events

    last, each = live(act)
    assert last[-1]["choices"] == []
    assert last[-1]["usage"]["completion_tokens"] == 5
    assert "usage" not in last[1]
    told = [event["usage"]["completion_tokens"] for event in each if "usage" in event]
    assert told == [1, 2, 3, 4, 5, 5]


def test_choices_and_prompts_have_answers_of_their_own(live):
    async def act(world):
        many = await world.answer("/v1/completions", {**TEXT, "prompt": ["a b", [1, 2, 3]], "n": 2})
        one = await world.answer("/v1/completions", {**TEXT, "prompt": [5, 6, 7]})
        return many.json, one.json

    many, one = live(act)
    assert [each["index"] for each in many["choices"]] == [0, 1, 2, 3]
    assert len({each["text"] for each in many["choices"]}) == 4
    assert many["usage"] == {"prompt_tokens": 5, "completion_tokens": 20, "total_tokens": 25,
                             "prompt_tokens_details": {"cached_tokens": 0}}  # fmt: skip
    assert one["usage"]["prompt_tokens"] == 3


def test_limits_stop_texts_and_ends(live):
    async def act(world):
        free = await world.answer(PATHS["chat"], {**CHAT, "max_tokens": None})
        text = free.json["choices"][0]["message"]["content"]
        stop = words(text)[3]
        cut = await world.answer(PATHS["chat"], {**CHAT, "max_tokens": None, "stop": [stop, "never"]})
        late = await world.answer(PATHS["chat"], {**CHAT, "max_tokens": None, "stop": stop, "min_tokens": 10})
        least = await world.answer(PATHS["chat"], {**CHAT, "max_tokens": None, "min_tokens": 33})
        newer = await world.answer(PATHS["chat"], {**CHAT, "max_completion_tokens": 7})
        full = await world.answer(PATHS["chat"], {**CHAT, "max_tokens": 40, "ignore_eos": True})
        return free.json, cut.json, late.json, least.json, newer.json, full.json, text, stop

    free, cut, late, least, newer, full, text, stop = live(act)
    assert (free["usage"]["completion_tokens"], free["choices"][0]["finish_reason"]) == (20, "stop")
    assert cut["choices"][0]["message"]["content"] == text[: text.index(stop)]
    assert (cut["usage"]["completion_tokens"], cut["choices"][0]["finish_reason"]) == (4, "stop")
    assert late["usage"]["completion_tokens"] == 20
    assert least["usage"]["completion_tokens"] == 33
    assert newer["usage"]["completion_tokens"] == 7
    assert (full["usage"]["completion_tokens"], full["choices"][0]["finish_reason"]) == (40, "length")


def test_prompts_that_begin_alike_share_what_was_computed(live):
    async def act(world):
        long = "the granary of the capital " * 40
        first = await world.answer(PATHS["chat"], {**CHAT, "messages": [{"role": "user", "content": long}]})
        again = await world.answer(PATHS["chat"], {**CHAT, "messages": [{"role": "user", "content": long + "x"}]})
        return first.json["usage"], again.json["usage"]

    first, again = live(act)
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    assert again["prompt_tokens_details"]["cached_tokens"] in range(160, again["prompt_tokens"])


def test_echo_and_answers_on_record(live):
    async def echo(world):
        return (await world.answer(PATHS["chat"], {**CHAT, "max_tokens": None})).json

    async def said(world):
        return (await world.answer(PATHS["chat"], {**CHAT, "max_tokens": None})).json

    prompt = CHAT["messages"][0]["content"]
    assert live(echo, echo=True)["choices"][0]["message"]["content"] == prompt
    found = live(said, said={prompt: 'In Táicāng 太仓 "here"\n'})["choices"][0]
    assert (found["message"]["content"], found["finish_reason"]) == ('In Táicāng 太仓 "here"\n', "stop")


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/chat/completions", {**CHAT, "model": "gpt-9"}, 404, "model_not_found"),
        ("/v1/chat/completions", {**CHAT, "max_tokens": 10_000}, 400, "context_length_exceeded"),
        ("/v1/completions", {**TEXT, "prompt": "word " * 9000}, 400, "context_length_exceeded"),
        ("/v1/chat/completions", {**CHAT, "logprobs": True}, 400, "unsupported_parameter"),
        ("/v1/chat/completions", {**CHAT, "tools": [{"type": "function"}]}, 400, "unsupported_parameter"),
        ("/v1/load_lora_adapter", {"lora_path": "x"}, 400, None),
        ("/v1/load_lora_adapter", {"lora_name": MODEL}, 400, None),
        ("/v1/load_lora_adapter", {"lora_name": "x", "base_model_name": "gpt-9"}, 404, "model_not_found"),
        ("/v1/unload_lora_adapter", {"lora_name": "x"}, 404, "not_found"),
        ("/admin/fial", {"instance": 0}, 404, "not_found"),
        ("/admin/fail", {"instance": 0, "for": 5}, 400, None),
        ("/admin/fail", {"number": 0}, 400, None),
        ("/admin/fail", {"part": "noode", "number": 0}, 400, None),
        ("/v2/chat", {}, 404, "not_found"),
        ("/v1/models/gpt-9", None, 404, "model_not_found"),
        ("/v1/chat/completions", None, 405, "method_not_allowed"),
    ],
)
def test_refusals_have_their_status_and_code(live, path, body, status, code):
    async def act(world):
        return await world.answer(path, body)

    client = live(act)
    assert (client.status, client.json["error"]["code"]) == (status, code)


def test_blocks_of_an_adapter_are_the_same_in_every_process():
    code = (
        "from taicang.live.adapters import Adapters; all_of = Adapters({'base': 0}); "
        "all_of.load({'lora_name': 'poet'}); print(all_of.apart('poet'), all_of.apart('base'))"
    )
    said = [
        subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True,
                       text=True, check=True).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert said[0] == said[1]
    assert said[0].split()[0] != "0"
    assert said[0].split()[1] == "0"


def test_an_adapter_is_a_name_with_a_cache_of_its_own(live):
    async def act(world):
        loaded = [await world.answer("/v1/load_lora_adapter", {"lora_name": "poet", "lora_path": "/x"}) for _ in (1, 2)]
        body = {**TEXT, "prompt": "word " * 200}
        usage = []
        for name in (MODEL, "poet", "poet"):
            client = await world.answer(PATHS["text"], {**body, "model": name})
            usage.append(client.json["usage"]["prompt_tokens_details"]["cached_tokens"])
        under_way = world.call("POST", PATHS["text"], {**body, "model": "poet"})
        await world.turn()
        seen = (await world.answer("/v1/models")).json["data"]
        told = b"".join((await world.answer("/metrics")).parts).decode()
        await under_way.task
        gone = await world.answer("/v1/unload_lora_adapter", {"lora_name": "poet"})
        after = await world.answer(PATHS["text"], {**body, "model": "poet"})
        return [each.status for each in (*loaded, gone, after)], usage, seen, told

    statuses, usage, seen, told = live(act)
    assert statuses == [200, 400, 200, 404]
    assert usage[0] == usage[1] == 0 < usage[2]
    assert [(each["id"], each["parent"]) for each in seen] == [(MODEL, None), ("poet", MODEL)]
    assert "vllm:lora_requests_info{" in told


def test_a_key_a_full_queue_and_no_instance(live):
    async def key(world):
        bare = await world.answer("/v1/models")
        good = await world.answer("/v1/models", headers=[(b"authorization", b"Bearer secret")])
        health = await world.answer("/health")
        return bare.status, good.status, health.status

    async def queue(world):
        clients = [world.call("POST", PATHS["text"], {**TEXT, "max_tokens": 200}) for _ in range(200)]
        await world.turn()
        world.clock.until(world.clock.time() + 0.02)
        more = await world.answer(PATHS["text"], TEXT)
        return more.status, more.json["error"]["code"], [each.status for each in clients], world.spent()

    async def nobody(world):
        for number in range(2):
            await world.answer("/admin/drain", {"instance": number})
        gone = await world.answer(PATHS["text"], TEXT)
        ready = await world.answer("/ready")
        await world.answer("/admin/repair", {"instance": 1})
        back = await world.answer(PATHS["text"], TEXT)
        await world.answer("/sleep", {})
        asleep = await world.answer(PATHS["text"], TEXT)
        await world.answer("/wake_up", {})
        return gone.status, ready.status, back.status, asleep.status, (await world.answer("/ready")).status

    assert live(key, api_key="secret") == (401, 200, 200)
    status, code, others, spent = live(queue, most_waiting=20)
    assert (status, code, spent) == (429, "queue_full", True)
    assert set(others) == {200}
    assert live(nobody) == (503, 503, 200, 503, 200)


def test_tokens_and_text(live):
    async def act(world):
        ids = await world.answer(
            "/tokenize", {"model": MODEL, "prompt": "A granary, 太仓 1234!", "return_token_strs": True}
        )
        text = await world.answer("/detokenize", {"tokens": ids.json["tokens"]})
        return ids.json, text.json

    ids, text = live(act)
    assert text["prompt"] == "A granary, 太仓 1234!"
    assert "".join(ids["token_strs"]) == text["prompt"]
    assert ids["count"] == len(ids["tokens"])


def test_a_failure_while_it_serves_is_survived_and_seen(live):
    async def act(world):
        clients = [world.call("POST", PATHS["chat"], {**CHAT, "max_tokens": 300, "stream": True}) for _ in range(6)]
        await world.turn()
        world.clock.until(world.clock.time() + 0.5)
        failed = world.call("POST", "/admin/fail", {"part": "chip", "number": 0, "for_s": 2})
        await world.turn()
        world.clock.until(world.clock.time() + 0.2)
        await world.turn()
        state = world.call("GET", "/admin/state")
        await world.turn()
        assert failed.status == 200
        down = state.json["instances"]
        await world.rest()
        return clients, down, (await world.answer("/metrics")).parts[0].decode(), world.spent()

    clients, down, metrics, spent = live(act)
    assert [each["state"] for each in down] == ["down", "up"]
    assert spent
    for client in clients:
        text = "".join(each["choices"][0]["delta"]["content"] for each in client.events)
        assert len(words(text)) == 300
    assert 'vllm:request_success_total{finished_reason="length",model_name="llama-3.1-8b"} 6\n' in metrics


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_leaves_nothing_behind(live, stream):
    async def act(world):
        body = {**CHAT, "max_tokens": 4000, "stream": stream, "n": 3}
        gone = [world.call("POST", PATHS["chat"], body) for _ in range(9)]
        stays = world.call("POST", PATHS["chat"], {**CHAT, "stream": True, "max_tokens": 50})
        await world.turn()
        for i, client in enumerate(gone):
            world.clock.until(world.clock.time() + 0.011 * i)
            client.leave()
            await world.turn()
        for _ in range(200):
            world.clock.until(world.clock.time() + 0.01)
            await world.turn()
        return stays, world.spent(), world.machine.metrics.ends

    stays, spent, ends = live(act)
    assert spent
    assert ends["abort"] == 27
    assert len(stays.events) == 51


def test_a_client_that_does_not_read_costs_nothing_and_gets_all_in_the_end(live):
    async def act(world):
        slow = world.call("POST", PATHS["chat"], {**CHAT, "stream": True, "max_tokens": 100}, patient=5)
        fast = world.call("POST", PATHS["chat"], {**CHAT, "stream": True, "max_tokens": 100})
        await world.rest()
        held = len(slow.messages)
        slow.read_on()
        await world.rest()
        await slow.task
        return held, slow, fast

    held, slow, fast = live(act)
    assert held == 5
    assert len(fast.messages) == 101
    assert len(slow.messages) == 7  # what was kept, and all else as one part
    texts = ["".join(e["choices"][0]["delta"]["content"] for e in each.events) for each in (slow, fast)]
    assert texts[0] == texts[1]


def test_a_connection_that_breaks_while_it_is_written_to_disturbs_nobody(live):
    async def act(world):
        body = {**CHAT, "stream": True, "max_tokens": 40}
        broken, whole = world.call("POST", PATHS["chat"], body), world.call("POST", PATHS["chat"], body)
        await world.turn()
        world.clock.until(world.clock.time() + 0.1)

        def refuse(*_):
            raise RuntimeError("the handler is closed")

        broken.messages = type("Closed", (list,), {"append": refuse, "__len__": lambda self: 0})()
        world.clock.until(world.clock.time() + 0.1)
        broken.leave()
        await world.rest()
        return whole, world.spent()

    whole, spent = live(act)
    assert spent
    assert len(whole.events) == 41


def test_a_stream_interval_sends_tokens_together(live):
    async def act(world):
        return await world.answer(PATHS["text"], {**TEXT, "stream": True, "max_tokens": 32})

    assert [len(words(each["choices"][0]["text"])) for each in live(act, interval=10).events] == [1, 10, 10, 10, 1]


PLAIN = st.one_of(st.booleans(), st.integers(-(10**30), 10**30), st.floats(), st.text(max_size=8), st.none())
KEYS = st.sampled_from(["role", "content", "type", "text", "x"])
WRONG = st.one_of(PLAIN, st.lists(st.one_of(PLAIN, st.lists(PLAIN, max_size=2)), max_size=3),
                  st.dictionaries(KEYS, PLAIN), st.lists(st.dictionaries(KEYS, PLAIN), max_size=2))  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_whatever_is_in_a_field_the_answer_has_a_form(still_clock, data):
    """No value of any field, known or refused, is an error of ours, and none leaves anything behind."""
    bodies = []
    for _ in range(12):
        kind = data.draw(st.sampled_from(sorted(CALLS)))
        fields = sorted({*FIELDS[kind], *REFUSED, "unknown"})
        wrong = data.draw(st.dictionaries(st.sampled_from(fields), WRONG, max_size=3))
        bodies.append((kind, {**CALLS[kind], **wrong}))

    async def main():
        world = World(still_clock())
        return [
            (body, await world.answer(PATHS[kind], json.dumps(body).encode())) for kind, body in bodies
        ], world.spent()

    answered, spent = asyncio.run(main())
    assert spent
    for body, client in answered:
        assert client.status in (200, 400, 404), (body, client.status)
        if client.status != 200:
            error = client.json["error"]
            assert error["message"]
            assert error["param"] is None or error["param"] in {*body, *NEEDED.values()}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"model": NaN}',
        b"null",
        b"1e999",
        b'{"x": "\\ud800"}',
        b'{"x": "\xed\xa0\x80"}',
    ],
)
@pytest.mark.parametrize(
    "path", [*PATHS.values(), "/tokenize", "/detokenize", "/admin/fail", "/admin/speed", "/v1/load_lora_adapter"]
)
def test_what_is_no_request_is_refused(live, path, body):
    async def act(world):
        return await world.answer(path, body, method="POST")

    assert live(act).status == 400


def test_a_body_that_is_too_long_is_refused_before_it_is_read(live):
    async def act(world):
        told = await world.answer(PATHS["chat"], b"x", headers=[(b"content-length", b"10000000")])
        sent = await world.answer(PATHS["chat"], b"x" * 10_000_000)
        return told.status, sent.status

    assert live(act) == (413, 413)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60))
def test_a_text_is_its_tokens(text):
    plain = Plain()
    clean = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    assert "".join(plain.pieces(clean)) == clean
    assert plain.decode(plain.encode(clean)) == clean


@settings(max_examples=150, deadline=None)
@given(stop=st.lists(st.text("aeiobd ", min_size=1, max_size=3), min_size=1, max_size=4), least=st.integers(0, 12),
       seed=st.integers(0, 5000), echo=st.booleans())  # fmt: skip
def test_an_answer_stops_with_the_first_text_that_ends_after_its_least_tokens(stop, least, seed, echo):
    answers = Answers(Plain(), usual=20, echo=echo)
    how = {"seed": seed, "most": 40, "least": least, "room": 99, "before": "x", "to_the_end": True}
    whole, cut = answers.give("a bad idea", **how), answers.give("a bad idea", stop=stop, **how)
    texts = [json.loads(b'"%b"' % whole.text(i, i + 1)) for i in range(whole.length)]
    free, said = len("".join(texts[:least])), ""
    for count, text in enumerate(texts, 1):  # noqa: B007
        said += text
        places = [at for each in stop for at in range(len(said)) if said.startswith(each, at) and at + len(each) > free]
        if places:
            break
    want = said[: min(places)] if places else said
    assert json.loads(b'"%b"' % cut.text(0, cut.length)) == want
    assert (cut.length, cut.tokens()) == (count, whole.tokens()[:count])
    assert cut.why == ("stop" if places else whole.why)


def test_filler_stays_itself_when_it_is_read_back():
    plain = Plain()
    text = "".join(plain.words)
    assert plain.pieces(text) == list(plain.words)
    assert [plain.decode([token]) for token in plain.encode(text)] == list(plain.words)


@settings(max_examples=100, deadline=None)
@given(tokens=st.lists(st.integers(0, 2**50), max_size=100), size=st.integers(1, 20), at=st.integers(0, 99))
def test_blocks_stand_for_all_before_them(tokens, size, at):
    ids = block_ids(tokens, size)
    assert len(ids) == len(tokens) // size
    assert block_ids(tokens[: len(tokens) // 2], size) == ids[: len(tokens) // 2 // size]
    if at < len(ids) * size:
        other = [*tokens[:at], tokens[at] + 1, *tokens[at + 1 :]]
        changed = np.asarray(block_ids(other, size)) != np.asarray(ids)
        assert not changed[: at // size].any()
        assert changed[at // size :].all()


def test_a_machine_that_has_run_for_as_long_as_its_record_holds_says_so(live):
    async def act(world):
        early = await world.answer(PATHS["text"], TEXT)
        world.machine.load(Background(from_profile_at("servegen-deepseek-r1@1e-5/s")))
        await world.rest()  # it comes to an end
        while not world.machine.over:
            world.clock.until(world.clock.time() + 86400.0)
        late = await world.answer(PATHS["text"], TEXT)
        return early.status, late.status, late.json["error"]["message"], (await world.answer("/ready")).status

    early, late, said, ready = live(act)
    assert (early, late, ready) == (200, 503, 503)
    assert "has run for 100 days" in said
