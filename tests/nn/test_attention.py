"""Attention against JAX's own softmax attention, einsum formulas and quadrature."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.nn.attention import AttentionGate, GridAttention, MultiHeadAttention


@pytest.fixture
def key():
    # Only that the weights are generic matters here, and this generator compiles four times faster.
    return jax.random.key(0, impl="rbg")


@pytest.fixture
def points(key):
    return jax.random.normal(key, (6, 8)), jax.random.normal(jax.random.key(1), (5, 3))


def heads_of(layer, x, heads):
    return jax.vmap(layer)(x).reshape(len(x), heads, -1)


# Two float32 evaluations, values of order one.
TOLERANCE = 1e-5


def test_softmax_agrees_with_equinox(points, key):
    """Self-attention by `equinox.nn.MultiheadAttention`, an implementation of its own."""
    x, _ = points
    mask = jax.random.bernoulli(key, 0.6, (6, 6)).at[:, 0].set(True)
    ours = MultiHeadAttention(8, 2, key=key)
    theirs = eqx.nn.MultiheadAttention(
        2, 8, use_query_bias=True, use_key_bias=True, use_value_bias=True,
        use_output_bias=True, key=key,
    )  # fmt: skip
    theirs = eqx.tree_at(
        lambda a: (a.query_proj, a.key_proj, a.value_proj, a.output_proj),
        theirs,
        (ours.query, ours.key, ours.value, ours.out),
    )
    np.testing.assert_allclose(ours(x), theirs(x, x, x), atol=TOLERANCE)
    np.testing.assert_allclose(ours(x, mask=mask), theirs(x, x, x, mask=mask), atol=TOLERANCE)


def test_softmax_agrees_with_jax(points, key):
    x, context = points
    layer = MultiHeadAttention(8, 2, c_context=3, c_out=4, head_size=5, key=key)
    q = heads_of(layer.query, x, 2)
    k, v = (heads_of(part, context, 2) for part in (layer.key, layer.value))
    mask = jnp.arange(5) < 3
    expected = jax.nn.dot_product_attention(q[None], k[None], v[None])[0]
    np.testing.assert_allclose(
        layer(x, context), jax.vmap(layer.out)(expected.reshape(6, 10)), atol=TOLERANCE
    )
    np.testing.assert_allclose(layer(x, context, mask=mask), layer(x, context[:3]), atol=TOLERANCE)


@pytest.mark.parametrize("head_size", [2, 40])
def test_linear_forms_are_their_sums(head_size, points, key):
    """Both orders of multiplication: narrow heads take q (kᵀ v), wide ones (q kᵀ) v."""
    x, context = points

    def exact(layer, weight_of_pair):
        q = heads_of(layer.query, x, 2)
        k, v = (heads_of(part, context, 2) for part in (layer.key, layer.value))
        logits = jnp.einsum("nhd,mhd->nmh", q, k) / head_size**0.5
        out = jnp.einsum("nmh,nm,mhe->nhe", logits, weight_of_pair, v)
        return jax.vmap(layer.out)(out.reshape(6, -1))

    def make(normalise):
        return MultiHeadAttention(
            8, 2, c_context=3, head_size=head_size, normalise=normalise, key=key
        )

    one = jnp.ones((6, 5))
    np.testing.assert_allclose(make("none")(x, context), exact(make("none"), one), atol=1e-4)
    integral = make("integral")
    np.testing.assert_allclose(integral(x, context), exact(integral, one / 5), atol=TOLERANCE)
    weights = jnp.linspace(0.1, 0.5, 5)
    np.testing.assert_allclose(
        integral(x, context, weights=weights), exact(integral, one * weights), atol=TOLERANCE
    )
    keys_there = jnp.arange(5) < 3
    np.testing.assert_allclose(
        integral(x, context, mask=keys_there), exact(integral, keys_there / 3 * one), atol=TOLERANCE
    )
    pairs = jax.random.bernoulli(key, 0.5, (6, 5))
    expected = pairs / jnp.maximum(jnp.sum(pairs, 1, keepdims=True), 1)
    np.testing.assert_allclose(
        integral(x, context, mask=pairs), exact(integral, expected), atol=TOLERANCE
    )
    np.testing.assert_allclose(
        integral(x, context, mask=pairs, weights=weights),
        exact(integral, pairs * weights),
        atol=TOLERANCE,
    )


def test_integral_attention_converges_with_the_grid(key):
    """A smooth field on 32 and 64 points of a period: the sums are spectrally close integrals."""

    def field(n):
        x = jnp.arange(n) / n
        return jnp.stack([jnp.sin(2 * jnp.pi * x), jnp.cos(4 * jnp.pi * x)], axis=1)

    integral = MultiHeadAttention(2, 1, normalise="integral", qk_norm=None, key=key)
    np.testing.assert_allclose(integral(field(64))[::2], integral(field(32)), atol=1e-6)
    plain = MultiHeadAttention(2, 1, normalise="none", key=key)
    assert not np.allclose(plain(field(64))[::2], plain(field(32)), atol=1e-2)


@pytest.mark.parametrize("qk_norm", ["layer", "rms"])
def test_normalised_queries_and_keys_ignore_their_scale(qk_norm, points, key):
    x, _ = points
    layer = MultiHeadAttention(8, 2, qk_norm=qk_norm, use_bias=False, key=key)
    scaled = eqx.tree_at(
        lambda a: (a.query.weight, a.key.weight), layer, replace_fn=lambda w: 100 * w
    )
    # LayerNorm's eps of 1e-5 against a variance of order 0.1
    np.testing.assert_allclose(scaled(x), layer(x), atol=2e-3)
    bare = MultiHeadAttention(8, 2, use_bias=False, key=key)
    assert not np.allclose(bare(x), layer(x), atol=2e-3)


def test_softmax_stays_finite_for_large_logits(points, key):
    x, _ = points
    layer = MultiHeadAttention(8, 2, key=key)
    tangent = jax.jvp(lambda x: layer(x), (1e4 * x,), (x,))[1]
    assert bool(jnp.all(jnp.isfinite(layer(1e6 * x)))) and bool(jnp.all(jnp.isfinite(tangent)))


def test_grid_attention_starts_as_identity_and_commutes_with_shifts(key):
    x = jax.random.normal(key, (8, 4, 6))
    np.testing.assert_array_equal(GridAttention(8, 2, key=key)(x), x)
    block = GridAttention(8, 2, zero_init=False, scale=0.5, key=key)
    rolled = block(jnp.roll(x, (1, 2), (1, 2)))
    np.testing.assert_allclose(rolled, jnp.roll(block(x), (1, 2), (1, 2)), atol=TOLERANCE)
    points = block.norm(x).reshape(8, -1).T
    expected = 0.5 * (x[:, 1, 2] + block.attention(points)[8])
    np.testing.assert_allclose(block(x)[:, 1, 2], expected, atol=TOLERANCE)


def test_bad_input(points, key):
    x, context = points
    for name, options in [
        ("c must", dict(c=0)),
        ("heads must", dict(heads=0)),
        ("heads=3 must divide", dict(heads=3)),
        ("head_size", dict(head_size=0)),
        ("c_context", dict(c_context=-1)),
        ("c_out", dict(c_out=0)),
        ("normalise", dict(normalise="linear")),
        ("qk_norm", dict(qk_norm=True)),
    ]:
        with pytest.raises(ValueError, match=name):
            MultiHeadAttention(**(dict(c=8, heads=2) | options), key=key)
    layer = MultiHeadAttention(8, 2, c_context=3, key=key)
    with pytest.raises(ValueError, match=r"x must have shape \(points, 8\)"):
        layer(x[None], context)
    with pytest.raises(ValueError, match=r"context must have shape \(points, 3\)"):
        layer(x)
    with pytest.raises(ValueError, match=r"mask must have shape \(6, 5\) or \(5,\)"):
        layer(x, context, mask=jnp.ones(6, bool))
    with pytest.raises(ValueError, match="weights need"):
        layer(x, context, weights=jnp.ones(5))
    integral = MultiHeadAttention(8, 2, normalise="integral", key=key)
    with pytest.raises(ValueError, match="weights must"):
        integral(x, weights=jnp.ones(5))
    with pytest.raises(ValueError, match="divide"):
        GridAttention(6, 4, key=key)
    with pytest.raises(ValueError, match="c_in"):
        AttentionGate(2, 0, 4, key=key)
    with pytest.raises(ValueError, match="one grid"):
        AttentionGate(1, 2, 2, key=key)(jnp.zeros((2, 4)), jnp.zeros((2, 8)))
