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


@pytest.fixture
def key():
    # Only that the weights are generic matters here, and this generator compiles four times faster.
    return jax.random.key(0, impl="rbg")


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


MODERN = dict(
    block=ResidualBlock,
    down=StridedConv,
    skips="block",
    mid_attention=True,
    heads=2,
    padding="wrap",
)


@pytest.fixture(scope="module")
def modern():
    """A one-dimensional conditioned U-Net with dropout, none of its branches zero at the start."""
    key = jax.random.key(0, impl="rbg")
    embed = SumEmbedding(TimeEmbedding(8, key=key), ClassEmbedding(2, 8, key=key))
    block = partial(ResidualBlock, zero_init=False)
    norm = partial(group_norm, groups=2)
    options = MODERN | dict(block=block, embed=embed, dropout=0.5, norm=norm)
    net = UNet(1, 1, 1, (4, 4), **options, key=key)
    out = eqx.nn.Linear(4, 4, key=key)
    return eqx.tree_at(lambda n: n.middle.attentions[0].attention.out, net, out)


def test_shifts_along_a_periodic_axis_commute_and_walls_do_not(key):
    net = UNet(2, 1, 1, (4, 4, 4), padding=("reflect", "wrap"), gate=3, key=key)
    call = eqx.filter_jit(net)
    u = jax.random.normal(key, (1, 8, 16))
    # 4 points = the product of the two strides
    np.testing.assert_allclose(
        call(jnp.roll(u, 4, axis=2)), jnp.roll(call(u), 4, axis=2), atol=TOLERANCE
    )
    assert not np.allclose(call(jnp.roll(u, 1, axis=2)), jnp.roll(call(u), 1, axis=2), atol=1e-3)
    assert not np.allclose(call(jnp.roll(u, 4, axis=1)), jnp.roll(call(u), 4, axis=1), atol=1e-3)


def test_periodic_modern_net_commutes_with_shifts(modern):
    net = eqx.nn.inference_mode(modern)
    u = jax.random.normal(jax.random.key(2), (1, 16))
    call = eqx.filter_jit(lambda u: net(u, cond=(0.3, 1)))
    np.testing.assert_allclose(call(jnp.roll(u, 2, 1)), jnp.roll(call(u), 2, 1), atol=TOLERANCE)


def test_receptive_field_ends_where_it_should(key):
    """Without norms, which see the whole grid, an output depends on its neighbourhood only."""
    net = UNet(1, 1, 1, (2, 2), norm="none", key=key)
    u = jax.random.normal(key, (1, 48))
    jacobian = eqx.filter_jit(jax.jacobian(lambda u: net(u)[0, 24]))(u)[0]
    reached = np.nonzero(np.asarray(jacobian))[0]
    # By hand: 2 fine convolutions up, 1 after the upsampling, 2 coarse ones (2 points each),
    # the pool's block, 2 fine ones down: 2 + 1 + 2·2 + 1 + 2 = 10.
    assert reached.min() >= 24 - 10 and reached.max() <= 24 + 10
    assert len(reached) > 10


def test_condition_changes_the_output_and_key_the_dropout(modern):
    u = jax.random.normal(jax.random.key(2), (1, 8))
    keys = jax.random.split(jax.random.key(3))
    traces = 0

    @eqx.filter_jit
    def call(net, u, t, label, key):
        nonlocal traces
        traces += 1
        return net(u, cond=(t, label), key=key)

    one = call(modern, u, jnp.array(0.3), jnp.array(1), keys[0])
    np.testing.assert_array_equal(one, call(modern, u, jnp.array(0.3), jnp.array(1), keys[0]))
    assert not np.allclose(one, call(modern, u, jnp.array(0.3), jnp.array(1), keys[1]))
    assert not np.allclose(one, call(modern, u, jnp.array(0.9), jnp.array(1), keys[0]))
    assert not np.allclose(one, call(modern, u, jnp.array(0.3), jnp.array(2), keys[0]))
    assert traces == 1
    quiet = eqx.nn.inference_mode(modern)
    t = jnp.array(0.3)
    np.testing.assert_array_equal(
        call(quiet, u, t, jnp.array(1), keys[0]), call(quiet, u, t, jnp.array(1), keys[1])
    )
    without = eqx.filter_jit(quiet)(u, cond=(t, jnp.array(1)))
    np.testing.assert_allclose(without, call(quiet, u, t, jnp.array(1), keys[0]), atol=TOLERANCE)
    with pytest.raises(RuntimeError, match="key"):
        jax.eval_shape(lambda: modern(u, cond=(0.3, 1)))


