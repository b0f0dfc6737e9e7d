"""Records diffusers' denoising diffusion scheduler with PDE-Refiner's betas.

    python tests/oracles/record_diffusers.py

needs torch and diffusers; writes data/diffusers.npz. The network is v = A x + sin(t) y with x the
previous field and y the noisy one, float64; its noise is drawn first and fed in.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.schedulers import scheduling_ddpm

POINTS = 12


def chain(steps, min_noise, seed, perfect=False):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(POINTS, POINTS)) / np.sqrt(POINTS)
    u = rng.normal(size=(1, POINTS))
    noise = rng.normal(size=(steps + 1, 1, POINTS))
    betas = [min_noise ** ((steps - t) / steps) for t in range(steps + 1)]
    scheduler = DDPMScheduler(
        num_train_timesteps=steps + 1,
        trained_betas=np.array(betas),
        prediction_type="v_prediction",
        clip_sample=False,
    )
    single = scheduler.alphas_cumprod.numpy()
    # Its tables are float32, in which 1 - 4e-7 loses a twentieth of the 4e-7: the same in float64.
    scheduler.betas = torch.tensor(betas, dtype=torch.float64)
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, 0)
    scheduler.one = torch.tensor(1.0, dtype=torch.float64)
    queue = [torch.tensor(z)[None] for z in noise[1:]]
    # The scheduler draws its noise through this function.
    scheduling_ddpm.randn_tensor = lambda shape, **options: queue.pop(0)
    y = torch.tensor(noise[0])[None]
    frames = []
    for t in scheduler.timesteps:
        v = torch.tensor(u @ matrix.T) + np.sin(int(t)) * y
        y = scheduler.step(v, int(t), y).prev_sample
        frames.append(y.numpy()[0])
    return {
        "matrix": matrix,
        "u": u,
        "noise": noise,
        "betas": scheduler.betas.numpy(),
        "alphas_cumprod": scheduler.alphas_cumprod.numpy(),
        "alphas_cumprod_single": single,
        "frames": np.stack(frames),
    }


def main():
    arrays = {}
    for name, (steps, min_noise) in {"three": (3, 4e-7), "two": (2, 1e-3)}.items():
        for key, value in chain(steps, min_noise, steps).items():
            arrays[f"{name}_{key}"] = value
    np.savez(
        Path(__file__).parent / "data" / "diffusers.npz",
        versions=[f"diffusers {version('diffusers')}", f"torch {version('torch')}"],
        **arrays,
    )


if __name__ == "__main__":
    main()
