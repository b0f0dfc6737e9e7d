"""Records forward passes of two U-Nets written in plain `torch.nn`, with their weights.

`classic`: double convolutions, group normalisation, max-pooling, transposed convolutions, zero
padding. `gated`: nearest upsampling, additive attention gates with 3x3 kernels, and per-axis
padding (a mirror on the first axis, periodic on the second). Both are restated here from the papers
(arXiv 1505.04597, 1804.03999) and share no code with `jaxsci`.

Run `python tests/oracles/record_unet.py` in an environment with torch and numpy; it writes
`data/unet.npz` next to this file.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

WIDTHS = (4, 6, 8)
C_IN, C_OUT, GRID = 2, 3, (12, 8)


class PaddedConv(nn.Module):
    """A 3x3 convolution whose two axes are padded by different rules."""

    def __init__(self, c_in, c_out, modes):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3)
        self.modes = modes

    def forward(self, x):
        rows, columns = self.modes
        x = F.pad(x, (1, 1, 0, 0), mode=columns)
        return self.conv(F.pad(x, (0, 0, 1, 1), mode=rows))


def norm(c):
    return nn.GroupNorm(math.gcd(c, 8), c)


class Double(nn.Module):
    def __init__(self, c_in, c_out, modes):
        super().__init__()
        self.conv1, self.norm1 = PaddedConv(c_in, c_out, modes), norm(c_out)
        self.conv2, self.norm2 = PaddedConv(c_out, c_out, modes), norm(c_out)

    def forward(self, x):
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class Gate(nn.Module):
    def __init__(self, c_x, c_g, modes):
        super().__init__()
        c_mid = c_x // 2
        self.wx, self.nx = PaddedConv(c_x, c_mid, modes), norm(c_mid)
        self.wg, self.ng = PaddedConv(c_g, c_mid, modes), norm(c_mid)
        self.psi, self.np = PaddedConv(c_mid, 1, modes), norm(1)

    def forward(self, x, g):
        joint = F.relu(self.nx(self.wx(x)) + self.ng(self.wg(g)))
        return x * torch.sigmoid(self.np(self.psi(joint)))


class TorchUNet(nn.Module):
    def __init__(self, modes, gated):
        super().__init__()
        self.gated = gated
        self.down = nn.ModuleList(
            Double(a, b, modes) for a, b in zip((C_IN, *WIDTHS), WIDTHS, strict=False)
        )
        fine = list(reversed(list(zip(WIDTHS[1:], WIDTHS, strict=False))))
        self.up = nn.ModuleList(
            PaddedConv(a, b, modes) if gated else nn.ConvTranspose2d(a, b, 2, 2) for a, b in fine
        )
        self.gate = nn.ModuleList(Gate(b, b, modes) if gated else nn.Identity() for _, b in fine)
        self.merge = nn.ModuleList(Double(2 * b, b, modes) for _, b in fine)
        self.head = nn.Conv2d(WIDTHS[0], C_OUT, 1)

    def forward(self, x):
        skips = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        skips.pop()
        for up, gate, merge in zip(self.up, self.gate, self.merge, strict=True):
            if self.gated:
                x = up(F.interpolate(x, scale_factor=2, mode="nearest"))
                skip = gate(skips.pop(), x)
            else:
                x = up(x)
                skip = skips.pop()
            x = merge(torch.cat([x, skip], dim=1))
        return self.head(x)


def flat_weights(name: str, net: nn.Module) -> dict[str, np.ndarray]:
    """All weights as one vector, and their names and shapes: far smaller than one entry each."""
    weights = {key: value.numpy() for key, value in net.state_dict().items()}
    layout = json.dumps([[key, value.shape] for key, value in weights.items()])
    flat = np.concatenate([value.ravel() for value in weights.values()])
    return {f"{name}/weights": flat, f"{name}/layout": np.array(layout)}


def main() -> None:
    torch.manual_seed(0)
    record = {"versions": np.array(f"torch {torch.__version__}, numpy {np.__version__}")}
    nets = {
        "classic": TorchUNet(("constant", "constant"), gated=False),
        "gated": TorchUNet(("reflect", "circular"), gated=True),
    }
    for name, net in nets.items():
        for parameter in net.parameters():
            if parameter.ndim == 1:  # norms start at 1 and 0, which would test nothing
                nn.init.uniform_(parameter, 0.5, 1.5)
        x = torch.randn(1, C_IN, *GRID)
        with torch.no_grad():
            y = net(x)
        record[f"{name}/input"], record[f"{name}/output"] = x[0].numpy(), y[0].numpy()
        record |= flat_weights(name, net)
    np.savez_compressed(Path(__file__).parent / "data" / "unet.npz", **record)


if __name__ == "__main__":
    main()
