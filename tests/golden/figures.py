"""Figures of everything that is priced, so that none moves without being seen to.

``python tests/golden/figures.py`` (make figures) writes figures.json anew, after a change that is meant to move them.
A figure is the sum of all numbers of one name in an answer, each by its place in it.
"""

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from taicang import catalog
from taicang.app.main import cli
from taicang.catalog.calibration import fits
from taicang.catalog.costing import cost_model, energy_fit, training_price
from taicang.catalog.models import model, of_config
from taicang.cost import collective_bound, exchange, routing, skew
from taicang.cost.gemm import GemmFit, gemm
from taicang.errors import NotModelled, TaicangError
from taicang.evidence.systems import fabric_of
from taicang.hardware import Level
from taicang.ops import Attend, Collective, Exchange, Gemm, GroupedGemm, Host, Lookup, Pointwise, Transfer
from taicang.plans import decode_batch, prefill_batch, read_plan
from taicang.predict.faults import Change, Faults, Outage
from taicang.predict.replay import replay
from taicang.predict.standing import Tenant
from taicang.predict.system import System
from taicang.records import plain
from taicang.reliability import broken_chips, components, missing_ratio
from taicang.serve.build import Tier
from taicang.serve.memory import memory_use
from taicang.serve.saturated import drained, limited, offline, saturated
from taicang.serve.setup import Setup, step
from taicang.serve.steady import Load, Pools, aggregated, disaggregated
from taicang.serve.summary import Limits
from taicang.serve.uneven import slowest_ratio, spread
from taicang.serve.usage import step_power_w
from taicang.traffic.generate import arriving, fixed
from taicang.traffic.trace import Trace
from taicang.train.flops import megatron_flop
from taicang.train.run import Policy, train_run
from taicang.train.search import candidates
from taicang.train.setup import Setup as TrainSetup
from taicang.train.step import pipeline_run
from taicang.train.step import train_step as trained
from taicang.train.trace import trace as train_trace
from taicang.train_plans import TrainPlan, recipe

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "laws")]
from drawn import DRAWN

KEPT = Path(__file__).with_name("figures.json")
SAMPLES = Path(__file__).parents[1] / "models" / "samples.jsonl"
LINES = (
    "infer deepseek-r1 --on cloudmatrix384 --input 4096 --output 256 --tpot 50ms",
    "infer deepseek-r1 --on 'hgx-h200 x 4' --input 4096 --output 256 --mode disagg --mtp 1",
    "infer llama-3.1-70b --on hgx-h100 --input 1024 --output 1024 --tp 4 --batch 32",
    "infer qwen3.5-35b-a3b --on gb200-nvl72 --input 2000 --output 300",
    "infer nemotron-3-nano-30b-a3b --on mi300x-8 --input 2000 --output 300 --stack vllm",
    "infer gemma-3-27b --on atlas-800-a2-280t --input 9000 --output 300",
    "infer deepseek-v4-flash --on 'hgx-b200 x 2' --input 30000 --output 300",
    "infer gpt-oss-120b --on l40s-pcie --input 700 --output 200 --skew 0.6",
    "train llama-3-8b --on hgx-h100 --global-batch 64 --tokens 100B",
    "train llama-3.1-70b --on 'hgx-h100 x 16' --tp 8 --pp 4 --vpp 2 --global-batch 256 --dtype fp8 --tokens 1T",
    "train deepseek-v3 --on 'hgx-h800 x 16' --pp 8 --ep 16 --global-batch 512 --recompute selective",
    "train mixtral-8x7b --on 'atlas-800-a2-280t x 8' --tp 2 --pp 4 --ep 8 --global-batch 256 --recompute full",
    "train llama-3-8b --on 'hgx-h100 x 2' --cp 2 --zero 3 --global-batch 32 --seq 32768",
)
MACHINES = (
    "hgx-h100 x 8",
    "cloudmatrix384 x 2",
    "gb200-nvl72 x 2",
    "mi300x-8 x 4",
    "l40s-pcie",
    "hgx-a100 x 2",
    "atlas-800-a2-280t x 4",
)


