"""An encoder-decoder by PyTorch's own layers under its profiler, and what else users call: RNNs, CTC, bags, SVD..."""

import math
import sys

import torch, torch.nn as nn
from torch.profiler import profile, record_function, ProfilerActivity, schedule, tensorboard_trace_handler

path = sys.argv[1] + "/model.pt"
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.manual_seed(0)
torch.cuda.manual_seed_all(0)
torch.set_float32_matmul_precision("high")
model = nn.Transformer(256, 8, 2, 2, 1024, dropout=0.1, batch_first=True).to(device)
emb = nn.Embedding(1000, 256, padding_idx=0).to(device)
head = nn.Linear(256, 1000).to(device)
params = list(model.parameters()) + list(emb.parameters()) + list(head.parameters())
opt = torch.optim.Adam(params, lr=1e-3, betas=(0.9, 0.98))
sched = torch.optim.lr_scheduler.LambdaLR(opt, lambda s: min((s + 1) ** -0.5, (s + 1) * 4000**-1.5))
ema = torch.optim.swa_utils.AveragedModel(model)


@torch.compile
def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
with profile(
    activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA],
    schedule=schedule(wait=1, warmup=1, active=1),
    record_shapes=True,
    profile_memory=True,
) as prof:
    for step in range(3):
        src = torch.randint(1, 1000, (8, 32), device=device)
        tgt = torch.randint(1, 1000, (8, 33), device=device)
        mask = nn.Transformer.generate_square_subsequent_mask(32, device=device)
        pad = src.eq(0)
        start.record()
        with record_function("forward"):
            out = head(
                gelu(
                    model(
                        emb(src),
                        emb(tgt[:, :-1]),
                        tgt_mask=mask,
                        src_key_padding_mask=pad,
                        memory_key_padding_mask=pad,
                        tgt_is_causal=True,
                    )
                )
            )
        loss = nn.functional.cross_entropy(out.reshape(-1, 1000), tgt[:, 1:].reshape(-1), ignore_index=0)
        loss.backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        sched.step()
        opt.zero_grad()
        ema.update_parameters(model)
        end.record()
        torch.cuda.synchronize()
        print(f"step {step}: loss {loss.item():.4f}, {start.elapsed_time(end):.2f} ms", f"{torch.cuda.max_memory_allocated() / 2**20:.0f} MiB")
        prof.step()
print(prof.key_averages().table(sort_by="self_cpu_time_total", row_limit=3)[:200])
model.eval()
with torch.no_grad():
    ys = torch.ones(1, 1, dtype=torch.long, device=device)
    mem = model.encoder(emb(src[:1]))
    for _ in range(3):
        o = head(model.decoder(emb(ys), mem))
        ys = torch.cat([ys, o[:, -1].argmax(-1, keepdim=True)], 1)
print(ys.shape, torch.cuda.memory_summary()[:40], torch.cuda.get_device_properties(0).name)
torch.save(model.state_dict(), path)
model.load_state_dict(torch.load(path, map_location=device))
rnn = nn.LSTM(64, 128, 2, batch_first=True, bidirectional=True).cuda()
y, _ = rnn(torch.randn(4, 50, 64, device="cuda"))
y.sum().backward()
gru = nn.GRU(64, 128).cuda()
gru(torch.randn(10, 4, 64).cuda())[0].sum().backward()
lp = torch.randn(50, 4, 20, device="cuda").log_softmax(2).requires_grad_()
c = nn.functional.ctc_loss(lp, torch.randint(1, 20, (4, 10), device="cuda"), torch.full((4,), 50), torch.full((4,), 10))
c.backward()
bag = nn.EmbeddingBag(1000, 16, mode="sum").cuda()
bag(torch.randint(1000, (20,), device="cuda"), torch.tensor([0, 5, 10], device="cuda")).sum().backward()
img = torch.randn(2, 8, 16, 16, device="cuda", requires_grad=True)
nn.functional.interpolate(img, scale_factor=2, mode="bilinear").sum().backward()
nn.functional.grid_sample(img, torch.zeros(2, 4, 4, 2, device="cuda")).sum().backward()
nn.functional.conv_transpose2d(img, torch.randn(8, 4, 3, 3, device="cuda")).sum().backward()
nn.functional.max_pool2d(img, 2, return_indices=True)[0].sum().backward()
a = torch.randn(16, 16, device="cuda")
print(
    torch.linalg.svd(a)[1].shape,
    torch.linalg.qr(a)[0].shape,
    torch.linalg.inv(a).shape,
    torch.fft.rfft(a).shape,
    torch.linalg.eigh(a @ a.T)[0].shape,
)
print(
    torch.unique(torch.tensor([3, 1, 3], device="cuda")),
    torch.histc(a, 4).shape,
    torch.bincount(torch.tensor([1, 1, 2], device="cuda")),
    torch.cumsum(a, 0).shape,
    torch.einsum("ij,jk->ik", a, a).shape,
    a.quantile(0.5).shape,
    a.median().shape,
    a.std(),
    torch.searchsorted(torch.arange(5, device="cuda"), torch.tensor([3], device="cuda")),
    torch.multinomial(a.softmax(-1), 2).shape,
)
