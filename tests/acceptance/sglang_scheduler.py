"""The same arrivals through SGLang's own scheduler and radix cache and through ours, step by step.

Needs SGLang (no accelerator), see ``run.py``; it prints what differs as JSON. Its scheduler is one without model,
sockets or accelerator: what picks the next batch, its queue, its cache and its pages are its own; tokens are filler.
"""

from __future__ import annotations

import json
import sys
from array import array
from dataclasses import replace
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

from schedulers import PAGE, Ask, Load, Step, compare

from taicang.serve.scheduler import Limits


class Kind(type):
    """Of what stands for a class of a package that needs an accelerator."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Blank


class Blank(metaclass=Kind):
    """Does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __call__(self, *given: Any, **_: Any) -> Any:
        return given[0] if len(given) == 1 and callable(given[0]) else self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Blank


class Empty(ModuleType):
    """A module of such classes."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Blank,), {})


class Absent(MetaPathFinder, Loader):
    """Packages for accelerators, which no scheduling needs."""

    names = ("sgl_kernel", "flashinfer", "torchaudio", "decord", "deep_gemm", "deep_ep", "torchvision")

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """See ``MetaPathFinder``."""
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in self.names else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """See ``Loader``."""
        return Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """See ``Loader``."""
        module.__path__ = []


from transformers.utils import import_utils  # noqa: E402

for each in ("is_torchvision_available", "is_torchvision_v2_available", "is_torchaudio_available"):
    getattr(import_utils, each, bool)()  # they are not, whatever is said below
sys.meta_path.append(Absent())

import torch  # noqa: E402
from sglang.srt.disaggregation.utils import DisaggregationMode  # noqa: E402
from sglang.srt.managers.schedule_batch import Req, ScheduleBatch  # noqa: E402
from sglang.srt.managers.schedule_policy import SchedulePolicy  # noqa: E402
from sglang.srt.managers.scheduler import Scheduler  # noqa: E402
from sglang.srt.managers.scheduler_components.new_token_ratio_tracker import NewTokenRatioTracker  # noqa: E402
from sglang.srt.mem_cache.allocator import PagedTokenToKVPoolAllocator  # noqa: E402
from sglang.srt.mem_cache.cache_init_params import CacheInitParams  # noqa: E402
from sglang.srt.mem_cache.common import checkpoint_kv_cache, release_kv_cache  # noqa: E402
from sglang.srt.mem_cache.memory_pool import ReqToTokenPool  # noqa: E402
from sglang.srt.mem_cache.radix_cache import RadixCache  # noqa: E402
from sglang.srt.runtime_context import get_context  # noqa: E402
from sglang.srt.sampling.sampling_params import SamplingParams  # noqa: E402
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm  # noqa: E402

LONGEST, MOST_STEPS = 4096, 20_000
OFF = """enable_hisparse enable_priority_preemption enable_priority_scheduling is_hybrid_swa is_mixed_chunk enable_lora
    enable_hicache_storage enable_hierarchical_cache enable_lmcache enable_unified_cache_external_linker enable_overlap
    require_mlp_sync is_hybrid_ssm enable_skip_finishing_decode enable_continuous_input_polling""".split()  # noqa: SIM905
NONE = """dllm_config dllm_manager min_free_slots_delayer prefill_delayer dynamic_chunk_sizer lora_drainer
    hisparse_coordinator decode_offload_manager""".split()  # noqa: SIM905


def scheduler_of(load: Load) -> Any:
    """SGLang's, with the limits of ``load``."""
    made = Scheduler.__new__(Scheduler)
    pool = ReqToTokenPool(load.sequences, LONGEST, "cpu", False)
    store = MagicMock()
    pages = PagedTokenToKVPoolAllocator(load.pages * PAGE, PAGE, torch.bfloat16, "cpu", store, False)
    tree = RadixCache(CacheInitParams(
        disable=not load.share, req_to_token_pool=pool, token_to_kv_pool_allocator=pages, page_size=PAGE,
    ))  # fmt: skip
    made.__dict__.update(
        waiting_queue=[], running_batch=ScheduleBatch(reqs=[], batch_is_full=False), chunked_req=None,
        req_to_token_pool=pool, token_to_kv_pool_allocator=pages, tree_cache=tree, page_size=PAGE,
        chunked_prefill_size=load.tokens, max_prefill_tokens=max(16384, load.tokens),
        max_running_requests=load.sequences,
        policy=SchedulePolicy("fcfs", tree, False, False, False),
        new_token_ratio_tracker=NewTokenRatioTracker.from_config(),
        spec_algorithm=SpeculativeAlgorithm.NONE, disaggregation_mode=DisaggregationMode.NULL,
        model_config=SimpleNamespace(vocab_size=1 << 20, is_encoder_decoder=False, is_multimodal=False),
        grammar_manager=SimpleNamespace(has_waiting_grammars=lambda: False), metrics_reporter=MagicMock(),
        beam_coordinator=SimpleNamespace(pending_member_rows=lambda _: 0, retire_group=lambda _: None),
        load_inquirer=SimpleNamespace(_get_num_pending_tokens=lambda **_: 0), tp_worker=MagicMock(),
        dp_attn_adapter=SimpleNamespace(
            maybe_prepare_mlp_sync_batch=lambda batch, **_: batch, maybe_convert_decode_to_extend=lambda batch: batch,
        ),
        ngram_embedding_manager=SimpleNamespace(prepare_for_forward=lambda batch, **_: batch),
        _pending_chunked_abort_req=None, scheduler_stage_metrics=None,
        processed_tokens_counter=0, forward_ct=0, max_prefill_bs=0, result_queue=[],
        prefill_decode_interval=0, _prefill_decode_interval_remaining=0, prefill_decode_interval_min_bs=0,
        truncation_align_size=None, priority_scheduling_preemption_threshold=0, device="cpu",
    )  # fmt: skip
    made.__dict__.update(dict.fromkeys(OFF, False) | dict.fromkeys(NONE))
    made.tp_worker.model_runner.prefill_aware_swa = False
    return made


