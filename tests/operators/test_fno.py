"""The Fourier neural operator: published sizes, exact cases, resolutions, transformations."""

import equinox as eqx
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci.operators import FNO, TFNO, grow_modes_by_gradient, grow_modes_by_loss

# The "rbg" generator: drawing weights with the default one takes seconds of compilation on a CPU.
KEY = jax.random.key(0, impl="rbg")


def n_parameters(model):
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))


@pytest.fixture(scope="module")
def small():
    return FNO(2, 2, 1, width=6, modes=(3, 4), depth=3, key=KEY)


@pytest.mark.parametrize(("n_dims", "published"), [(2, 414_517), (3, 6_558_537)])
def test_sizes_of_the_papers_navier_stokes_models(n_dims, published):
    # Ten past frames in, one out; width 20, affine P, 128 hidden channels in Q. The published
    # counts are those of 8 modes (the text says 12), with real and imaginary parts counted
    # separately, and contain four batch norms of 2·20 numbers that later versions dropped.
    shapes = jax.eval_shape(
        lambda key: eqx.filter(
            FNO(n_dims, 10, 1, width=20, modes=8, lifting=None, projection=6.4, key=key),
            eqx.is_inexact_array,
        ),
        KEY,
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count + 4 * 2 * 20 == published


def test_one_linear_layer_is_an_exact_translation(x64):
    # P and Q the identity, W = 0, R_k = exp(-2πi k s), no activation after the last layer: the
    # operator shifts its input by s, on every grid, to rounding.
    s = 0.17
    model = FNO(
        1, 1, 1, width=1, modes=6, depth=1, lifting=None, projection=None, grid=False, key=KEY
    )
    one, none = jnp.ones((1, 1)), jnp.zeros(1)
    phase = np.exp(-2j * np.pi * np.arange(6) * s)[:, None, None]
    model = eqx.tree_at(
        lambda m: (
            m.lift.layers[0].weight,
            m.lift.layers[0].bias,
            m.project.layers[0].weight,
            m.project.layers[0].bias,
            m.last.skip.weight,
            m.last.spectral.mixing.weight,
        ),
        model,
        (one, none, one, none, 0 * one, jnp.stack([phase.real, phase.imag])),
    )
    for n in (16, 21, 64):
        x = np.arange(n) / n
        u = np.sin(2 * np.pi * x) + np.cos(2 * np.pi * 5 * x)
        shifted = np.sin(2 * np.pi * (x - s)) + np.cos(2 * np.pi * 5 * (x - s))
        np.testing.assert_allclose(model(jnp.asarray(u)[None])[0], shifted, atol=1e-12)


def test_the_operator_does_not_depend_on_the_resolution():
    # A smooth input on n and on 2n points: the outputs at common points differ by aliasing in the
    # activations only, which falls fast with n.
    model = FNO(1, 1, 1, width=8, modes=4, depth=2, key=KEY)
    call = eqx.filter_jit(model)

    def output(n):
        x = jnp.arange(n) / n
        return call((jnp.sin(2 * jnp.pi * x) + 0.5 * jnp.cos(4 * jnp.pi * x))[None])[0]

    reference = output(512)
    differences = [float(jnp.abs(output(n) - reference[:: 512 // n]).max()) for n in (16, 32, 128)]
    # The appended coordinate jumps at the periodic end, so aliasing falls like 1/n, no faster.
    assert differences[0] < 0.05 * jnp.abs(reference).max()
    assert differences[2] < 0.4 * differences[0]


def test_without_coordinates_the_operator_commutes_with_shifts():
    model = FNO(2, 1, 1, width=4, modes=3, depth=2, grid=False, key=KEY)
    u = jax.random.normal(KEY, (1, 8, 9))
    rolled = jnp.roll(u, (3, 4), (1, 2))
    call = eqx.filter_jit(model)
    # Rounding of float32 through two layers.
    np.testing.assert_allclose(call(rolled), jnp.roll(call(u), (3, 4), (1, 2)), atol=2e-5)


def test_batches_gradients_and_no_recompilation(small):
    traces = []

    @eqx.filter_jit
    def loss_and_grad(model, u):
        traces.append(1)
        return eqx.filter_value_and_grad(lambda m: jnp.mean(jax.vmap(m)(u) ** 2))(model)

    u = jax.random.normal(KEY, (3, 2, 8, 8))
    value, grads = loss_and_grad(small, u)
    loss_and_grad(small, 2 * u)
    assert len(traces) == 1
    assert all(np.isfinite(g).all() and np.any(g != 0) for g in jax.tree.leaves(grads))
    single = jnp.mean(jnp.stack([small(v) ** 2 for v in u]))
    np.testing.assert_allclose(value, single, rtol=1e-4)  # order of float32 sums


def test_the_fft_path_gives_the_same_numbers(small):
    def by_fft(path, leaf):
        return leaf

    fft = eqx.tree_at(
        lambda m: (m.blocks.spectral.transform, m.last.spectral.transform),
        small,
        replace_fn=lambda t: type(t)(t.modes, "fft"),
        is_leaf=lambda x: hasattr(x, "modes") and hasattr(x, "method"),
    )
    u = jax.random.normal(KEY, (2, 12, 10))
    np.testing.assert_allclose(small(u), fft(u), atol=1e-5)  # float32, three layers


def test_padding_is_cropped_and_matters():
    u = jax.random.normal(KEY, (1, 10))
    options = dict(width=4, modes=3, depth=2, key=KEY)
    plain, points = FNO(1, 1, 1, **options), FNO(1, 1, 1, padding=3, **options)
    fraction = FNO(1, 1, 1, padding=0.3, **options)
    assert points(u).shape == (1, 10)
    np.testing.assert_array_equal(points(u), fraction(u))
    assert jnp.abs(points(u) - plain(u)).max() > 1e-3


def test_parameters_enter_as_channels():
    model = FNO(1, 1, 1, width=4, modes=3, depth=2, n_params=2, key=KEY)
    u = jax.random.normal(KEY, (1, 8))
    a, b = model(u, cond=jnp.array([0.0, 1.0])), model(u, cond=jnp.array([0.5, 1.0]))
    assert jnp.abs(a - b).max() > 1e-4


@pytest.mark.parametrize(
    "options",
    [
        dict(skip="identity"),
        dict(skip=None),
        dict(channel_mlp=0.5),
        dict(mixing="cp", rank=0.2),
        dict(mixing="diagonal"),
        dict(grid="endpoint"),
        dict(init="normal", lifting=None, projection=None, depth=1),
    ],
)
def test_every_option_computes_something_finite(options):
    model = FNO(2, 1, 3, **(dict(width=4, modes=3, depth=2, key=KEY) | options))
    out = eqx.filter_jit(model)(jax.random.normal(KEY, (1, 8, 9)))
    assert out.shape == (3, 8, 9) and np.isfinite(out).all() and out.std() > 0


def test_tfno_has_the_share_of_the_weights():
    shapes = dict(width=32, modes=12, key=KEY)
    dense, tucker = FNO(2, 1, 1, **shapes), TFNO(2, 1, 1, rank=0.1, **shapes)
    spectral = 4 * 2 * 24 * 12 * 32 * 32
    saved = n_parameters(dense) - n_parameters(tucker)
    assert abs(saved / spectral - 0.9) < 0.02  # integer ranks


def test_half_precision_runs_and_is_close(small):
    u = jax.random.normal(KEY, (2, 8, 8))
    out = small(u.astype(jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
    # Three layers, each rounding to 8 bits.
    np.testing.assert_allclose(out.astype(jnp.float32), small(u), atol=0.03)


def test_modes_are_switched_on_without_recompiling():
    model = FNO(1, 1, 1, width=4, modes=2, max_modes=5, depth=2, key=KEY)
    traces = []

    @eqx.filter_jit
    def call(model, u):
        traces.append(1)
        return model(u)

    u = jax.random.normal(KEY, (1, 16))
    before = call(model, u)
    after = call(model.with_modes(5), u)
    assert len(traces) == 1 and jnp.abs(after - before).max() > 1e-4
    full = FNO(1, 1, 1, width=4, modes=5, depth=2, key=KEY)
    np.testing.assert_allclose(after, full(u), atol=1e-6)  # the same weights, all switched on
    assert int(model.with_modes(9).n_active[0]) == 5


def test_mode_mask_keeps_the_lowest_wavenumbers():
    model = FNO(2, 1, 1, width=2, modes=(1, 2), max_modes=(3, 3), depth=1, key=KEY)
    # Rows: 0, 1, 2, -3, -2, -1; columns 0, 1, 2.
    expected = np.outer([1, 0, 0, 0, 0, 1], [1, 1, 0])
    np.testing.assert_array_equal(model.mode_mask(), expected)


def test_modes_grow_when_the_loss_stalls():
    model = FNO(1, 1, 1, width=2, modes=2, max_modes=4, depth=1, key=KEY)
    stalled = grow_modes_by_loss(model, jnp.array(0.5), jnp.array(0.4995))
    falling = grow_modes_by_loss(model, jnp.array(0.5), jnp.array(0.4))
    assert stalled.n_active.tolist() == [3] and falling.n_active.tolist() == [2]


def test_modes_grow_when_the_top_one_carries_gradient():
    model = FNO(1, 1, 1, width=2, modes=3, max_modes=5, depth=2, grid=False, key=KEY)

    def gradient(share_of_top):
        zero = jax.tree.map(jnp.zeros_like, eqx.filter(model, eqx.is_inexact_array))
        weight = zero.last.spectral.mixing.weight
        weight = weight.at[0, 0, 0, 0].set(np.sqrt(1 - share_of_top))
        weight = weight.at[0, 2, 0, 0].set(np.sqrt(share_of_top))
        return eqx.tree_at(lambda m: m.last.spectral.mixing.weight, zero, weight)

    grow = eqx.filter_jit(grow_modes_by_gradient)
    assert grow(model, gradient(0.02)).n_active.tolist() == [4]  # 98 % is less than 99 %
    assert grow(model, gradient(0.005)).n_active.tolist() == [3]


def test_training_learns_a_derivative():
    # u ↦ du/dx of random trigonometric polynomials: an operator the FNO can represent.
    def sample(key):
        c = jax.random.normal(key, (2, 3))
        k, x = jnp.arange(1, 4)[:, None], jnp.arange(32) / 32
        phase = 2 * jnp.pi * k * x
        u = c[0] @ jnp.sin(phase) + c[1] @ jnp.cos(phase)
        du = (c[0] * k[:, 0]) @ jnp.cos(phase) - (c[1] * k[:, 0]) @ jnp.sin(phase)
        return u[None], du[None]

    model = FNO(1, 1, 1, width=8, modes=5, depth=2, key=KEY)
    optimizer = optax.adam(1e-2)
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(params, key):
        u, du = jax.vmap(sample)(jax.random.split(key, 16))
        return jnp.mean((jax.vmap(eqx.combine(params, static))(u) - du) ** 2) / jnp.mean(du**2)

    @jax.jit
    def train(params, key):
        def step(carry, key):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params, key)
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, 200))[1]

    losses = train(params, KEY)
    # Untrained: about 1 (the prediction is near zero). Measured after 200 steps: below 0.02.
    assert losses[-20:].mean() < 0.1


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_it_lowers_for_accelerators(small, platform):
    params, static = eqx.partition(small, eqx.is_array)

    def gradient(params, u):
        return jax.grad(
            lambda p: jnp.sum(jax.vmap(eqx.combine(p, static))(u) ** 2), allow_int=True
        )(params)

    u = jax.ShapeDtypeStruct((2, 2, 8, 8), jnp.float32)
    jax.export.export(jax.jit(gradient), platforms=[platform])(params, u)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (dict(width=0), "width: expected a positive integer"),
        (dict(depth=0), "depth: expected a positive integer"),
        (dict(modes=0), "modes: expected positive integers"),
        (dict(modes=(3, -1)), "modes: expected positive integers"),
        (dict(modes=(3, 3, 3)), "modes: expected one number or 2"),
        (dict(max_modes=2), "modes: expected at most max_modes"),
        (dict(padding=-1), "padding: expected"),
        (dict(skip="conv"), "skip: expected"),
        (dict(grid="yes"), "grid: expected"),
        (dict(lifting=0), "lifting: expected a positive ratio"),
        (dict(n_params=-1), "n_params: expected 0 or more"),
        (dict(init="zeros"), "init: expected"),
        (dict(mixing="tucker"), "rank: needed"),
    ],
)
def test_bad_sizes(options, match):
    with pytest.raises(ValueError, match=match):
        FNO(2, 1, 1, **(dict(width=4, modes=3, key=KEY) | options))


def test_bad_inputs(small):
    with pytest.raises(ValueError, match="n_dims: expected a positive"):
        FNO(0, 1, 1, width=4, modes=3, key=KEY)
    with pytest.raises(ValueError, match="2 channels and 2 grid axes"):
        small(jnp.ones((1, 8, 8)))
    with pytest.raises(ValueError, match="2 channels and 2 grid axes"):
        small(jnp.ones((2, 8)))
    with pytest.raises(TypeError, match="floating-point values, got dtype int32"):
        small(jnp.ones((2, 8, 8), int))
    with pytest.raises(ValueError, match="cond: expected 0 parameters"):
        small(jnp.ones((2, 8, 8)), cond=jnp.ones(1))
    with pytest.raises(ValueError, match="out: a Fourier neural operator"):
        small(jnp.ones((2, 8, 8)), out=(16, 16))
    with pytest.raises(ValueError, match="made without max_modes"):
        small.with_modes(2)
    with pytest.raises(ValueError, match="made without max_modes"):
        grow_modes_by_loss(small, jnp.array(1.0), jnp.array(1.0))
    growing = FNO(1, 1, 1, width=2, modes=1, max_modes=2, mixing="cp", rank=2, key=KEY)
    with pytest.raises(ValueError, match="needs mixing='dense'"):
        grow_modes_by_gradient(growing, growing)
    with pytest.raises(ValueError, match="gap: expected"):
        grow_modes_by_loss(growing, jnp.array(1.0), jnp.array(1.0), gap=0)
    with pytest.raises(ValueError, match="explained: expected"):
        grow_modes_by_gradient(growing, growing, explained=1.0)
    with pytest.raises(ValueError, match="buffer: expected"):
        grow_modes_by_gradient(growing, growing, buffer=0)
