"""An engine's front door, which a request passes before its queue: requests overlap there, so latency alone has it.

Pools of one phase have none here: a router in front of them (Dynamo's, in what was measured) hands tokens on.
"""

from __future__ import annotations

from taicang.stacks import Stack
from taicang.units import Num


def through_s(stack: Stack, tokens: Num) -> Num:
    """Time that a prompt of ``tokens`` takes through it, and its first token back."""
    return stack.door_s + tokens * stack.door_token_s
