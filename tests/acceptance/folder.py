"""A model's folder without weights: a small tokenizer, a chat template, a configuration of Qwen3-32B's shape."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

WORDS = """time year people way day man thing woman life child world school state family student group country problem
hand part place case week company system program question work government number night point home water room mother
area money story fact month lot right study book eye job word business issue side kind head house service friend"""
MARKS = ("<|start|>", "<|end|>")
TEMPLATE = "{% for m in messages %}<|start|>{{ m.role }} {{ m.content }}<|end|>{% endfor %}<|start|>assistant "
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 5120, "intermediate_size": 25600,
    "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "num_hidden_layers": 64,
    "vocab_size": 151936, "max_position_embeddings": 40960, "torch_dtype": "bfloat16", "hidden_act": "silu",
}  # fmt: skip


def write(folder: Path) -> Path:
    """It is in ``folder``."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=1000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  special_tokens=list(MARKS), show_progress=False)  # fmt: skip
    made.train_from_iterator(["".join(f" {word}" for word in WORDS.split())] * 3, trainer)
    made.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": MARKS[1], "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder
