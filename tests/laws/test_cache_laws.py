"""Laws of a paged cache: no page is lost or counted twice, and what was computed is found again."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from taicang.serve.cache import Cache
from taicang.serve.request import Request

PAGE = 16
TOKENS = st.integers(1, 300)


@settings(max_examples=100)
@given(TOKENS, TOKENS, st.integers(1, 4), st.booleans())
@example(32, 17, 1, True)  # whole pages, whole blocks, with and without names for the answer's
@example(32, 17, 1, False)
@example(31, 2, 2, True)
@example(31, 32, 2, True)
@example(64, 16, 2, True)
@example(64, 16, 2, False)
def test_who_starts_over_computes_less_than_a_page_again(prompt, made, per_block, named):
    block = per_block * PAGE
    cache = Cache(1000, PAGE, block)
    known = prompt + made + 1 if named else prompt
    request = Request(7, 0, prompt, made + 1, blocks=range(known // block), named=known)
    assert cache.admit(request, request.need)
    cache.publish(request, prompt)
    there = prompt + made - 1  # the last token was never an input
    assert cache.grow(request, there)
    request.made = made
    cache.release(request, there)
    assert cache.spare == cache.pages
    assert cache.spare - cache.free == there // PAGE
    request.restart()
    assert cache.admit(request, request.need)
    assert request.done == there // PAGE * PAGE
    cache.release(request)
    assert cache.spare == cache.pages


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 3), TOKENS, st.integers(0, 3)), min_size=1, max_size=30),
    st.sampled_from(["lru", "lfu"]),
)
def test_every_page_is_free_or_somebody_s(steps, eviction):
    """``steps``: how much of which prompt comes, or that the oldest leaves with all that it has."""
    cache = Cache(40, PAGE, 2 * PAGE, eviction)
    running: list[Request] = []
    for number, (prompt, tokens, act) in enumerate(steps):
        if act and running:
            request = running.pop(0)
            cache.release(request, (request.input if act > 1 else 0))
            cache.release(request)  # who has nothing gives nothing back
        else:
            blocks = range(100 * prompt, 100 * prompt + tokens // (2 * PAGE))
            request = Request(number, 0, tokens, 1, blocks=blocks)
            if cache.admit(request, tokens):
                cache.publish(request, tokens)
                running.append(request)
        shared = {block for each in running for block in each.blocks[: each.nodes]}
        held = sum(each.pages for each in running) + len(shared) * cache.per_block
        assert cache.spare + held == cache.pages
        assert 0 <= cache.free <= cache.spare
        assert sum(cache._users.values()) == sum(each.nodes for each in running)


def test_a_request_that_does_not_fit_takes_nothing():
    cache = Cache(10, PAGE, PAGE)
    assert not cache.admit(Request(0, 0, 200, 1, blocks=range(12)), 200)
    assert (cache.free, cache.blocks) == (10, 0)
    with pytest.raises(KeyError):
        cache.claim(11)


@given(st.integers(1, 1000), st.sampled_from([1, PAGE]), st.integers(0, 4), st.sampled_from(["lru", "lfu"]))
@example(8, 1, 1, "lru")
def test_an_emptied_cache_is_as_it_was_made(pages, page, per_block, eviction):
    made = Cache(pages, page, per_block * page, eviction)
    assert (made.keeps, made.block) == (per_block > 0, max(per_block, 1) * page)
    made.admit(Request(0, 0, page, 1, blocks=range(per_block and 1)), page)
    again = made.emptied()
    for name in ("pages", "page", "block", "keeps", "per_block", "eviction"):
        assert getattr(again, name) == getattr(made, name)
    assert (again.free, again.blocks, again.spare, again.tokens) == (pages, 0, pages, pages * page)


class Heard:
    """What a watch is told, in order."""

    def __init__(self):
        self.told = []

    def stored(self, request, begin, end):
        self.told += [("stored", block) for block in request.blocks[begin:end]]

    def removed(self, block):
        self.told.append(("removed", block))

    def cleared(self):
        self.told.append(("cleared", 0))


@given(
    st.lists(st.integers(0, 7), min_size=1, max_size=60), st.integers(1, 5), st.integers(1, 3),
    st.sampled_from(["lru", "lfu"]),
)  # fmt: skip
@example([0, 0, 1, 2, 0, 1, 3, 0], 2, 1, "lfu")
def test_the_block_goes_that_was_used_least_or_longest_ago(asked, room, per_block, eviction):
    """``asked``: prompts of a block and one token, one after the other, where ``room`` blocks stay."""
    block = per_block * PAGE
    cache, heard, told = Cache(room * per_block + 1, PAGE, block, eviction), Heard(), []
    cache.watch = heard
    held: dict[int, tuple[int, int]] = {}  # uses (of equal weight where the last one counts), and when it was last used
    for now, each in enumerate(asked):
        request = Request(now, 0, block + 1, 1, blocks=[each])
        assert cache.hit(request) == (each in held)
        assert cache.admit(request, request.need)
        assert request.done == (block if each in held else 0)
        cache.publish(request, request.input)
        cache.release(request)
        if each not in held:
            if len(held) == room:
                gone = min(held, key=held.__getitem__)
                del held[gone]
                told.append(("removed", gone))
            told.append(("stored", each))
        held[each] = (held.get(each, (0, 0))[0] + (eviction == "lfu"), now)
        assert (cache.blocks, cache.spare, cache.evicted) == (
            len(held),
            cache.pages,
            sum(name == "removed" for name, _ in told),
        )
    assert heard.told == told
    assert cache.emptied().watch is heard
    assert heard.told[len(told) :] == [("cleared", 0)]


@given(st.integers(0, 6), st.integers(1, 3), TOKENS, st.integers(0, 6))
def test_the_last_token_is_always_computed(known, per_block, tokens, unlike):
    """A prompt shares whole blocks from its beginning, up to the first that is not here, and never all of it."""
    block = per_block * PAGE
    cache = Cache(1000, PAGE, block)
    first = Request(0, 0, known * block + 1, 1, blocks=range(known))
    assert cache.admit(first, first.need)
    cache.publish(first, first.input)
    ids = [n if n != unlike else 99 for n in range(tokens // block)]
    found = cache.hit(Request(1, 0, tokens, 1, blocks=ids))
    assert found == min(known, unlike, (tokens - 1) // block)


@given(
    st.integers(0, 30), st.integers(0, 10), st.integers(1, 30), st.integers(0, 30), st.integers(0, 30),
    st.integers(1, 3),
)  # fmt: skip
@example(1, 0, 3, 2, 0, 2)
@example(0, 0, 3, 2, 0, 2)
def test_who_is_let_in_leaves_what_is_to_be_kept(pages, keep, prompt, known, used, per_block):
    """``known`` blocks of the prompt rest in the cache, ``used`` of them in use: what rests and is not shared gives
    room."""
    block, used = per_block * PAGE, min(used, known)
    cache = Cache(known * per_block + pages, PAGE, block)
    other = Request(0, 0, known * block + 1, 1, blocks=range(known))
    cache.claim(known * per_block)
    other.pages = known * per_block
    cache.publish(other, known * block)
    cache.release(other)
    if used and not cache.admit(Request(1, 0, used * block + 1, 1, blocks=range(used)), used * block):
        return
    request = Request(2, 0, prompt * block, 1, blocks=range(prompt))
    shared = min(known, prompt - 1)
    want, resting = (prompt - shared) * per_block, (known - max(used, shared)) * per_block
    assert cache.admit(request, request.need, keep) == (want + keep <= pages + resting)
    assert request.pages in (0, want)
