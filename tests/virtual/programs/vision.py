"""A ResNet-50 with synchronised batch norms, DDP, worker processes, a loss scale and top-5 accuracy."""

import os, time
import torch, torch.nn as nn, torch.nn.functional as F
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler


class Bottleneck(nn.Module):
    def __init__(self, i, w, s=1):
        super().__init__()
        o = w * 4
        self.c1 = nn.Conv2d(i, w, 1, bias=False)
        self.b1 = nn.BatchNorm2d(w)
        self.c2 = nn.Conv2d(w, w, 3, s, 1, bias=False)
        self.b2 = nn.BatchNorm2d(w)
        self.c3 = nn.Conv2d(w, o, 1, bias=False)
        self.b3 = nn.BatchNorm2d(o)
        self.down = nn.Sequential(nn.Conv2d(i, o, 1, s, bias=False), nn.BatchNorm2d(o)) if s != 1 or i != o else None
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.b1(self.c1(x)))
        y = self.relu(self.b2(self.c2(y)))
        y = self.b3(self.c3(y))
        y += x if self.down is None else self.down(x)
        return self.relu(y)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(True), nn.MaxPool2d(3, 2, 1)
        )
        layers = []
        i = 64
        for w, n, s in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for k in range(n):
                layers.append(Bottleneck(i, w, s if k == 0 else 1))
                i = w * 4
        self.layers = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(2048, 1000)

    def forward(self, x):
        return self.fc(torch.flatten(self.pool(self.layers(self.stem(x))), 1))


class Data(Dataset):
    def __len__(self):
        return 256

    def __getitem__(self, i):
        return torch.randn(3, 224, 224), i % 1000


def accuracy(out, target, topk=(1, 5)):
    with torch.no_grad():
        _, pred = out.topk(max(topk), 1, True, True)
        pred = pred.t()
        correct = pred.eq(target.view(1, -1).expand_as(pred))
        return [correct[:k].reshape(-1).float().sum(0, keepdim=True).mul_(100.0 / target.size(0)) for k in topk]


def main():
    dist.init_process_group("nccl")
    lr = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(lr)
    torch.backends.cudnn.benchmark = True
    model = nn.SyncBatchNorm.convert_sync_batchnorm(ResNet()).cuda(lr).to(memory_format=torch.channels_last)
    model = DDP(model, device_ids=[lr], gradient_as_bucket_view=True)
    opt = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
    ds = Data()
    sampler = DistributedSampler(ds)
    loader = DataLoader(
        ds, batch_size=8, sampler=sampler, num_workers=2, pin_memory=True, persistent_workers=True, prefetch_factor=2
    )
    scaler = torch.cuda.amp.GradScaler()
    crit = nn.CrossEntropyLoss(label_smoothing=0.1).cuda(lr)
    model.train()
    for i, (x, y) in enumerate(loader):
        x = x.cuda(lr, non_blocking=True).to(memory_format=torch.channels_last)
        y = y.cuda(lr, non_blocking=True)
        with torch.autocast("cuda", dtype=torch.float16):
            out = model(x)
            loss = crit(out, y)
        a1, a5 = accuracy(out, y)
        opt.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(opt)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(opt)
        scaler.update()
        print(i, loss.item(), a1.item())
        if i == 1:
            break
    model.eval()
    with torch.inference_mode():
        out = model(torch.randn(4, 3, 224, 224, device="cuda"))
        print(out.argmax(1).tolist())
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
