"""What recipes recompute and how they deal layers: published tables name layouts, the publisher's repository the rest.

Source: NVIDIA-NeMo/Megatron-Bridge, scripts/performance/configs (recompute_modules, pp_layout by model and chip). The
activation alone ("moe_act") is left out: its repetition is a small part of the experts' own activation traffic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_EXPERTS = ("experts", "shared", "norm", "core")
_RECOMPUTED: tuple[tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...] = (
    ("Nemotron_3_Nano", ("H100-SXM",), (), _EXPERTS),
    ("Nemotron_3_Super", ("GB200",), (), _EXPERTS),
    ("Nemotron_3_Super", ("B200",), (), ("norm", "core")),
    ("GPT OSS", ("GB200", "B200", "H100-SXM"), ("BF16", "FP8"), ("norm",)),
    ("DeepSeekV3", ("GB300",), ("FP8", "FP8-CS"), ("up",)),
    ("DeepSeekV3", ("GB200",), ("BF16", "MXFP8", "FP8-MX", "NVFP4"), ("up",)),
    ("DeepSeekV3", ("GB200",), ("FP8", "FP8-CS"), ("mlp",)),
    ("DeepSeekV3", ("B200", "B300"), (), ("up",)),
    ("DeepSeekV3", ("H100-SXM",), (), ("up", "mlp")),
    ("Kimi", ("GB300",), ("BF16", "FP8", "FP8-CS", "NVFP4"), ("up",)),
    ("Kimi", ("GB200", "B200", "B300"), (), ("up",)),
    ("Kimi", ("H100-SXM",), (), ("up", "mlp")),
)
"""Beginning of the model's name, chips, formats (none: all), parts that are recomputed."""


def recomputed(model: str, chip: str, dtype: str) -> tuple[str, ...]:
    """Parts of a layer (``lower.training.Module``) that the recipe repeats; none where it keeps everything."""
    for name, chips, formats, modules in _RECOMPUTED:
        if model.startswith(name) and chip in chips and (not formats or dtype in formats):
            return modules
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What a recipe turns on that its stack has on request only (names as in ``Stack``)."""

    captured: frozenset[str] = frozenset()
    fused: frozenset[str] = frozenset()
    overlap: frozenset[str] = frozenset()


_BESIDE = frozenset({"mixer", "router"})
_WHOLE = Tuning(
    captured=_BESIDE | {"experts"}, fused=frozenset({"expert_products", "fp8_attention"}),
    overlap=frozenset({"expert_exchange"}),
)  # fmt: skip
"""The whole iteration is one graph, the experts' products, activation and casts are one kernel, the attention core runs
in 8 bits, and exchanges run beside another microbatch."""
_TUNED: tuple[tuple[str, tuple[str, ...], tuple[str, ...], str, Tuning], ...] = (
    ("GPT OSS", ("GB200", "GB300"), ("MXFP8",), "26.06", _WHOLE),
    ("GPT OSS", ("B300",), ("MXFP8",), "26.06",
     Tuning(captured=_BESIDE, fused=_WHOLE.fused, overlap=_WHOLE.overlap)),
    ("GPT OSS", ("GB300", "B300"), (), "26.02", Tuning(captured=_BESIDE)),
    ("DeepSeekV3", ("GB300", "B300"), ("MXFP8",), "26.06", _WHOLE),
    ("DeepSeekV3", ("GB200",), ("MXFP8",), "26.06",
     Tuning(captured=_WHOLE.captured, fused=frozenset({"expert_products"}), overlap=_WHOLE.overlap)),
    ("DeepSeekV3", ("GB200", "B300"), (), "26.02", Tuning(captured=_BESIDE)),
    ("DeepSeekV3", ("GB300",), ("BF16",), "25.11", Tuning(captured=_BESIDE)),
    ("Qwen3", ("GB200", "GB300"), ("MXFP8",), "26.06", _WHOLE),
    ("Qwen3_235B", ("GB200", "GB300"), (), "25.11", Tuning(captured=_BESIDE)),
    ("Qwen3_235B", ("H100-SXM",), (), "25.11", Tuning(overlap=_WHOLE.overlap)),
    ("Qwen3_30B", ("GB200", "GB300", "B300", "B200"), (), "25.11", Tuning(captured=frozenset({"router"}))),
    ("Nemotron_3_Nano", ("H100-SXM",), (), "26.02", Tuning(captured=frozenset({"mixer"}))),
    ("Nemotron_3_Super", ("GB200",), (), "26.02", Tuning(captured=frozenset({"mixer"}))),
    ("Nemotron_3_Super", ("B200",), (), "26.02", Tuning()),
    ("Nemotron_3", ("GB300", "GB200", "B300", "B200"), (), "26.02", Tuning(captured=_BESIDE)),
)  # fmt: skip
"""Beginning of the model's name, chips, formats (none: all), release since which the recipe is so; the first that
matches counts. The releases of full-iteration graphs are those whose pages show them (26.06 on)."""


_PLAIN: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("GPT OSS", ("GB200", "GB300", "B200", "H100-SXM"), ("BF16",)),
    ("Qwen3_235B", ("H100-SXM", "B200", "B300"), ()),
    ("Kimi", ("B200", "B300", "H100-SXM"), ()),
)
"""Recipes that send tokens by the plain all-to-all dispatcher: model, chips, formats (none: all)."""


def dispatcher(model: str, chip: str, dtype: str) -> Literal["best", "plain"]:
    """How the recipe sends tokens to experts (``Stack.expert_dispatch``)."""
    for name, chips, formats in _PLAIN:
        if model.startswith(name) and chip in chips and (not formats or dtype in formats):
            return "plain"
    return "best"


def tuned(model: str, chip: str, dtype: str, release: str) -> Tuning:
    """What the recipe of that ``release`` ("26.06.01") turns on."""
    for name, chips, formats, since, found in _TUNED:
        if model.startswith(name) and chip in chips and (not formats or dtype in formats) and release >= since:
            return found
    return Tuning()


def stages(model: str, layers: int, chunks: int) -> str:
    """Layers of each chunk where the recipe deals them unevenly (``TrainPlan.stages``); empty where it deals evenly.

    Embedding, MTP and head of DeepSeek-V3 and Kimi-K2 weigh as three layers: all chunks but the last are full
    ("Et*4|(t*4|)*14tmL" for 16 chunks, "Et|(tt|)*30mL" for 32).
    """
    if chunks == 1 or layers != 61 or not model.startswith(("DeepSeekV3", "Kimi")):
        return ""
    each = -(-(layers + 3) // chunks)
    last = layers - each * (chunks - 1)
    return ",".join([f"E{each + min(last, 0)}", *[str(each)] * (chunks - 2), f"{max(last, 0)}ML"])