def leaves(value: object, name: str = "") -> Iterator[tuple[str, float]]:
    """Numbers of an answer with the last name above each."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from leaves(each, str(key))
    elif isinstance(value, list):
        for each in value:
            yield from leaves(each, name)
    elif isinstance(value, int | float):
        yield name, float(value)


def summed(answer: object) -> dict[str, float]:
    """The figure of each name."""
    found: dict[str, list[float]] = {}
    for name, value in leaves(plain(answer)):
        if np.isfinite(value):
            found.setdefault(name, []).append(value)
    return {name: float(np.dot(each, np.arange(1.0, len(each) + 1.0))) for name, each in sorted(found.items())}


def line(text: str) -> dict[str, float]:
    """Of a command's JSON, without the bands and what only counts lines."""
    ran = CliRunner().invoke(cli, [*shlex.split(text), "--json"], standalone_mode=False)
    assert ran.exit_code in (0, 1), (text, ran.output, ran.exception)

    def figures(value: object) -> object:
        if isinstance(value, dict):
            return {key: figures(each) for key, each in value.items() if key != "bands"}
        return [figures(each) for each in value] if isinstance(value, list) else value

    return summed(figures(json.loads(ran.stdout)))


def operators() -> Iterator[tuple[str, object]]:
    """Operators of each kind, in the formats and sizes between which prices change their ways."""
    for dtype in ("bf16", "fp8", "fp8_block", "int8", "nvfp4", "w4a16"):
        for m, n, k in ((1, 4096, 4096), (64, 1024, 16384), (3000, 7168, 2048)):
            yield "gemm", Gemm(m=float(m), n=float(n), k=float(k), dtype=dtype)
        for tokens, hot, gathered in ((8, 0.0, True), (700, 1.0, False), (20000, 1.0, True)):
            yield (
                "experts",
                GroupedGemm(
                    tokens=float(tokens), topk=8, experts=256, experts_local=8.0, hidden=2048, inter=512.0, dtype=dtype,
                    skew=hot, gathered=gathered,
                ),
            )  # fmt: skip
    for kind, heads, kv_heads, width in (("gqa", 32, 8, 128), ("mla", 16, 1, 576), ("mla", 128, 128, 192)):
        for phase, kv in (("prefill", "bf16"), ("decode", "bf16"), ("decode", "fp8")):
            for sequences, length in ((1, 100), (20, 3000), (300, 20000)):
                new = float(sequences if phase == "decode" else sequences * length)
                yield (
                    "attend",
                    Attend(
                        kind=kind, phase=phase, heads=heads, kv_heads=kv_heads, qk_dim=width, v_dim=min(width, 512),
                        dtype="bf16", kv_dtype=kv, sequences=float(sequences), queries=new,
                        pairs=new * length / (1 if phase == "decode" else 2), context=float(sequences * length),
                    ),
                )  # fmt: skip
    for what in ("norm", "rope", "activation", "route"):
        for size in (1e4, 1e8):
            yield "pointwise", Pointwise(kind=what, elements=size, moved_bytes=8.0 * size, flop=6.0 * size, launches=2)
    yield "lookup", Lookup(rows=5000.0, row_bytes=8192.0)
    for shape in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast"):
        for size, ranks, stride in ((2e4, 4, 1), (3e6, 8, 1), (2e8, 16, 1), (5e7, 4, 8), (1e6, 32, 1), (1e8, 48, 2)):
            yield "collective", Collective(kind=shape, payload_bytes=size, ranks=ranks, stride=stride)
    for way in ("dispatch", "combine"):
        for tokens, ranks, quick in (
            (9000, 64, False),
            (1, 8, True),
            (100, 16, True),
            (4096, 32, False),
            (600, 8, False),
        ):
            yield (
                "exchange",
                Exchange(
                    kind=way, tokens=float(tokens), token_bytes=7168.0, topk=8, experts=256, ranks=ranks, skew=1.0,
                    low_latency=quick,
                ),
            )  # fmt: skip
    for plane in ("scale_up", "rdma"):
        yield "transfer", Transfer(payload_bytes=3e8, plane=plane, distance=8)
    yield "host", Host(graphs=2, layers=61, sequences=100.0)


