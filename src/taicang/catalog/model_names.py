"""From the names that people write to the names of the catalogue, by explicit rules and never by likeness."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

# fmt: off
_OWNERS = frozenset({
    "01-ai", "amd", "baai", "bigscience", "codellama", "databricks", "deepseek-ai", "facebook",
    "google", "huawei", "inclusionai", "meta", "meta-llama", "microsoft", "minimaxai", "mistralai",
    "moonshotai", "mosaicml", "neuralmagic", "nvidia", "openai", "openpangu", "pangu-tech", "qwen",
    "redhatai", "stepfun-ai", "thudm", "tiiuae", "togethercomputer", "unsloth", "vllm-ascend",
    "xai-org", "xiaomimimo", "zai-org", "zhipuai",
})
# fmt: on
# Trained variants and releases of one architecture.
_VARIANT = re.compile(r"-(instruct|chat|base|it|pt|hf|thinking|lora|preview|bf16|fp16|0324|0528|0711|0905|2507|zero)$")
_FORMAT_SUFFIX = {
    "nvfp4": "nvfp4",
    "fp4": "nvfp4",
    "mxfp4": "mxfp4",
    "mxfp8": "mxfp8",
    "fp8-block": "fp8_block",
    "fp8-dynamic": "fp8",
    "int8": "int8",
    "w8a8": "int8",
    "awq": "w4a16",
    "gptq": "w4a16",
    "int4": "w4a16",
    "w4a16": "w4a16",
    "w4a8": "w4a8",
}
# Owners whose own "-FP8" releases scale weights in blocks of 128 x 128; the others scale whole tensors or channels.
_BLOCK_FP8 = ("qwen", "deepseek", "glm", "minimax", "kimi")


def canonical(text: str, *, known: Collection[str], aliases: Mapping[str, str]) -> tuple[str, str | None] | None:
    """Name in the catalogue and the number format that ``text`` asks for (None: as published), or None.

    Case does not matter; an owner before a slash, a remark in parentheses and the suffixes above are taken off, one at
    a time, until a name or an alias is reached. An alias may end in "@format".
    """
    name = re.sub(r"\s*\([^)]*\)$", "", text.strip().lower())
    owner, slash, rest = name.partition("/")
    if slash and name in aliases:
        return aliases[name], None
    if slash:
        if owner not in _OWNERS:
            return None
        name = rest
    else:
        owner = ""
    name = re.sub(r"[\s_]+", "-", name)
    dtype: str | None = None
    while name not in aliases and name not in known:
        suffix = next((s for s in _FORMAT_SUFFIX if name.endswith(f"-{s}")), None)
        if suffix is not None and dtype is None:
            name, dtype = name.removesuffix(f"-{suffix}"), _FORMAT_SUFFIX[suffix]
        elif name.endswith("-fp8") and dtype is None:
            name = name.removesuffix("-fp8")
            dtype = "fp8_block" if owner != "nvidia" and name.startswith(_BLOCK_FP8) else "fp8"
        elif _VARIANT.search(name):
            name = _VARIANT.sub("", name)
        else:
            return None
    target, _, asked = aliases.get(name, name).partition("@")
    return target, dtype or asked or None
