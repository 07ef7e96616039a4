"""Figures of random draws: many small questions of every kind, so that no branch is priced by nobody.

Each answer is folded into one number, to which every number in it adds on a scale that shows a thousandth of any.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from test_replay_laws import TROUBLE, built, stamps

from taicang import catalog
from taicang.catalog.costing import cost_model, training_price
from taicang.catalog.models import model
from taicang.cost import collective_bound, exchange
from taicang.errors import TaicangError
from taicang.lower.training_edges import lower_edges
from taicang.ops import (
    Attend,
    Collective,
    Exchange,
    Gemm,
    GroupedGemm,
    Host,
    Lookup,
    Operator,
    Pointwise,
    Transfer,
)
from taicang.plans import decode_batch, read_plan
from taicang.records import plain
from taicang.serve import queueing
from taicang.serve.log import Log
from taicang.serve.memory import memory_use
from taicang.serve.record import COARSE
from taicang.serve.request import FOREVER, SECOND
from taicang.serve.router import ROUTERS
from taicang.serve.saturated import most_sequences, saturated
from taicang.serve.setup import Setup as Serving
from taicang.serve.setup import step
from taicang.serve.simulate import simulate
from taicang.serve.steady import Load, Pools, aggregated, disaggregated
from taicang.serve.trouble import cancel
from taicang.train import memory
from taicang.train.pipeline import Durations, phase
from taicang.train.pipeline import simulate as simulated
from taicang.train.placement import traffic
from taicang.train.remedies import remedies
from taicang.train.schedule import Shape, order
from taicang.train.search import candidates, open_plan, search, why
from taicang.train.setup import Setup
from taicang.train.step import pipeline_run, train_step
from taicang.train.trace import trace
from taicang.train_plans import TrainPlan, recipe

TRAINERS = ("nemo", "megatron", "megatron-classic", "mindspeed", "hai-llm", "fsdp", "primus", "torchtitan", "deepspeed",
            "internevo", "mindformers", "torchtune")  # fmt: skip
SCHEDULES = ("gpipe", "1f1b", "zero_bubble", "zb_2p", "zb_v", "dualpipe", "dualpipev")
CHOICES: dict[str, tuple[object, ...]] = {
    "policy": ("mixed", "prefill_first", "decode_first"), "groups": (1, 1, 2, 3), "instances": (1, 2, 3),
    "split": (False, False, True), "pages": (70, 90, 200, 5000), "reserve": (True, False), "by_chunk": (True, False),
    "sequences": (1, 3, 64),
    "tokens": (128, 2048), "order": ("arrival", "priority", "deadline"), "late": ("serve", "serve", "turn_away"),
    "swap": (0, 500, 100_000), "poll": (1, 1, 7), "hold": (0, 0, 5), "retries": (None, None, 0, 1),
    "jitter": (0.0, 1e-5, 1e-3), "store": ((), (), (8,), (4, 1000), (2, 8, 50)), "eviction": ("lru", "lfu"),
    "ttl": (SECOND // 5, FOREVER), "drafts": (0, 0, 2), "models": (1, 1, 2, 3), "memory": (0.0, 1.0, 10.0),
    "crowd": (0, 0, 2, 5),
}  # fmt: skip
"""What ``built`` of the laws of replay takes."""


def numbers(value: object) -> Iterator[float]:
    """All of an answer."""
    if isinstance(value, dict):
        for each in value.values():
            yield from numbers(each)
    elif isinstance(value, list):
        for each in value:
            yield from numbers(each)
    elif isinstance(value, int | float) and np.isfinite(value):
        yield float(value)
    elif isinstance(value, str):
        yield float(sum(map(ord, value)))


def folded(answer: object) -> float:
    """One number of an answer."""
    found = np.arcsinh(1e9 * np.array(list(numbers(plain(answer)))))
    return float(np.dot(found, 1.0 + np.arange(found.size) % 7 / 7.0))


def hosts(numbers: range, leaving: bool = False) -> dict[str, float]:
    """Small systems of every kind under trouble: when each request started, had its first token and ended."""
    found = {}
    for number in numbers:
        rng = random.Random(number)
        load: dict[str, object] = {name: rng.choice(values) for name, values in CHOICES.items()}
        load["router"], rows, now = ROUTERS[number % len(ROUTERS)], [], 0
        for i in range(rng.randrange(5, 40)):
            now += rng.choice((0, 0, 1, SECOND // 1000, SECOND // 20, SECOND // 3))
            prompt, output = rng.randrange(1, 900), rng.choice((1, rng.randrange(1, 200)))
            shared, family = rng.randrange(0, prompt // 64 + 1), rng.randrange(3)
            blocks = [family * 1000 + j if j < shared else (i + 10) * 1000 + j for j in range(-(-prompt // 64))]
            rows.append((now, prompt, output, blocks, rng.randrange(3), now + rng.choice((0, SECOND // 10, SECOND))))
        load["rows"], load["asked"] = rows, [rng.randrange(3) for _ in rows]
        load["trouble"] = [(rng.randrange(1, 3000), rng.choice(TROUBLE)) for _ in range(rng.randrange(4))]
        load["known"] = {
            i: row[3][: row[1] // 64] + [5000 * i + j for j in range((row[1] + row[2]) // 64 - row[1] // 64)]
            for i, row in enumerate(rows) if rng.random() < 0.5
        }  # fmt: skip
        cluster, made = built(load, single=False)
        cluster.log = Log(cluster.pools)
        for request in made:
            request.session = request.id % 7
        if leaving:
            for request in made[:: rng.randrange(1, 4)]:
                at = request.arrival + rng.choice((1, SECOND // 500, SECOND // 30, SECOND))
                cluster.later(at, leave, request)
        simulate(cluster, iter(made))
        ticks = sum(sum(row[1:5]) * (1 + row[0] % 5) + row[5] + row[6] + row[9] for row in stamps(made))
        found[f"{number}"] = ticks / SECOND + sum(each.busy / SECOND + each.steps_run for each in cluster.instances)
        late = cluster.log.since(now >> COARSE)
        found[f"{number} late"] = folded([late.worked(pool).tolist() for pool in cluster.pools])
    return found


def leave(cluster: object, request: object, now: int) -> None:
    """A user goes away, wherever the request is."""
    at = {each.name: each for each in cluster.instances}
    cancel(cluster, at.get(request.place), request, now)


def plan(rng: random.Random) -> TrainPlan:
    """Any, whether it can run or not."""
    pick = rng.choice
    schedule, pp = pick(SCHEDULES), pick((1, 1, 2, 4))
    once = schedule in ("zero_bubble", "zb_2p", "dualpipe") or pp == 1
    return TrainPlan(
        tp=pick((1, 2, 4)), cp=pick((1, 1, 2)), pp=pp, dp=pick((1, 2, 4)), ep=pick((1, 2, 4)), etp=pick((0, 1, 2)),
        vpp=2 if schedule in ("zb_v", "dualpipev") else 1 if once else pick((1, 1, 2)), micro_batch=pick((1, 1, 2)),
        schedule=schedule if pp > 1 else "1f1b", sp=pick((True, False)), zero=pick((0, 1, 2, 3)), shard=pick((0, 0, 2)),
        recompute=pick(("none", "selective", "full")), recompute_ratio=pick((1.0, 0.5)), skew=pick((0.0, 0.5)),
        recompute_modules=pick((("core",), ("core", "act"), ("norm", "mlp"), ("experts",))),
        context=pick(("ring", "all_gather", "ulysses")), moments=pick(("fp32", "bf16")), seq=pick((512, 8192)),
        master=pick(("fp32", "remainder", "none")), gradients=pick(("", "fp32", "bf16")), reshard=pick((True, False)),
        trained_ratio=pick((1.0, 1.0, 0.01)), offload=pick(("none", "none", "optimizer", "weights")),
        activations_away_ratio=pick((0.0, 0.3)), recipe=recipe(pick(("bf16", "bf16", "fp8", "fp16", "nf4"))),
        order=pick(("tp-cp-ep-dp-pp", "tp-cp-ep-dp-pp", "tp-cp-ep-pp-dp", "cp-tp-ep-dp-pp")),
        nvme_bytes_per_s=pick((0.0, 0.0, 3e9)), global_batch=pick((8, 16, 32, 64)),
    )  # fmt: skip


def job(rng: random.Random) -> Setup:
    """The first drawn that can run."""
    while True:
        on, engine = rng.choice(RANKS), catalog.stack(rng.choice(TRAINERS))
        machine, net = catalog.machine(on), model(rng.choice(NETS))
        with suppress(TaicangError):
            setup = Setup(model=net, plan=plan(rng), machine=machine, stack=engine, clock_ratio=1.1,
                          price=training_price(machine, engine))  # fmt: skip
            train_step(setup)
            return setup


def jobs(places: range) -> dict[str, float]:
    """Training steps, laid in every way: the step, its timeline, its traffic, what would make it fit."""
    found = {}
    for number in places:
        setup = job(random.Random(number))
        made = train_step(setup)
        found[f"{number}"] = folded([made, traffic(setup, made), trace(pipeline_run(setup), made)])
        if made.memory.spare_bytes < 0:
            found[f"{number} fits"] = folded([[each.options.split(), each] for each in remedies(setup)])
    return found


def spaces(places: range) -> dict[str, float]:
    """Plans of one layout, by arrays: every variant, schedule and kind of recompute that it leaves open."""
    found = {}
    for number in places:
        rng = random.Random(number)
        setup = job(rng)
        kept = setup.plan
        fixed = {
            name: getattr(kept, name) for name in ("tp", "cp", "ep", "etp", "micro_batch", "sp", "context", "zero")
        }
        fixed |= {"schedule": SCHEDULES[number % 7]} if rng.random() < 0.7 else {}
        with suppress(TaicangError):
            made = candidates(setup, fixed)
            found[f"{number}"] = folded([np.sort(made.seconds).tolist(), np.sort(made.memory_bytes).tolist()])
    return found


def searches(places: range) -> dict[str, float]:
    """The best plans of a few ranks, and the front beside them."""
    found = {}
    for number in places:
        setup = job(random.Random(number))
        open_ = open_plan(setup.plan, ())
        with suppress(TaicangError):
            few = replace(
                setup, model=model("llama-3.2-1b"), plan=replace(open_, dp=1), machine=catalog.machine("l40s-pcie")
            )
            made = search(few, {"tp": 1, "cp": 1, "zero": number % 3})
            why_not = why(made.best[0], made.best[-1]) if made.best else ()
            found[f"{number}"] = folded([why_not, [[each.plan, each.seconds] for each in (*made.best, *made.front)]])
    return found


def holdings(places: range) -> dict[str, float]:
    """What memory a rank's parameters take under every plan and stack."""
    found = {}
    for number in places:
        rng = random.Random(number)
        laid = replace(job(rng).plan, trained_ratio=rng.choice((1.0, 0.01)))
        held, ahead = (
            memory.Held(dense=rng.uniform(1e6, 3e9), experts=rng.choice((0.0, rng.uniform(1e6, 3e9))),
                        matrices=40.0, vectors=9.0, largest=rng.uniform(1e5, 6e8), plain=rng.uniform(1e5, 6e8))
            for _ in range(2)
        )  # fmt: skip
        engine, net = catalog.stack(rng.choice(TRAINERS)), model(rng.choice(NETS))
        keeps = engine.keeps
        edges = [[each.saved_bytes for each in edge.forward] for edge in lower_edges(net, laid, engine)]
        found[f"{number}"] = folded([
            memory.state_bytes(held, laid, keeps), memory.host_bytes(held, laid),
            memory.bucket_bytes(held, laid, keeps), memory.boundary_bytes(net, laid),
            edges, memory.merged_bytes(net, laid, 7), memory.edge_parameters(net, laid),
            memory.working_bytes(3e9, 2e9, held, (ahead.largest, ahead.plain), laid, keeps),
            memory.together([(held, 3), (ahead, 0.5)]),
            [memory.layer_parameters(net, block, laid) for block in net.blocks],
            memory.gradual(*(rng.uniform(0.0, 9.0) for _ in range(4)), 1.0),
        ])  # fmt: skip
    return found


