"""The same arrivals through vLLM's own scheduler and cache manager and through ours, step by step.

Needs vLLM (no accelerator), see ``run.py``; it prints what differs as JSON. Each step is compared as a whole: tokens by
request, who is preempted, prompt tokens found in the cache, pages in use, and who has ended.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from schedulers import LONGEST, PAGE, Ask, Load, Step, compare
from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request as Asked
from vllm.v1.structured_output import StructuredOutputManager

from taicang.serve.scheduler import Limits


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


def limits_of(load: Load) -> Limits:
    """As vLLM schedules."""
    return Limits(policy="mixed", by_chunk=True, tokens=load.tokens, sequences=load.sequences)


def main() -> None:
    """See ``compare``."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(CONFIG))
        peer = Theirs(folder)
    print(json.dumps(compare(peer.steps, limits_of)))


if __name__ == "__main__":
    main()
