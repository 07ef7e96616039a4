"""What recipes recompute and how they deal layers: published tables name layouts, the publisher's repository the rest.

Source: NVIDIA-NeMo/Megatron-Bridge, scripts/performance/configs (recompute_modules, pp_layout by model and chip). The
activation alone ("moe_act") is left out: its repetition is a small part of the experts' own activation traffic.
"""

from __future__ import annotations

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
