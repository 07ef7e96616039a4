"""DeepSpeed's engine: the first stage of a pipeline that tensor parallelism cut, in 16 bits with gradients that sum in
32."""

import argparse

import deepspeed
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

parser = argparse.ArgumentParser()
for name, value in dict(local_rank=-1, stage=1, layers=2, hidden=1024, heads=16, cut=1, seq=512, flying=2, batch=1,
                        vocab=0).items():  # fmt: skip
    parser.add_argument(f"--{name}", type=int, default=value)
a = deepspeed.add_config_arguments(parser).parse_args()


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        h, part = a.hidden, a.hidden // a.cut
        self.norm1, self.norm2 = nn.LayerNorm(h), nn.LayerNorm(h)
        self.qkv, self.out = nn.Linear(h, 3 * part), nn.Linear(part, h)
        self.up, self.down = nn.Linear(h, 4 * part), nn.Linear(4 * part, h)

    def forward(self, x):
        batch, rows, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, rows, 3, a.heads // a.cut, -1).permute(2, 0, 3, 1, 4)
        y = (q @ k.transpose(-1, -2)).float().softmax(-1).to(q.dtype) @ v
        x = x + self.out(y.transpose(1, 2).reshape(batch, rows, -1))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Stage(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(a.vocab // a.cut, a.hidden) if a.vocab else None
        self.layers = nn.ModuleList(Layer() for _ in range(a.layers))

    def forward(self, x):
        x = self.words(x) if a.vocab else x
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False)
        return x


deepspeed.init_distributed()
torch.set_default_dtype(torch.bfloat16)
model = Stage()
torch.set_default_dtype(torch.float32)
engine, *_ = deepspeed.initialize(
    model=model,
    model_parameters=model.parameters(),
    config={
        "train_micro_batch_size_per_gpu": a.batch, "gradient_accumulation_steps": 2, "gradient_clipping": 1.0,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-4, "torch_adam": True}}, "bf16": {"enabled": True},
        "data_types": {"grad_accum_dtype": "fp32"} if a.stage == 1 else {}, "zero_optimization": {"stage": a.stage},
    },
)  # fmt: skip
for _ in range(2):
    made = dict(device=engine.device, dtype=torch.bfloat16, requires_grad=True)
    given = [torch.randint(a.vocab // a.cut, (a.batch, a.seq), device=engine.device) if a.vocab
             else torch.randn(a.batch, a.seq, a.hidden, **made) for _ in range(a.flying)]  # fmt: skip
    for out in [engine(x) for x in given]:  # so many micro-batches are in flight on a pipeline's first stage
        engine.backward(out.float().mean())
        engine.step()
print("trained", a.stage, torch.cuda.max_memory_allocated())
