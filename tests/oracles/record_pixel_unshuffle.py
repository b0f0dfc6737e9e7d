"""Records the tiles of PyTorch's PixelUnshuffle.

    python tests/oracles/record_pixel_unshuffle.py

needs torch; writes data/pixel_unshuffle.npz.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch


def main():
    u = torch.arange(2 * 4 * 6, dtype=torch.float32).reshape(1, 2, 4, 6)
    np.savez(
        Path(__file__).parent / "data" / "pixel_unshuffle.npz",
        versions=[f"torch {version('torch')}"],
        u=u[0].numpy(),
        tiles=torch.nn.PixelUnshuffle(2)(u)[0].numpy(),
    )


if __name__ == "__main__":
    main()
