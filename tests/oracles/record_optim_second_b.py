"""Records the authors' own M-FAC code, and exact Ornstein-Uhlenbeck samples of thermox.

    python tests/oracles/record_optim_second_b.py mfac PATH/TO/optim.py
    python tests/oracles/record_optim_second_b.py thermox

The first needs torch and a file of the repository IST-DASLab/M-FAC (commit 8116367), the second
needs thermox 0.0.6. float64; writes data/optim_second_b_*.npz. The gradients are written out in
NumPy here and in JAX in the tests, so that both sides see the same ones.
"""

import importlib.util
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data"


def load(path):
    spec = importlib.util.spec_from_file_location("peer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def noisy(x, t):
    """Gradient of Σ c_i (x_i − 1)² / 2 with a disturbance that differs from step to step."""
    i = np.arange(x.size)
    return np.geomspace(0.1, 10, x.size) * (x - 1) + np.sin(1.7 * t + i**2)


def record_mfac(path):
    """50 steps of the reference, with a window that wraps round six times."""
    import torch

    def no_pivot_lu(matrix, pivot):
        """What torch has on GPUs alone."""
        assert not pivot
        a = matrix.clone()
        for k in range(len(a)):
            a[k + 1 :, k] /= a[k, k]
            a[k + 1 :, k + 1 :] -= torch.outer(a[k + 1 :, k], a[k, k + 1 :])
        return (a,)

    torch.lu = no_pivot_lu
    torch.nn.parallel.parallel_apply = lambda functions, inputs: [
        f(*(x if isinstance(x, tuple) else (x,))) for f, x in zip(functions, inputs, strict=True)
    ]
    peer = load(path)
    x0 = np.linspace(-2, 3, 20)
    data = {"x0": x0, "versions": np.array([f"torch {version('torch')}", "M-FAC 8116367"])}
    for name, options in {
        "plain": dict(lr=0.05, damp=1e-2),
        "all": dict(lr=0.1, damp=0.1, momentum=0.9, weight_decay=0.01),
    }.items():
        w = torch.tensor(x0, requires_grad=True)
        cpu = torch.device("cpu")
        optimizer = peer.MFAC([w], ngrads=8, moddev=cpu, optdev=cpu, **options)
        window = torch.zeros((8, 20), dtype=torch.float64)
        optimizer.hinv = peer.HInvFastUpMulti(window, cpu, [cpu], damp=options["damp"])
        if "momentum" in options:
            optimizer.v = optimizer.v.double()
        points = []
        for t in range(50):
            w.grad = torch.tensor(noisy(w.detach().numpy(), t))
            optimizer.step()
            points.append(w.detach().numpy().copy())
        data[name] = np.array(points)
    np.savez_compressed(DATA / "optim_second_b_mfac.npz", **data)


def record_thermox():
    """Mean and covariance at one time over 20000 exact samples."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import thermox

    rng = np.random.default_rng(2)
    root = rng.normal(size=(4, 4))
    A = root @ root.T / 4 + 0.3 * np.eye(4)
    b, x0, time, beta = rng.normal(size=4), rng.normal(size=4), 0.8, 2.0

    def end(key):
        # thermox writes the drift as −A (x − b), so its b is A⁻¹ b.
        diffusion = 2 / beta * np.eye(4)
        rest = np.linalg.solve(A, b)
        return thermox.sample(key, *map(jax.numpy.asarray, ([0, time], x0, A, rest, diffusion)))[-1]

    samples = np.asarray(jax.lax.map(end, jax.random.split(jax.random.key(0), 20_000)))
    np.savez_compressed(
        DATA / "optim_second_b_thermox.npz",
        A=A,
        b=b,
        x0=x0,
        time=time,
        beta=beta,
        mean=samples.mean(0),
        covariance=np.cov(samples.T),
        versions=np.array([f"thermox {version('thermox')}"]),
    )


if __name__ == "__main__":
    {"mfac": record_mfac, "thermox": record_thermox}[sys.argv[1]](*sys.argv[2:])
