"""Records DeepXDE's DeepONet and MIONet, and the modified MLP in PyTorch, with random weights.

    DDE_BACKEND=pytorch python tests/oracles/record_deeponet.py

needs torch and deepxde; writes data/deeponet.npz. float64; weights are (out, in), as PyTorch's.
"""

from importlib.metadata import version
from pathlib import Path

import deepxde as dde
import numpy as np
import torch

FUNCTIONS, SENSORS, POINTS, DIM, P, WIDTH = 3, 7, 5, 2, 4, 6


def weights(name, network):
    """The affine maps of a DeepXDE FNN."""
    return {
        f"{name}_{i}_{part}": getattr(layer, part).detach().numpy()
        for i, layer in enumerate(network.linears)
        for part in ("weight", "bias")
    }


def main():
    dde.config.set_default_float("float64")
    torch.manual_seed(0)
    u, w = torch.randn(FUNCTIONS, SENSORS), torch.randn(FUNCTIONS, 3)
    y = torch.randn(POINTS, DIM)
    saved = {"u": u, "w": w, "y": y}
    sizes = [SENSORS, WIDTH, WIDTH]
    one = dde.nn.DeepONetCartesianProd([*sizes, P], [DIM, WIDTH, P], "tanh", "Glorot normal")
    # DeepXDE applies the activation to the trunk's last layer as well.
    two = dde.nn.DeepONetCartesianProd(
        [*sizes, 2 * P],
        [DIM, WIDTH, P],
        "tanh",
        "Glorot normal",
        num_outputs=2,
        multi_output_strategy="split_branch",
    )
    mio = dde.nn.MIONetCartesianProd(
        [*sizes, P], [3, WIDTH, P], [DIM, WIDTH, P], "tanh", "Glorot normal"
    )
    with torch.no_grad():
        one.b[0].fill_(0.3)
        mio.b.fill_(-0.2)
        for b, value in zip(two.b, (0.1, -0.4), strict=True):
            b.fill_(value)
        saved |= {"one": one((u, y)), "two": two((u, y)), "mio": mio((u, w, y))}
    named = {
        "one_branch": one.branch,
        "one_trunk": one.trunk,
        "two_branch": two.branch,
        "two_trunk": two.trunk,
        "mio_branch1": mio.branch1,
        "mio_branch2": mio.branch2,
        "mio_trunk": mio.trunk,
    }

    # The modified MLP: two encoders, a first layer with a frequency, two blended layers, a head.
    layers = [torch.nn.Linear(a, b) for a, b in [(DIM, WIDTH)] * 3 + [(WIDTH, WIDTH)] * 2]
    layers.append(torch.nn.Linear(WIDTH, P))
    with torch.no_grad():
        gate_u, gate_v = torch.sin(layers[0](y)), torch.sin(layers[1](y))
        h = torch.sin(30 * layers[2](y))
        for layer in layers[3:5]:
            h = torch.sin(layer(h))
            h = torch.lerp(gate_v, gate_u, h)
        saved["mlp"] = layers[5](h)
    maps = {
        f"mlp_{i}_{part}": getattr(layer, part).detach().numpy()
        for i, layer in enumerate(layers)
        for part in ("weight", "bias")
    }
    np.savez(
        Path(__file__).parent / "data" / "deeponet.npz",
        versions=[f"deepxde {version('deepxde')}", f"torch {version('torch')}"],
        **{name: value.numpy() for name, value in saved.items()},
        **{key: v for name, net in named.items() for key, v in weights(name, net).items()},
        **maps,
    )


if __name__ == "__main__":
    main()