def schedules(places: range) -> dict[str, float]:
    """What ranks do in turn, how long pipelines take, and what they hold."""
    found = {}
    for number in places:
        rng = random.Random(number)
        kind, pp = SCHEDULES[number % len(SCHEDULES)], rng.choice((1, 2, 4, 6))
        pp = 2 * pp if kind == "dualpipe" else pp
        vpp = 2 if kind in ("zb_v", "dualpipev") else rng.choice((1, 2, 3)) if kind in ("gpipe", "1f1b") else 1
        micro = pp * rng.choice((2, 3, 4, 9)) + (rng.randrange(pp) * (vpp == 1 and kind != "dualpipe"))
        shape = Shape(schedule=kind, pp=pp, vpp=vpp, micro=micro, paired=kind == "1f1b" and rng.random() < 0.5,
                      lengths=rng.choice(((1, 1, 1), (3, 4, 2), (2, 5, 5))))  # fmt: skip
        rows = [np.array([rng.uniform(0.1, 2.0) for _ in range(shape.chunks)]) for _ in range(4)]
        times = Durations(forward_s=rows[0], data_s=rows[1], weight_s=rows[2], saved_s=rows[3] / 9.0,
                          send_s=rng.choice((0.0, 0.05)), blocking=rng.random() < 0.5)  # fmt: skip
        run = simulated(shape, times)
        done = [[[*one, *(other or ())] for one, other in order(shape, rank)] for rank in range(pp)]
        found[f"{number}"] = folded([done, phase(shape, times), run.seconds, run.span_s, run.start_s.tolist(),
                                     [memory.in_flight(shape, rank) for rank in range(pp)]])  # fmt: skip
    return found


