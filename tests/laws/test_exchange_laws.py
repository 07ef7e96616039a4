"""Laws that every price of a dispatch or combine keeps, on every machine."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang.catalog import calibration, machine
from taicang.cost.exchange import LIBRARIES, PLAIN, ExchangeFit, Setting, exchange, lower_bound_s, traffic
from taicang.hardware import Level, Machine, Plane
from taicang.ops import Exchange, Spread

FITS = calibration.fits("exchange", ExchangeFit)


def _fabric(base: Machine, *levels: tuple[str, int, float, str, str]) -> Machine:
    tiers = tuple(
        Level(name=n, ranks=r, bandwidth_bytes_per_s=b, latency_s=1e-6, topology=t, profile=p)  # type: ignore[arg-type]
        for n, r, b, t, p in levels
    )
    return replace(base, planes={"scale_up": Plane(name="scale_up", levels=tiers)})


HGX = machine("hgx-h100")
MACHINES = {
    "cm384": machine("cloudmatrix384"),
    "nvl72": machine("gb200-nvl72"),
    "hgx-h100 x 8": machine("hgx-h100 x 8"),
    "hgx-b200 x 16": machine("hgx-b200 x 16"),
    "nvl256": _fabric(
        HGX,
        ("nvlink", 8, 450e9, "switch", "nvlink-h100"),
        ("nvlink_l2", 256, 225e9, "clos", "nvlink-l2"),
    ),
    "a2 x 4": _fabric(
        HGX,
        ("hccs", 8, 196e9, "mesh", "hccs-a2"),
        ("scale_out", 32, 25e9, "clos", "roce-a2"),
    ),
    "unheard-of": _fabric(HGX, ("fabric", 64, 100e9, "switch", "")),
}


def log_uniform(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(np.log(low), np.log(high)).map(lambda x: float(np.exp(x)))


@st.composite
def calls(draw: st.DrawFn) -> tuple[Exchange, Machine, str, Setting]:
    where = MACHINES[draw(st.sampled_from(sorted(MACHINES)))]
    top = where.planes["scale_up"].levels[-1].ranks
    ranks = min(2 ** draw(st.integers(0, 10)), top)
    op = Exchange(
        kind=draw(st.sampled_from(["dispatch", "combine"])),
        tokens=round(draw(log_uniform(1, 1e5))),
        token_bytes=draw(log_uniform(256, 32768)),
        topk=draw(st.integers(1, 16)),
        experts=draw(st.sampled_from([64, 256, 512, 768])),
        ranks=ranks,
        low_latency=draw(st.booleans()),
        spread=draw(st.sampled_from(get_args(Spread))),
    )
    setting = Setting(node_limit=draw(st.sampled_from([0, 4])))
    return op, where, draw(st.sampled_from(["", *sorted(LIBRARIES)])), setting


@settings(max_examples=400, deadline=None)
@given(calls())
def test_never_beats_the_bound(call: tuple[Exchange, Machine, str, Setting]) -> None:
    op, where, library, setting = call
    seconds = exchange(op, where, FITS, library=library, setting=setting).seconds
    assert seconds >= lower_bound_s(op, where, setting=setting) * (1 - 1e-9)


@settings(max_examples=200, deadline=None)
@given(calls(), st.sampled_from(["tokens", "token_bytes", "topk"]), st.floats(1.01, 8.0))
def test_more_work_is_never_faster(call: tuple[Exchange, Machine, str, Setting], what: str, more: float) -> None:
    op, where, library, setting = call
    value = getattr(op, what)
    grown = value * more
    if what == "topk":  # runs of consecutive experts may come to lie within ranks, but no more so at whole multiples
        grown = 2 * value if op.spread == "consecutive" else min(int(np.ceil(grown)), 32)
    larger = replace(op, **{what: grown})
    before = exchange(op, where, FITS, library=library, setting=setting).seconds
    after = exchange(larger, where, FITS, library=library, setting=setting).seconds
    assert after >= before * (1 - 1e-12)


@settings(max_examples=200, deadline=None)
@given(calls(), st.integers(0, 2), st.floats(1.01, 20.0))
def test_more_bandwidth_is_never_slower(call: tuple[Exchange, Machine, str, Setting], tier: int, more: float) -> None:
    op, where, library, setting = call
    levels = list(where.planes["scale_up"].levels)
    tier = tier % len(levels)
    levels[tier] = replace(levels[tier], bandwidth_bytes_per_s=levels[tier].bandwidth_bytes_per_s * more)
    wider = replace(where, planes={"scale_up": Plane(name="scale_up", levels=tuple(levels))})
    before = exchange(op, where, FITS, library=library, setting=setting).seconds
    assert exchange(op, wider, FITS, library=library, setting=setting).seconds <= before * (1 + 1e-12)


@settings(max_examples=200, deadline=None)
@given(calls(), st.floats(1.0, 5.0))
def test_a_hot_receiver_is_never_faster(call: tuple[Exchange, Machine, str, Setting], hot: float) -> None:
    op, where, library, setting = call
    before = exchange(op, where, FITS, library=library, setting=setting).seconds
    assert exchange(op, where, FITS, library=library, setting=setting, hot_ratio=hot).seconds >= before


@given(st.integers(2, 8), st.integers(1, 16), st.floats(1e9, 1e12), st.sampled_from(["mesh", "switch"]))
def test_a_mesh_carries_on_the_links_between_those_who_take_part(
    ranks: int, topk: int, rate: float, topology: str
) -> None:
    """Each of the others has a link of its own: with fewer ranks less is used, but no link carries more."""
    op = Exchange(kind="dispatch", tokens=128, token_bytes=7168.0, topk=topk, experts=64, ranks=ranks)
    found = traffic(op, _fabric(HGX, ("links", 8, rate, topology, "")), "expert", PLAIN)
    used = (ranks - 1) / 7 if topology == "mesh" else 1.0
    assert found.near_s_per_byte == pytest.approx(topk * (ranks - 1) / ranks / (rate * used))
    assert found.hop_s == pytest.approx(found.near * 1e-6)


@pytest.mark.parametrize("name", sorted(MACHINES))
@pytest.mark.parametrize("library", ["", *sorted(LIBRARIES)])
@pytest.mark.parametrize("kind", ["dispatch", "combine"])
def test_one_rank_is_free(name: str, library: str, kind: str) -> None:
    op = Exchange(kind=kind, tokens=128, token_bytes=7168.0, topk=8, experts=256, ranks=1)  # type: ignore[arg-type]
    cost = exchange(op, MACHINES[name], FITS, library=library)
    assert (cost.seconds, cost.sent_bytes, lower_bound_s(op, MACHINES[name])) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("name", sorted(MACHINES))
@pytest.mark.parametrize("library", ["", *sorted(LIBRARIES)])
@pytest.mark.parametrize("spread", get_args(Spread))
def test_scalars_and_arrays_agree_bit_for_bit(name: str, library: str, spread: Spread) -> None:
    rng = np.random.default_rng(7)
    where = MACHINES[name]
    top = where.planes["scale_up"].levels[-1].ranks
    columns = {
        "tokens": np.floor(np.exp(rng.uniform(0, 11, 40))),
        "token_bytes": np.exp(rng.uniform(5, 10, 40)),
        "topk": rng.integers(1, 12, 40).astype(float),
        "experts": rng.choice([64.0, 256.0, 768.0], 40),
        "ranks": np.minimum(np.power(2.0, rng.integers(0, 11, 40)), top),
        "stride": rng.choice([1.0, 2.0], 40),
    }
    setting = Setting(node_limit=4.0)
    many = exchange(Exchange(kind="dispatch", spread=spread, **columns), where, FITS, library=library, setting=setting)
    bounds = lower_bound_s(Exchange(kind="dispatch", spread=spread, **columns), where, setting=setting)
    for i in range(40):
        op = Exchange(kind="dispatch", spread=spread, **{k: float(v[i]) for k, v in columns.items()})
        one = exchange(op, where, FITS, library=library, setting=setting)
        for part in fields(one):
            if part.name == "level_bytes":
                for each, lone in zip(many.level_bytes, one.level_bytes, strict=True):
                    assert np.broadcast_to(each, 40)[i] == lone
            elif part.name != "origin":
                assert np.broadcast_to(getattr(many, part.name), 40)[i] == getattr(one, part.name), part.name
        assert np.broadcast_to(bounds, 40)[i] == lower_bound_s(op, where, setting=setting)
