"""Flax modules as Equinox modules: the same outputs as Flax, trained, saved and resumed."""

import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from jaxsci.experiment import Logger
from jaxsci.nn.flax_model import FlaxModel
from jaxsci.train import ArraySource, Checkpoints, fit


class LinenNet(linen.Module):
    rate: float = 0.0

    @linen.compact
    def __call__(self, x, deterministic=False):
        x = linen.tanh(linen.Dense(8)(x))
        x = linen.Dropout(self.rate, deterministic=deterministic)(x)
        return linen.Dense(1)(x)


class NNXNet(nnx.Module):
    def __init__(self, rngs, rate=0.0):
        self.layers = nnx.List([nnx.Linear(1, 8, rngs=rngs), nnx.Linear(8, 1, rngs=rngs)])
        self.dropout = nnx.Dropout(rate, rngs=rngs)

    def __call__(self, x):
        return self.layers[1](self.dropout(jnp.tanh(self.layers[0](x))))


class LinenBatchNorm(linen.Module):
    @linen.compact
    def __call__(self, x, average=False):
        return linen.BatchNorm(use_running_average=average, momentum=0.5)(x)


def linen_model(key, rate=0.0):
    return FlaxModel.linen(
        LinenNet(rate),
        jnp.ones(1),
        key=key,
        train_kwargs={"deterministic": False},
        inference_kwargs={"deterministic": True},
    )


def nnx_model(rate=0.0):
    return FlaxModel.nnx(NNXNet(nnx.Rngs(0), rate))


@pytest.fixture(params=["linen", "nnx"])
def make(request, key):
    return (lambda rate=0.0: linen_model(key, rate)) if request.param == "linen" else nnx_model


X = jnp.linspace(-1, 1, 16)[:, None]


def loss(model, batch, key):
    x, y = batch
    return jnp.mean((jax.vmap(lambda x: model(x, key=key))(x) - y) ** 2)


def test_linen_output_is_flax_output(key):
    module, model = LinenNet(), linen_model(key)
    expected = module.apply({"params": model.params}, X)
    np.testing.assert_array_equal(model(X), expected)
    taken = FlaxModel.linen(module, variables={"params": model.params})
    np.testing.assert_array_equal(taken(X), expected)


def test_nnx_output_is_flax_output_and_the_module_stays(key):
    module = NNXNet(nnx.Rngs(0))
    model = FlaxModel.nnx(module)
    np.testing.assert_array_equal(model(X), module(X))
    assert set(model.params) == {
        "layers.0.kernel",
        "layers.0.bias",
        "layers.1.kernel",
        "layers.1.bias",
    }
    assert not module.dropout.deterministic
    zeroed = eqx.tree_at(lambda m: m.params["layers.1.kernel"], model, jnp.zeros((8, 1)))
    np.testing.assert_array_equal(zeroed(X), jnp.zeros((16, 1)))


def test_trains_with_a_plain_optax_loop(make):
    model, optimizer, batch = make(), optax.adam(0.03), (X, jnp.sin(3 * X))
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    traces = 0

    @eqx.filter_jit
    def step(model, state):
        nonlocal traces
        traces += 1
        value, gradient = eqx.filter_value_and_grad(loss)(model, batch, None)
        updates, state = optimizer.update(gradient, state)
        return eqx.apply_updates(model, updates), state, value

    values = []
    for _ in range(100):
        model, state, value = step(model, state)
        values.append(float(value))
    assert traces == 1
    assert values[-1] < 0.1 * values[0]


def test_gradient_is_flax_gradient(key):
    module, model = LinenNet(), linen_model(key)
    batch = (X, jnp.sin(X))
    gradient = eqx.filter_grad(loss)(model, batch, None).params
    expected = jax.grad(lambda p: jnp.mean((module.apply({"params": p}, X) - jnp.sin(X)) ** 2))(
        model.params
    )
    # float32, summed in another order
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), gradient, expected)


def test_equal_models_share_one_compilation(make):
    traces = 0

    @eqx.filter_jit
    def call(model, x):
        nonlocal traces
        traces += 1
        return model(x)

    call(make(), X)
    call(make(), X)
    assert traces == 1


def test_dropout_draws_from_the_key(make, key):
    model = make(0.5)
    one, same = model(X, key=key), model(X, key=key)
    other = model(X, key=jax.random.key(7))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    with pytest.raises(ValueError, match="give key"):
        model(X)
    quiet = eqx.nn.inference_mode(model)
    np.testing.assert_array_equal(quiet(X), quiet(X, key=key))
    np.testing.assert_array_equal(quiet(X), make(0.0)(X))