def queues() -> dict[str, float]:
    """How busy servers may be, and how many a load needs."""
    rng = np.random.default_rng(3)
    load, each, alone = np.exp(rng.uniform(-3.0, 5.0, (3, 60)))
    found = {}
    for limit_s in (0.02, 0.5, 4.0, 300.0, np.inf):
        for within in (0.5, 0.9, 0.99):
            limits = {"limit_s": limit_s, "within_ratio": within}
            fewest = queueing.fewest(load, each, alone / 20.0, **limits)
            found[f"{limit_s} {within}"] = folded([
                queueing.busiest(each, alone / 20.0, **limits).tolist(),
                np.where(np.isinf(fewest), -1.0, fewest).tolist(),
                queueing.first_token_s(0.3, each, alone, within).tolist(),
                queueing.wait_s(load / 150.0, alone, within).tolist(),
            ])  # fmt: skip
    return found


def operator(rng: random.Random) -> Operator:
    """Any, its sizes log-uniform."""

    def size(low: float, high: float) -> float:
        return float(round(np.exp(rng.uniform(np.log(low), np.log(high)))))

    pick, dtype = rng.choice, rng.choice(("bf16", "bf16", "fp8", "fp8_block", "int8", "nvfp4", "w4a16", "fp16"))
    count, heads = pick((8, 32, 256)), pick((1, 8, 64, 128))
    tokens, mixes = size(1, 4e4), pick(("gqa", "mla"))
    latent = mixes == "mla"
    return pick((
        Gemm(m=tokens, n=size(8, 4e4), k=size(8, 4e4), batch=pick((1.0, 64.0)), dtype=dtype),
        GroupedGemm(tokens=tokens, topk=pick((1, 8)), experts=count, experts_local=count / pick((1, 2, 8)),
                    hidden=size(100, 9e3), inter=size(64, 9e3), dtype=dtype, gated=pick((True, False)),
                    skew=pick((0.0, 1.0)), balanced_ranks=pick((True, False)), gathered=pick((True, False)),
                    exchanged=pick((True, False))),
        Attend(kind=mixes, phase=pick(("prefill", "decode")), sequences=size(1, 500), queries=tokens,
               pairs=tokens * size(1, 4e4), context=size(500, 1e8), heads=heads,
               kv_heads=1 if latent else pick((1, heads)), qk_dim=576 if latent else pick((64, 128, 256)),
               v_dim=512 if latent else 128, dtype=pick(("bf16", "fp8")), kv_dtype=pick(("bf16", "fp8"))),
        Pointwise(kind=pick(("norm", "activation", "quantise", "route", "rope", "sample", "copy")), elements=tokens,
                  moved_bytes=size(1e3, 1e10), flop=size(1e3, 1e10), launches=pick((1, 4))),
        Lookup(rows=tokens, row_bytes=size(100, 3e4)),
        Collective(kind=pick(("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")),
                   payload_bytes=size(100, 1e10), ranks=pick((1, 2, 4, 8, 16, 48, 64)), stride=pick((1, 1, 2, 8))),
        Exchange(kind=pick(("dispatch", "combine")), tokens=size(1, 9e3), token_bytes=size(1e3, 2e4), topk=pick((1, 8)),
                 experts=256, ranks=pick((1, 4, 8, 32)), stride=pick((1, 2)), skew=pick((0.0, 1.0)),
                 low_latency=pick((True, False))),
        Transfer(payload_bytes=size(100, 1e10), plane=pick(("scale_up", "rdma", "host")), distance=pick((1, 8)),
                 messages=pick((1, 61))),
        Host(graphs=pick((0, 2)), layers=61, sequences=size(1, 999), drafting=pick((0.0, 2.0))),
    ))  # fmt: skip


