"""Records CAPE's attention block as PyTorch operations with random weights.

    python tests/oracles/record_cape.py

needs torch; writes data/cape.npz. One-dimensional, periodic, float64; layouts are PyTorch's.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as fn

POINTS, CHANNELS, OUT, WIDTH, KERNEL, MODES, PARAMETERS = 32, 2, 2, 6, 5, 3, 2


def circular(x, weight, bias, groups=1):
    pad = weight.shape[-1] // 2
    return fn.conv1d(fn.pad(x, (pad, pad), mode="circular"), weight, bias, groups=groups)


def main():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    half = WIDTH // 2
    w = {
        "enter": torch.randn(half, CHANNELS, KERNEL),
        "enter_bias": torch.randn(half),
        "spectral": torch.randn(half, WIDTH, MODES, dtype=torch.complex128),
        "pointwise": torch.randn(WIDTH, half, 1),
        "pointwise_bias": torch.randn(WIDTH),
        "depthwise": torch.randn(WIDTH, 1, KERNEL),
        "depthwise_bias": torch.randn(WIDTH),
        "skip": torch.randn(WIDTH, half, 1),
        "skip_bias": torch.randn(WIDTH),
        "leave": torch.randn(OUT, WIDTH, 1),
        "leave_bias": torch.randn(OUT),
    }
    for i in range(3):
        w[f"gate_{i}_1"] = torch.randn(half, PARAMETERS)
        w[f"gate_{i}_1_bias"] = torch.randn(half)
        w[f"gate_{i}_2"] = torch.randn(WIDTH, half)
        w[f"gate_{i}_2_bias"] = torch.randn(WIDTH)
    x, theta = torch.randn(1, CHANNELS, POINTS), torch.rand(1, PARAMETERS)

    def gelu(v):
        return fn.gelu(v, approximate="tanh")

    def gate(i):
        hidden = gelu(fn.linear(theta, w[f"gate_{i}_1"], w[f"gate_{i}_1_bias"]))
        return fn.linear(hidden, w[f"gate_{i}_2"], w[f"gate_{i}_2_bias"])[:, :, None]

    h = gelu(circular(x, w["enter"], w["enter_bias"]))
    pooled = fn.avg_pool1d(h, 4)
    coef = torch.fft.rfft(pooled)
    new = torch.zeros(1, WIDTH, POINTS // 8 + 1, dtype=torch.complex128)
    new[:, :, :MODES] = torch.einsum("bix,iox->box", coef[:, :, :MODES], w["spectral"])
    spectral = fn.interpolate(torch.fft.irfft(new, n=POINTS // 4), scale_factor=4, mode="nearest")
    pointwise = fn.conv1d(h, w["pointwise"], w["pointwise_bias"])
    depthwise = circular(h, w["depthwise"], w["depthwise_bias"], groups=half)
    mixed = gate(0) * spectral + gate(1) * pointwise + gate(2) * depthwise
    mixed = gelu(mixed + fn.conv1d(h, w["skip"], w["skip_bias"]))
    out = fn.conv1d(mixed, w["leave"], w["leave_bias"])
    np.savez(
        Path(__file__).parent / "data" / "cape.npz",
        versions=[f"torch {version('torch')}"],
        x=x[0].numpy(),
        theta=theta[0].numpy(),
        attention=out[0].numpy(),
        # The paper's block in one dimension: a layer norm over channels and grid, added.
        guess=(x + fn.layer_norm(out, out.shape[1:]))[0].numpy(),
        **{name: value.numpy() for name, value in w.items()},
    )


if __name__ == "__main__":
    main()
