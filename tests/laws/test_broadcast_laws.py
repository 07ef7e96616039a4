"""A sharded optimizer whose ranks own whole tensors: what broadcasting them in turn costs, over machines and sizes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.catalog import calibration
from taicang.catalog.costing import training_price
from taicang.catalog.models import model
from taicang.cost.collective import Line, collective
from taicang.hardware import Machine
from taicang.ops import Collective
from taicang.train.memory import Held, layer_parameters, together
from taicang.train.setup import Setup
from taicang.train.step import TrainStep, train_step
from taicang.train.sync import broadcast_s
from taicang.train_plans import TrainPlan

FITS = calibration.fits("collective", Line)
NODES = ("hgx-a100", "hgx-h100", "atlas-800-a2", "mi300x-8")
machines = st.sampled_from(NODES)
sizes = st.floats(10.0, 34.0).map(lambda x: float(np.exp2(x)))


@cache
def _machine(name: str, nodes: int) -> Machine:
    return catalog.machine(f"{name} x {nodes}")


def _cast(machine: Machine, ranks: int, size: float) -> float:
    return float(collective(Collective(kind="broadcast", payload_bytes=size, ranks=ranks), machine, FITS).seconds)


@given(machines, sizes, st.integers(3, 9))
def test_a_broadcast_waits_for_every_rank(name: str, size: float, doublings: int) -> None:
    """A chain: of the same message, twice the nodes take more, by at least the hops that they add."""
    machine = _machine(name, 128)
    ranks = 2**doublings
    few, many = _cast(machine, ranks, size), _cast(machine, 2 * ranks, size)
    assert many > few
    assert many - few >= ranks / 8 * machine.plane("scale_up").levels[-1].latency_s * 0.9


@given(machines, st.sampled_from((2, 8, 64, 1024)), st.floats(8.0, 11.0).map(lambda x: 10.0**x), st.integers(1, 2000))
def test_owners_are_no_more_than_tensors(name: str, ranks: int, count: float, matrices: int) -> None:
    """Broadcasts in turn cost at least the all-gather of the same bytes; more tensors never cost less."""
    machine = _machine(name, 128)
    plan = TrainPlan(dp=ranks, global_batch=ranks)

    def price(op):
        return collective(op, machine, FITS)

    def seconds(tensors: int) -> float:
        return float(broadcast_s(Held(dense=count, matrices=tensors), plan, price))

    gather = Collective(kind="all_gather", payload_bytes=2.0 * count, ranks=ranks)
    assert seconds(matrices) >= float(price(gather).seconds) * 0.9
    assert seconds(2 * matrices) >= seconds(matrices) * 0.999


@cache
def _step(name: str, nodes: int, shard: int) -> TrainStep:
    machine = _machine(name, nodes)
    engine = catalog.stack("internevo")
    dp = machine.ranks
    plan = TrainPlan(dp=dp, global_batch=8 * dp, micro_batch=2, seq=2048, shard=shard)
    net = model("llama-2-7b")
    return train_step(Setup(model=net, plan=plan, machine=machine, stack=engine, price=training_price(machine, engine)))


@settings(deadline=None)
@given(machines, st.sampled_from((2, 8, 32, 64)))
def test_the_loss_grows_with_ranks_and_groups_save_it(name: str, nodes: int) -> None:
    """At the same work per rank more nodes lose more; shard groups inside a node lose least."""
    plain, wider = _step(name, nodes, 0), _step(name, 2 * nodes, 0)
    grouped = _step(name, nodes, 8)
    assert wider.spent["parameter gather"] > plain.spent["parameter gather"] > grouped.spent["parameter gather"]


def test_tensors_of_a_layer() -> None:
    """Llama's layer: queries, keys and values, output, three of the feed-forward, two norms; shared over experts."""
    dense = layer_parameters(model("llama-2-7b"), model("llama-2-7b").blocks[0], TrainPlan())
    assert (dense.matrices, dense.vectors, dense.expert_matrices) == (5, 2, 0.0)
    mixed = layer_parameters(model("mixtral-8x7b"), model("mixtral-8x7b").blocks[0], TrainPlan(ep=2))
    assert (mixed.matrices, mixed.vectors, mixed.expert_matrices) == (3, 2, 12.0)
    assert together([(dense, 3.0), (replace(dense, matrices=1), 1.0)]).matrices == 16.0
