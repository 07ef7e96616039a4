"""What a step works on: ``{request: tokens}`` of prompts, by the engines' rules. Decoding sequences ride along with one
token each (or with their drafts), unless the policy keeps prompts apart."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from taicang.serve.group import Group
from taicang.serve.request import FOREVER, Request
from taicang.stacks import Stack

Policy: TypeAlias = Literal["mixed", "prefill_first", "decode_first"]
"""mixed: chunks of prompts ride in decode steps, which come first in the token budget (vLLM V1, TensorRT-LLM).
prefill_first: prompts run in steps of their own, before any decoding (SGLang, vLLM V0). decode_first: a batch decodes
to its end before new prompts start (batching by request)."""
Order: TypeAlias = Literal["arrival", "priority", "deadline"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """A scheduler's settings, per attention group."""

    policy: Policy = "mixed"
    tokens: int = 8192
    """Token budget of a step."""
    sequences: int = 1024
    """Most sequences in flight."""
    ahead: bool = False
    """Whether the next step is scheduled while one runs: see ``Stack``."""
    reserve: bool = False
    """Take pages for the whole answer at admission; otherwise page by page, evicting the youngest when they run out."""
    reserve_ratio: float = 1.0
    """Share of the answer that ``reserve`` counts on: one half where pages follow the answers but are not followed here
    one by one (a mix of running sequences holds half of its answers)."""
    by_chunk: bool = False
    """A prompt takes its pages with each of its chunks, once there is room for all of it, and shares them from then on
    (vLLM V1); otherwise it takes all at first, beside a page for each sequence that decodes, and shares them when it is
    through. Goes with ``mixed`` and without ``reserve``."""
    poll: int = 1
    """While sequences decode, new prompts join only every so many steps (engines that look for requests now and then);
    with several groups also as soon as all have one."""
    hold: int = 0
    """While sequences decode, new prompts wait for company, at most so many steps: with several groups until all have
    one, else until prompts for ``company_ratio`` of the token budget wait; then all that wait may start (TensorRT-LLM's
    balancing and batch wait)."""
    company_ratio: float = 1.0
    order: Order = "arrival"
    """Who is served first: who came first, the smaller ``priority``, or the earlier ``deadline``; of equals who came
    first. Where pages run out, the last in this order leaves first."""
    late: Literal["serve", "turn_away"] = "serve"
    """What becomes of a request that is to start after its ``deadline``."""
    swap_tokens: int = 0
    """Host memory of a group for sequences that leave when pages run out (0: they start over)."""

    @property
    def chunks(self) -> bool:
        """Whether pages are taken ``by_chunk``."""
        return self.by_chunk and self.policy == "mixed" and not self.reserve


def preset(stack: Stack, **changes: object) -> Limits:
    """The scheduler of ``stack``: TensorRT-LLM never evicts, engines of pools run prompts in steps of their own."""
    policy: Policy = "mixed" if stack.scheduler == "mixed" else "prefill_first"
    base: dict[str, object] = {
        "policy": policy,
        "tokens": stack.chunk_tokens,
        "ahead": stack.ahead,
        "reserve": stack.engine.startswith(("tensorrt", "trtllm")),
        "by_chunk": stack.engine.startswith("vllm"),
    }
    if stack.running_sequences:
        base["sequences"] = stack.running_sequences
    return Limits(**(base | {k: v for k, v in changes.items() if v is not None}))  # type: ignore[arg-type]


def reserving(limits: Limits) -> Limits:
    """``limits`` of a scheduler whose pages are not followed one by one."""
    return replace(limits, reserve=True, reserve_ratio=1.0 if limits.reserve else 0.5)


def fill(
    group: Group, limits: Limits, query_len: int, now: int, refused: list[Request], seen: int
) -> list[tuple[Request, int]]:
    """Prompts of one group for the next step: those in progress, then in order, while there is room, new ones that were
    here when it was scheduled (``seen``; -1: none).

    Those that come too late are added to ``refused`` when it would be their turn.
    """
    if limits.policy == "decode_first" and group.n:
        return []
    budget = limits.tokens - (group.n * query_len if limits.policy == "mixed" else 0)
    work: list[tuple[Request, int]] = []
    cache, chunks = group.cache, limits.chunks
    for request in group.prefilling:
        if budget <= 0:
            return work
        tokens = min(request.need - request.done, budget)
        if chunks:
            if not cache.grow(request, request.done + tokens):
                give_up(group, limits)
                return work
            cache.publish(request, request.done + tokens)
        work.append((request, tokens))
        budget -= tokens
    waiting = group.waiting
    keep = 0 if limits.reserve or chunks else group.n
    while waiting and waiting[0].queued <= seen and budget > 0 and group.n + len(group.prefilling) < limits.sequences:
        request = waiting[0]
        if request.done >= request.need:  # computed elsewhere; it waits for room to decode
            break
        whole = footprint(request, limits)
        if not cache.admit(request, whole, keep, budget if chunks else FOREVER):
            break
        if limits.late == "turn_away" and request.deadline < now and request.started < 0:
            cache.release(request)
            refused.append(waiting.popleft())
            continue
        if request.started < 0:
            request.cached = request.nodes * cache.block
            request.pooled = request.done - request.cached
        waiting.popleft()
        group.prefilling.append(request)
        tokens = min(request.need - request.done, budget)
        if chunks:
            cache.publish(request, request.done + tokens)
        work.append((request, tokens))
        budget -= tokens
    return work


def give_up(group: Group, limits: Limits) -> None:
    """The last prompt in progress starts over."""
    victim = group.prefilling.pop()
    group.cache.release(victim, victim.done)
    victim.restart()
    victim.preempted += 1
    enqueue(group, victim, limits, first=True)


def footprint(request: Request, limits: Limits) -> int:
    """Tokens for which ``request`` takes pages when it is admitted."""
    if not limits.reserve:
        return request.need
    whole = request.input + round(request.output * limits.reserve_ratio)
    return whole if whole > request.need else request.need


def urgency(request: Request, limits: Limits) -> int:
    """What ``request`` is ordered by; the smaller is served first."""
    if limits.order == "arrival":
        return 0
    return request.priority if limits.order == "priority" else request.deadline


def enqueue(group: Group, request: Request, limits: Limits, *, first: bool = False) -> bool:
    """Put ``request`` in the queue, behind its equals or (``first``) before them; whether it stands at its head."""
    waiting = group.waiting
    if limits.order != "arrival":
        find = bisect_left if first else bisect_right
        at = find(waiting, urgency(request, limits), key=lambda other: urgency(other, limits))
        waiting.insert(at, request)
        return at == 0
    if first:
        waiting.appendleft(request)
    else:
        waiting.append(request)
    return waiting[0] is request


def prompts_of(work: list[tuple[Request, int]]) -> tuple[int, int, float, int]:
    """(tokens, prompts, query-key pairs, keys) of one group's prompts."""
    tokens = keys = 0
    pairs = 0.0
    for request, new in work:
        tokens += new
        keys += request.done + new
        pairs += new * request.done + new * (new + 1) / 2
    return tokens, len(work), pairs, keys
