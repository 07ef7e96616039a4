"""How the public source launched what it measured, as its scripts state it (github.com/SemiAnalysisAI/InferenceX).

The rows name engine, model and machine, not the script's commit; where scripts changed, the one that stood longest
while the rows were measured is taken. What no script states stays at the stack's own setting.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

CACHE = {
    ("vllm", "llama-3.1-70b", "hgx-h100"): "fp8",
    ("vllm", "llama-3.1-70b", "hgx-h200"): "fp8",
    ("vllm", "llama-3.1-70b", "hgx-b200"): "fp8",
    ("vllm", "gpt-oss-120b", "hgx-b200"): "fp8",
    ("vllm", "minimax-m2.5", "hgx-b200"): "fp8",
    ("sglang", "deepseek-v3", "hgx-b200"): "fp8",
    ("sglang", "deepseek-r1", "hgx-b200"): "fp8",
    ("sglang", "qwen3.5-397b-a17b", "hgx-h200"): "fp8",
    ("tensorrt-llm", "gpt-oss-120b", "hgx-h200"): "bf16",
}
"""Formats of cached keys and values that differ from what the checkpoint and engine suggest (see ``served``)."""
FEW = 16
"""Clients from which on SGLang looks for requests less often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Scheduler settings beside the stack's own (see ``serve.scheduler.Limits``)."""

    tokens: int | None = None
    hold: int = 0
    company_ratio: float = 1.0
    memory_ratio: float | None = None
    """Share of device memory that the engine takes (None: not stated in these terms)."""
    held_back: int = 0
    """Decode steps after which the first token is sent on, with the others made since."""


def launch(
    engine: str, model: str, machine: str, *, prompt: int, answer: int, clients: int, tp: int, dp: int, drafts: int,
    nvfp4: bool,
) -> Launch:  # fmt: skip
    """Settings for a load of ``clients`` with so many tokens of prompt and answer."""
    if engine == "sglang":
        if machine != "hgx-b200":
            return Launch(tokens=16384 if model.startswith("qwen") else 32768)
        if model.startswith("deepseek") and tp == 4 and not nvfp4:
            return Launch(tokens=8192, hold=10, company_ratio=inf)
        # requests are looked for every so many steps; that they wait for the whole of them, not for half, is read off
        # calibrated-on rows
        return Launch(tokens=16384 if nvfp4 else 32768, hold=30 if clients >= FEW else 10, company_ratio=inf)
    if engine == "vllm":
        if model == "minimax-m2.5" and machine == "hgx-b200":
            return Launch(tokens=2 * prompt, memory_ratio=0.9)
        return Launch(tokens=8192, memory_ratio=0.95 if (model, machine) == ("minimax-m2.5", "hgx-h200") else 0.9)
    if model == "gpt-oss-120b":
        return Launch(tokens=20000, hold=50 if dp > 1 else 0)
    if model == "llama-3.1-70b":
        alone = prompt == answer and tp < 8
        return Launch(tokens=prompt + answer + 200, hold=20 if alone else 0, company_ratio=0.9)
    # Room for all decoding tokens and one prompt. Answers are streamed every ten steps; that the first token waits for
    # the tenth is read off calibrated-on rows (the other two models are launched with workers for post-processing, and
    # there it does not).
    tokens = (clients // dp * (drafts + 1) + prompt + 127) // 64 * 64
    return Launch(tokens=tokens, hold=60 if dp > 1 else 0, held_back=9)
