"""Laws of a paged cache: no page is lost or counted twice, and what was computed is found again."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang.serve.cache import Cache
from taicang.serve.request import Request

PAGE = 16
TOKENS = st.integers(1, 300)


@settings(max_examples=100)
@given(TOKENS, TOKENS, st.integers(1, 4))
def test_who_starts_over_computes_less_than_a_page_again(prompt, made, per_block):
    block = per_block * PAGE
    cache = Cache(1000, PAGE, block)
    request = Request(0, 0, prompt, made + 1, blocks=range(prompt // block))
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


@given(st.integers(1, 1000), st.integers(0, 4), st.sampled_from(["lru", "lfu"]))
def test_an_emptied_cache_is_as_it_was_made(pages, per_block, eviction):
    made = Cache(pages, PAGE, per_block * PAGE, eviction)
    made.admit(Request(0, 0, PAGE, 1, blocks=range(per_block and 1)), PAGE)
    again = made.emptied()
    for name in ("pages", "page", "tokens", "block", "keeps", "per_block", "eviction"):
        assert getattr(again, name) == getattr(made, name)
    assert (again.free, again.blocks, again.spare) == (pages, 0, pages)
