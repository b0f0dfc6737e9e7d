"""Records 50 steps of the reference implementations of AdaBound, AMSBound, DiffGrad, AdamP, SGDP.

    python tests/oracles/record_optim.py

needs torch, torch-optimizer 0.3.0 and adamp 0.3.0; writes data/optim.npz. float64; the gradients
are written out in NumPy below and in the test, so that both sides see the same ones.
"""

import importlib.util
import sys
import types
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from adamp import SGDP, AdamP


def submodule(name):
    """A file of torch_optimizer without its package, whose import needs further packages."""
    if "torch_optimizer" not in sys.modules:
        folder = Path(importlib.util.find_spec("torch_optimizer").submodule_search_locations[0])
        package = types.ModuleType("torch_optimizer")
        package.__path__ = [str(folder)]
        sys.modules["torch_optimizer"] = package
    return importlib.import_module(f"torch_optimizer.{name}")


def quadratic(x):
    """Gradient of Σ c_i (x_i − 1)² / 2 with curvatures from 0.1 to 10, and a ripple."""
    return np.geomspace(0.1, 10, x.size) * (x - 1) + 0.3 * np.sin(5 * x)


TARGET = np.linspace(-1, 2, 12).reshape(3, 4)


def invariant(w):
    """Gradient of −Σ_rows cos(w_row, target_row): orthogonal to each row."""
    norm = np.linalg.norm(w, axis=1, keepdims=True)
    unit = w / norm
    target = TARGET / np.linalg.norm(TARGET, axis=1, keepdims=True)
    return -(target - unit * np.sum(unit * target, 1, keepdims=True)) / norm


def run(make, gradient, start):
    w = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = make([w])
    points = []
    for _ in range(50):
        w.grad = torch.tensor(gradient(w.detach().numpy()))
        optimizer.step()
        points.append(w.detach().numpy().copy())
    return np.array(points)


def main():
    AdaBound, DiffGrad = submodule("adabound").AdaBound, submodule("diffgrad").DiffGrad
    x0 = np.linspace(-2, 3, 6)
    w0 = np.cos(np.arange(12.0)).reshape(3, 4)
    momentum = dict(lr=0.05, momentum=0.9, weight_decay=0.01)
    bound = dict(lr=0.05, final_lr=0.3, gamma=0.05)
    data = {
        "adabound": run(lambda p: AdaBound(p, **bound), quadratic, x0),
        "amsbound": run(lambda p: AdaBound(p, amsbound=True, **bound), quadratic, x0),
        "diffgrad": run(lambda p: DiffGrad(p, lr=0.05), quadratic, x0),
        "diffgrad_tiny_eps": run(lambda p: DiffGrad(p, lr=0.05, eps=1e-30), quadratic, x0),
        "adamp": run(lambda p: AdamP(p, lr=0.05, weight_decay=0.1), invariant, w0),
        "adamp_quadratic": run(
            lambda p: AdamP(p, lr=0.05, weight_decay=0.1), lambda w: w - TARGET, w0
        ),
        "sgdp": run(lambda p: SGDP(p, nesterov=True, **momentum), invariant, w0),
        "sgdp_aliased": run(lambda p: SGDP(p, **momentum), invariant, w0),
        "x0": x0,
        "w0": w0,
        "versions": np.array(
            [f"{name} {version(name)}" for name in ("torch", "torch-optimizer", "adamp")]
        ),
    }
    np.savez_compressed(Path(__file__).parent / "data" / "optim.npz", **data)


if __name__ == "__main__":
    main()
