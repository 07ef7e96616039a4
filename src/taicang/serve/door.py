"""An engine's front door, which a request passes before its queue: requests overlap there, so latency alone has it.

Pools of one phase have none here: a router in front of them (Dynamo's, in what was measured) hands tokens on.
"""

from __future__ import annotations

from taicang.serve.request import SECOND, Request
from taicang.stacks import Stack
from taicang.units import Num


def through_s(stack: Stack, tokens: Num) -> Num:
    """Time that a prompt of ``tokens`` takes through it, alone, and its first token back."""
    return stack.door_s + stack.template_s + tokens * stack.door_token_s


class Rounds:
    """The one process before an engine, on which ``stack`` takes turns with the requests that are there.

    Each is begun before the next turn of any, so that all of one round go on together. A lone request is within the
    door, and keeps only those waiting that come meanwhile.
    """

    __slots__ = ("_each", "_waiting", "busy")

    def __init__(self, stack: Stack) -> None:
        self._each = round(stack.template_s * SECOND)
        self._waiting: list[Request] = []
        self.busy = False

    def __bool__(self) -> bool:
        return self._each > 0

    def add(self, request: Request) -> bool:
        """One comes; returns whether a round is to begin."""
        self._waiting.append(request)
        begins, self.busy = not self.busy, True
        return begins

    def round(self, now: int) -> tuple[list[Request], int, int]:
        """Who is there, when they go on, and when the next round begins."""
        through, self._waiting = self._waiting, []
        self.busy = bool(through)
        return through, now + max(len(through) - 1, 0) * self._each, now + len(through) * self._each