def request_of(number: int, ask: Ask) -> Any:
    """One request."""
    sampling = SamplingParams(max_new_tokens=ask.output, ignore_eos=True)
    sampling.normalize(None)
    made = Req(str(number), "", array("q", ask.prompt), sampling, vocab_size=1 << 20)
    made.time_stats = MagicMock()
    return made


def steps(load: Load) -> list[Step]:
    """The steps that it makes."""
    sizes = {"chunked_prefill_size": load.tokens, "page_size": PAGE, "pp_max_micro_batch_size": load.sequences}
    with get_context().override_server_args(device="cpu", attention_backend="torch_native", **sizes):
        return _steps(load, scheduler_of(load))


def _steps(load: Load, scheduler: Any) -> list[Step]:
    waiting, alive = list(enumerate(load.asks)), {}
    made: list[Step] = []
    running, last = scheduler.running_batch, None
    filler = 1000
    while waiting or alive:
        while waiting and waiting[0][1].at <= len(made):
            number, ask = waiting.pop(0)
            alive[number] = request_of(number, ask)
            scheduler.waiting_queue.append(alive[number])
        before = {number: one.retraction_count for number, one in alive.items()}
        new = {number for number, one in alive.items() if one in scheduler.waiting_queue}
        plan = scheduler.get_next_batch_to_run(running, last)
        batch, running = plan.batch_to_run, plan.running_batch
        step = Step()
        step.preempted = tuple(sorted(n for n, one in alive.items() if one.retraction_count > before[n]))
        if batch is not None:
            prompts = batch.forward_mode.is_extend()
            for one in list(batch.reqs):
                number = int(one.rid)
                step.tokens[number] = one.extend_len if prompts else 1
                if prompts and number in new:
                    step.hits[number] = one.prefix_len
                if prompts and one.inflight_middle_chunks > 0:
                    one.inflight_middle_chunks -= 1
                    continue
                filler += 1
                one.output_ids.append(filler)
                one.update_finish_state()
                if one.finished():
                    release_kv_cache(one, scheduler.tree_cache, checkpoint=True)
                    step.ended += (number,)
                    del alive[number]
                elif prompts:
                    checkpoint_kv_cache(one, scheduler.tree_cache)
        tree, pages = scheduler.tree_cache, scheduler.token_to_kv_pool_allocator
        step.used = load.pages - (pages.available_size() + tree.evictable_size()) // PAGE
        made.append(step)
        last = batch
        if len(made) > MOST_STEPS:
            raise SystemExit("it makes no progress")
    return made


def limits_of(load: Load) -> Limits:
    """As SGLang schedules."""
    return Limits(policy="prefill_first", tokens=load.tokens, sequences=load.sequences)


def roomier(load: Load) -> Load:
    """It wants a page beyond prompt and answer."""
    return replace(load, pages=load.pages + 2)


def ample(load: Load) -> Load:
    """With pages for all requests at once, and a budget for all prompts."""
    pages = sum(-(-(len(ask.prompt) + ask.output) // PAGE) + 1 for ask in load.asks)
    return replace(load, pages=pages + 2, tokens=pages * PAGE)


if __name__ == "__main__":
    print(json.dumps({"ample": compare(steps, limits_of, ample), "drawn": compare(steps, limits_of, roomier)}))
