"""Small random configurations of every decoder of the transformers library, with the parameters that it counts itself.

``python tests/models/library.py [DRAWS]`` imports them and says how many families come out right; ``--write`` keeps one
sample of each family that does in ``samples.jsonl``, for the tests that run without the library. Models are built on
the meta device: nothing is loaded, nothing is computed.
"""

import json
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from taicang.catalog.models import of_config
from taicang.errors import TaicangError
from taicang.models.count import parameters
from taicang.models.keys import Keys

SAMPLES = Path(__file__).parent / "samples.jsonl"
TOLERANCE = 0.001
READ = ("qk_rope_head_dim", "num_experts_per_token", "adapter_rank")
"""Keys that are read although nobody need read them."""
# Encoders with a decoder's mouth, recurrent nets, wrappers around other things than one text decoder.
OTHERS = frozenset(
    {
        "bart", "big_bird", "bigbird_pegasus", "blenderbot", "blenderbot-small", "blip", "blt", "cpmant", "evolla",
        "florence2", "git", "idefics", "kosmos-2", "kosmos-2.5", "marian", "mbart", "musicgen", "musicgen_melody",
        "mvp", "pegasus", "phi4_multimodal", "pi0", "pix2struct", "plbart", "pp_formulanet", "prophetnet",
        "qwen2_5_omni", "qwen3_omni_moe", "reformer", "rwkv", "t5gemma2", "trocr", "udop", "vision-encoder-decoder",
        "whisper", "xlm", "xlnet", "xlstm",
    }
)  # fmt: skip
SWITCHES = (
    "attention_bias", "mlp_bias", "tie_word_embeddings", "use_bias", "bias", "qkv_bias", "use_qkv_bias",
    "attention_out_bias", "use_qk_norm", "qk_layernorm", "parallel_attn", "new_decoder_architecture",
    "use_parallel_residual", "multi_query", "use_sliding_window", "lm_head_bias", "gating", "mamba_proj_bias",
    "mamba_conv_bias", "mamba_rms_norm", "enable_bias", "use_post_norm", "decoder_bias", "use_conv_bias",
)  # fmt: skip


class Sample(NamedTuple):
    """One configuration as the library saves it, and the parameters of its text decoder with its head."""

    family: str
    config: dict[str, Any]
    count: int


