"""The pure step: gradients, accumulation, averages, precision, what optimisers are told."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci.train import ArraySource, Precision, init_state, make_step, make_steps


class Linear(eqx.Module):
    """y = w x + b, with leaves of every kind that must not be trained."""

    weight: jax.Array
    bias: jax.Array
    table: jax.Array
    key: jax.Array
    activation: object
    eps: float = 1e-3

    def __init__(self, key):
        self.weight = jax.random.normal(key, (3,))
        self.bias = jnp.zeros(())
        self.table = jnp.arange(4)
        self.key = key
        self.activation = jnp.tanh

    def __call__(self, x):
        return x @ self.weight + self.bias


def mse(model, batch, key):
    x, y = batch
    return jnp.mean((jax.vmap(model)(x) - y) ** 2)


@pytest.fixture
def batch():
    x = jax.random.normal(jax.random.key(1), (12, 3))
    return x, x @ jnp.array([1.0, -2.0, 0.5]) + 0.3


def test_gradient_step_is_the_formula(key, batch):
    model = Linear(key)
    optimizer = optax.sgd(0.1)
    state, metrics = make_step(mse, optimizer)(init_state(model, optimizer, key=key), batch)
    x, y = (np.asarray(a, np.float64) for a in batch)
    residual = x @ np.asarray(model.weight, np.float64) - y
    # The derivative of the mean of squares, by hand; float32 rounding of a dozen terms.
    np.testing.assert_allclose(
        state.model.weight, model.weight - 0.1 * 2 * residual @ x / 12, rtol=1e-5
    )
    np.testing.assert_allclose(state.model.bias, -0.1 * 2 * residual.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], (residual**2).mean(), rtol=1e-5)
    assert state.step == 1
    assert state.model.activation is model.activation and state.model.eps == model.eps
    np.testing.assert_array_equal(state.model.table, model.table)
    assert state.model.key == model.key


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_gradient_is_that_of_the_big_batch(key, batch, accumulate, x64):
    batch = jax.tree.map(lambda a: a.astype(jnp.float64), batch)
    model = jax.tree.map(
        lambda a: a.astype(jnp.float64) if eqx.is_inexact_array(a) else a, Linear(key)
    )

    def loss(model, batch, key):
        return mse(model, batch, key), {"mean_input": jnp.mean(batch[0])}

    optimizer = optax.adam(1e-2)
    start = init_state(model, optimizer, key=key)
    big, metrics = make_step(loss, optimizer)(start, batch)
    small, parts = make_step(loss, optimizer, accumulate=accumulate)(start, batch)
    # The same sum in another order: a few units in the last place.
    np.testing.assert_allclose(small.model.weight, big.model.weight, rtol=1e-14)
    for name in metrics:
        np.testing.assert_allclose(parts[name], metrics[name], rtol=1e-13)


def test_average_is_the_weighted_mean_of_the_iterates(key, batch):
    optimizer, decay = optax.sgd(0.05), 0.8
    step = eqx.filter_jit(make_step(mse, optimizer, ema_decay=decay))
    state = init_state(Linear(key), optimizer, key=key, ema=True)
    iterates = []
    for t in range(1, 6):
        state, _ = step(state, batch)
        iterates.append(np.asarray(state.model.weight))
        weights = decay ** np.arange(t - 1, -1, -1.0)
        expected = np.tensordot(weights / weights.sum(), iterates, 1)
        # Float32; with a start at zero or at the first weights the error would be of order one.
        np.testing.assert_allclose(state.ema.weight, expected, rtol=2e-6)
    np.testing.assert_array_equal(state.averaged().weight, state.ema.weight)
    np.testing.assert_array_equal(state.averaged().table, state.model.table)


def test_average_without_decay_is_the_newest_iterate(key, batch):
    optimizer = optax.sgd(0.05)
    state = init_state(Linear(key), optimizer, key=key, ema=True)
    state, _ = make_step(mse, optimizer, ema_decay=0.0)(state, batch)
    np.testing.assert_array_equal(state.ema.weight, state.model.weight)


def test_low_precision_computes_low_and_updates_high(key, batch):
    seen = {}

    class Spy(Linear):
        def __call__(self, x):
            seen.update(weight=self.weight.dtype, argument=x.dtype, table=self.table.dtype)
            return super().__call__(x)

    def loss(model, batch, key):
        x, y = batch
        prediction = jax.vmap(model)(x)
        seen.update(out=prediction.dtype, target=y.dtype, attribute=model.bias.dtype)
        return jnp.mean((prediction - y) ** 2)

    optimizer = optax.adam(1e-3)
    precision = Precision()
    state = init_state(Spy(key), optimizer, key=key, precision=precision)
    after, metrics = make_step(loss, optimizer, precision=precision)(state, batch)
    low, high = jnp.bfloat16, jnp.float32
    assert seen == {
        **{"weight": low, "argument": low, "attribute": low, "table": jnp.int32},
        **{"out": high, "target": high},
    }
    assert after.model.weight.dtype == metrics["loss"].dtype == jnp.float32
    assert all(
        leaf.dtype == jnp.float32
        for leaf in jax.tree.leaves(after.opt_state)
        if eqx.is_inexact_array(leaf)
    )
    # A step of 1e-3 on weights of order one is below half a unit of bfloat16 (4e-3): it would be
    # lost if the weights were kept in it.
    moved = np.abs(np.asarray(after.model.weight - state.model.weight))
    np.testing.assert_allclose(moved, 1e-3, rtol=1e-3)


def test_complex_weights_descend(key):
    """f(z) = Σ |z − c|²: one gradient step of length 1/2 lands on c exactly."""
    target = jnp.array([1 + 2j, -0.5j], jnp.complex64)

    def loss(model, batch, key):
        return jnp.sum(jnp.abs(model - target) ** 2)

    optimizer = optax.sgd(0.5)
    state = init_state(jnp.array([3 - 1j, 1 + 1j], jnp.complex64), optimizer, key=key)
    state, _ = make_step(loss, optimizer)(state, None)
    np.testing.assert_allclose(state.model, target, atol=1e-6)


def test_line_search_sees_the_accumulated_objective(key, batch):
    optimizer = optax.lbfgs()
    start = init_state(Linear(key), optimizer, key=key)
    whole, _ = eqx.filter_jit(make_step(mse, optimizer))(start, batch)
    parts, _ = eqx.filter_jit(make_step(mse, optimizer, accumulate=3))(start, batch)
    # The same line search on the same function, summed in another order.
    np.testing.assert_allclose(parts.model.weight, whole.model.weight, rtol=1e-4)


def test_optimiser_is_told_value_gradient_function_and_extras(key, batch):
    told = {}

    def update(updates, state, params=None, *, value, grad, value_fn, curvature, **extra):
        told.update(value=value, again=value_fn(params), grad=grad, curvature=curvature)
        return jax.tree.map(lambda u: -0.1 * u, updates), state

    optimizer = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)

    def extra_args(context):
        def hessian_product(v):
            return jax.jvp(jax.grad(context.value_fn), (context.params,), (v,))[1]

        prediction = jax.vmap(context.build(context.params))(context.batch[0])
        return {"curvature": hessian_product(context.params), "prediction": prediction}

    state = init_state(Linear(key), optimizer, key=key)
    make_step(mse, optimizer, extra_args=extra_args)(state, batch)
    np.testing.assert_array_equal(told["value"], told["again"])
    x = np.asarray(batch[0], np.float64)
    # The Hessian of the mean of squares is 2 XᵀX / n (the bias is zero at the start).
    expected = 2 * x.T @ (x @ np.asarray(state.model.weight)) / 12
    np.testing.assert_allclose(told["curvature"].weight, expected, rtol=1e-4)
    assert told["grad"].weight.shape == (3,)


def test_every_step_has_its_own_key(key):
    def loss(model, batch, key):
        return jnp.sum(model), {"draw": jax.random.uniform(key)}

    optimizer = optax.sgd(0.1)
    source = ArraySource(jnp.zeros((4, 1)), 2)
    state = init_state(jnp.ones(2), optimizer, key=key, source=source)
    state, metrics = make_steps(make_step(loss, optimizer), source, 5)(state)
    assert len(set(np.asarray(metrics["draw"]).tolist())) == 5
    assert state.step == 5 and metrics["loss"].shape == (5,)
    expected = [jax.random.uniform(jax.random.fold_in(state.key, t)) for t in range(5)]
    np.testing.assert_array_equal(metrics["draw"], jnp.stack(expected))


def test_step_vmaps_over_seeds(key, batch):
    optimizer = optax.adam(1e-2)
    step = make_step(mse, optimizer)

    def run(key):
        return step(init_state(Linear(key), optimizer, key=key), batch)[1]["loss"]

    keys = jax.random.split(key, 3)
    np.testing.assert_allclose(jax.vmap(run)(keys), [run(k) for k in keys], rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"accumulate": 0}, "accumulate=0"),
        ({"accumulate": 1.5}, "accumulate=1.5"),
        ({"ema_decay": 1.0}, "ema_decay=1.0"),
        ({"ema_decay": -0.1}, "ema_decay=-0.1"),
    ],
)
def test_make_step_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_step(mse, optax.sgd(0.1), **arguments)


def test_make_step_refuses_what_is_no_optimizer():
    with pytest.raises(TypeError, match="optimizer"):
        make_step(mse, 1e-3)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda m, b, k: m, r"real scalar, got shape \(2,\)"),
        (lambda m, b, k: jnp.sum(m) * 1j, "real scalar"),
        (lambda m, b, k: (jnp.sum(m), m), "dict of scalars"),
        (lambda m, b, k: (jnp.sum(m), {"loss": jnp.sum(m)}), "named 'loss'"),
        (lambda m, b, k: (jnp.sum(m), {"error": m}), "metric 'error' of shape"),
        (lambda m, b, k: (jnp.sum(m), {"error": jnp.sum(m) * 1j}), "metric 'error' of dtype"),
    ],
)
def test_step_refuses_the_loss(loss, message, key):
    optimizer = optax.sgd(0.1)
    with pytest.raises(ValueError, match=message):
        make_step(loss, optimizer)(init_state(jnp.ones(2), optimizer, key=key), None)


def test_step_refuses_a_batch_that_does_not_split(key, batch):
    optimizer = optax.sgd(0.1)
    state = init_state(Linear(key), optimizer, key=key)
    with pytest.raises(ValueError, match="accumulate=5 must divide the batch axis"):
        make_step(mse, optimizer, accumulate=5)(state, batch)


def test_step_refuses_to_average_without_an_average(key, batch):
    optimizer = optax.sgd(0.1)
    with pytest.raises(ValueError, match="keeps no average"):
        make_step(mse, optimizer, ema_decay=0.9)(init_state(Linear(key), optimizer, key=key), batch)


def test_make_steps_refuses_no_steps():
    with pytest.raises(ValueError, match="n_steps=0"):
        make_steps(make_step(mse, optax.sgd(0.1)), ArraySource(jnp.zeros(4), 2), 0)


def test_init_state_refuses(key):
    with pytest.raises(ValueError, match="no floating-point or complex array"):
        init_state(jnp.arange(3), optax.sgd(0.1), key=key)
    with pytest.raises(TypeError, match="key must come from"):
        init_state(jnp.ones(3), optax.sgd(0.1), key=jnp.zeros(2))


@pytest.mark.parametrize("field", ["compute", "params", "output"])
def test_precision_refuses(field):
    with pytest.raises(ValueError, match=f"{field}='float16'"):
        Precision(**{field: "float16"})
