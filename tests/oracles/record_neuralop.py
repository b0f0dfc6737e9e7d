"""Records what neuraloperator's FNO, TFNO and losses compute, for the tests to read.

    pip install torch neuraloperator==2.0.0
    python tests/oracles/record_neuralop.py

writes `data/neuralop_fno.npz` and `data/neuralop_state.pt`, versions inside.
"""

from pathlib import Path

import neuralop
import numpy as np
import torch
from neuralop.layers.spectral_convolution import SpectralConv
from neuralop.losses import H1Loss, LpLoss
from neuralop.models import FNO

DATA = Path(__file__).parent / "data"

# name: (model options, grid shapes). Coarser than the modes where a size is 4. All axes but the
# last are even: neuraloperator 2.0.0 is wrong on odd ones, see "identity" in `main`.
CASES = {
    "1d": (dict(n_modes=(6,)), [(16,), (15,), (4,)]),
    "2d": (dict(n_modes=(6, 4)), [(12, 10), (12, 13), (4, 8)]),
    "2d_odd_modes": (dict(n_modes=(5, 4)), [(12, 10)]),
    "2d_plain": (dict(n_modes=(4, 4), use_channel_mlp=False), [(8, 9)]),
    "2d_identity": (dict(n_modes=(4, 4), fno_skip="identity", n_layers=3), [(8, 8)]),
    "2d_tucker": (dict(n_modes=(6, 4), factorization="Tucker", rank=0.5), [(12, 10), (4, 8)]),
    "2d_cp": (dict(n_modes=(6, 4), factorization="CP", rank=0.5), [(12, 10)]),
    "3d": (dict(n_modes=(4, 4, 4), n_layers=1), [(6, 8, 7)]),
}


def main() -> None:
    torch.manual_seed(0)
    arrays = {"versions": np.array([f"neuraloperator {neuralop.__version__}", torch.__version__])}
    for name, (options, shapes) in CASES.items():
        settings = dict(in_channels=2, out_channels=1, hidden_channels=4, n_layers=2) | options
        model = FNO(**settings).eval()
        for parameter in model.parameters():  # biases and gates away from their initial 0 and 1
            if parameter.ndim > 0 and not parameter.is_complex():
                parameter.data += 0.1 * torch.randn_like(parameter)
        for key, value in model.state_dict().items():
            if key != "_metadata":
                arrays[f"{name}/state/{key}"] = value.numpy()
        for i, shape in enumerate(shapes):
            x = torch.randn(1, 2, *shape)
            with torch.no_grad():
                arrays[f"{name}/y{i}"] = model(x)[0].numpy()
            arrays[f"{name}/x{i}"] = x[0].numpy()
        if name == "2d_plain":
            torch.save(model.state_dict(), DATA / "neuralop_state.pt")
    x, y = torch.randn(2, 3, 1, 7, 8)
    arrays["losses/x"], arrays["losses/y"] = x.numpy(), y.numpy()
    pairs = [(a[None], b[None]) for a, b in zip(x, y, strict=True)]
    arrays["losses/l2"] = np.array([LpLoss(d=2, p=2)(a, b) for a, b in pairs])
    for periodic in (True, False):
        loss = H1Loss(d=2, periodic_in_x=periodic, periodic_in_y=periodic)
        name = f"losses/h1_{'periodic' if periodic else 'walls'}"
        arrays[name] = np.array([loss(a, b) for a, b in pairs])
    # With all weights 1 the layer must return a function of few modes unchanged. It shifts the
    # spectrum back with fftshift instead of ifftshift, so on an odd axis it does not.
    layer = SpectralConv(1, 1, (6, 4), bias=False)
    layer.weight.tensor.data[:] = 1
    for n in (12, 11):
        x = torch.arange(n)[:, None] / n + torch.arange(13) / 13
        x = torch.cos(2 * torch.pi * x)[None, None]
        with torch.no_grad():
            arrays[f"identity/x{n}"] = x[0].numpy()
            arrays[f"identity/y{n}"] = layer(x)[0].numpy()
    np.savez_compressed(DATA / "neuralop_fno.npz", **arrays)


if __name__ == "__main__":
    main()
