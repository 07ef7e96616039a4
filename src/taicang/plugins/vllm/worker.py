"""The worker that vLLM's executor drives: a step takes its priced time and gives filler tokens."""

from __future__ import annotations

import time
from typing import Any

import torch
from vllm.tasks import SupportedTask
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT, ModelRunnerOutput
from vllm.v1.worker.worker_base import CompilationTimes, WorkerBase

from taicang.plugins.vllm.platform import predictor, speed

HOST_S = 0.02
"""An engine that comes with its next step within so long goes on from the last one's end: what it does between steps is
in the price already."""
FILLERS = 256


def fillers(model_config: Any) -> list[int]:
    """Tokens that answers are made of: plain words of the tokenizer, where there is one."""
    size = model_config.get_vocab_size()
    if model_config.skip_tokenizer_init:
        return [size // 2]
    tokenizer = cached_tokenizer_from_config(model_config)
    special = set(tokenizer.all_special_ids)
    found: list[int] = []
    for token in range(min(len(tokenizer), size)):
        if token not in special and tokenizer.decode([token]).strip().isalpha():
            found.append(token)
            if len(found) == FILLERS:
                break
    return found or [size // 2]


class VirtualWorker(WorkerBase):  # type: ignore[misc]
    """Holds neither weights nor cache."""

    def init_device(self) -> None:
        """What a step costs is known from here on."""
        self.device = torch.device("cpu")
        self._price = predictor(self.model_config.model)
        self._speed = speed()
        self._fillers = fillers(self.model_config)
        self._prompts: dict[str, int] = {}
        self._end_s = 0.0

    def load_model(self, *, load_dummy_weights: bool = False) -> None:
        """There is nothing to load."""

    def get_supported_tasks(self) -> tuple[SupportedTask, ...]:
        """Answers only."""
        return ("generate",)

    def get_supported_kv_cache_layouts(self) -> list[str]:
        """Any would do."""
        return ["NHD"]

    def get_kv_cache_spec(self) -> dict[str, FullAttentionSpec]:
        """One layer stands for all: a block is a block of tokens."""
        spec = FullAttentionSpec(
            block_size=self.cache_config.block_size, num_kv_heads=1, head_size=1, dtype=torch.bfloat16
        )
        return {"all": spec}

    def determine_available_memory(self) -> int:
        """The number of blocks is given; this says that they fit."""
        return 1 << 50

    def initialize_from_config(self, kv_cache_config: Any) -> None:
        """There is nothing to hold."""

    def compile_or_warm_up_model(self) -> CompilationTimes:
        """No time at all."""
        return CompilationTimes(language_model=0.0, encoder=0.0)

    def update_max_model_len(self, max_model_len: int) -> None:
        """It makes no difference here."""

    def execute_model(self, scheduler_output: Any) -> ModelRunnerOutput:
        """One step: it returns when that is over."""
        for name in scheduler_output.finished_req_ids:
            self._prompts.pop(name, None)
        if not scheduler_output.total_num_scheduled_tokens:
            return EMPTY_MODEL_RUNNER_OUTPUT
        now = time.monotonic()
        begin = self._end_s if now - self._end_s < HOST_S else now
        past: dict[str, tuple[int, int]] = {}
        for new in scheduler_output.scheduled_new_reqs:
            prompt = self._prompts[new.req_id] = len(new.prompt_token_ids)
            resumed = getattr(new, "prefill_token_ids", None)  # the prompt and what was answered before a preemption
            past[new.req_id] = new.num_computed_tokens, len(resumed) - prompt if resumed else 0
        old = scheduler_output.scheduled_cached_reqs
        past |= {
            name: (computed, made)
            for name, computed, made in zip(old.req_ids, old.num_computed_tokens, old.num_output_tokens, strict=True)
        }
        names = list(scheduler_output.num_scheduled_tokens)
        extend = [scheduler_output.num_scheduled_tokens[name] for name in names]
        seconds = self._price.seconds(extend, [past[name][0] for name in names])
        sampled = []
        for name, new in zip(names, extend, strict=True):
            computed, made = past[name]
            whole = computed + new >= self._prompts[name] + made
            sampled.append([self._fillers[made % len(self._fillers)]] if whole else [])
        self._end_s = begin + seconds / self._speed
        time.sleep(max(self._end_s - time.monotonic(), 0.0))
        return ModelRunnerOutput(
            req_ids=names, req_id_to_index={name: at for at, name in enumerate(names)}, sampled_token_ids=sampled
        )

    def take_draft_token_ids(self) -> None:
        """There are none."""

    def execute_dummy_batch(self) -> None:
        """Ranks that wait for others do not exist."""

    def sleep(self, level: int = 1) -> None:
        """There is nothing to free."""

    def wake_up(self, tags: list[str] | None = None) -> None:
        """There is nothing to bring back."""
