"""Files as publishers wrote them, years ago or with code of their own: the counts that the hub shows for them."""

import copy

import pytest

from taicang.catalog.models import of_config
from taicang.models.count import parameters

LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32,
    "num_hidden_layers": 32, "vocab_size": 32000, "max_position_embeddings": 4096, "tie_word_embeddings": False,
}  # fmt: skip
GLM = {
    "model_type": "chatglm", "add_bias_linear": False, "add_qkv_bias": True, "ffn_hidden_size": 13696,
    "apply_query_key_layer_scaling": True, "fp32_residual_connection": False, "hidden_size": 4096, "kv_channels": 128,
    "multi_query_attention": True, "multi_query_group_num": 2, "num_attention_heads": 32, "original_rope": True,
    "post_layer_norm": True, "rmsnorm": True, "seq_length": 8192,
}  # fmt: skip
INTERN = LLAMA | {
    "model_type": "internlm2", "bias": False, "attn_implementation": "eager", "hidden_size": 6144,
    "intermediate_size": 16384, "num_attention_heads": 48, "num_hidden_layers": 48, "num_key_value_heads": 8,
    "vocab_size": 92544,
}  # fmt: skip
FILES = {
    "baichuan2-13b": (
        LLAMA | {"model_type": "baichuan", "hidden_size": 5120, "intermediate_size": 13696, "num_attention_heads": 40,
                 "num_hidden_layers": 40, "vocab_size": 125696, "z_loss_weight": 0, "_from_model_config": True},
        13_896_668_160,
    ),
    "qwen-7b": (
        {"model_type": "qwen", "bf16": False, "fp16": False, "hidden_size": 4096, "intermediate_size": 22016,
         "kv_channels": 128, "max_position_embeddings": 32768, "seq_length": 8192, "no_bias": True,
         "vocab_size": 151936, "num_attention_heads": 32, "num_hidden_layers": 32, "onnx_safe": None, "rotary_pct": 1.0,
         "use_dynamic_ntk": True, "use_logn_attn": True, "use_cache_kernel": False, "tie_word_embeddings": False},
        7_721_324_544,
    ),
    "chatglm3-6b": (GLM | {"num_layers": 28, "padded_vocab_size": 65024}, 6_243_584_000),
    "glm-4-9b": (
        GLM | {"num_layers": 40, "num_hidden_layers": 40, "padded_vocab_size": 151552, "rope_ratio": 500},
        9_399_951_360,
    ),
    "internlm2-20b": (INTERN, 19_861_149_696),
    "internvl2-26b": (
        {"model_type": "internvl_chat", "llm_config": INTERN | {"vocab_size": 92553}, "vision_config": {"hidden": 1}},
        19_861_260_288,
    ),
    "deepseek-moe-16b": (
        LLAMA | {"model_type": "deepseek", "first_k_dense_replace": 1, "hidden_size": 2048, "intermediate_size": 10944,
                 "moe_intermediate_size": 1408, "moe_layer_freq": 1, "n_routed_experts": 64, "n_shared_experts": 2,
                 "num_attention_heads": 16, "num_experts_per_tok": 6, "num_hidden_layers": 28, "vocab_size": 102400},
        16_375_728_128,
    ),
    "bloom": (
        {"model_type": "bloom", "n_embed": 14336, "n_layer": 70, "num_attention_heads": 112, "n_inner": None,
         "seq_length": 2048, "vocab_size": 250880, "offset_alibi": 100},
        176_247_271_424,
    ),
    "falcon-7b": (
        {"model_type": "RefinedWebModel", "alibi": False, "bias": False, "hidden_size": 4544, "multi_query": True,
         "n_head": 71, "n_layer": 32, "parallel_attn": True, "vocab_size": 65024},
        6_921_720_704,
    ),
    "gpt-j-6b": (
        {"model_type": "gptj", "n_embd": 4096, "n_head": 16, "n_inner": None, "n_layer": 28, "n_positions": 2048,
         "rotary": True, "rotary_dim": 64, "tie_word_embeddings": False, "tokenizer_class": "x", "vocab_size": 50400},
        6_050_882_784,
    ),
    "dbrx": (
        {"model_type": "dbrx", "attn_config": {"clip_qkv": 8, "kv_n_heads": 8, "model_type": ""}, "d_model": 6144,
         "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4}, "max_seq_len": 32768,
         "n_heads": 48, "n_layers": 40, "tie_word_embeddings": False, "vocab_size": 100352},
        131_596_523_520,
    ),
    "llava-1.5-7b": (
        {"model_type": "llava", "text_config": {"model_type": "llama", "vocab_size": 32064}, "vision_config": {},
         "tie_word_embeddings": False},
        6_738_939_904,
    ),
    "minimax-m1": (
        {"model_type": "minimax_m1", "attn_type_list": [0, 0, 0, 0, 0, 0, 0, 1] * 10, "head_dim": 128,
         "hidden_size": 6144, "intermediate_size": 9216, "max_position_embeddings": 10240000, "num_attention_heads": 64,
         "num_experts_per_tok": 2, "num_hidden_layers": 80, "num_key_value_heads": 8, "num_local_experts": 32,
         "postnorm": True, "shared_intermediate_size": 0, "tie_word_embeddings": False, "vocab_size": 200064},
        456_089_655_296,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files_of_the_hub_have_the_count_that_it_shows(name: str) -> None:
    config, count = FILES[name]
    assert parameters(of_config(copy.deepcopy(config), name)).total == count


def test_only_the_file_of_a_wrapper_may_leave_sizes_to_the_decoder_s_class() -> None:
    with pytest.raises(Exception, match="hidden_size: this key is missing"):
        of_config({"model_type": "llama", "vocab_size": 32064}, "bare")


PARTS = {
    # experts beside a dense feed-forward, two attentions a layer, a third of the choices idle
    "longcat-flash": (
        {"model_type": "longcat_flash", "attention_method": "MLA", "expert_ffn_hidden_size": 2048, "hidden_size": 6144,
         "ffn_hidden_size": 12288, "kv_lora_rank": 512, "max_position_embeddings": 131072, "mla_scale_kv_lora": True,
         "mla_scale_q_lora": True, "moe_topk": 12, "n_routed_experts": 512, "num_attention_heads": 64,
         "num_layers": 28, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
         "vocab_size": 131072, "zero_expert_num": 256, "zero_expert_type": "identity"},
        560e9, 27.5e9, 56,
    ),
    "grok-2": (
        {"architectures": ["Grok1ForCausalLM"], "model_type": "git", "hidden_size": 8192, "intermediate_size": 32768,
         "moe_intermediate_size": 16384, "num_experts_per_tok": 2, "num_local_experts": 8, "residual_moe": True,
         "num_attention_heads": 64, "num_key_value_heads": 8, "num_hidden_layers": 64, "head_dim": 128,
         "sliding_window_size": -1, "global_attn_every_n": 1, "vocab_size": 131072, "attn_temperature_len": 1024},
        270e9, 115e9, 64,
    ),
    "arctic": (
        {"model_type": "arctic", "hidden_size": 7168, "intermediate_size": 4864, "num_attention_heads": 56,
         "moe_layer_frequency": 1, "num_experts_per_tok": 2, "num_hidden_layers": 35, "num_key_value_heads": 8,
         "num_local_experts": 128, "parallel_attn_mlp_res": True, "use_residual": True, "vocab_size": 32000},
        480e9, 17e9, 35,
    ),
    # queries from a latent, one head of keys and values
    "step3": (
        {"model_type": "step3_vl", "vision_config": {"num_hidden_layers": 63, "hidden_size": 1792}, "text_config": {
            "hidden_size": 7168, "intermediate_size": 18432, "num_attention_heads": 64, "num_attention_groups": 1,
            "num_hidden_layers": 61, "vocab_size": 128815, "moe_layers_enum": ",".join(map(str, range(4, 60))),
            "use_mfa": True, "use_moe": True, "moe_num_experts": 48, "moe_top_k": 3, "moe_intermediate_size": 5120,
            "head_dim": 256, "share_q_dim": 2048, "share_expert_dim": 5120}},
        316e9, 38e9, 61,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
def test_models_of_unusual_layers_have_the_sizes_that_their_makers_state(name: str) -> None:
    config, total, active, layers = PARTS[name]
    made = of_config(copy.deepcopy(config), name)
    counted = parameters(made)
    assert counted.total == pytest.approx(total, rel=0.005)
    assert counted.active == pytest.approx(active, rel=0.03)
    assert made.layers == layers