def test_fit_saves_and_resumes_bit_for_bit(make, tmp_path, key):
    def run(folder, steps, resume):
        plan = Checkpoints(folder=tmp_path / folder, every=4, resume=resume)
        source = ArraySource((X, jnp.sin(3 * X)), batch_size=4)
        return fit(
            make(0.25),
            loss,
            optax.adamw(0.01, weight_decay=0.1),
            source,
            steps=steps,
            key=key,
            checkpoint=plan,
            log=Logger.silent(),
            ema_decay=0.9,
        )

    unbroken = run("unbroken", 8, False)
    run("broken", 4, False)
    resumed = run("broken", 8, True)
    leaves = [jax.tree.leaves(eqx.filter(r.state, eqx.is_array)) for r in (unbroken, resumed)]
    for a, b in zip(*leaves, strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(jax.vmap(eqx.nn.inference_mode(make()))(X), resumed.model(X, key=key))


def test_linen_batch_statistics_are_refused_frozen_or_mutated(key):
    with pytest.raises(ValueError, match=r"mutable collections \['batch_stats'\]"):
        FlaxModel.linen(LinenBatchNorm(), X, key=key)
    model = FlaxModel.linen(
        LinenBatchNorm(), X, key=key, inference_kwargs={"average": True}, frozen=True
    )
    with pytest.raises(ValueError, match="mutate"):
        model(X)
    shifted = X + 3
    _, changed = eqx.filter_jit(lambda m, x: m.mutate(x))(model, shifted)
    statistics = changed.collections["batch_stats"]["BatchNorm_0"]
    # momentum 0.5 from a running mean of 0 to a batch mean of 3
    np.testing.assert_allclose(statistics["mean"].value, 1.5, rtol=1e-6)
    assert not np.array_equal(eqx.nn.inference_mode(changed)(X), eqx.nn.inference_mode(model)(X))
    # Statistics are no parameters: nothing that trains sees them.
    assert len(jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))) == 2


def test_nnx_batch_statistics_are_refused_frozen_or_mutated():
    module = nnx.BatchNorm(1, momentum=0.5, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"mutable collections \['mean', 'var'\]"):
        FlaxModel.nnx(module)
    model = FlaxModel.nnx(module, frozen=True)
    with pytest.raises(ValueError, match="mutate"):
        model(X)
    _, changed = eqx.filter_jit(lambda m, x: m.mutate(x))(model, X + 3)
    np.testing.assert_allclose(changed.collections["state"]["mean"].value, 1.5, rtol=1e-6)
    np.testing.assert_array_equal(eqx.nn.inference_mode(model)(X), X / np.float32(1 + 1e-5) ** 0.5)
    assert len(jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))) == 2


def test_channels_first_turns_a_flax_convolution(key):
    u = jax.random.normal(key, (2, 6, 5))
    module = linen.Conv(3, (3, 3), padding="CIRCULAR")
    model = FlaxModel.linen(module, u, key=key, channels_first=True)
    expected = module.apply({"params": model.params}, jnp.moveaxis(u, 0, -1))
    np.testing.assert_array_equal(model(u), jnp.moveaxis(expected, -1, 0))
    with pytest.raises(ValueError, match="first positional argument"):
        model()


def test_works_under_vmap_and_scan(make):
    model = make()
    rolled, _ = jax.lax.scan(lambda x, _: (model(x), None), X, length=3)
    np.testing.assert_allclose(rolled, model(model(model(X))), rtol=1e-5)
    copies = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), eqx.filter(model, eqx.is_inexact_array))
    both = eqx.filter_vmap(lambda p: eqx.combine(p, model)(X))(copies)
    np.testing.assert_allclose(both[0], model(X), rtol=1e-5)


def test_bad_input(key):
    with pytest.raises(TypeError, match=r"instance of flax\.linen\.Module"):
        FlaxModel.linen(LinenNet, jnp.ones(1), key=key)
    with pytest.raises(TypeError, match=r"instance of flax\.nnx\.Module"):
        FlaxModel.nnx(linen.Dense(2))
    with pytest.raises(ValueError, match="either key"):
        FlaxModel.linen(LinenNet(), jnp.ones(1))
    with pytest.raises(ValueError, match="either key"):
        FlaxModel.linen(LinenNet(), jnp.ones(1), key=key, variables={})
    with pytest.raises(TypeError, match="train_kwargs must be hashable"):
        FlaxModel.linen(LinenNet(), jnp.ones(1), key=key, train_kwargs={"a": [1]})


def test_flax_is_imported_only_when_used():
    code = "import jaxsci.nn.flax_model, sys; assert 'flax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
