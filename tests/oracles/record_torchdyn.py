"""Records torchdyn's hypersolvers on a pendulum, with a network of fixed weights.

    python tests/oracles/record_torchdyn.py

needs torch and torchdyn; writes data/torchdyn.npz. g(t, x) = V tanh(W (t, x) + b), float64; steps
of 0.2 from 0 to 2, with the base methods alone and corrected.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torchdyn.numerics.solvers.hyper import HyperEuler, HyperMidpoint

STEP, STEPS = 0.2, 10


def main():
    rng = np.random.default_rng(0)
    weights = {"W": rng.normal(size=(8, 3)), "b": rng.normal(size=8), "V": rng.normal(size=(2, 8))}
    W, b, V = (torch.tensor(a) for a in weights.values())

    def field(t, x):
        return torch.stack([x[..., 1], -9.81 * torch.sin(x[..., 0]) - 0.1 * t * x[..., 1]], -1)

    def hypernet(t, x):
        joint = torch.cat([t.expand((*x.shape[:-1], 1)), x], -1)
        return torch.tanh(joint @ W.T + b) @ V.T

    def nothing(t, x):
        return torch.zeros_like(x)

    start = torch.tensor(rng.normal(size=(3, 2)))
    out = {f"weights/{name}": a for name, a in weights.items()} | {"start": start.numpy()}
    # Not its method of order four, which misplaces the times of its stages (1.0.6).
    for name, solver in {"Euler": HyperEuler, "Midpoint": HyperMidpoint}.items():
        for kind, net in (("corrected", hypernet), ("plain", nothing)):
            method, x, path = solver(net, torch.float64), start, [start]
            for k in range(STEPS):
                t, dt = (
                    torch.tensor(STEP * k, dtype=torch.float64),
                    torch.tensor(STEP, dtype=torch.float64),
                )
                x = method.step(field, x, t, dt)[1]
                path.append(x)
            out[f"{name}/{kind}"] = torch.stack(path).numpy()
    versions = [f"{name} {version(name)}" for name in ("torch", "torchdyn")]
    np.savez(Path(__file__).parent / "data" / "torchdyn.npz", versions=versions, **out)


if __name__ == "__main__":
    main()
