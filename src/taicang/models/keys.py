"""Typed access to the keys of a model configuration, which remembers what was read so that nothing is overlooked;
and sums of products of sizes, as data files state them: "2*head_dim + -1*heads"."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import prod
from typing import Any

from taicang.errors import InvalidInput, NotModelled

# Keys that change neither the work nor the bytes of a forward step: tokens, initialisation, dropout, rotary angles,
# normalisation constants, routing scores, training losses and defaults of text generation.
_HARMLESS = re.compile(
    r"""(_supernode_source|architectures|auto_map|model_type|transformers_version|torch_dtype|dtype|_name_or_path
    |_attn_implementation\w*|_\w+_autoset|_experts_implementation|name_or_path|\w+_token|\w*_token_id|\w*_token_index|id2label|label2id|use_cache
    |(\w+_)?(dropout|pdrop|jitter|jitter_noise)|initializer_\w+|init_\w+|\w*_std|\w*_?rope_\w+|rope_\w+|rotary_\w+
    |partial_rotary_factor|original_max_position_embeddings|initial_context_length|norm_eps|\w*_eps|\w*_epsilon
    |pretraining_tp|ep_size|norm_topk_prob|norm_softmax|norm_head|scoring_func|score_function|routed_scaling_factor
    |moe_router_scaling_factor|topk_method|seq_aux|\w*aux_loss\w*|router_aux\w*|router_z\w*|output_router_logits|router_dtype
    |moe_router_dtype|use_moe_router_bias|use_routing_bias|moe_router_enable_expert_bias|shared_moe_mode|swiglu_limit
    |\w*softcapping|query_pre_attn_scalar|attention_value_scale|attn_scale|attn_temperature_tuning|floor_scale
    |layernorm_\w+|use_rmsnorm|norm_type|logits_scaling|embedding_multiplier|residual_multiplier|mtp_use_dedicated_embeddings
    |mamba_ssm_dtype|indexer_rope_interleave|index_share_for_mtp_iteration|using_split_qkv_in_self_attention
    |apply_residual_connection_post_layernorm|masked_softmax_fusion|slow_but_exact|skip_bias_add\w*|attention_softmax_in_fp32
    |bias_dropout_fusion|offset_alibi|padded_vocab_size|max_length|min_length|length_penalty|no_repeat_ngram_size
    |qk_norm_type|num_logits_to_keep|num_beams|num_beam_groups|num_return_sequences|temperature|top_k|top_p|typical_p|repetition_penalty|return_dict\w*
    |chunk_size_feed_forward|task_specific_params|task_type_vocab_size|problem_type|pruned_heads|remove_invalid_values|is_decoder
    |is_encoder_decoder|do_sample|early_stopping|finetuning_task|summary_\w+|gradient_checkpointing|unk_index
    |scale_attn\w*|reorder_and_upcast_attn|ignore_index|\w*vision_\w+|image_\w+|video_\w+|audio_\w+|projector_\w+
    |mm_\w+|boi_\w+|eoi_\w+|boa_\w+|eoa_\w+|media_\w+|spatial_\w+|encoder_no_repeat_ngram_size|diversity_penalty
    |use_bidirectional_attention|tf_legacy_loss|torchscript|use_bfloat16|_commit_hash
    |\w*route_scale|\w*logit_scale|expert_selection_fn|moe_norm_min|\w+_multipliers?|residual_in_fp32|use_associative_scan
    |\w*swiglu_\w+|enable_moe_fp32_combine|\w*dropout_prob|layerdrop|lambda_std_dev|dim_model_base|scale_\w+|use_mambapy
    |attn_scale\w*|\w*_(alpha|beta)_factor|block_size|\w*initializer_range|linear_(a_log|dt)_\w+|linear_allow_neg_eigval
    |time_step_(?!rank)\w+|use_mamba_kernels|use_mem_eff_path|num_image_tokens|\w*scaling_factor|moe_renormalize|kda_\w+
    |router_\w+|logits_soft_cap|embedding_scale|num_loss\w*|prefix_dense_sliding_window_pattern|z_loss\w*|mtp_\w+|clip_qkv|mup_\w+|qk_scale_factor
    |shared_expert_combination_strategy|moe_apply_router_weight_on_input|\w+_sink_init|sliding_window_alignment
    |attention_dropout\w*|mamba_ssm_cache_dtype|_remove_final_layer_norm|max_window_size|use_cpp|cache_implementation
    |prefix_lm|pretraining_\w+|moe_use_\w+|use_expert_bias|router_bias_\w+|layer_rope_theta|classifier_\w+|ffn_act_fn
    |attention_type|fused_qk|use_flash_attn|use_fused_\w+|bos_\w+|eos_\w+|conv_use_\w+|global_rope\w*|local_rope\w*|adapter_\w+|emb_pdrop|init_device|attn_impl|attn_uses_\w+
    |alibi_bias_max|embedding_fraction|learned_pos_emb|softmax_scale|no_bias|type_sequence_label_size|attention_types|verbose|moe_loss_weight
    |rotary|tokenizer_\w+|prefix|suffix|pad_key_length|pre_allocate_kv_cache|inference_runner|validate_runner_input
    |max_batch_size|max_sequence_length|bf16|fp16|fp32|onnx_safe|use_dynamic_ntk|use_logn_attn|use_cache_\w+|postnorm
    |custom_pipelines|attn_implementation|_from_model_config|moe_normalize\w*|moe_jitter_eps|uniform_expert_assignment|resid_dropout|ffn_act)\Z""",
    re.VERBOSE,
)
_ABSENT: tuple[object, ...] = (None, False, 0, 0.0, "", [], {})


class Keys:
    """The keys of one configuration ``data`` (of the file ``where``), with what an import had to assume."""

    def __init__(self, data: Mapping[str, Any], *, where: str, approximate: bool = False) -> None:
        if not isinstance(data, Mapping):
            raise InvalidInput(f"expected an object of keys, got {type(data).__name__}", where=where)
        self.data = data
        self.where = where
        self.may_approximate = approximate
        self.assumptions: list[str] = []
        self._seen: set[str] = set()

    @staticmethod
    def harmless(key: str) -> bool:
        """Whether ``key`` changes neither the work nor the bytes of any model."""
        return _HARMLESS.match(key) is not None

    def at(self, key: str) -> str:
        """Where ``key`` stands, for an error message."""
        return f"{self.where}: {key}" if self.where else key

    def get(self, *names: str) -> Any:
        """The value of the first of ``names`` that is present and not null; all of them count as read."""
        self._seen.update(names)
        values = {name: self.data[name] for name in names if self.data.get(name) is not None}
        if not values:
            return None
        first = next(iter(values))
        for name, value in values.items():
            if value != values[first]:
                raise InvalidInput(f"{value!r} contradicts {first} = {values[first]!r}", where=self.at(name))
        return values[first]

    def maybe(self, *names: str, low: int = 1) -> int | None:
        """A whole number of at least ``low``, or None where it is absent."""
        value = self.get(*names)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            name = next(n for n in names if self.data.get(n) is not None)
            raise InvalidInput(f"expected a whole number of at least {low}, got {value!r}", where=self.at(name))
        return value

    def number(self, *names: str, default: int | None = None, low: int = 1) -> int:
        """A whole number of at least ``low``; ``InvalidInput`` naming the key where it is absent without a default."""
        value = self.maybe(*names, low=low)
        if value is None:
            value = default
        if value is None:
            raise InvalidInput("this key is missing", where=self.at(names[0]))
        return value

    def flag(self, *names: str, default: bool) -> bool:
        """A truth value."""
        value = self.get(*names)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise InvalidInput(f"expected true or false, got {value!r}", where=self.at(names[0]))
        return value

    def text(self, *names: str, default: str = "") -> str:
        """A string."""
        value = self.get(*names)
        if value is None:
            return default
        if not isinstance(value, str):
            raise InvalidInput(f"expected a string, got {value!r}", where=self.at(names[0]))
        return value

    def per_layer(self, name: str, layers: int) -> list[Any] | None:
        """A list with one entry per layer, or None where it is absent. Entries for MTP layers behind it are dropped."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, list):
            raise InvalidInput(f"expected a list of {layers} entries, got {value!r}", where=self.at(name))
        if len(value) < layers:
            raise InvalidInput(f"expected {layers} entries, got {len(value)}", where=self.at(name))
        return value[:layers]

    def widths(self, name: str, layers: int) -> list[int]:
        """A list with one width per layer. Raises ``InvalidInput`` naming the key."""
        found = self.per_layer(name, layers) or []
        if not all(isinstance(width, int) and not isinstance(width, bool) and width > 0 for width in found):
            raise InvalidInput(f"expected widths above 0, got {found!r}", where=self.at(name))
        return found

    def refuse(self, feature: str, key: str, instead: str = "") -> None:
        """Refuse a feature that is not modelled, or record what stands for it where the user asked for the nearest."""
        if not self.may_approximate or not instead:
            hint = "; ask for the nearest modelled kind with approximate" if instead else ""
            raise NotModelled(f"{self.at(key)}: {feature} is not modelled{hint}")
        self.assumptions.append(f"{feature} ({key}): {instead}")

    def ignore(self, *names: str) -> None:
        """Mark keys as known to be without effect in this family."""
        self._seen.update(names)

    def finish(self) -> None:
        """Refuse every key with an effect that nobody read."""
        for key, value in self.data.items():
            if key in self._seen or self.harmless(key) or value in _ABSENT:
                continue
            said = json.dumps(value, default=str)[:60]  # as a config.json writes it
            self.refuse(f"the feature behind the unknown key {key!r} = {said}", key, "ignored")


def sum_of(text: str, sizes: Mapping[str, int], keys: Keys) -> int:
    """The value of ``text``; a word that is none of ``sizes`` is one of ``keys``. Raises ``InvalidInput`` naming it."""

    def value(word: str) -> int:
        if word.removeprefix("-").isdigit():
            return int(word)
        return sizes[word] if word in sizes else keys.number(word, low=0)

    return sum(prod(value(word.strip()) for word in term.split("*")) for term in text.split("+") if text)
