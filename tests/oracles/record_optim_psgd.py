"""Records 50 steps of the authors' PSGD: XMat, LRA and Newton (a triangular Q).

    python tests/oracles/record_optim_psgd.py FOLDER

needs torch 2.13, opt_einsum and a checkout of github.com/lixilinx/psgd_torch (a8616f1); writes
data/optim_psgd.npz. float64; the loss is written out below and in the test. torch's random numbers
are replaced by recorded ones: the probes v, and the coins of LRA (true: U moves, false: V).
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import torch

N, STEPS, RANK, SCALE = 7, 50, 3, 0.4
RNG = np.random.default_rng(0)
BASIS = np.linalg.qr(RNG.normal(size=(N, N)))[0]
A = BASIS @ np.diag(np.geomspace(0.1, 20, N)) @ BASIS.T
X0 = np.linspace(-1, 1.5, N)
PROBES = RNG.normal(size=(STEPS, N))
COINS = RNG.random(STEPS)
UV = RNG.normal(size=(2, N, RANK)) / np.sqrt(N * (RANK + 10))


def loss_of(x):
    return x @ torch.tensor(A) @ x / 2 + 3 * torch.sum(torch.cos(x)) + torch.sum(x) ** 4 / 50


def trajectory(make):
    x = torch.tensor(X0, requires_grad=True)
    optimizer = make([x])
    points = []
    for t in range(STEPS):
        torch.randn_like = lambda like, t=t: torch.tensor(PROBES[t]).reshape(like.shape)
        # In turn: whether P is fitted (always), U and V balanced (never), U or V moved.
        numbers = iter([0.5, 0.99, COINS[t]])
        torch.rand = lambda shape, numbers=numbers: torch.tensor(next(numbers))
        optimizer.step(lambda: loss_of(x))
        points.append(x.detach().numpy().copy())
    return np.array(points)


def main():
    path = Path(sys.argv[1]) / "preconditioned_stochastic_gradient_descent.py"
    spec = spec_from_file_location("psgd", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)

    def options(normaliser, kind="Newton"):
        return dict(
            preconditioner_init_scale=SCALE, lr_params=0.1, momentum=0.8, lr_preconditioner=0.2,
            step_normalizer=normaliser, preconditioner_type=kind,
        )  # fmt: skip

    def lra(normaliser):
        def make(params):
            optimizer = module.LRA(params, RANK, **options(normaliser))
            optimizer._U, optimizer._V = (torch.tensor(part) for part in UV)
            return optimizer

        return make

    found = {
        "xmat_2nd": trajectory(lambda p: module.XMat(p, **options("2nd"))),
        "xmat_1st": trajectory(lambda p: module.XMat(p, **options("1st"))),
        "xmat_whiten": trajectory(lambda p: module.XMat(p, **options("2nd", "whitening"))),
        "lra_2nd": trajectory(lra("2nd")),
        "lra_1st": trajectory(lra("1st")),
        "dense_2nd": trajectory(
            lambda p: module.Newton(p, **options("2nd"), keep_invQ=False)
        ),
    }  # fmt: skip
    np.savez_compressed(
        Path(__file__).parent / "data" / "optim_psgd.npz",
        A=A, x0=X0, probes=PROBES, coins=COINS < 0.5, uv=UV,
        versions=f"torch {torch.__version__}, psgd_torch a8616f1", **found,
    )  # fmt: skip


if __name__ == "__main__":
    main()