def prices(machine: str, stack: str) -> dict[str, float]:
    """Costs of every operator, and the bounds under them."""
    on = catalog.machine(machine)
    book = cost_model(on, catalog.stack(stack))
    found: dict[str, list[object]] = {}
    for kind, op in operators():
        try:
            found.setdefault(kind, []).append(plain(book.price(op)))
            found[kind].append(plain(book.price(op, 0.6, 0.5)))
            if isinstance(op, Collective):
                found[kind].append({"bound": collective_bound.lower_bound_s(op, on)})
            if isinstance(op, Exchange):
                found[kind].append({"bound": exchange.lower_bound_s(op, on)})
        except (NotModelled, TaicangError):
            found.setdefault(kind, []).append({"refused": 1})
    return {f"{kind} {name}": value for kind, costs in found.items() for name, value in summed(costs).items()}


def balance() -> dict[str, float]:
    """How loads of experts spread."""
    hot = [
        plain(skew.hot_rank(tokens=tokens, topk=8.0, experts=256.0, ranks=ranks, slots_local=slots / ranks, skew=s,
                            balanced_ranks=slots > 256.0))
        for s in (0.3, 1.0) for ranks in (8.0, 64.0) for tokens in (16.0, 4000.0) for slots in (256.0, 320.0)
    ]  # fmt: skip
    rest = {
        "over_mean": [
            float(skew.hottest_over_mean(experts=256.0, ranks=32.0, tokens=500.0, topk=8.0, skew=s, slots=slots))
            for s in (0.2, 1.4)
            for slots in (0.0, 288.0)
        ],
        "exponent": skew.exponent_of(1.0 / np.arange(1.0, 65.0), 4.0),
        "distinct": [
            float(routing.distinct_groups(8, 256, g, spread=s)) for g in (4, 32) for s in ("random", "strided")
        ],
        "maximum": [float(routing.expected_maximum_ratio(r, 0.3)) for r in (2, 8, 300)],
        "slowest": [float(slowest_ratio(g, v)) for g in (1.0, 2.0, 7.0, 320.0) for v in (0.1, 0.6, 4.0, 60.0)],
        "parts": [
            [
                missing_ratio(components(catalog.machine(name)), 512),
                broken_chips(components(catalog.machine(name)), 512),
            ]
            for name in ("cloudmatrix384 x 2", "gb200-nvl72 x 8", "hgx-h100 x 64")
        ],
    }
    return summed([hot, rest])


def states() -> dict[str, float]:
    """Steady states of instances and pools, their memory and power."""
    rng = np.random.default_rng(7)
    uneven = spread(rng.lognormal(6.0, 1.0, 400), rng.lognormal(5.0, 0.8, 400))
    found = []
    for name, on, stack, text in (
        ("llama-3.1-8b", "hgx-h100", "vllm", "TP2"),
        ("llama-3.1-70b", "hgx-h100 x 2", "sglang", "TP4 PP2"),
        ("deepseek-r1", "cloudmatrix384", "cloudmatrix-infer", "DP32 EP32 R32 MTP1 x2"),
        ("qwen3-30b-a3b", "hgx-h200", "vllm", "TP2 DP4 EP8 all_to_all"),
        ("qwen3-30b-a3b", "gb200-nvl72", "tensorrt-llm", "DP4 EP2 ETP2"),
        ("gpt-oss-120b", "hgx-h100", "tensorrt-llm", "TP4 EP4"),
        ("deepseek-v3.2", "hgx-h200", "sglang", "SP-TP-SP8 EP8"),
        ("deepseek-v2-lite", "hgx-h100", "vllm", "DP4 EP4 MTP2"),
        ("qwen3-next-80b-a3b", "atlas-800-a2-376t", "vllm-ascend", "TP2 DP2 PP2 EP4 R4"),
    ):
        machine, engine = catalog.machine(on), catalog.stack(stack)
        setup = Setup(model=model(name), plan=read_plan(text), machine=machine, stack=engine, skew=0.8,
                      price=cost_model(machine, engine).price)  # fmt: skip
        load = Load(concurrency=60.0, input_tokens=1500.0, output_tokens=300.0, cached_ratio=0.2, room=25.0)
        loads = (load, replace(load, spread=uneven, room=np.inf), replace(load, at_random=True, output_tokens=9.0))
        found += [aggregated(setup, each) for each in loads]
        pools = Pools(prefill=setup, prefill_instances=2, prefill_sequences=2.0, decode=setup, decode_instances=1)
        found.append(disaggregated(pools, loads[1], 0.01))
        sizes = np.array([1.0, 20.0, 300.0])
        found.append(saturated(setup, sizes, input_tokens=20000.0, output_tokens=7.0))
        long = replace(load, at_random=True, input_tokens=30000.0, output_tokens=40.0, concurrency=400.0)
        found += [aggregated(setup, long), aggregated(setup, replace(long, input_tokens=2500.0, output_tokens=900.0))]
        full = saturated(setup, sizes, input_tokens=900.0, output_tokens=200.0, spread=0.5)
        many = {"input_tokens": 900.0, "output_tokens": 200.0}
        found += [full, offline(setup, **many, requests=7000.0), offline(setup, **many, spread=0.4)]
        found.append(limited(setup, **many, spread=0.3, tpot_s=0.08, ttft_s=6.0))
        found.append({"drained": drained(setup, full, requests=5000.0, **many, longest=900.0)})
        found.append(memory_use(setup.model, setup.plan, machine.chip, engine.memory, sequences=40.0, context=3000.0,
                                tokens=8192.0))  # fmt: skip
        fit = energy_fit(machine.chip.profile)
        if machine.chip.tdp_w is None:
            continue
        for batch in (decode_batch(sequences=30.0, context=2000.0), prefill_batch(sequences=2.0, length=1000.0)):
            found.append({"power": step_power_w(step(setup, batch), machine, fit)})
    return summed(found)


def families() -> dict[str, float]:
    """Steps of one small model of each family that is known: serving two batches, and training."""
    machine, engine, nemo = catalog.machine("hgx-h100"), catalog.stack("vllm"), catalog.stack("nemo")
    price, found = cost_model(machine, engine).price, {}
    batches = prefill_batch(sequences=2.0, length=3000.0, cached=100.0), decode_batch(sequences=9.0, context=5000.0)
    plan = TrainPlan(global_batch=8, seq=512, dp=8, recompute="selective")
    for text in SAMPLES.read_text(encoding="utf-8").splitlines():
        family, config, _ = json.loads(text)
        net = of_config(config, family)
        with suppress(TaicangError):
            setup = Setup(model=net, plan=read_plan("TP1"), machine=machine, stack=engine, price=price)
            costs = [piece.cost for batch in batches for piece in step(setup, batch).slices]
            numbers = enumerate(costs, 1)
            found[family] = sum(
                at * (1e6 * each.seconds + each.flop / 1e9 + each.moved_bytes / 1e6) for at, each in numbers
            )
        with suppress(TaicangError):
            made = trained(TrainSetup(model=net, plan=plan, machine=machine, stack=nemo,
                                      price=training_price(machine, nemo)))  # fmt: skip
            found[f"{family} trained"] = 1e6 * made.seconds + float(made.memory.total_bytes) / 1e6
    return found


