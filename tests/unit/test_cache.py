"""What stays in a paged cache when nobody uses it, and how prompts take their pages."""

from __future__ import annotations

import pytest

from taicang import catalog
from taicang.plugins import vllm
from taicang.serve.cache import Cache
from taicang.serve.request import Request
from taicang.serve.scheduler import preset


def admitted(cache: Cache, prompt: int, output: int, blocks: list[int], number: int = 0) -> Request:
    request = Request(number, 0, prompt, output, blocks=blocks)
    assert cache.admit(request, request.need)
    cache.publish(request, request.input)
    return request


def test_who_starts_over_finds_prompt_and_answer_again():
    cache = Cache(10, 16, 16)
    request = admitted(cache, 40, 60, [1, 2])
    assert cache.grow(request, 40 + 29)
    request.made = 30
    cache.release(request, 40 + 29)
    assert cache.spare == 10
    request.restart()
    assert cache.admit(request, request.need)
    assert (request.nodes, request.done) == (2, 64), "two blocks of the prompt, two of prompt and answer"
    cache.release(request)
    assert cache.spare == 10


def test_the_end_of_an_answer_goes_first_and_the_prompt_last():
    cache = Cache(6, 16, 16)
    request = admitted(cache, 32, 60, [1, 2])
    assert cache.grow(request, 32 + 64)
    request.made = 64
    cache.release(request, 32 + 64)
    cache.claim(3)
    request.restart()
    cache.free += 3
    assert cache.admit(request, request.need)
    assert request.done == 48
    other = Request(1, 0, 40, 1, blocks=[1, 2])
    assert cache.hit(other) == 2


def test_nothing_stays_where_nothing_is_shared():
    cache = Cache(10, 16)
    request = admitted(cache, 40, 60, [])
    cache.release(request, 40)
    assert cache.free == 10


def test_a_prompt_takes_pages_for_its_chunk_if_there_is_room_for_all():
    cache = Cache(10, 16, 16)
    request = Request(0, 0, 100, 1, blocks=range(6))
    assert cache.admit(request, 100, budget=20)
    assert cache.free == 8
    assert cache.grow(request, 60)
    assert cache.free == 6
    assert not cache.admit(Request(1, 0, 100, 1, blocks=range(10, 16)), 100, budget=20)


def test_what_was_fetched_behind_blocks_that_have_gone_begins_nowhere():
    cache = Cache(10, 16, 16)
    request = Request(0, 0, 100, 1, blocks=range(6))
    request.found, request.loaded = 32, 80
    assert cache.admit(request, 100)
    assert request.done == 0


@pytest.mark.parametrize(("name", "chunks"), [("vllm", True), ("vllm-ascend", True), ("sglang", False)])
def test_engines_of_vllm_take_pages_by_chunk(name, chunks):
    assert preset(catalog.stack(name)).chunks == chunks


def test_a_vllm_beside_taicang_is_left_alone_unless_a_machine_is_named(monkeypatch):
    monkeypatch.delenv(vllm.MACHINE, raising=False)
    assert vllm.register() is None
    monkeypatch.setenv(vllm.MACHINE, "hgx-h100")
    assert vllm.register().endswith("VirtualPlatform")
