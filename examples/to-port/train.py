"""Train a small model; an example of code that was written for CUDA."""

import os

import torch
from model import Model

os.environ.setdefault("NCCL_DEBUG", "WARN")


def main():
    torch.distributed.init_process_group("nccl")
    device = torch.device("cuda")
    model = torch.compile(Model(256).to(device))
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(10):
        loss = model(torch.randn(8, 128, 256).cuda()).square().mean()
        loss.backward()
        optimizer.step()
    if torch.cuda.get_device_capability()[0] >= 9:
        print("Hopper or later")
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