def test_vmap_and_gradient(modern):
    u = jax.random.normal(jax.random.key(2), (3, 1, 8))
    t, label = jnp.array([0.1, 0.5, 0.9]), jnp.array([0, 1, 2])
    keys = jax.random.split(jax.random.key(3), 3)

    @eqx.filter_jit
    @eqx.filter_value_and_grad(has_aux=True)
    def loss(net):
        out = jax.vmap(lambda u, t, c, k: net(u, cond=(t, c), key=k))(u, t, label, keys)
        return jnp.mean(out**2), out

    (_, out), gradient = loss(modern)
    alone = eqx.filter_jit(modern)(u[1], cond=(t[1], label[1]), key=keys[1])
    np.testing.assert_allclose(out[1], alone, atol=TOLERANCE)
    dead = {
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, g in jax.tree_util.tree_leaves_with_path(gradient)
        if not bool(jnp.any(jnp.abs(g) > 1e-8))
    }
    # Every parameter takes part, but a bias that adds the same to all logits of a softmax.
    assert dead == {"middle.attentions.0.attention.key.bias"}


def test_three_dimensions_and_every_level_change(key):
    u = jax.random.normal(key, (1, 4, 4, 4))
    for down, up in (
        (MeanPool, TransposedConv),
        (StridedConv, partial(TransposedConv, kernel_size=4)),
    ):
        net = UNet(3, 1, 2, (2, 2), down=down, up=up, padding=("wrap", "edge", "zero"), key=key)
        assert jax.eval_shape(net, u).shape == (2, 4, 4, 4)


def test_zero_init_starts_at_zero_and_residual_blocks_as_their_shortcut(key):
    u = jax.random.normal(key, (4, 8))
    net = UNet(1, 4, 2, (4, 4), zero_init=True, key=key)
    np.testing.assert_array_equal(net(u), jnp.zeros((2, 8)))
    np.testing.assert_array_equal(ResidualBlock(1, 4, 4, scale=0.5, key=key)(u), 0.5 * u)
    wide = ResidualBlock(1, 4, 6, key=key)
    np.testing.assert_array_equal(wide(u), wide.shortcut(u))


def test_skip_scale_and_middle_attention_without_block_skips(key):
    u = jax.random.normal(key, (1, 8))
    plain = UNet(1, 1, 1, (4, 4), key=key)
    scaled = UNet(1, 1, 1, (4, 4), skip_scale=0.5, key=key)
    assert not np.allclose(plain(u), scaled(u))
    weight = scaled.decoder[0].blocks[0].conv_1.conv.weight
    halved = eqx.tree_at(
        lambda n: n.decoder[0].blocks[0].conv_1.conv.weight, plain, weight.at[:, 4:].multiply(0.5)
    )
    np.testing.assert_allclose(halved(u), scaled(u), atol=TOLERANCE)
    middle = UNet(1, 1, 1, (4, 4), mid_attention=True, heads=2, key=key)
    assert middle.middle is not None and middle(u).shape == (1, 8)


