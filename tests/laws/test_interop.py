"""Workloads of other simulators: what is written is read back, the clocks agree, faults are told with their place."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang.app.main import cli
from taicang.errors import InvalidInput, TaicangError
from taicang.interop import astra, chakra, execute, logical, simai
from taicang.interop.work import Task, Workload
from taicang.predict.workload import on_machine, on_network

SHARED = Path(__file__).parents[3] / "shared" / "interop"
NETWORK = "topology: [ Ring ]\nnpus_count: [ 8 ]\nbandwidth: [ 50.0 ]\nlatency: [ 500.0 ]\n"
SYSTEM = {"endpoint-delay": 10, "active-chunks-per-dimension": 1, "preferred-dataset-splits": 4, "local-mem-bw": 50}


def files(folder, network=NETWORK, system=SYSTEM):
    (folder / "net.yml").write_text(network)
    (folder / "sys.json").write_text(json.dumps(system))
    return folder / "net.yml", folder / "sys.json"


def same_on_all(task, ranks=8):
    return Workload(name="w", ranks=dict.fromkeys(range(ranks), (task,)), groups={})


def write(workload, folder):
    for name, data in chakra.write(workload, folder / workload.name).items():
        (folder / name).write_bytes(data)
    return folder / workload.name


ALL_REDUCE = Task(id=1, name="ar", kind="collective", collective="all_reduce", payload_bytes=1048576.0)


def test_the_published_regression_of_astra_sim(tmp_path):
    # astra-sim/astra-sim, tests/rt_template: 8 ranks in a ring, 1 MiB all-reduce in 4 splits ends after 117,780 ns
    found = on_network(write(same_on_all(ALL_REDUCE), tmp_path), *files(tmp_path))
    assert found.seconds == pytest.approx(117_780e-9, rel=0.005)
    assert len(found.by_rank) == 8
    assert {one.exposed_s for one in found.by_rank.values()} == {found.seconds}


@pytest.mark.skipif(not SHARED.is_dir(), reason="files of others are not carried")
@pytest.mark.parametrize("name", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "custom_allreduce"])
def test_micro_benchmarks_of_others_run(name):
    base = SHARED / "astra-sim"
    folder = "custom_ring_allreduce" if name == "custom_allreduce" else name
    found = on_network(
        base / "workload" / f"{folder}_8npus_1MB" / name,
        base / "config" / "tests__rt_template__inputs__network_cfg.yml",
        base / "config" / "tests__rt_template__inputs__system_cfg.json",
    )
    assert found.ranks == len(found.by_rank) == 8
    assert found.seconds > 0
    if name == "all_reduce":
        assert found.seconds == pytest.approx(117_780e-9, rel=0.005)
    if name == "custom_allreduce":  # the same ring, message by message
        assert found.seconds == pytest.approx(117_780e-9, rel=0.1)


@pytest.mark.skipif(not SHARED.is_dir(), reason="files of others are not carried")
def test_a_profiled_step_of_others_runs():
    found = on_machine(SHARED / "chakra" / "pytorch_ddp_rank0.chakra_v1.0.1.et.gz", "hgx-a100")
    assert found.tasks == 3664
    assert 0.3 < found.seconds < 0.4  # its kernels take 0.33 s one after the other


@given(st.integers(2, 40), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_operators_that_hold_their_kernels_run_in_the_order_of_data(count, random):
    """Control leads from an operator to its kernel, data from the kernel to the operator behind it, and round."""
    rows, number = [], 0
    for step in range(count):
        data = [random.randrange(number)] if number else []
        rows.append({"id": number, "name": f"op{step}", "type": 4, "runtime": 1.0, "ctrl_deps": [number + 1],
                     "data_deps": data})  # fmt: skip
        rows.append({"id": number + 1, "name": f"kernel{step}", "type": 4, "runtime": 2.0, "ctrl_deps": [number],
                     "data_deps": [number]})  # fmt: skip
        number += 2
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        path.write_text(json.dumps({"schema": "1.0.2-chakra.0.0.4", "nodes": rows}))
        assert on_machine(path, "hgx-a100").seconds == pytest.approx(count * 3e-6)
        path.write_text(json.dumps({"nodes": [*rows, rows[0] | {"id": number, "data_deps": [number + 1]},
                                              rows[0] | {"id": number + 1, "data_deps": [number]}]}))  # fmt: skip
        with pytest.raises(InvalidInput, match="stands still"):
            on_machine(path, "hgx-a100")


@pytest.mark.skipif(not SHARED.is_dir(), reason="files of others are not carried")
@pytest.mark.parametrize("path", sorted((SHARED / "simai").glob("[GLm]*.txt")) if SHARED.is_dir() else [])
def test_workloads_of_simai_run_or_say_what_is_wrong(path):
    try:
        found = on_machine(path, "hgx-a100 x 4")
    except InvalidInput as error:
        said = str(error)
    else:
        ran = found.by_rank[0]
        assert 0 < ran.compute_s <= ran.seconds == pytest.approx(ran.compute_s + ran.exposed_s)
        return
    assert "layers announced" in said or "holds rank" in said


TASKS = st.lists(
    st.tuples(
        st.sampled_from(["compute", "collective"]),
        st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]),
        st.floats(0, 9).map(lambda x: float(round(10**x))),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=12,
)


def graph(rows):
    made = []
    for number, (kind, collective, size, back) in enumerate(rows):
        after = tuple({number - back} - {number}) if number - back >= 0 else ()
        if kind == "compute":
            made.append(Task(id=number, name=f"t{number}", kind="compute", after=after, seconds=round(size) * 1e-6))
        else:
            made.append(
                Task(
                    id=number,
                    name=f"t{number}",
                    kind="collective",
                    after=after,
                    collective=collective,
                    payload_bytes=size,
                )
            )
    return made


@given(TASKS)
def test_what_is_written_is_read_back(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("et")
    workload = Workload(name="w", ranks={0: graph(rows), 1: graph(rows)}, groups={})
    found = chakra.read(write(workload, folder))
    for rank in (0, 1):
        for one, other in zip(found.ranks[rank], workload.ranks[rank], strict=True):
            assert one.seconds == pytest.approx(other.seconds, abs=1e-9)
            assert replace(one, seconds=0.0) == replace(other, seconds=0.0)


@given(TASKS, st.integers(1, 4), st.integers(1, 4))
def test_no_run_is_shorter_than_its_longest_chain_or_longer_than_all_in_a_row(rows, splits, active):
    dims = (astra.Dimension(topology="Ring", ranks=4, bandwidth_bytes_per_s=5e10, latency_s=5e-7),)
    system = astra.System(splits=splits, active_chunks=active, algorithms={})

    def price(task, members):
        return logical.seconds(task.collective, task.payload_bytes, dims, system)

    def cost(task):
        return task.seconds if task.kind == "compute" else price(task, range(4))

    tasks = graph(rows)
    ran = execute.run(Workload(name="w", ranks={0: tasks}, groups={}), 4, price, lambda task: task.seconds)[0]
    chain = {}
    for task in tasks:
        chain[task.id] = cost(task) + max((chain[each] for each in task.after), default=0.0)
    assert max(chain.values()) * (1 - 1e-9) <= ran.seconds <= sum(map(cost, tasks)) * (1 + 1e-9) + 1e-15
    assert ran.exposed_s + ran.compute_s == pytest.approx(ran.seconds)


@given(
    st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]),
    st.lists(st.tuples(st.sampled_from(astra.TOPOLOGIES), st.integers(2, 9)), min_size=1, max_size=3),
    st.floats(3, 9),
    st.integers(1, 6),
    st.sampled_from(["ring", "direct", "halvingDoubling"]),
)
def test_more_of_anything_never_takes_longer(kind, shape, exponent, active, algorithm):
    def dims(faster=1.0, nearer=1.0):
        return tuple(
            astra.Dimension(topology=t, ranks=n, bandwidth_bytes_per_s=5e10 * faster, latency_s=5e-7 / nearer)
            for t, n in shape
        )

    how = astra.System(splits=4, active_chunks=active, algorithms={kind: (algorithm,) * len(shape)})
    size = 10**exponent
    base = logical.seconds(kind, size, dims(), how)
    slack = 1 + 1e-9
    assert logical.seconds(kind, size, dims(faster=2.0), how) <= base * slack
    assert logical.seconds(kind, size, dims(nearer=2.0), how) <= base * slack
    assert logical.seconds(kind, size, dims(), replace(how, active_chunks=active + 1)) <= base * slack
    assert logical.seconds(kind, 2 * size, dims(), how) >= base / slack


def test_messages_meet_and_waits_that_nothing_ends_are_told():
    def send(number, peer):
        return Task(id=number, name="s", kind="send", peer=peer, payload_bytes=1e6)

    def receive(number, peer, after=()):
        return Task(id=number, name="r", kind="receive", peer=peer, after=after)

    ring = {rank: (send(1, (rank + 1) % 4), receive(2, (rank - 1) % 4)) for rank in range(4)}
    found = execute.run(Workload(name="w", ranks=ring, groups={}), 4, lambda *_: 1.0, lambda _: 0.0)
    assert {one.seconds for one in found.values()} == {1.0}
    lone = {0: (receive(1, 1),), 1: (receive(1, 0),)}
    with pytest.raises(InvalidInput, match="stands still at r"):
        execute.run(Workload(name="w", ranks=lone, groups={}), 2, lambda *_: 1.0, lambda _: 0.0)


@given(st.binary(max_size=200), st.integers(0, 400))
def test_torn_or_foreign_bytes_are_refused_with_their_place(tmp_path_factory, noise, cut):
    folder = tmp_path_factory.mktemp("torn")
    whole = chakra.write(same_on_all(ALL_REDUCE, 1), folder / "w")["w.0.et"]
    for data in (noise, whole[: cut % len(whole)], whole[:20] + noise):
        path = folder / "x.et"
        path.write_bytes(data)
        said = str(path)
        with contextlib.suppress(TaicangError):
            try:
                chakra.read(path)
            except TaicangError as error:
                said = str(error)
                raise
        assert str(path) in said


@pytest.mark.parametrize(
    ("network", "system", "says"),
    [
        ("topology: [ Rung ]\nnpus_count: [8]\nbandwidth: [1]\nlatency: [1]\n", {}, "Ring"),
        ("topology: [ Ring ]\nnpus_count: [8, 2]\nbandwidth: [1]\nlatency: [1]\n", {}, "unequal length"),
        ("topology: [ Ring ]\nnpus_count: [0]\nbandwidth: [1]\nlatency: [1]\n", {}, "npus_count"),
        ("topology: [ Ring ]\nnpus_count: [8]\nbandwidth: [tbd]\nlatency: [1]\n", {}, "tbd"),
        ("topolgy: [ Ring ]\n", {}, "topology"),
        (NETWORK, {"all-reduce-implementation": ["rung"]}, "ring"),
        (NETWORK, {"preferred-dataset-splits": 0}, "at least 1"),
        (NETWORK, {"all-reduce-implementation": ["ring", "ring"]}, "one algorithm for each"),
    ],
)
def test_faults_of_networks_and_systems_are_told(tmp_path, network, system, says):
    with pytest.raises(TaicangError, match=says):
        on_network(write(same_on_all(ALL_REDUCE), tmp_path), *files(tmp_path, network, system))


def test_a_workload_of_simai(tmp_path):
    path = tmp_path / "w.txt"
    head = "HYBRID_TRANSFORMER_FWD_IN_BCKWD model_parallel_NPU_group: 2 ep: 1 pp: 1 vpp: 1 ga: 1 all_gpus: 8"
    rows = ["a -1 1000 ALLREDUCE 1000000 2000 NONE 0 3000 ALLREDUCE 8000000 1"] * 3
    path.write_text("\n".join([head, "3", *rows]))
    found = on_machine(path, "hgx-h100")
    assert found.by_rank[0].compute_s == pytest.approx(3 * 6e-6)
    assert simai.read(path).groups["dp"] == (0, 2, 4, 6)
    for text, says in (
        ("\n".join([head, "4", *rows]), "4' layers announced, 3 there"),
        ("\n".join([head, "3", *rows]).replace("ALLREDUCE", "ALLREDUSE"), "ALLREDUCE"),
        ("\n".join([head, "3", *rows]).replace(" 1000 ", " x "), "not a number"),
    ):
        path.write_text(text)
        with pytest.raises(TaicangError, match=says):
            simai.read(path)
    assert simai.is_one(path)


def test_bounds_are_of_all_ranks_together(tmp_path, monkeypatch):
    task = Task(id=1, name="ar", kind="collective", collective="all_reduce", payload_bytes=1.0)
    prefix = write(Workload(name="w", ranks=dict.fromkeys(range(8), (task,)), groups={}), tmp_path)
    for name, most in (("MOST_NODES", 8), ("MOST_BYTES", sum(each.stat().st_size for each in tmp_path.iterdir()))):
        with monkeypatch.context() as patched:
            patched.setattr(chakra, name, most)
            assert len(chakra.read(prefix).ranks) == 8
            patched.setattr(chakra, name, most - 1)
            with pytest.raises(InvalidInput, match=r"\.7\.et: the ranks up to this one have more than"):
                chakra.read(prefix)


def test_twice_the_nodes_take_twice_the_time(tmp_path):
    spent = []
    for many in (5_000, 20_000):
        tasks = tuple(Task(id=i, name="", kind="compute", after=(i - 1,) if i else ()) for i in range(many))
        prefix = write(Workload(name="w", ranks={0: tasks}, groups={}), tmp_path)
        began = time.process_time()
        chakra.read(prefix)
        spent.append(time.process_time() - began)
    assert spent[1] < 10 * spent[0]


def test_the_command(tmp_path):
    prefix = write(same_on_all(ALL_REDUCE), tmp_path)
    network, system = map(str, files(tmp_path))
    trace = tmp_path / "trace.json"
    args = ["fabric", "run", str(prefix), "--network", network, "--system", system, "--perfetto", str(trace), "--json"]
    run = CliRunner().invoke(cli, args, standalone_mode=False)
    assert run.exception is None, run.output
    assert json.loads(run.stdout)["seconds"] == pytest.approx(117_780e-9, rel=0.005)
    events = json.loads(trace.read_text())["traceEvents"]
    assert sum(event["ph"] == "X" for event in events) == 8
    lone = CliRunner().invoke(
        cli, ["fabric", "run", str(tmp_path / "nothing"), "--on", "hgx-h100"], standalone_mode=False
    )
    assert isinstance(lone.exception, InvalidInput)
