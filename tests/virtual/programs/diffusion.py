"""One training step of a diffusion transformer of diffusers."""

import torch
from diffusers import DDPMScheduler, DiTTransformer2DModel

model = DiTTransformer2DModel(num_attention_heads=12, attention_head_dim=64, num_layers=4, sample_size=32).to("cuda")
scheduler = DDPMScheduler(num_train_timesteps=1000)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
for step in range(2):
    latents, noise = torch.randn(8, 4, 32, 32, device="cuda"), torch.randn(8, 4, 32, 32, device="cuda")
    times = torch.randint(1000, (8,), device="cuda")
    noisy = scheduler.add_noise(latents, noise, times)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        out = model(noisy, timestep=times, class_labels=torch.randint(1000, (8,), device="cuda")).sample
        loss = torch.nn.functional.mse_loss(out[:, :4].float(), noise)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(step, loss.item(), flush=True)
