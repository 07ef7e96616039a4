"""Which instance of a pool serves a request."""

from __future__ import annotations

import random
from collections.abc import Sequence

from taicang.errors import UnknownName
from taicang.serve.instance import Instance
from taicang.serve.request import Request

ROUTERS = ("least-loaded", "round-robin", "prefix-aware", "session-sticky", "power-of-two", "random")
"""least-loaded is also the stateless dispatch of CloudMatrix384, where every NPU is as near to the cached blocks."""


class Router:
    """``pick`` names the instance. Prefix-aware routing weighs the prompt tokens that the longest cached prefix saves
    against the prompts ahead: one request more in the queue costs a mean prompt."""

    __slots__ = ("_homes", "_next", "_random", "_seen", "_sessions", "_tokens", "kind")

    def __init__(self, kind: str = "least-loaded", seed: int = 0) -> None:
        if kind not in ROUTERS:
            raise UnknownName("router", kind, ROUTERS, where="--router")
        self.kind = kind
        self._next = 0
        self._random = random.Random(seed)
        self._sessions: dict[int, Instance] = {}
        self._homes: dict[int, Instance] = {}
        self._seen = self._tokens = 0

    def pick(self, request: Request, pool: Sequence[Instance]) -> Instance:
        """The instance of ``pool`` for ``request``."""
        if len(pool) == 1:
            return pool[0]
        kind = self.kind
        if request.home is not None:
            found = next((one for one in pool if one.name == request.home[0]), None)
            if found is not None:
                return found
        if kind == "round-robin":
            self._next += 1
            return pool[(self._next - 1) % len(pool)]
        if kind == "random":
            return self._random.choice(pool)
        if kind == "power-of-two":
            first, second = self._random.sample(pool, 2)
            return first if first.requests <= second.requests else second
        if kind == "session-sticky" and request.session >= 0:
            held = self._sessions.get(request.session)
            if held is None or held not in pool:
                held = self._sessions[request.session] = least(pool)
            return held
        if kind == "prefix-aware" and request.blocks:
            return self._nearest(request, pool)
        return least(pool)

    def _nearest(self, request: Request, pool: Sequence[Instance]) -> Instance:
        """The instance that was last sent the longest part of this prompt."""
        homes, fewest = self._homes, least(pool)
        chosen, blocks = fewest, request.blocks
        self._seen += 1
        self._tokens += request.input
        for held in range(len(blocks), 0, -1):
            home = homes.get(blocks[held - 1])
            if home is not None:
                saved = min(request.named * held / len(blocks), request.input)
                if home in pool and (home.requests - fewest.requests) * self._tokens <= saved * self._seen:
                    chosen = home
                break
        for block in request.blocks:
            homes[block] = chosen
        return chosen


def least(pool: Sequence[Instance]) -> Instance:
    """The first of those with the fewest requests."""
    best, least = pool[0], pool[0].requests
    for instance in pool[1:]:
        if least == 0:
            break
        requests = instance.requests
        if requests < least:
            best, least = instance, requests
    return best
