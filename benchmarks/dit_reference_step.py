"""Time the training step of facebookresearch/DiT, in a Python that has torch, torchvision and timm.

    python dit_reference_step.py CHECKOUT NETWORK BATCH STEPS float32|bfloat16

Prints one line of JSON. Imports nothing of Patina. The step is what the checkout's train.py does: its own diffusion
loss, AdamW, and the average of weights; under torch.compile where that works.
"""

import copy
import json
import sys
import time
from pathlib import Path

import torch
from dit_reference import import_models


def main() -> None:
    _, checkout, name, batch, steps, compute = sys.argv
    models = import_models(Path(checkout))
    from diffusion import create_diffusion

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size, patch = name.removeprefix("dit-").split("/")
    model = models.DiT_models[f"DiT-{size.upper()}/{patch}"](input_size=32, num_classes=1000).to(device)
    average, diffusion = copy.deepcopy(model), create_diffusion(timestep_respacing="")
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0)
    x = torch.randn(int(batch), 4, 32, 32, device=device)
    y = torch.randint(0, 1000, (int(batch),), device=device)

    def step(network: torch.nn.Module) -> None:
        t = torch.randint(0, diffusion.num_timesteps, (int(batch),), device=device)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=compute == "bfloat16"):
            loss = diffusion.training_losses(network, x, t, {"y": y})["loss"].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            for a, b in zip(average.parameters(), model.parameters(), strict=True):
                a.mul_(0.9999).add_(b, alpha=1e-4)

    def wait() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    network, mode, began = torch.compile(model), "torch.compile", wait()
    try:
        step(network)
    except Exception as error:  # no compiler on the machine: say so and go on without
        network, mode = model, f"eager ({type(error).__name__} under torch.compile)"
        step(network)
    compiled = wait() - began
    step(network)
    times = []
    for _ in range(int(steps)):
        began = wait()
        step(network)
        times.append(wait() - began)
    median = sorted(times)[len(times) // 2]
    print(json.dumps({"seconds": median, "compile_seconds": compiled, "mode": mode, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
