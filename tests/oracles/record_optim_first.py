"""Records AdamW, Gravity, Adafactor, warm restarts and weight averages of other libraries.

    python tests/oracles/record_optim_first.py

needs torch and pytorch-optimizer; writes data/optim_first.npz. float64 (Adafactor: float32); the
gradients are written out in NumPy below and in the tests, so that both sides see the same ones.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from pytorch_optimizer import AdaFactor, Gravity


def quadratic(x):
    """Gradient of Σ c_i (x_i − 1)² / 2 with curvatures from 0.1 to 10, and a ripple."""
    c = np.geomspace(0.1, 10, x.size).reshape(x.shape)
    return c * (x - 1) + 0.3 * np.sin(5 * x)


def run(make, start, steps=50, dtype=torch.float64, prepare=lambda optimizer, w: None):
    w = torch.tensor(start, dtype=dtype, requires_grad=True)
    optimizer = make([w])
    prepare(optimizer, w)
    points = []
    for _ in range(steps):
        w.grad = torch.tensor(quadratic(w.detach().numpy()), dtype=dtype)
        optimizer.step()
        points.append(w.detach().numpy().copy())
    return np.array(points)


def gravity(start):
    """Its random first velocity, and the points that follow from it."""
    velocity = []

    def remember(optimizer, w):
        w.grad = torch.zeros_like(w)
        optimizer.init_group(optimizer.param_groups[0])
        velocity.append(optimizer.state[w]["v"].detach().numpy().copy())

    torch.manual_seed(0)
    points = run(lambda p: Gravity(p, lr=0.1, foreach=False), start, prepare=remember)
    return velocity[0], points


def average(points, rho):
    """`torch.optim.swa_utils.AveragedModel` moved through given weights."""
    swa = torch.optim.swa_utils
    model = torch.nn.ParameterDict({"w": torch.nn.Parameter(torch.tensor(points[0]))})
    averaged = swa.AveragedModel(model, multi_avg_fn=swa.get_ema_multi_avg_fn(rho))
    averaged.update_parameters(model)  # its first call copies
    out = []
    for point in points[1:]:
        with torch.no_grad():
            model["w"].copy_(torch.tensor(point))
        averaged.update_parameters(model)
        out.append(averaged.module["w"].detach().numpy().copy())
    return np.array(out)


def warm_restarts(T_mult, steps=1300):
    """Rates of `CosineAnnealingWarmRestarts`, stepped one by one."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts
    scheduler = schedule(optimizer, T_0=5, T_mult=T_mult, eta_min=1e-3)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return np.array(rates)


def main():
    x0 = np.linspace(-2, 3, 6)
    w0 = np.cos(np.arange(12.0)).reshape(3, 4)
    velocity, points = gravity(x0)
    path = np.cumsum(np.random.default_rng(0).normal(size=(31, 4)), 0)
    adafactor = dict(scale_parameter=True, relative_step=True, warmup_init=False, foreach=False)
    data = {
        "adamw": run(
            lambda p: torch.optim.AdamW(p, lr=0.05, betas=(0.0, 0.99), weight_decay=0.1), x0
        ),
        "gravity": points,
        "gravity_velocity": velocity,
        "adafactor": run(
            lambda p: AdaFactor(p, betas=(None, 0.999999), **adafactor), w0, 30, torch.float32
        ),
        "adafactor_torch": run(
            lambda p: torch.optim.Adafactor(p, lr=1e-2, foreach=False), w0, 30, torch.float32
        ),
        "sgdr": np.stack([warm_restarts(T_mult) for T_mult in (1, 2, 3)]),
        "ema_points": path,
        "ema": average(path, 0.9),
        "x0": x0,
        "w0": w0,
        "versions": np.array(
            [f"{name} {version(name)}" for name in ("torch", "pytorch-optimizer")]
        ),
    }
    np.savez_compressed(Path(__file__).parent / "data" / "optim_first.npz", **data)


if __name__ == "__main__":
    main()
