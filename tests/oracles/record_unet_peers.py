"""Records third-party U-Nets with their weights: diffusers' `UNet2DModel` and MONAI's gate.

`add` and `scale_shift` are tiny `diffusers.UNet2DModel`s (the two ways to put the time in), with
attention at the coarse level and in the middle. `gate` is MONAI's additive attention gate with 1x1
kernels, its batch normalisations set to the identity.

Run `python tests/oracles/record_unet_peers.py` in an environment with torch, diffusers, monai and
numpy; it writes `data/unet_peers.npz` next to this file.
"""

import json
from pathlib import Path

import diffusers
import monai
import numpy as np
import torch
from diffusers import UNet2DModel
from monai.networks.nets.attentionunet import AttentionBlock


def randomise(net: torch.nn.Module) -> None:
    """Moves every vector of parameters away from 0 and 1, where it would test nothing."""
    for parameter in net.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)


def flat_weights(name: str, state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """All weights as one vector, and their names and shapes: far smaller than one entry each."""
    weights = {key: value.numpy() for key, value in state.items()}
    layout = json.dumps([[key, value.shape] for key, value in weights.items()])
    flat = np.concatenate([value.ravel() for value in weights.values()])
    return {f"{name}/weights": flat, f"{name}/layout": np.array(layout)}


def main() -> None:
    torch.manual_seed(0)
    versions = f"torch {torch.__version__}, diffusers {diffusers.__version__}"
    record = {"versions": np.array(f"{versions}, monai {monai.__version__}")}
    for name, shift in (("add", "default"), ("scale_shift", "scale_shift")):
        net = UNet2DModel(
            sample_size=8,
            in_channels=2,
            out_channels=3,
            block_out_channels=(4, 8),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=4,
            norm_num_groups=2,
            attn_norm_num_groups=2,
            norm_eps=1e-5,
            resnet_time_scale_shift=shift,
        ).eval()
        randomise(net)
        x, t = torch.randn(1, 2, 8, 8), 37.0
        with torch.no_grad():
            y = net(x, torch.tensor([t])).sample
        record[f"{name}/input"], record[f"{name}/output"] = x[0].numpy(), y[0].numpy()
        record[f"{name}/time"] = np.array(t, np.float32)
        record |= flat_weights(name, net.state_dict())

    gate = AttentionBlock(spatial_dims=2, f_int=3, f_g=5, f_l=6).eval()
    for module in gate.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.constant_(module.weight, float(np.sqrt(1 + module.eps)))
    x, g = torch.randn(1, 6, 5, 4), torch.randn(1, 5, 5, 4)
    with torch.no_grad():
        y = gate(g, x)
    record |= {"gate/x": x[0].numpy(), "gate/g": g[0].numpy(), "gate/output": y[0].numpy()}
    convolutions = {key: value for key, value in gate.state_dict().items() if ".conv." in key}
    record |= flat_weights("gate", convolutions)
    np.savez_compressed(Path(__file__).parent / "data" / "unet_peers.npz", **record)


if __name__ == "__main__":
    main()
