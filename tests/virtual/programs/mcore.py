"""Megatron-LM's model, data-parallel gradients, distributed optimizer and schedule, with apex's norms."""

import argparse
import os

import apex  # noqa: F401
import torch
from megatron.core import parallel_state, tensor_parallel
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func
from megatron.core.transformer.transformer_config import TransformerConfig

parser = argparse.ArgumentParser()
for name, value in dict(layers=2, hidden=512, inner=2048, heads=8, vocab=1024, seq=128, tp=2, pp=1).items():
    parser.add_argument(f"--{name}", type=int, default=value)
a = parser.parse_args()
torch.distributed.init_process_group("nccl")
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
parallel_state.initialize_model_parallel(tensor_model_parallel_size=a.tp, pipeline_model_parallel_size=a.pp)
tensor_parallel.model_parallel_cuda_manual_seed(123)
config = TransformerConfig(
    num_layers=a.layers, hidden_size=a.hidden, ffn_hidden_size=a.inner, num_attention_heads=a.heads, bf16=True,
    pipeline_dtype=torch.bfloat16, params_dtype=torch.bfloat16, tensor_model_parallel_size=a.tp,
    pipeline_model_parallel_size=a.pp, sequence_parallel=a.tp > 1, gradient_accumulation_fusion=False,
    gated_linear_unit=a.pp > 1, add_bias_linear=a.pp == 1,
)  # fmt: skip
model = GPTModel(
    config=config, transformer_layer_spec=get_gpt_layer_local_spec(), vocab_size=a.vocab, max_sequence_length=a.seq,
    parallel_output=True, pre_process=parallel_state.is_pipeline_first_stage(),
    post_process=parallel_state.is_pipeline_last_stage(), share_embeddings_and_output_weights=a.pp == 1,
    position_embedding_type="rope" if a.pp > 1 else "learned_absolute",
).cuda().bfloat16()  # fmt: skip
model = DistributedDataParallel(
    config=config, module=model,
    ddp_config=DistributedDataParallelConfig(use_distributed_optimizer=True, grad_reduce_in_fp32=True),
)  # fmt: skip
optimizer = get_megatron_optimizer(
    OptimizerConfig(optimizer="adam", lr=1e-4, bf16=True, params_dtype=torch.bfloat16, use_distributed_optimizer=True,
                    clip_grad=1.0), [model],
)  # fmt: skip
config.finalize_model_grads_func = finalize_model_grads


def loss_of(out):
    return out.float().mean(), {"loss": out.float().mean()}


def step(_, model):
    ids = torch.randint(1000, (2, 128), device="cuda")
    mask = torch.ones(2, 1, 128, 128, device="cuda").tril() < 0.5
    return model(ids, torch.arange(128, device="cuda").expand(2, 128), mask, labels=ids), loss_of


if a.pp > 1:  # what a stage holds between steps
    optimizer.step()
    print(f"holds {torch.cuda.memory_allocated() / 1e9:.2f} GB")
    raise SystemExit
for _ in range(2):
    model.zero_grad_buffer()
    optimizer.zero_grad()
    get_forward_backward_func()(
        forward_step_func=step, data_iterator=iter([0, 1]), model=model, num_microbatches=2, seq_length=128,
        micro_batch_size=2, decoder_seq_length=128, forward_only=False,
    )  # fmt: skip
    optimizer.step()
print("trained")
