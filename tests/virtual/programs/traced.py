"""Two programs whose traces were published: AlexNet's forward pass, and ResNet-50 under DDP, in PyTorch's default layout."""

import os
import sys

import torch
import torch.distributed as dist
import torch.nn as nn
from torch.nn.parallel import DistributedDataParallel as DDP
from vision import ResNet


class AlexNet(nn.Module):
    def __init__(self):
        super().__init__()
        layers = []
        for i, o, k, s, p in ((3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1),
                              (256, 256, 3, 1, 1)):  # fmt: skip
            layers += [nn.Conv2d(i, o, k, s, p), nn.ReLU(inplace=True)]
            if o in (64, 192) or (i, o) == (256, 256):
                layers.append(nn.MaxPool2d(3, 2))
        self.features, self.pool = nn.Sequential(*layers), nn.AdaptiveAvgPool2d((6, 6))
        self.head = nn.Sequential(
            nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU(inplace=True),
            nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Linear(4096, 1000),
        )  # fmt: skip

    def forward(self, x):
        return self.head(torch.flatten(self.pool(self.features(x)), 1))


if sys.argv[1] == "alexnet":
    net, x = AlexNet().to("cuda"), torch.rand(128, 3, 224, 224).to("cuda")
    net(x)
    raise SystemExit
dist.init_process_group("nccl")
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
model = DDP(ResNet().cuda(), device_ids=[int(os.environ["LOCAL_RANK"])])
optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
loss = nn.CrossEntropyLoss().cuda()
x, y = torch.randn(32, 3, 224, 224, device="cuda"), torch.randint(0, 1000, (32,), device="cuda")
for _ in range(2):
    optimizer.zero_grad()
    loss(model(x), y).backward()
    optimizer.step()
dist.destroy_process_group()
