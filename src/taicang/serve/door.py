"""An instance's front door: the host that reads requests, makes tokens of their prompts and queues them, one by one."""

from __future__ import annotations

from dataclasses import dataclass

from taicang.serve.request import SECOND
from taicang.stacks import Stack
from taicang.units import Num


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """In ticks: a request keeps those behind it waiting for ``each``; ``base`` and its tokens pass for all at once."""

    base: int
    each: int
    per_token: int

    def ticks(self, tokens: int) -> int:
        """For a prompt of ``tokens`` whose turn is over."""
        return self.base + self.per_token * tokens


def door_of(stack: Stack) -> Door | None:
    """That of ``stack``, where it takes any time."""
    parts = [round(each * SECOND) for each in (stack.door_s, stack.door_request_s, stack.door_token_s)]
    return Door(base=parts[0], each=parts[1], per_token=parts[2]) if any(parts) else None


def through_s(stack: Stack, tokens: Num) -> Num:
    """Time that a prompt of ``tokens`` takes through it when nobody else comes."""
    return stack.door_s + stack.door_request_s + tokens * stack.door_token_s
