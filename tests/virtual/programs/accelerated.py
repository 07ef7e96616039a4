"""Fine-tuning by accelerate with FSDP2: prepare, backward, clip, step."""

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from transformers import LlamaConfig, LlamaForCausalLM
plugin=FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy='transformer_based_wrap', transformer_cls_names_to_wrap=['LlamaDecoderLayer'])
acc=Accelerator(mixed_precision='bf16', fsdp_plugin=plugin)
model=LlamaForCausalLM(LlamaConfig(vocab_size=32000,hidden_size=512,intermediate_size=1408,num_hidden_layers=2,num_attention_heads=8,num_key_value_heads=4))
opt=torch.optim.AdamW(model.parameters(),lr=1e-4)
model,opt=acc.prepare(model,opt)
for i in range(2):
    x=torch.randint(0,32000,(2,512),device=acc.device)
    loss=model(input_ids=x,labels=x).loss
    acc.backward(loss); acc.clip_grad_norm_(model.parameters(),1.0); opt.step(); opt.zero_grad()
    acc.print(i, loss.item())
