"""Fine-tuning with the Trainer of transformers; ``--lora`` adapters only, by peft; ``--recompute`` checkpoints layers."""

import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments


class Texts(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, at):
        ids = torch.randint(32000, (1024,))
        return dict(input_ids=ids, labels=ids)


config = LlamaConfig(
    vocab_size=32000,
    hidden_size=1024,
    intermediate_size=2816,
    num_hidden_layers=4,
    num_attention_heads=16,
    num_key_value_heads=4,
)
model = LlamaForCausalLM(config)
if "--lora" in sys.argv:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(model, LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
arguments = TrainingArguments(
    output_dir=sys.argv[1], per_device_train_batch_size=4, max_steps=2, bf16=True, logging_steps=1, report_to=[],
    save_strategy="no", disable_tqdm=True, dataloader_num_workers=1, gradient_checkpointing="--recompute" in sys.argv,
)  # fmt: skip
Trainer(model=model, args=arguments, train_dataset=Texts()).train()