def operators(places: range) -> dict[str, float]:
    """Prices and bounds of operators of all kinds on machines of all kinds."""
    found = {}
    for number in places:
        rng = random.Random(number)
        on, engine = catalog.machine(rng.choice(SERVERS)), catalog.stack(rng.choice(ENGINES))
        book, costs = cost_model(on, engine), []
        for _ in range(30):
            op = operator(rng)
            with suppress(TaicangError):
                costs.append(book.price(op, rng.choice((1.0, 0.6)), rng.choice((1.0, 0.5))))
                if isinstance(op, Collective):
                    costs.append(collective_bound.lower_bound_s(op, on))
                elif isinstance(op, Exchange):
                    costs.append(exchange.lower_bound_s(op, on))
        found[f"{number}"] = folded(costs)
    return found


def served(rng: random.Random) -> Serving:
    """An instance that can run."""
    while True:
        on, engine = catalog.machine(rng.choice(SERVERS)), catalog.stack(rng.choice(ENGINES))
        text = " ".join(
            [f"TP{rng.choice((1, 1, 2, 4))}", *rng.sample(("DP2", "PP2", "EP2", "MTP1", "x2"), rng.randrange(3))]
        )
        with suppress(TaicangError):
            made = Serving(model=model(rng.choice(MODELS)), plan=read_plan(text), machine=on, stack=engine,
                           skew=rng.choice((0.0, 0.7)), price=cost_model(on, engine).price)  # fmt: skip
            step(made, decode_batch(sequences=3.0, context=99.0))
            return made


