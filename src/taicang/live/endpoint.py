"""The HTTP side, as a plain ASGI application: calls as clients of OpenAI, vLLM and SGLang make them.

It needs no package; whoever runs it brings the server. Nothing here reads a file: what it gives is the machine's.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from taicang import __version__
from taicang.errors import TaicangError, UnknownName
from taicang.live import admin
from taicang.live.adapters import Adapters
from taicang.live.answers import Answers, seed_of
from taicang.live.asked import (
    TEMPLATED,
    Asked,
    Prompt,
    Refused,
    asked,
    checked,
    conversation,
    flag,
    parsed,
    template_words,
    whole,
    word,
)
from taicang.live.call import EVENTS, HTML_TYPE, PLAIN_TYPE, Call
from taicang.live.jobs import PART, Choice, Job, until_gone
from taicang.live.metrics import Metrics
from taicang.live.metrics import text as exposition
from taicang.live.replies import FORMS
from taicang.live.supernode import Supernode
from taicang.live.tokens import Tokenizer, block_ids
from taicang.page.html import live_page
from taicang.serve.record import COMING_S

TAIL = 64
"""Characters at the end of a prompt by which the first token of its answer is chosen."""
LONG = 1 << 16
"""Characters of a text that is read beside what else happens."""
OPEN = ("/", "/health", "/ready", "/ping", "/version", "/metrics", "/load")
"""Needs no key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """``names``: by what each model is called, the model's own name among them; ``longest``: tokens of a prompt and its
    answer."""

    names: Mapping[str, int]
    longest: int
    block_tokens: int
    api_key: str | None = None
    most_body: int = 8 << 20
    most_waiting: int = 1 << 62
    """Prompts that may wait before more are turned away."""
    interval: int = 1
    """Tokens of a stream that are told at once, but for the first."""
    seed: int = 0
    created: int = field(default_factory=lambda: int(time.time()))


Handler: TypeAlias = Callable[[Call], Awaitable[None]]


