"""Files for real engines ask for the ranks, devices and nodes of the plan: thousands of random plans, each engine."""

import random
import re
import shlex

import pytest
import yaml

from taicang import catalog
from taicang.catalog.models import model as load_model
from taicang.errors import NotModelled
from taicang.search.choices import default_stack, quantisation
from taicang.search.engines import ENGINES
from taicang.search.handover import emit, resource
from taicang.search.result import Choice, Pool
from taicang.search.space import WIDE, layouts

CASES = [
    ("deepseek-v3", "hgx-h200 x 4"),
    ("deepseek-v3", "gb200-nvl72"),
    ("qwen3-235b-a22b", "hgx-h100 x 8"),
    ("llama-3.1-405b", "hgx-h200 x 4"),
    ("deepseek-r1", "cloudmatrix384"),
]
DRAWS = 200


def choice(machine, pools):
    used = sum(pool.instances * pool.chips for pool in pools)
    return Choice(
        machine=machine.name,
        stack="any",
        quant="auto",
        mode="aggregated" if len(pools) == 1 else "disaggregated",
        pools=tuple(pools),
        ttft_s=1.0,
        tpot_s=0.05,
        requests_per_s=1.0,
        output_tokens_per_s=1.0,
        chips=used,
        machine_chips=machine.chips,
        output_tokens_per_s_per_chip=1.0,
        output_tokens_per_s_per_w=None,
        output_tokens_per_s_per_usd=None,
    )


def number(words, flag, default=1):
    return int(words[words.index(flag) + 1]) if flag in words else default


def ranks_of(engine, words):
    """Ranks that an instance launched with these arguments occupies, by the engine's own rules."""
    if engine == "sglang":
        return number(words, "--tp-size") * number(words, "--pp-size")
    if engine == "trtllm":
        return number(words, "--tp_size") * number(words, "--pp_size")
    sizes = ("--tensor-parallel-size", "--pipeline-parallel-size", "--data-parallel-size")
    return number(words, sizes[0]) * number(words, sizes[1]) * number(words, sizes[2])


def asked(text, kind):
    """Devices, nodes and replicas that a manifest asks for."""
    (load,) = [
        o
        for o in yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if o["kind"] in ("Deployment", "LeaderWorkerSet")
    ]
    spec = load["spec"]
    if load["kind"] == "Deployment":
        devices = spec["template"]["spec"]["containers"][0]["resources"]["limits"][kind]
        return devices, 1, spec["replicas"]
    group = spec["leaderWorkerTemplate"]
    sizes = {
        group[who]["spec"]["containers"][0]["resources"]["limits"][kind] for who in ("leaderTemplate", "workerTemplate")
    }
    assert len(sizes) == 1
    return sizes.pop(), group["size"], spec["replicas"]


@pytest.mark.parametrize(("name", "on"), CASES)
def test_ranks_devices_and_nodes_are_those_of_the_plan(name, on):
    machine, net, dice = catalog.machine(on), load_model(name), random.Random(name + on)
    stack = catalog.stack(default_stack(machine, net))
    plans = list(layouts(WIDE, net, machine, stack, quantisation("auto", net, machine.chip), prefill=True))
    written = 0
    for plan in dice.choices(plans, k=DRAWS):
        chips = -(-plan.ranks // machine.chip.dies)
        pool = Pool(
            role=dice.choice(["prefill", "decode", "both"]),
            plan=plan,
            instances=dice.randint(1, max(machine.chips // chips, 1)),
            chips=chips,
            sequences=float(dice.randint(1, 256)),
            chunk_tokens=dice.choice([0, 2048]),
        )
        for engine in ENGINES:
            try:
                files = emit(choice(machine, [pool]), machine, net, to=engine, path="weights")
            except NotModelled:
                continue
            written += 1
            role = "serve" if pool.role == "both" else pool.role
            devices, nodes, replicas = asked(files[f"{role}.yaml"], resource(machine))
            assert devices * nodes * replicas == plan.ranks * pool.instances
            assert devices <= machine.chips_per_node * machine.chip.dies
            for line in re.findall(r"exec (.*?)(?:; fi)?$", files[f"{role}.sh"], re.M):
                words = shlex.split(line)
                assert ranks_of(engine, words) == plan.ranks
                if nodes > 1 and plan.dp > 1 and engine.startswith("vllm"):
                    local = number(words, "--data-parallel-size-local")
                    assert local * plan.tp * plan.pp == devices
                elif nodes > 1 and engine != "trtllm":
                    assert number(words, "--nnodes") == nodes
                if engine == "sglang":
                    assert number(words, "--ep-size") == plan.ep
                    assert number(words, "--dp-size") == plan.dp
                if engine.startswith("vllm"):
                    assert ("--enable-expert-parallel" in words) == (plan.ep > 1)
    assert written > DRAWS


def test_what_an_engine_cannot_do_is_refused_with_the_reason():
    machine, net = catalog.machine("hgx-h200 x 4"), load_model("deepseek-v3")
    stack = catalog.stack("sglang")
    plans = layouts(WIDE, net, machine, stack, quantisation("auto", net, machine.chip))
    mixed = next(plan for plan in plans if plan.tp > 1 and plan.dp > 1)
    pool = Pool(role="decode", plan=mixed, instances=1, chips=mixed.ranks, sequences=8.0)
    with pytest.raises(NotModelled, match="groups of"):
        emit(choice(machine, [pool]), machine, net, to="trtllm", path="weights")
