"""The same arrivals through vLLM's own scheduler and cache manager and through ours, step by step.

Needs vLLM (no accelerator), see ``run.py``; it prints what differs as JSON. Each step is compared as a whole: tokens by
request, who is preempted, prompt tokens found in the cache, pages in use, and who has ended.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request as Asked
from vllm.v1.structured_output import StructuredOutputManager

from taicang.serve.cache import Cache
from taicang.serve.instance import Instance
from taicang.serve.request import Request
from taicang.serve.scheduler import Limits
from taicang.serve.steptable import GRAIN

PAGE = 16
LONGEST = 4096


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One request: it comes before step ``at``; its prompt's tokens are ``prompt``."""

    at: int
    prompt: tuple[int, ...]
    output: int


@dataclass(frozen=True, kw_only=True)
class Load:
    """A workload and the limits that it meets."""

    tokens: int
    sequences: int
    pages: int
    share: bool
    asks: tuple[Ask, ...]


@dataclass(kw_only=True)
class Step:
    """What one step was."""

    tokens: dict[int, int] = field(default_factory=dict)
    preempted: tuple[int, ...] = ()
    hits: dict[int, int] = field(default_factory=dict)
    used: int = 0
    ended: tuple[int, ...] = ()


def draw(seed: int) -> Load:
    """A random workload; the cache holds the longest sequence for sure."""
    rng = random.Random(seed)

    def log_uniform(low: int, high: int) -> int:
        return round(low * (high / low) ** rng.random())

    sequences = log_uniform(1, 48)
    tokens = max(log_uniform(16, 1024), sequences)
    prefixes = [tuple(rng.randrange(1, 1000) for _ in range(log_uniform(8, 400))) for _ in range(rng.randrange(1, 5))]
    asks, at = [], 0
    gap = rng.choice((0.0, 0.5, 3.0, 20.0))
    for _ in range(log_uniform(2, 60)):
        at += int(rng.expovariate(1.0 / gap)) if gap else 0
        own = tuple(rng.randrange(1, 1000) for _ in range(log_uniform(1, 400)))
        prompt = (rng.choice(prefixes) + own) if rng.random() < 0.6 else own
        if asks and rng.random() < 0.1:
            prompt = rng.choice(asks).prompt
        asks.append(Ask(at=at, prompt=prompt, output=log_uniform(1, 150)))
    whole = max(-(-(len(ask.prompt) + ask.output) // PAGE) for ask in asks)
    pages = round(whole * rng.choice((1.0, 1.2, 2.0, 5.0, 40.0)))
    return Load(tokens=tokens, sequences=sequences, pages=pages, share=rng.random() < 0.7, asks=tuple(asks))


class Even:
    """Every step takes one tick."""

    growth = GRAIN
    query_len = 1

    def row(self, n: int) -> Even:
        """See ``StepTable``."""
        return self

    def sum(self, context: int, growth: int, k: int) -> int:
        """See ``Row``."""
        return k

    def reach(self, context: int, growth: int, ticks: int) -> int:
        """See ``Row``."""
        return max(ticks, 1)

    def mixed(self, *_: Any) -> int:
        """See ``StepTable``."""
        return 1


def ids_of(prompt: tuple[int, ...], known: dict[tuple[int, ...], int]) -> list[int]:
    """Block ids of a prompt."""
    return [known.setdefault(prompt[: (at + 1) * PAGE], len(known)) for at in range(len(prompt) // PAGE)]


def ours(load: Load) -> list[Step]:
    """The steps that our instance makes."""
    limits = Limits(policy="mixed", by_chunk=True, tokens=load.tokens, sequences=load.sequences)
    table: Any = Even()
    cache = Cache(load.pages, PAGE, PAGE if load.share else 0)
    instance = Instance(0, table, limits, [cache], single=True)
    known: dict[tuple[int, ...], int] = {}
    asks = [
        (ask.at, Request(at, ask.at, len(ask.prompt), ask.output, blocks=ids_of(ask.prompt, known) * load.share))
        for at, ask in enumerate(load.asks)
    ]  # fmt: skip
    steps: list[Step] = []
    now, waiting, alive = 0, asks, {}
    while waiting or alive:
        while waiting and waiting[0][0] <= now:
            request = waiting[0][1]
            waiting = waiting[1:]
            alive[request.id] = request
            instance.submit(request, now)
        step = Step()
        before = {request.id: request.preempted for request in alive.values()}
        group = instance.groups[0]
        held = set(group.prefilling)
        if instance.begin(now) >= 0:
            step.tokens = {request.id: tokens for request, tokens in instance._work}
            if instance._rides:
                step.tokens |= {request.id: 1 for request in group.running}
            step.hits = {r.id: r.done for r, _ in instance._work if r not in held or r.preempted > before[r.id]}
            for request in instance.finish(now + 1):
                del alive[request.id]
                step.ended += (request.id,)
        step.preempted = tuple(sorted(n for n, r in alive.items() if r.preempted > before[n]))
        group.sync(instance.steps)
        step.used = group.cache.pages - group.cache.spare
        steps.append(step)
        now += 1
    return steps


class Theirs:
    """vLLM's scheduler as it comes, with the null block that it keeps to itself."""

    def __init__(self, folder: str) -> None:
        model = ModelConfig(model=folder, skip_tokenizer_init=True, dtype="bfloat16", max_model_len=LONGEST)
        init_none_hash(sha256)
        hasher = get_request_block_hasher(PAGE, sha256)
        spec = FullAttentionSpec(block_size=PAGE, num_kv_heads=1, head_size=16, dtype=torch.bfloat16)

        def scheduler(load: Load) -> Any:
            settings = SchedulerConfig(
                max_num_seqs=load.sequences,
                max_num_batched_tokens=load.tokens,
                max_model_len=LONGEST,
                is_encoder_decoder=False,
                enable_chunked_prefill=True,
                async_scheduling=False,
            )
            cached = CacheConfig(block_size=PAGE, enable_prefix_caching=load.share)
            whole = VllmConfig(
                scheduler_config=settings, model_config=model, cache_config=cached, device_config=DeviceConfig("cpu")
            )
            cached.num_gpu_blocks = load.pages + 1
            kept = KVCacheConfig(
                num_blocks=load.pages + 1, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]
            )
            return Scheduler(whole, kept, StructuredOutputManager(whole), block_size=PAGE)

        def request(number: int, ask: Ask) -> Any:
            sampling = SamplingParams(max_tokens=ask.output, ignore_eos=True)
            return Asked(str(number), list(ask.prompt), sampling, None, block_hasher=hasher, arrival_time=float(ask.at))

        self.scheduler, self.request, self.output = scheduler, request, ModelRunnerOutput

    def steps(self, load: Load) -> list[Step]:
        """The steps that it makes."""
        scheduler = self.scheduler(load)
        waiting = list(enumerate(load.asks))
        alive: dict[int, Any] = {}
        steps: list[Step] = []
        filler = 1000
        pool = scheduler.kv_cache_manager.block_pool
        while waiting or alive:
            now = len(steps)
            while waiting and waiting[0][1].at <= now:
                number, ask = waiting.pop(0)
                alive[number] = self.request(number, ask)
                scheduler.add_request(alive[number])
            before = {number: (one.num_preemptions, one.status.name) for number, one in alive.items()}
            planned = scheduler.schedule()
            step = Step(tokens={int(name): count for name, count in planned.num_scheduled_tokens.items()})
            step.preempted = tuple(sorted(n for n, one in alive.items() if one.num_preemptions > before[n][0]))
            for number in step.tokens:
                if before[number][1] in ("WAITING", "PREEMPTED"):
                    step.hits[number] = alive[number].num_computed_tokens - step.tokens[number]
            names = list(planned.num_scheduled_tokens)
            sampled = []
            for name in names:
                one = alive[int(name)]
                filler += 1
                sampled.append([filler] if one.num_computed_tokens >= one.num_tokens else [])
            made = self.output(
                req_ids=names,
                req_id_to_index={n: i for i, n in enumerate(names)},
                sampled_token_ids=sampled,
                logprobs=None,
                prompt_logprobs_dict={},
                pooler_output=[],
            )
            scheduler.update_from_output(planned, made)
            step.ended = tuple(n for n, one in alive.items() if one.is_finished())
            for number in step.ended:
                del alive[number]
            step.used = load.pages - pool.get_num_free_blocks()
            steps.append(step)
        return steps


CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 64,
    "num_attention_heads": 4, "num_key_value_heads": 1, "num_hidden_layers": 1, "vocab_size": 1 << 20,
    "max_position_embeddings": LONGEST, "torch_dtype": "bfloat16",
}  # fmt: skip


def differs(mine: Step, theirs: Step) -> list[str]:
    """In what two steps differ."""
    found = [name for name in ("tokens", "preempted", "hits", "used") if getattr(mine, name) != getattr(theirs, name)]
    return found + ["ended"] * (sorted(mine.ended) != sorted(theirs.ended))


def main() -> None:
    """Compare as many workloads as the first argument says; with a second one, show how that one goes."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(CONFIG))
        peer = Theirs(folder)
    if len(sys.argv) > 2:
        load = draw(int(sys.argv[2]))
        for at, (one, other) in enumerate(zip(ours(load), peer.steps(load), strict=False)):
            print(at, differs(one, other), "\n  ours  ", one, "\n  theirs", other)
        return
    steps = agree = 0
    kinds: Counter[str] = Counter()
    seeds: list[int] = []
    for seed in range(int(sys.argv[1])):
        load = draw(seed)
        mine, theirs = ours(load), peer.steps(load)
        found = [differs(one, other) for one, other in zip(mine, theirs, strict=False)]
        steps += max(len(mine), len(theirs))
        agree += sum(not each for each in found)
        kinds.update(name for each in found for name in each)
        if any(found) or len(mine) != len(theirs):
            seeds.append(seed)
    print(json.dumps({"workloads": int(sys.argv[1]), "steps": steps, "agree": agree, "differ": kinds, "seeds": seeds}))


if __name__ == "__main__":
    main()