class Endpoint:
    """``machine`` behind HTTP."""

    def __init__(
        self, machine: Supernode, tokenizer: Tokenizer, answers: Answers, settings: Settings,
        views: Mapping[str, Callable[[Mapping[str, str]], Any]] | None = None,
    ) -> None:  # fmt: skip
        self.machine = machine
        self.tokenizer = tokenizer
        self.answers = answers
        self.settings = settings
        self.ranks: dict[int, admin.Rank] = {}
        """Where each attention group has a port of its own: by port its number, and its instance and group."""
        self.adapters = Adapters(settings.names)
        self.asleep = False
        self.closing = False
        self._calls = 0
        self._routes: dict[str, tuple[str, Handler]] = {
            "/v1/chat/completions": ("POST", lambda call: self._generate(call, "chat")),
            "/v1/completions": ("POST", lambda call: self._generate(call, "text")),
            "/v1/responses": ("POST", lambda call: self._generate(call, "response")),
            "/v1/models": ("GET", self._models),
            "/tokenize": ("POST", self._tokenize),
            "/detokenize": ("POST", self._detokenize),
            "/health": ("GET", self._health),
            "/ping": ("GET", self._health),
            "/ready": ("GET", self._ready),
            "/version": ("GET", lambda call: call.json({"version": __version__})),
            "/metrics": ("GET", self._metrics),
            "/load": ("GET", self._load),
            "/sleep": ("POST", lambda call: self._sleep(call, True)),
            "/wake_up": ("POST", lambda call: self._sleep(call, False)),
            "/is_sleeping": ("GET", lambda call: call.json({"is_sleeping": self.asleep})),
            "/v1/load_lora_adapter": ("POST", self._adapters(self.adapters.load)),
            "/v1/unload_lora_adapter": ("POST", self._adapters(self.adapters.unload)),
            "/": ("GET", lambda call: call.answer(200, live_page().encode(), HTML_TYPE)),
            "/admin/layout": ("GET", lambda call: call.json(self.machine.layout)),
            "/admin/state": ("GET", lambda call: call.json(admin.state(self.machine))),
            **{f"/admin/{name}": ("GET", self._view(make)) for name, make in (views or {}).items()},
            **{f"/admin/{name}": ("POST", self._admin(act)) for name, act in admin.ACTS.items()},
        }

    def split(self, ranks: Mapping[int, tuple[int, int]]) -> None:
        """From now on each port is an attention group's (by instance and number)."""
        self.ranks = {port: (number, home) for number, (port, home) in enumerate(ranks.items())}
        self.machine.ranks = {home: Metrics() for home in ranks.values()}

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        """See the ASGI specification."""
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        call = Call(scope=scope, receive=receive, send=send)
        try:
            handler = self._handler(call)
            await self._read(call)
            await handler(call)
        except Refused as refused:
            await call.answer(refused.status, refused.body())
        except TaicangError as error:
            await call.answer(400, Refused(str(error)).body())
        except OSError:
            return  # the client is gone

    def _handler(self, call: Call) -> Handler:
        path, method = call.scope["path"], call.scope["method"]
        found = self._routes.get(path) or self._one_model(path)
        if found is None:
            raise Refused(str(UnknownName("path", path[:200], self._routes)), status=404, code="not_found")
        if found[0] != method:
            raise Refused(f"{path} takes {found[0]}, not {method[:20]}", status=405, code="method_not_allowed")
        key = self.settings.api_key
        if key is not None and path not in OPEN:
            given = call.headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, b"Bearer " + key.encode()):
                raise Refused("the API key is missing or wrong", status=401, code="invalid_api_key")
        return found[1]

    def _one_model(self, path: str) -> tuple[str, Handler] | None:
        if not path.startswith("/v1/models/"):
            return None
        name = path.removeprefix("/v1/models/")
        self._known(name)
        return "GET", lambda call: call.json(self._card(name))

    async def _read(self, call: Call) -> None:
        """The whole body, within its limit."""
        most = self.settings.most_body
        told = call.headers.get(b"content-length", b"0")
        size = int(told) if told.isdigit() else 0
        parts: list[bytes] = []
        more = call.scope["method"] in ("POST", "PUT", "PATCH")
        if size > most:
            raise Refused(f"the body is longer than {most:,} bytes", status=413, code="request_too_large")
        size = 0
        while more:
            message = await call.receive()
            if message["type"] == "http.disconnect":
                raise OSError("the client is gone")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > most:
                raise Refused(f"the body is longer than {most:,} bytes", status=413, code="request_too_large")
            more = message.get("more_body", False)
        call.body = b"".join(parts)

    # answers

    async def _generate(self, call: Call, kind: str) -> None:
        wanted = asked(kind, parsed(call.body))
        model = self._known(wanted.model)
        rank = self._rank(call)
        self._admit(rank)
        self._calls += 1
        number = f"{self._calls:024x}"
        form = FORMS[kind](number, int(time.time()), wanted.model, len(wanted.prompts) * wanted.n)
        part = call.scope.get("extensions", {}).get(PART)
        job = Job(wanted, call.send, form if wanted.stream else None, self.settings.interval, part)
        ready = []
        for prompt in wanted.prompts:
            ready += await self._choices(job, prompt)
        if wanted.stream:
            await call.send({"type": "http.response.start", "status": 200, "headers": EVENTS})
            opening = form.start()
            if opening:
                await call.send({"type": "http.response.body", "body": opening, "more_body": True})
        try:
            for choice, blocks in ready:
                count, length = choice.prompt_tokens, choice.answer.length
                self.machine.submit(choice, count, length, model=model, priority=wanted.priority, blocks=blocks,
                                    named=count + length, home=rank[1] if rank else None)  # fmt: skip
            if wanted.stream:
                await until_gone(call.receive)
            else:
                await self._whole(call, job, form)
        finally:
            job.drop()
            for choice, _ in ready:
                self.machine.leave(choice)

    async def _whole(self, call: Call, job: Job, form: Any) -> None:
        gone = asyncio.ensure_future(until_gone(call.receive))
        try:
            await asyncio.wait((gone, job.done), return_when=asyncio.FIRST_COMPLETED)
            if job.done.done():
                await call.json(form.whole(job.texts(), job.used()))
        finally:
            gone.cancel()

    async def _choices(self, job: Job, prompt: Prompt) -> list[tuple[Choice, list[int]]]:
        """The answers to one prompt, each with the blocks of both. Raises ``Refused`` where they do not fit."""
        wanted, settings = job.asked, self.settings
        text = self._written(prompt)
        ids = list(prompt.ids) or await self._encoded(text, wanted.marks) or [0]
        before = text[-TAIL:] if text else self.tokenizer.decode(ids[-TAIL // 4 :])
        room = settings.longest - len(ids)
        need = (wanted.most or 1) if wanted.kind != "chat" or wanted.most else max(wanted.least, 1)
        if room < max(need, wanted.least):
            raise Refused(
                f"This model's maximum context length is {settings.longest} tokens. However, you requested {need} "
                f"output tokens and your prompt contains {len(ids)} input tokens. Please reduce the length of one.",
                param="messages" if wanted.kind == "chat" else None, code="context_length_exceeded",
            )  # fmt: skip
        made = []
        for choice in range(wanted.n):
            if choice:
                await asyncio.sleep(0)  # the tokens of others keep their times
            answer = self.answers.give(
                prompt.said, seed=seed_of(ids, wanted.seed + settings.seed, choice), most=wanted.most,
                least=wanted.least, room=room, before=before, stop=wanted.stop, to_the_end=wanted.ignore_eos,
            )  # fmt: skip
            tokens = [*ids, *answer.tokens()]
            blocks = block_ids(tokens, settings.block_tokens, self.adapters.apart(wanted.model))
            made.append((job.add(answer, len(ids)), blocks))
            if self.machine.told is not None:
                made[-1][0].tokens = tokens
                made[-1][0].adapter = wanted.model if wanted.model in self.adapters.roots else None
        return made

    async def _encoded(self, text: str, marks: bool) -> list[int]:
        """The tokens of ``text``; while a long one is read, those of others keep their times."""
        if len(text) < LONG:
            return self.tokenizer.encode(text, marks=marks)
        return await asyncio.to_thread(self.tokenizer.encode, text, marks=marks)

    def _written(self, prompt: Prompt) -> str:
        """What the model would read."""
        template = self.tokenizer.template
        return prompt.text if template is None or not prompt.messages else template(prompt.messages, prompt.words)

    def _known(self, name: str) -> int:
        found = self.settings.names.get(self.adapters.base(name))
        if found is None:
            raise Refused(f"The model `{name[:200]}` does not exist.", status=404, param="model",
                          code="model_not_found")  # fmt: skip
        return found

    def _rank(self, call: Call) -> admin.Rank | None:
        """Whose port was called."""
        return self.ranks.get(call.scope["server"][1]) if self.ranks else None

    def _admit(self, rank: admin.Rank | None) -> None:
        """Raises ``Refused`` where no more are taken."""
        if not self._takes(rank):
            days = f"the machine has run for {COMING_S / 86400:.0f} days, as many as there are"
            said = days if self.machine.over else "no instance takes requests"
            raise Refused(said, status=503, kind="server_error", code="unavailable")
        if self.machine.waiting(rank and rank[1]) >= self.settings.most_waiting:
            raise Refused("the queue is full", status=429, kind="rate_limit_error", code="queue_full")

    def _takes(self, rank: admin.Rank | None) -> bool:
        cluster = self.machine.cluster
        pools = cluster.pools.values()
        able = any(pools) if cluster.fleet is not None else all(pools)
        here = rank is None or any(each.name == rank[1][0] for each in cluster.entry)
        return able and here and not (self.asleep or self.closing or self.machine.over)

    # the rest

    async def _models(self, call: Call) -> None:
        await call.json(
            {"object": "list", "data": [self._card(name) for name in (*self.settings.names, *self.adapters.roots)]}
        )

    def _card(self, name: str) -> dict[str, Any]:
        base, root = self.adapters.roots.get(name, (None, name))
        return {
            "id": name, "object": "model", "created": self.settings.created, "owned_by": "taicang", "root": root,
            "parent": base, "max_model_len": self.settings.longest,
        }  # fmt: skip

    async def _tokenize(self, call: Call) -> None:
        body = parsed(call.body)
        fields = {**TEMPLATED, "prompt": word, "model": word, "return_token_strs": flag}
        given = checked(body, fields)
        if "model" in given:
            self._known(given["model"])
        if "messages" in given:
            text = self._written(conversation(given["messages"], "messages", template_words(given)))
        elif "prompt" in given:
            text = given["prompt"]
        else:
            raise Refused("prompt is missing", param="prompt")
        ids = await self._encoded(text, given.get("add_special_tokens", "messages" not in given))
        strings = self.tokenizer.pieces(text) if given.get("return_token_strs") else None
        await call.json({"count": len(ids), "max_model_len": self.settings.longest, "tokens": ids,
                         "token_strs": strings})  # fmt: skip

    async def _detokenize(self, call: Call) -> None:
        ids = parsed(call.body).get("tokens")
        token = whole(0, (1 << 62) - 1)
        if not isinstance(ids, list):
            raise Refused("tokens: expected a list of token ids", param="tokens")
        for each in ids:
            checked({"tokens": each}, {"tokens": token})
            if each is None:
                raise Refused("tokens: expected a whole number", param="tokens")
        await call.json({"prompt": self.tokenizer.decode(ids)})

    async def _health(self, call: Call) -> None:
        rank = self._rank(call)
        down = rank is not None and any(each.name == rank[1][0] for each in self.machine.cluster.down)
        await call.answer(503 if down else 200, b"")

    async def _ready(self, call: Call) -> None:
        ready = self._takes(self._rank(call))
        await call.json({"ready": ready}, 200 if ready else 503)

    async def _sleep(self, call: Call, asleep: bool) -> None:
        self.asleep = asleep
        await call.answer(200, b"")

    async def _metrics(self, call: Call) -> None:
        sglang = b"sglang" in call.scope.get("query_string", b"")
        name = next(iter(self.settings.names))
        rank = self._rank(call)
        seen = self.machine.metrics if rank is None else self.machine.ranks[rank[1]]
        body = exposition(seen, admin.gauges(self.machine, self.asleep, rank), name, sglang=sglang)
        body += "" if sglang else admin.cache_info(self.machine, name, rank)
        body += "" if sglang else self.adapters.info(self.machine)
        await call.answer(200, body.encode(), PLAIN_TYPE)

    async def _load(self, call: Call) -> None:
        rank, instances = self._rank(call), self.machine.instances
        lanes = (one.lanes.here + one.coming for one in instances.values())
        load = sum(lanes) if rank is None else instances[rank[1][0]].lanes.load[rank[1][1]]
        await call.json({"server_load": load})

    def _adapters(self, act: Callable[[Mapping[str, Any]], str]) -> Handler:
        async def handler(call: Call) -> None:
            await call.answer(200, act(parsed(call.body)).encode(), PLAIN_TYPE)

        return handler

    def _view(self, make: Callable[[Mapping[str, str]], Any]) -> Handler:
        async def handler(call: Call) -> None:
            await call.json(make(call.asked))

        return handler

    def _admin(self, act: Callable[[Supernode, Mapping[str, Any]], Any]) -> Handler:
        async def handler(call: Call) -> None:
            await call.json(act(self.machine, parsed(call.body or b"{}")) or {"done": True})

        return handler


__all__ = ["Asked", "Endpoint", "Settings"]