def bounds() -> dict[str, float]:
    """Of tori, of warm caches, of published counts of FLOPs."""
    found: list[object] = []
    for dims in ((4, 4), (3, 8), (2, 2, 16), (5,)):
        ranks = int(np.prod(dims))
        level = Level(name="ici", ranks=ranks, bandwidth_bytes_per_s=1e11, latency_s=1e-6, topology="torus", dims=dims)
        for shape in ("all_reduce", "all_to_all", "all_gather"):
            op = Collective(kind=shape, payload_bytes=1e7, ranks=ranks)
            found += [{"torus": float(collective_bound.torus_ratio(level, op, unit))} for unit in (1, 2)]
            apart = replace(op, ranks=max(ranks // 2, 2), stride=2)
            found.append({"torus": float(collective_bound.torus_ratio(level, apart, 1))})
            found.append({"bound": float(collective_bound.lower_bound_s(op, fabric_of(level)))})
    chip = catalog.machine("hgx-h100").chip
    fit = fits("gemm", GemmFit)["h100"]["bf16"]
    warm = replace(fit, cache_ratio=0.6, cache_speedup_ratio=2.5, quantise_ratio=0.4)
    found += [gemm(Gemm(m=m, n=2048.0, k=2048.0, dtype="fp8"), chip, warm, warm=True) for m in (8.0, 512.0, 20000.0)]
    for again in (False, True):
        count = megatron_flop(layers=24, hidden=2304, vocab=51200, seq=2048, sequences=512.0, recompute=again)
        found.append({"megatron": count})
    return summed(found)


def served(name: str, on: str, system: System, trace: Trace, **options: object) -> dict[str, float]:
    """A replay: requests, usage and sums."""
    ran = replay(name, on, trace, system, **options)
    return summed({"summary": plain(ran.summary), "table": plain(ran.table), "usage": plain(ran.usage),
                   "gone": [[each.instance, each.from_s, each.until_s or 0.0] for each in ran.outages]})  # fmt: skip


def with_blocks(trace: Trace, block: int = 64) -> Trace:
    """Prompts of five families that share their first half."""
    ids = [
        [1000 * (i % 5) + j if 2 * j * block < n else 10**6 + 1000 * i + j for j in range(-(-n // block))]
        for i, n in enumerate(trace.input_tokens.tolist())
    ]
    return replace(trace, blocks=ids, block=block)


def replays() -> Iterator[tuple[str, Callable[[], dict[str, float]]]]:
    """Scenarios of the simulator by name."""
    trace = arriving(fixed(150, 1500, 120, spread=0.6, seed=3), 12.0, seed=4)
    shared = with_blocks(trace)
    due = replace(trace, deadline_s=np.full(150, 0.4), priority=np.arange(150) % 3)
    dense, sparse = ("llama-3.1-8b", "hgx-h100"), ("qwen3-30b-a3b", "hgx-h100")
    tiers = (
        Tier(name="host", size_bytes=2e9, plane="host", own=True),
        Tier(name="ssd", size_bytes=1e12, bandwidth_bytes_per_s=5e9),
    )
    broken = Faults(
        outages=(Outage(part="instance", number=0, at_s=2.0, down_s=3.0), Outage(part="chip", number=5, at_s=6.0)),
        slow=(Change(what="1", at_s=1.0, for_s=4.0, change_ratio=2.0),),
        drained=(Change(what="2", at_s=3.0, for_s=2.0),), jitter_s=1e-4,
    )  # fmt: skip
    tight = {"plan": read_plan("TP1"), "memory_ratio": 0.235, "sequences": 40, "instances": 1}
    yield "closed", lambda: served(*dense, System(instances=2, stack="vllm"), trace, clients=24, seed=5)
    yield "open", lambda: served(*dense, System(instances=3, stack="sglang", router="round-robin"), trace)
    yield "loads", lambda: served(*dense, System(instances=3, router="random", stack="vllm"), trace, seed=2)
    yield "many groups", lambda: served(*sparse, System(plan=read_plan("DP8 EP8"), stack="sglang"), trace)
    yield "beside", lambda: served(*sparse, System(plan=read_plan("DP8 EP8 x2"), stack="vllm"), trace, clients=64)
    yield "pools", lambda: served(*dense, System(prefill="2x1", decode="1x2", router="prefix-aware"), shared)
    yield "groups", lambda: served(*sparse, System(plan=read_plan("TP2 DP4 EP8"), stack="tensorrt-llm"), trace)
    yield "drafts", lambda: served("deepseek-r1", "hgx-h200 x 2", System(drafts=2), trace)
    guessed = System(plan=read_plan("DP16 EP16 MTP1"))
    yield "drafts of groups", lambda: served("deepseek-r1", "hgx-h200 x 2", guessed, trace)
    yield "blocks", lambda: served(*dense, System(instances=2, tiers=tiers, eviction="lfu", ttl_s=3.0), shared)
    yield "tight", lambda: served(*dense, System(**tight), shared)
    yield "swap", lambda: served(*dense, System(swap_bytes=2e10, policy="decode_first", **tight), trace)
    yield "late", lambda: served(*dense, System(order="deadline", late="turn_away", tokens=1024, **tight), due)
    yield "ranked", lambda: served(*dense, System(order="priority", sequences=6, instances=1), due)
    yield "faults", lambda: served(*dense, System(instances=4, faults=broken), trace, clients=40, seed=5)
    worn = replace(broken, breakdowns=True, mtbf_s={"chip": 200.0, "node": 90.0}, spare_chips=2, restart_s=2.0)
    yield "worn", lambda: served(*dense, System(instances=4, faults=worn), trace, clients=40, seed=5)
    brief = arriving(fixed(60, 20, 6, spread=0.4, seed=1), 90.0, seed=2)
    slow = replace(broken, outages=(), drained=())
    kept = {"limits": Limits(ttft_s=0.03, tpot_s=0.004)}
    yield "launches", lambda: served("llama-3.2-1b", "hgx-h100", System(faults=slow, stack="vllm"), brief, **kept)
    waits = {"clients": 9, "think_s": 0.7, "random_think": True, "seed": 5}
    yield "thinking", lambda: served(*dense, System(instances=2), trace, **waits)
    mine = Tenant(model="qwen3-8b", share_ratio=0.4)
    yield "tenants", lambda: served(*dense, System(instances=2), trace, also=(mine,), model_cache_bytes=2e10, crowd=4)


DUAL = {"pp": 16, "dp": 8, "ep": 8, "schedule": "dualpipe", "global_batch": 256}
PLANS = (
    ("llama-3-8b", "hgx-h100 x 4", "nemo", {"tp": 2, "pp": 4, "vpp": 2, "dp": 4, "recipe": recipe("fp8")}),
    ("llama-3-70b", "hgx-h100 x 8", "megatron", {"tp": 8, "pp": 4, "dp": 2, "recompute": "full", "zero": 1}),
    ("mixtral-8x7b", "hgx-h100 x 4", "megatron", {"tp": 2, "pp": 2, "dp": 8, "ep": 4, "recompute": "selective"}),
    ("deepseek-v2-lite", "atlas-800-a2-280t x 4", "mindspeed", {"pp": 2, "dp": 16, "ep": 8, "zero": 2}),
    (
        "deepseek-v3",
        "hgx-h800 x 16",
        "hai-llm",
        {"pp": 16, "dp": 8, "ep": 8, "schedule": "dualpipe", "global_batch": 256},
    ),
    ("llama-3-8b", "hgx-a100 x 2", "fsdp", {"dp": 16, "zero": 3, "shard": 8}),
    ("llama-3-8b", "mi300x-8 x 2", "primus", {"tp": 2, "cp": 2, "dp": 4, "pp": 1, "schedule": "gpipe"}),
    ("qwen2.5-7b", "hgx-h100 x 2", "torchtitan", {"pp": 4, "dp": 4, "schedule": "zero_bubble"}),
    ("gpt3-20b", "hgx-a100 x 4", "megatron-classic", {"tp": 8, "pp": 2, "dp": 2, "micro_batch": 2, "sp": False}),
    ("nemotron-h-56b", "hgx-h100 x 4", "nemo", {"tp": 8, "pp": 2, "dp": 2, "recompute": "full", "master": "none"}),
    (
        "qwen3-30b-a3b",
        "gb200-nvl72",
        "nemo",
        {"tp": 2, "cp": 2, "pp": 2, "dp": 9, "ep": 4, "etp": 1, "global_batch": 72},
    ),
    ("llama-3.2-1b", "hgx-h100", "nemo", {"dp": 8, "trained_ratio": 0.02}),
    ("llama-3.2-1b", "hgx-h100 x 2", "nemo", {"cp": 4, "dp": 4, "context": "ulysses", "moments": "bf16", "seq": 16384}),
    ("llama-3.2-1b", "hgx-h100 x 2", "fsdp", {"cp": 2, "dp": 8, "context": "all_gather", "zero": 3, "reshard": False}),
    ("llama-3.2-1b", "hgx-h100 x 2", "megatron", {"tp": 2, "pp": 4, "vpp": 2, "dp": 2, "order": "tp-cp-ep-pp-dp"}),
    ("qwen3-30b-a3b", "hgx-h100 x 2", "nemo", {"pp": 2, "dp": 8, "ep": 8, "recompute": "full", "recompute_ratio": 0.5}),
    (
        "deepseek-v2-lite",
        "hgx-h100 x 2",
        "primus",
        {"tp": 2, "dp": 8, "ep": 4, "etp": 2, "gradients": "bf16", "zero": 0},
    ),
    ("qwen3-next-80b-a3b", "hgx-b200 x 4", "nemo", {"pp": 4, "dp": 8, "ep": 8, "master": "remainder"}),
    ("llama-3.2-1b", "hgx-h100 x 2", "deepspeed", {"dp": 16, "zero": 3, "offload": "weights", "nvme_bytes_per_s": 3e9}),
    ("qwen3-30b-a3b", "hgx-h100 x 2", "deepspeed", {"dp": 16, "zero": 2, "ep": 8, "offload": "optimizer"}),
    ("llama-3.2-1b", "hgx-a100 x 4", "internevo", {"tp": 2, "dp": 16}),
    ("gemma-3-27b", "atlas-800-a2-280t x 4", "mindspeed", {"tp": 4, "pp": 2, "vpp": 3, "dp": 4, "micro_batch": 2}),
)


def training() -> Iterator[tuple[str, Callable[[], dict[str, float]]]]:
    """Training steps by name."""

    def one(name: str, on: str, stack: str, fields: dict[str, object]) -> dict[str, float]:
        machine, engine = catalog.machine(on), catalog.stack(stack)
        plan = TrainPlan(**{"global_batch": 64, "seq": 4096} | fields)
        setup = TrainSetup(model=model(name), plan=plan, machine=machine, stack=engine, clock_ratio=1.3,
                           price=training_price(machine, engine))  # fmt: skip
        made, run = trained(setup), pipeline_run(setup)
        policy = Policy(spare_chips=4, chip_hour_usd=2.0, mtbf_s={"chip": 3e8}, restart_s=700.0)
        whole = train_run(made, machine, 2e12, policy, samples=50)
        return summed([plain(made), plain(train_trace(run, made)), plain(whole)])

    for name, on, stack, fields in PLANS:
        yield f"{name} on {on}, {stack}", lambda it=(name, on, stack, fields): one(*it)

    def space(name: str, on: str, stack: str, fixed: dict[str, object]) -> dict[str, float]:
        machine, engine = catalog.machine(on), catalog.stack(stack)
        setup = TrainSetup(model=model(name), plan=TrainPlan(global_batch=32, seq=2048), machine=machine, stack=engine,
                           price=training_price(machine, engine))  # fmt: skip
        found = candidates(setup, fixed)
        return summed({"count": len(found.seconds), "seconds": np.sort(found.seconds), "bytes": found.memory_bytes})

    for it in SPACES:
        yield f"space of {it[0]} on {it[1]}, {it[3]}", lambda it=it: space(*it)


SPACES = (
    ("mixtral-8x7b", "hgx-h100 x 2", "nemo", {"tp": 2, "micro_batch": 1}),
    ("llama-3.2-1b", "hgx-h100 x 2", "megatron", {"tp": 8, "micro_batch": 1, "zero": 3}),
    ("llama-3.2-1b", "hgx-h100 x 2", "nemo", {"cp": 2, "recompute": "none", "micro_batch": 1, "zero": 1}),
    ("deepseek-v2-lite", "hgx-h800 x 2", "hai-llm", {"tp": 1, "schedule": "dualpipe", "micro_batch": 1}),
    ("qwen3-30b-a3b", "hgx-h100 x 2", "nemo", {"tp": 1, "ep": 4, "recompute": "none", "micro_batch": 1, "cp": 1}),
)
STACKS = ("vllm", "cloudmatrix-infer", "tensorrt-llm", "sglang", "vllm", "sglang", "vllm-ascend")
GROUPS: dict[str, dict[str, Callable[[], dict[str, float]]]] = {
    "commands": {text: partial(line, text) for text in LINES},
    "operators": {f"{on}, {name}": partial(prices, on, name) for on, name in zip(MACHINES, STACKS, strict=True)},
    "states": {"balance": balance, "states": states, "families": families, "bounds": bounds},
    "replays": dict(replays()),
    "training": dict(training()),
    "drawn": DRAWN,
}
"""What is kept, by kind and name."""


def rounded(group: str, name: str) -> dict[str, float]:
    """A figure as it is kept."""
    return {key: float(f"{value:.9g}") for key, value in GROUPS[group][name]().items()}


if __name__ == "__main__":
    made = {group: {name: rounded(group, name) for name in names} for group, names in GROUPS.items()}
    KEPT.write_text(json.dumps(made, indent=0, sort_keys=True) + "\n")