def test_pad_to_fit_pads_crops_and_leaves_fitting_grids_alone(key):
    options = dict(padding=("reflect", "wrap"), key=key)
    net = UNet(2, 1, 1, (4, 4, 4), pad_to_fit=True, **options)
    call = eqx.filter_jit(lambda net, u: net(u))
    u = jax.random.normal(key, (1, 7, 8))
    mirrored = jnp.concatenate([u, u[:, 5:6]], axis=1)
    np.testing.assert_allclose(call(net, u), call(net, mirrored)[:, :7], atol=TOLERANCE)
    plain = UNet(2, 1, 1, (4, 4, 4), **options)
    np.testing.assert_array_equal(call(net, mirrored), call(plain, mirrored))
    with pytest.raises(ValueError, match="periodic axis cannot be padded"):
        net(jnp.zeros((1, 8, 7)))


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_lowers_for_accelerators(platform, modern):
    exported = jax.export.export(
        jax.jit(lambda u, t, key: modern(u, cond=(t, 1), key=key)), platforms=[platform]
    )(
        jax.ShapeDtypeStruct((1, 8), jnp.float32),
        jax.ShapeDtypeStruct((), jnp.float32),
        jax.eval_shape(lambda: jax.random.key(0)),
    )
    assert exported.platforms == (platform,)
    assert exported.out_avals[0].shape == (1, 8)


def test_half_precision_stays_half(modern):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if eqx.is_inexact_array(x) else x, modern)
    u = jax.random.normal(jax.random.key(2), (1, 8))
    quiet, exact = eqx.nn.inference_mode((half, modern))
    cond = (jnp.array(0.3, jnp.bfloat16), 1)
    call = eqx.filter_jit(lambda net, u, cond: net(u, cond=cond))
    out = call(quiet, u.astype(jnp.bfloat16), cond)
    assert out.dtype == jnp.bfloat16
    # bfloat16 has 8 bits; a dozen layers lose a few of them.
    difference = out.astype(jnp.float32) - call(exact, u, (0.3, 1))
    assert float(jnp.abs(difference).max()) < 0.1


def test_bad_input(key, modern):
    for name, options in [
        ("c_in", dict(c_in=0)),
        ("c_out", dict(c_out=-1)),
        ("widths", dict(widths=())),
        ("widths", dict(widths=(4, 0))),
        ("n_blocks", dict(n_blocks=0)),
        ("skips", dict(skips="all")),
        ("attention", dict(attention=(2,))),
        ("padding", dict(padding="circular")),
        ("padding", dict(padding=("wrap",))),
        ("dim", dict(dim=0)),
        ("norm", dict(norm="batch")),
        ("dropout", dict(dropout=1.0)),
        ("modulation", dict(block=partial(ResidualBlock, modulation="film"))),
        ("heads", dict(mid_attention=True, heads=3)),
        ("kernel_size", dict(gate=0)),
    ]:
        arguments = dict(dim=2, c_in=1, c_out=1, widths=(4, 4)) | options
        with pytest.raises(ValueError, match=name):
            UNet(**arguments, key=key)
    net = UNet(2, 1, 1, (4, 4, 4), key=key)
    with pytest.raises(
        ValueError, match=r"\(6, 8\) must be divisible by 2\^\(levels-1\) = 4.*\(2, 0\)"
    ):
        net(jnp.zeros((1, 6, 8)))
    with pytest.raises(ValueError, match=r"u must have shape \(1, n1, n2\)"):
        net(jnp.zeros((2, 8, 8)))
    with pytest.raises(ValueError, match="vmap over a batch"):
        net(jnp.zeros((3, 1, 8, 8)))
    with pytest.raises(ValueError, match="built without embed"):
        net(jnp.zeros((1, 8, 8)), cond=0.3)
    with pytest.raises(ValueError, match="no cond was given"):
        modern(jnp.zeros((1, 8)))
    for block in (ConvBlock, ResidualBlock):
        with pytest.raises(ValueError, match="embedding is missing"):
            block(1, 2, 2, embed_size=3, key=key)(jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match="longer than that"):
        UNet(1, 1, 1, (4, 4, 4), padding="reflect", key=key)(jnp.zeros((1, 4)))
