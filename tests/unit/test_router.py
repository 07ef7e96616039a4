"""Who gets the next request."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from taicang.serve.router import ROUTERS, Router


def request(session=-1, blocks=()):
    return SimpleNamespace(session=session, blocks=blocks, input=1024, named=1024, home=None)


def pool(*held):
    return [SimpleNamespace(requests=count, number=number) for number, count in enumerate(held)]


def sent(kind, instances, requests, seed=0):
    router, found = Router(kind, seed), []
    for each in requests:
        chosen = router.pick(each, instances)
        chosen.requests += 1
        found.append(chosen.number)
    return found


@given(st.integers(1, 9), st.integers(1, 60))
def test_round_robin_goes_round_and_begins_with_the_first(instances, count):
    assert sent("round-robin", pool(*[0] * instances), [request()] * count) == [n % instances for n in range(count)]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(-1, 3), st.booleans(), st.integers(1, 9))
def test_least_loaded_takes_the_first_of_the_least_whatever_is_asked(held, session, blocks, count):
    now = list(held)
    for chosen in sent("least-loaded", pool(*held), [request(session, (7,) * blocks)] * count):
        assert chosen == now.index(min(now))
        now[chosen] += 1


@given(st.lists(st.integers(-1, 5), min_size=1, max_size=40), st.integers(0, 99))
def test_a_session_stays_where_it_began(sessions, seed):
    chosen = sent("session-sticky", pool(0, 0, 0, 0), [request(session=each) for each in sessions], seed)
    homes = {}
    for session, instance in zip(sessions, chosen, strict=True):
        assert session < 0 or homes.setdefault(session, instance) == instance


@given(st.lists(st.integers(0, 50), min_size=2, max_size=8), st.integers(0, 99))
def test_power_of_two_never_takes_the_fullest_of_all(held, seed):
    worst = max(held)
    if held.count(worst) == 1:
        assert sent("power-of-two", pool(*held), [request()], seed) != [held.index(worst)]


def test_a_prefix_is_followed_until_its_queue_costs_more_than_it_saves():
    router, instances = Router("prefix-aware"), pool(0, 0)
    assert router.pick(request(blocks=(1, 2)), instances).number == 0
    instances[0].requests = 1
    assert router.pick(request(blocks=(1, 2)), instances).number == 0  # all of the prompt saved for one request ahead
    instances[0].requests = 2
    assert router.pick(request(blocks=(1, 2)), instances).number == 1


def test_every_router_keeps_to_the_pool():
    for kind in ROUTERS:
        assert set(sent(kind, pool(0, 0, 0), [request(session=2, blocks=(7,))] * 30)) <= {0, 1, 2}
