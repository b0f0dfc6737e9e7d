"""Records signax's log-signatures of a path with three channels.

    python tests/oracles/record_signax.py

needs signax; writes data/signax.npz. Levels 1 to 3 as tensors: signax's logarithm of its signature,
before it chooses coordinates on Lyndon words. float64.
"""

from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
import signax
from signax.tensor_ops import log


def main():
    jax.config.update("jax_enable_x64", True)
    path = np.random.default_rng(3).normal(size=(7, 3))
    levels = log(signax.signature(path, depth=3, flatten=False))
    out = {f"level {k}": np.asarray(level) for k, level in enumerate(levels, start=1)}
    versions = [f"{name} {version(name)}" for name in ("signax", "jax")]
    np.savez(
        Path(__file__).parent / "data" / "signax.npz",
        versions=versions,
        path=path,
        **out,
    )


if __name__ == "__main__":
    main()
