"""Records CORAL's encoder in PyTorch: codes, and gradients through the steps, by autograd.

    python tests/oracles/record_coral.py

needs torch; writes data/coral.npz. float64; weights are (out, in), as PyTorch's.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

POINTS, WIDTH, LATENT, STEPS, RATE, OMEGA = 9, 6, 4, 3, 0.3, 3.0


def main():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    shapes = {"w0": (WIDTH, 2), "w1": (WIDTH, WIDTH), "w2": (1, WIDTH)}
    w = {name: torch.randn(shape) / shape[1] for name, shape in shapes.items()}
    w |= {"b0": torch.randn(WIDTH), "b1": torch.randn(WIDTH), "b2": torch.randn(1)}
    w["m"] = torch.randn(2 * WIDTH, LATENT) / LATENT
    for value in w.values():
        value.requires_grad_()
    x, u = 2 * torch.rand(POINTS, 2) - 1, torch.randn(POINTS, 1)

    def field(z):
        shift0, shift1 = torch.nn.functional.linear(z, w["m"]).split(WIDTH)
        h = torch.sin(OMEGA * (torch.nn.functional.linear(x, w["w0"], w["b0"]) + shift0))
        h = torch.sin(OMEGA * (torch.nn.functional.linear(h, w["w1"], w["b1"]) + shift1))
        return torch.nn.functional.linear(h, w["w2"], w["b2"])

    def mean_square(z):
        return torch.nn.functional.mse_loss(field(z), u)

    saved = {}
    for name, second_order in (("second", True), ("first", False)):
        z = torch.zeros(LATENT, requires_grad=True)
        for _ in range(STEPS):
            (slope,) = torch.autograd.grad(mean_square(z), z, create_graph=second_order)
            z = z - RATE * (slope if second_order else slope.detach())
        loss = mean_square(z)
        gradients = torch.autograd.grad(loss, list(w.values()))
        saved["code"], saved["loss"] = z.detach(), loss.detach()
        saved |= {f"{name}_{key}": g for key, g in zip(w, gradients, strict=True)}
    np.savez(
        Path(__file__).parent / "data" / "coral.npz",
        versions=[f"torch {version('torch')}"],
        x=x.numpy(),
        u=u.numpy(),
        **{name: value.detach().numpy() for name, value in w.items()},
        **{name: value.numpy() for name, value in saved.items()},
    )


if __name__ == "__main__":
    main()