def instances(places: range) -> dict[str, float]:
    """Steady states of instances under loads of every kind, and their memory."""
    found = {}
    for number in places:
        rng = random.Random(number)
        setup = served(rng)
        load = Load(
            concurrency=rng.choice((1.0, 2.0, 70.0, 900.0)), input_tokens=rng.choice((1.0, 300.0, 40000.0)),
            output_tokens=rng.choice((1.0, 2.0, 3.0, 500.0)), cached_ratio=rng.choice((0.0, 0.5)),
            room=rng.choice((np.inf, 3.0)), at_random=rng.random() < 0.5,
        )  # fmt: skip
        pools = Pools(prefill=setup, prefill_instances=rng.choice((1, 3)), prefill_sequences=rng.choice((1.0, 4.0)),
                      decode=setup, decode_instances=2)  # fmt: skip
        lengths = {"input_tokens": load.input_tokens, "output_tokens": load.output_tokens}
        found[f"{number}"] = folded([
            aggregated(setup, load), disaggregated(pools, load, rng.choice((0.0, 0.02))),
            saturated(setup, np.array([1.0, 8.0, 200.0]), **lengths),
            most_sequences(setup, context=load.input_tokens, tokens=2048.0, limit=300),
            memory_use(setup.model, setup.plan, setup.machine.chip, setup.stack.memory, sequences=load.concurrency,
                       context=load.input_tokens, tokens=rng.choice((256.0, 8192.0))),
        ])  # fmt: skip
    return found


SERVERS = ("hgx-h100 x 2", "hgx-h200", "gb200-nvl72", "mi300x-8", "l40s-pcie", "a10-pcie x 2", "cloudmatrix384",
           "atlas-800-a2-280t", "hgx-b200 x 2", "hgx-h20 x 2", "rtx-4090-pcie")  # fmt: skip
ENGINES = ("vllm", "sglang", "tensorrt-llm", "vllm-ascend", "cloudmatrix-infer", "vllm-2023", "mindie", "xdeepserve")
MODELS = ("llama-3.1-8b", "qwen3-30b-a3b", "deepseek-v2-lite", "gpt-oss-120b", "gemma-3-27b", "qwen3-next-80b-a3b",
          "deepseek-v3.2", "nemotron-3-nano-30b-a3b")  # fmt: skip
RANKS = ("hgx-h100 x 2", "hgx-a100 x 2", "atlas-800-a2-280t x 2", "gb200-nvl72", "l40s-pcie")
NETS = ("llama-3.2-1b", "llama-3.2-1b", "qwen3-30b-a3b", "deepseek-v2-lite", "gemma-3-27b")


def parts(name: str, many: int, each: int, of: Callable[..., dict[str, float]], *more: object) -> dict[str, Any]:
    """Draws of one kind, a few at a time."""
    return {f"{name} {at}": partial(of, range(at, at + each), *more) for at in range(0, many, each)}


DRAWN = (
    parts("hosts", 120, 20, hosts) | parts("leaving", 40, 20, hosts, True) | parts("jobs", 120, 12, jobs)
    | parts("searches", 6, 3, searches)
    | parts("spaces", 96, 24, spaces) | parts("holdings", 120, 60, holdings) | parts("schedules", 84, 28, schedules)
    | parts("operators", 100, 25, operators) | parts("instances", 60, 15, instances) | {"queues": queues}
)  # fmt: skip
