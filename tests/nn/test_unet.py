"""The U-Net against torch, diffusers and MONAI with transplanted weights, and its symmetries."""

import json
import re
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.nn.attention import AttentionGate
from jaxsci.nn.conv import MeanPool, StridedConv, TransposedConv
from jaxsci.nn.embeddings import (
    ClassEmbedding,
    SinusoidalEmbedding,
    SumEmbedding,
    TimeEmbedding,
)
from jaxsci.nn.norms import group_norm
from jaxsci.nn.unet import ConvBlock, ResidualBlock, UNet

DATA = Path(__file__).parent.parent / "oracles" / "data"
# Two float32 implementations that sum in different orders; outputs are of order one.
TOLERANCE = 1e-5


def recorded(file: str, name: str) -> tuple[dict, dict]:
    """One network's arrays and its weights by their torch names."""
    with np.load(DATA / file) as data:
        arrays = {k.split("/")[1]: data[k] for k in data if k.startswith(f"{name}/")}
    weights, start, flat = {}, 0, arrays.pop("weights")
    for key, shape in json.loads(str(arrays.pop("layout"))):
        size = int(np.prod(shape))
        weights[key] = flat[start : start + size].reshape(shape)
        start += size
    assert start == flat.size
    return arrays, weights


def transplant(model, weights: dict[str, np.ndarray], rename: list[tuple[str, str]]):
    """The model with torch's weights; every parameter must be met exactly once."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(eqx.filter(model, eqx.is_inexact_array))
    ours = {jax.tree_util.keystr(p, simple=True, separator="."): leaf for p, leaf in leaves}
    new = {}
    for name, value in weights.items():
        for pattern, replacement in rename:
            name = re.sub(pattern, replacement, name)
        assert name in ours and name not in new, name
        if (
            "resample.conv.weight" in name
            and isinstance(model.decoder[0].resample, TransposedConv)
            and name.startswith("decoder")
        ):
            # torch keeps a transposed kernel as (in, out, *k), and means the flipped one.
            value = np.flip(np.swapaxes(value, 0, 1), (2, 3))
        new[name] = jnp.asarray(value).reshape(ours[name].shape)
    assert new.keys() == ours.keys()
    filled = jax.tree.unflatten(treedef, [new[name] for name in ours])
    return eqx.combine(filled, eqx.filter(model, eqx.is_inexact_array, inverse=True))


OURS = [
    (r"^down\.(\d+)\.(conv|norm)(\d)", r"encoder.\1.blocks.0.\2_\3"),
    (r"^merge\.(\d+)\.(conv|norm)(\d)", r"decoder.\1.blocks.0.\2_\3"),
    (r"^up\.(\d+)\.conv\.", r"decoder.\1.resample.conv.conv."),
    (r"^up\.(\d+)\.", r"decoder.\1.resample.conv."),
    (r"^gate\.(\d+)\.wx", r"decoder.\1.gates.0.from_skip"),
    (r"^gate\.(\d+)\.wg", r"decoder.\1.gates.0.from_gate"),
    (r"^gate\.(\d+)\.psi", r"decoder.\1.gates.0.to_weight"),
    (r"^gate\.(\d+)\.nx", r"decoder.\1.gates.0.skip_norm"),
    (r"^gate\.(\d+)\.ng", r"decoder.\1.gates.0.gate_norm"),
    (r"^gate\.(\d+)\.np", r"decoder.\1.gates.0.weight_norm"),
    (r"^head", r"head.conv"),
]


@pytest.mark.parametrize(
    "name, options",
    [
        ("classic", dict(up=TransposedConv)),
        ("gated", dict(gate=3, padding=("reflect", "wrap"))),
    ],
)
def test_agrees_with_torch(name, options, key):
    arrays, weights = recorded("unet.npz", name)
    net = transplant(UNet(2, 2, 3, (4, 6, 8), key=key, **options), weights, OURS)
    output = eqx.filter_jit(net)(arrays["input"])
    np.testing.assert_allclose(output, arrays["output"], atol=TOLERANCE)


DIFFUSERS = [
    (r"^conv_in", "stem.conv"),
    (r"^conv_norm_out", "head_norm"),
    (r"^conv_out", "head.conv"),
    (r"^time_embedding\.linear_1", "embed.hidden"),
    (r"^time_embedding\.linear_2", "embed.out"),
    (r"^down_blocks", "encoder"),
    (r"^up_blocks\.0\.upsamplers\.0\.", "decoder.1.resample.conv."),
    (r"^up_blocks", "decoder"),
    (r"^mid_block", "middle"),
    (r"\.downsamplers\.0\.", ".resample.conv."),
    (r"resnets", "blocks"),
    (r"conv_shortcut", "shortcut.conv"),
    (r"(norm|conv)([12])\.", r"\1_\2."),
    (r"(conv_[12])\.", r"\1.conv."),
    (r"group_norm", "norm"),
    (r"to_q", "attention.query"),
    (r"to_k", "attention.key"),
    (r"to_v", "attention.value"),
    (r"to_out\.0", "attention.out"),
]


@pytest.mark.parametrize("modulation", ["add", "scale_shift"])
def test_agrees_with_diffusers(modulation, key):
    arrays, weights = recorded("unet_peers.npz", modulation)
    net = UNet(
        2,
        2,
        3,
        (4, 8),
        block=partial(ResidualBlock, modulation=modulation),
        down=StridedConv,
        skips="block",
        attention=(1,),
        mid_attention=True,
        heads=2,
        norm=partial(group_norm, groups=2),
        embed=TimeEmbedding(16, SinusoidalEmbedding(4), key=key),
        key=key,
    )
    projection = "modulate.linear" if modulation == "scale_shift" else "modulate"
    net = transplant(net, weights, [*DIFFUSERS, (r"time_emb_proj", projection)])
    output = eqx.filter_jit(net)(arrays["input"], cond=arrays["time"])
    # Weights of norms between 0.5 and 1.5 make outputs of order 10.
    scale = np.abs(arrays["output"]).max()
    np.testing.assert_allclose(output / scale, arrays["output"] / scale, atol=TOLERANCE)


def test_gate_agrees_with_monai(key):
    arrays, weights = recorded("unet_peers.npz", "gate")
    gate = AttentionGate(2, 6, 5, 3, norm="none", key=key)
    rename = [(r"W_g\.0", "from_gate"), (r"W_x\.0", "from_skip"), (r"psi\.0", "to_weight")]
    gate = transplant(gate, weights, rename)
    np.testing.assert_allclose(gate(arrays["x"], arrays["g"]), arrays["output"], atol=TOLERANCE)