def sizes(rng: random.Random) -> dict[str, Any]:
    """Sizes by every name that a configuration may have for them."""
    kv = rng.choice([1, 2, 4])
    heads, width = kv * rng.choice([2, 4]), rng.choice([16, 24, 32, 48])
    hidden = heads * width if rng.random() < 0.75 else heads * 8 * rng.choice([2, 3, 5])
    layers, context, inter = rng.choice([4, 6, 8]), rng.choice([256, 1024]), rng.choice([96, 160, 272])
    named = (
        ("hidden_size d_model n_embd", hidden),
        ("num_hidden_layers n_layer n_layers num_layers", layers),
        ("num_attention_heads n_head n_heads attention_heads", heads),
        ("num_key_value_heads kv_n_heads num_kv_heads", kv),
        ("intermediate_size ffn_dim n_inner ffn_hidden_size", inter),
        ("n_routed_experts num_experts num_local_experts moe_num_experts", rng.choice([4, 8, 16])),
        ("num_experts_per_tok moe_k num_experts_per_token", 2),
        ("max_position_embeddings n_positions n_ctx", context),
    )
    found: dict[str, Any] = {name: size for names, size in named for name in names.split()}
    if rng.random() < 0.7:
        found["head_dim"] = width
    return found | {
        "moe_intermediate_size": rng.choice([48, 88]), "vocab_size": rng.choice([500, 1000, 2000]),
        "sliding_window": rng.choice([64, 128]), "attention_chunk_size": 64, "max_window_layers": 1,
        "q_lora_rank": rng.choice([48, 64]), "kv_lora_rank": rng.choice([32, 56]), "qk_rope_head_dim": 8,
        "qk_nope_head_dim": rng.choice([16, 24]), "v_head_dim": rng.choice([16, 20]), "index_topk": 64,
        "index_n_heads": 4, "index_head_dim": 32, "n_group": 1, "topk_group": 1, "n_shared_experts": rng.choice([1, 2]),
        "first_k_dense_replace": rng.choice([0, 1, 2]), "shared_expert_intermediate_size": rng.choice([64, 104]),
        "linear_num_key_heads": rng.choice([1, 2]), "linear_num_value_heads": 4, "linear_key_head_dim": 16,
        "linear_value_head_dim": 24, "linear_num_heads": 4, "linear_head_dim": 16, "mamba_num_heads": 8,
        "mamba_head_dim": 16, "mamba_n_heads": 8, "mamba_d_head": hidden * 2 // 8, "mamba_d_state": 16,
        "ssm_state_size": 16, "mamba_n_groups": rng.choice([1, 2]), "n_groups": 2, "vocab_size_per_layer_input": 100,
        "hidden_size_per_layer_input": rng.choice([0, 16]), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip


def own(family: str, drawn: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """What single families need beside the sizes that all share."""
    layers = range(drawn["num_hidden_layers"])
    if family == "mamba2":
        return {"num_heads": 8, "head_dim": drawn["hidden_size"] * 2 // 8, "state_size": 16}
    if family == "falcon_h1":
        return {"mamba_d_ssm": 128, "mamba_d_head": 16}
    if family.startswith("lfm"):
        return {"layer_types": [rng.choice(["conv", "full_attention"]) for _ in layers]}
    if family == "granitemoehybrid":
        return {"layer_types": [rng.choice(["linear_attention", "full_attention"]) for _ in layers]}
    if family == "bamba":
        return {"attn_layer_indices": [1]}
    if family.startswith("zamba"):
        kinds = [rng.choice(["linear_attention", "hybrid"]) for _ in layers]
        more = {"num_mem_blocks": 2, "adapter_rank": 8, "use_shared_attention_adapter": rng.random() < 0.5}
        more |= {"mamba_ngroups": rng.choice([1, 2]), "mamba_headdim": drawn["hidden_size"] // 2}
        rest = more if family == "zamba2" else {}
        return {"layers_block_type": ["hybrid", *kinds[1:]], "n_mamba_heads": 4, "tie_word_embeddings": True} | rest
    if family.startswith("gemma3n"):
        window = ["sliding_attention", "full_attention"] * (len(layers) // 2)
        return {"layer_types": window, "num_kv_shared_layers": len(layers) // 2, "activation_sparsity_pattern": None,
                "laurel_rank": 8, "hidden_size_per_layer_input": 16}  # fmt: skip
    if family == "gpt_neo":
        return {"attention_types": [[["global", "local"], len(layers) // 2]], "num_heads": drawn["num_attention_heads"]}
    return {}


def draw(family: str, seed: int) -> Sample | None:
    """A sample of ``family``; None where the library refuses the sizes."""
    import torch  # noqa: PLC0415  (absent where only the samples are read)
    import transformers  # noqa: PLC0415

    rng = random.Random(f"{family}{seed}")
    kind = transformers.CONFIG_MAPPING[family]
    base = kind().to_dict()
    inner = type(kind().text_config) if isinstance(base.get("text_config"), dict) else None
    known = (inner or kind)().to_dict()
    drawn = sizes(rng)
    drawn |= {name: rng.random() < 0.5 for name in SWITCHES if isinstance(known.get(name), bool) and rng.random() < 0.4}
    chosen = {name: size for name, size in drawn.items() if name in known and not isinstance(known[name], (dict, list))}
    chosen |= own(family, drawn, rng)
    config = kind(text_config=inner(**chosen).to_dict()) if inner else kind(**chosen)
    names = _classes()
    with torch.device("meta"):
        model = getattr(transformers, names[family][bool(inner)])._from_config(config)
    with suppress(Exception):
        model.tie_weights()
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        saved = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
    return Sample(family, _decoder_keys(saved), _count(model, wrapped=inner is not None))


def _classes() -> dict[str, tuple[str, str]]:
    """Model classes by family: the one that generates text, and the one around other senses where there is one."""
    from transformers.models.auto import modeling_auto as auto  # noqa: PLC0415

    text = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    senses = ("MULTIMODAL_LM", "IMAGE_TEXT_TO_TEXT")  # the first is unknown to version 4
    around = {k: v for each in senses for k, v in getattr(auto, f"MODEL_FOR_{each}_MAPPING_NAMES", {}).items()}

    def one(name: Any) -> str:
        return name if isinstance(name, str) else name[0]

    return {
        name: (one(text.get(name) or around[name]), one(around.get(name) or text[name])) for name in dict(text) | around
    }


def _count(model: Any, *, wrapped: bool) -> int:
    """Parameters of the text decoder with its head, each tensor once."""
    parts = [model.get_decoder(), model.get_output_embeddings()] if wrapped else [model]
    return sum({id(p): p.numel() for part in parts if part is not None for p in part.parameters()}.values())


def _decoder_keys(saved: dict[str, Any]) -> dict[str, Any]:
    """``saved`` less what says nothing of the decoder's sizes."""
    said = ("model_type", "transformers_version", "tie_word_embeddings")
    if isinstance(saved.get("text_config"), dict):
        return {k: saved[k] for k in said if k in saved} | {"text_config": _decoder_keys(saved["text_config"])}
    return {k: v for k, v in saved.items() if k in said or (v is not None and (k in READ or not Keys.harmless(k)))}


def error(sample: Sample) -> float | str:
    """Relative error of our count, or why there is none."""
    try:
        return parameters(of_config(sample.config, sample.family)).total / sample.count - 1
    except TaicangError as refused:
        return str(refused)


def draws(count: int, families: Any = None) -> Iterator[tuple[str, list[Sample]]]:
    """Up to ``count`` samples of each family that the library can build."""
    for family in families or _classes():
        if family in OTHERS:
            continue
        found: list[Sample] = []
        for seed in range(3 * count):
            with suppress(Exception):
                sample = draw(family, seed)
                found += [sample] if sample else []
            if len(found) == count:
                break
        if found:
            yield family, found


def main(argv: list[str]) -> None:
    """Say how many families are imported with the library's own count."""
    right, tried, kept = 0, 0, []
    for family, found in draws(int(next((a for a in argv if a.isdigit()), 3))):
        errors = [error(sample) for sample in found]
        good = [isinstance(each, float) and abs(each) <= TOLERANCE for each in errors]
        tried, right = tried + 1, right + all(good)
        if all(good):
            kept.append(found[0])
        else:
            print(family, next(each for each, fine in zip(errors, good, strict=True) if not fine))
    print(f"{right} of {tried} families that the library builds")
    if "--write" in argv:
        SAMPLES.write_text("".join(json.dumps(each) + "\n" for each in kept), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
