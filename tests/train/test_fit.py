"""fit: reaches what it should, does not depend on the clock, compiles once, stops when it must."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci.experiment import JsonLines, Logger, read_metrics
from jaxsci.train import (
    ArraySource,
    Checkpoints,
    NonFiniteLoss,
    OnlineSource,
    fit,
    init_state,
    make_step,
    train,
)


def mse(weights, batch, key):
    x, y = batch
    return jnp.mean((x @ weights - y) ** 2)


@pytest.fixture(scope="module")
def regression():
    """A noisy linear regression and its least-squares solution."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 4)).astype(np.float32)
    y = (x @ np.array([1.0, -2.0, 0.5, 3.0]) + rng.normal(size=64)).astype(np.float32)
    return x, y, np.linalg.lstsq(x.astype(np.float64), y.astype(np.float64), rcond=None)[0]


def weights_equal(a, b):
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in leaves)


@pytest.mark.parametrize(
    ("optimizer", "steps"),
    # The slowest direction of gradient descent contracts by 1 - 0.2 λ_min with λ_min(XᵀX/n) ≈ 0.6,
    # so 200 steps reduce the error below 1e-9; a quasi-Newton method in four dimensions with line
    # search needs a few steps more than four.
    [(optax.sgd(0.1), 200), (optax.lbfgs(), 15)],
    ids=["sgd", "lbfgs"],
)
def test_reaches_the_least_squares_solution(regression, key, optimizer, steps):
    x, y, solution = regression
    data = ArraySource((x, y), 64)
    result = fit(jnp.zeros(4), mse, optimizer, data, steps=steps, key=key)
    # Float32: relative 1e-7 times a condition number of a few.
    np.testing.assert_allclose(result.model, solution, rtol=2e-5)
    assert result.history["step"].tolist() == list(range(1, steps + 1))
    assert result.history["loss"][0] == pytest.approx(float(np.mean(y**2)), rel=1e-5)
    assert int(result.state.step) == steps


def test_grouping_of_steps_changes_nothing_and_compiles_nothing(regression, key):
    x, y, _ = regression
    traces = []

    def loss(weights, batch, key):
        traces.append(1)
        return mse(weights, batch, key) + 0 * jax.random.normal(key)

    def run(**kwargs):
        traces.clear()
        return fit(
            jnp.zeros(4),
            loss,
            optax.adam(1e-2),
            ArraySource((x, y), 10),
            steps=100,
            key=key,
            evaluate=lambda w: {"norm": jnp.sum(w**2)},
            **kwargs,
        )

    whole = run(evaluate_every=100)
    assert len(traces) == 1
    for n, every in [(1, 50), (7, 30), (64, 9)]:
        other = run(steps_per_dispatch=n, evaluate_every=every)
        assert len(traces) == 1
        np.testing.assert_array_equal(other.history["loss"], whole.history["loss"])
        np.testing.assert_array_equal(other.model, whole.model)
        expected = sorted({*range(every, 101, every), 100})
        assert other.evaluations["step"].tolist() == expected


def test_more_steps_than_fit_in_a_dispatch_are_all_recorded(key):
    result = fit(
        jnp.ones(2),
        lambda w, batch, key: jnp.sum(w**2),
        optax.sgd(1e-4),
        ArraySource(jnp.zeros((4, 1)), 2),
        steps=3000,
        key=key,
        steps_per_dispatch=5000,
        log_every=1,
    )
    # L_t = 2 (1 − 2·10⁻⁴)^(2t); float32 rounding accumulates over 3000 steps.
    expected = 2 * (1 - 2e-4) ** (2 * np.arange(3000))
    np.testing.assert_allclose(result.history["loss"], expected, rtol=1e-3)


def test_fit_is_the_pure_step_repeated(regression, key):
    """The compiled loop against the plain Python loop over make_step."""
    x, y, _ = regression
    source, optimizer = ArraySource((x, y), 10), optax.adam(1e-2)
    result = fit(jnp.zeros(4), mse, optimizer, source, steps=9, key=key, ema_decay=0.9)
    step = eqx.filter_jit(make_step(mse, optimizer, ema_decay=0.9))
    state = init_state(jnp.zeros(4), optimizer, key=key, source=source, ema=True)
    losses = []
    for _ in range(9):
        batch, data = source.next(state.data)
        state, metrics = step(state, batch)
        state = eqx.tree_at(lambda s: s.data, state, data)
        losses.append(metrics["loss"])
    # Two programs of the same mathematics: rounding only.
    np.testing.assert_allclose(result.history["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(result.state.model, state.model, rtol=1e-5)
    np.testing.assert_allclose(result.model, state.ema, rtol=1e-5)


def test_host_batches_give_the_same_numbers_as_the_device(regression, key):
    x, y, _ = regression
    on_device = fit(
        jnp.zeros(4),
        mse,
        optax.adam(1e-2),
        ArraySource((x, y), 16, shuffle=False),
        steps=45,
        key=key,
    )
    batches = ((x[i : i + 16], y[i : i + 16]) for _ in range(12) for i in range(0, 64, 16))
    on_host = fit(jnp.zeros(4), mse, optax.adam(1e-2), batches, steps=45, key=key)
    np.testing.assert_allclose(on_host.history["loss"], on_device.history["loss"], rtol=1e-5)


def test_the_callers_model_stays_alive(key):
    shared = jnp.ones(3)
    model = {"a": shared, "b": shared}  # One buffer at two leaves.
    data = ArraySource(jnp.ones((4, 3)), 4)
    result = fit(
        model,
        lambda m, x, key: jnp.mean((x @ m["a"] + m["b"].sum()) ** 2),
        optax.sgd(0.01),
        data,
        steps=2,
        key=key,
    )
    np.testing.assert_array_equal(shared, 1.0)
    assert not np.array_equal(result.model["a"], shared)


def test_evaluated_models_stay_alive(regression, key):
    x, y, _ = regression
    kept = []

    def evaluate(weights):
        kept.append(weights)
        return {"n": len(kept)}

    fit(
        jnp.zeros(4),
        mse,
        optax.sgd(0.1),
        ArraySource((x, y), 8),
        steps=6,
        key=key,
        evaluate=evaluate,
        evaluate_every=2,
    )
    assert len(kept) == 3 and all(np.isfinite(np.asarray(w)).all() for w in kept)
    assert len({np.asarray(w).tobytes() for w in kept}) == 3


def test_evaluation_sees_the_averaged_weights(regression, key):
    x, y, _ = regression
    seen = []
    result = fit(
        jnp.zeros(4),
        mse,
        optax.sgd(0.1),
        ArraySource((x, y), 8),
        steps=4,
        key=key,
        ema_decay=0.9,
        evaluate=lambda w: seen.append(np.asarray(w)) or {},
    )
    np.testing.assert_array_equal(seen[0], result.state.ema)
    np.testing.assert_array_equal(result.model, result.state.ema)
    assert not np.array_equal(seen[0], result.state.model)


def test_logger_gets_metrics_and_evaluations(regression, key, tmp_path):
    x, y, _ = regression
    with Logger(tmp_path, sinks=[JsonLines(tmp_path / "log.jsonl")], quiet=True) as log:
        result = fit(
            jnp.zeros(4),
            mse,
            optax.sgd(0.1),
            ArraySource((x, y), 8),
            steps=20,
            key=key,
            evaluate=lambda w: {"error": jnp.sum(w)},
            evaluate_every=10,
            log=log.scope("linear"),
            log_every=5,
        )
    rows = read_metrics(tmp_path / "log.jsonl")
    assert [row["step"] for row in rows] == [5, 10, 15, 20] == result.history["step"].tolist()
    assert [row["loss"] for row in rows] == result.history["loss"].tolist()
    assert rows[1]["error"] == result.evaluations["error"][0]
    assert (tmp_path / "linear" / "checkpoints" / "20").is_dir()
    assert all(json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines())


def test_stops_before_the_first_step_that_is_not_finite(key, tmp_path):
    """θ ← −10 θ on L = θ² overflows float32 in step 21: that step is not made."""

    def loss(theta, batch, key):
        return theta**2

    def run(checkpoint):
        return fit(
            jnp.float32(1.0),
            loss,
            optax.sgd(5.5),  # θ ← θ − 11 θ = −10 θ.
            ArraySource(jnp.zeros((4, 1)), 2),
            steps=100,
            key=key,
            checkpoint=checkpoint,
        )

    with pytest.raises(NonFiniteLoss, match=r"stopped in step 21.*no checkpoint") as caught:
        run(None)
    # θ² = 10^(2t) exceeds 3.4e38 for t = 20, that is in update 21; θ itself is 10^20.
    assert caught.value.step == 21
    assert caught.value.loss == np.inf and caught.value.checkpoint is None

    with pytest.raises(NonFiniteLoss, match=r"checkpoint, of step 18, is in .*resume") as caught:
        run(Checkpoints(folder=tmp_path, every=6))
    assert caught.value.checkpoint == 18
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.isdigit()) == ["12", "18"]


def test_a_gradient_that_is_not_finite_stops_as_well(key):
    """√θ at 0 has a finite value and an infinite slope."""
    with pytest.raises(NonFiniteLoss, match="step 1: a weight became NaN or infinite"):
        fit(
            jnp.zeros(2),
            lambda theta, batch, key: jnp.sum(jnp.sqrt(theta)),
            optax.sgd(0.1),
            ArraySource(jnp.zeros((4, 1)), 2),
            steps=10,
            key=key,
        )


def test_infinite_constants_in_a_model_do_not_stop_it(key):
    model = {"theta": jnp.ones(2), "mask": jnp.array([0.0, -jnp.inf])}

    def loss(m, batch, key):
        return jnp.sum(jnp.exp(m["theta"] + jax.lax.stop_gradient(m["mask"])))

    data = ArraySource(jnp.zeros((4, 1)), 2)
    result = fit(model, loss, optax.sgd(0.1), data, steps=3, key=key)
    assert result.model["mask"][1] == -jnp.inf


def test_apply_if_finite_goes_on_where_fit_alone_would_stop(key):
    def loss(theta, batch, key):
        # Batch 3 of 0..3 takes the root at 0, whose derivative is 0 · ∞.
        return jnp.sum(theta**2) + jnp.sum(jnp.sqrt(0 * theta + (batch < 2.5)))

    data = ArraySource(jnp.arange(4.0)[:, None], 1, shuffle=False)
    optimizer = optax.apply_if_finite(optax.sgd(0.1), 5)
    result = fit(jnp.ones(2), loss, optimizer, data, steps=8, key=key)
    np.testing.assert_allclose(result.model, 0.8**6, rtol=1e-5)


def test_train_repeats_any_step(key):
    """A step without a gradient: the counter of Fibonacci, with metrics but no loss."""

    def step(state, batch):
        a, b = state.model
        new = eqx.tree_at(lambda s: (s.model, s.step), state, ((b, a + b), state.step + 1))
        return new, {"ratio": b / a}

    source = OnlineSource(lambda key: jnp.zeros(()), 1)
    state = init_state((jnp.float32(1), jnp.float32(1)), optax.sgd(0.1), key=key, source=source)
    result = train(step, state, source, steps=30)
    assert result.history["ratio"][-1] == pytest.approx((1 + 5**0.5) / 2)
    assert result.model[0] == 1346269


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"steps": 2.5}, "steps=2.5"),
        ({"evaluate_every": 2}, "evaluate_every is given without evaluate"),
        ({"evaluate_every": -1, "evaluate": dict}, "evaluate_every=-1"),
        ({"log_every": 0}, "log_every=0"),
        ({"steps_per_dispatch": 0}, "steps_per_dispatch=0"),
        ({"checkpoint": True}, "needs a logger with a folder"),
        ({"checkpoint": Checkpoints(folder="x", best="e")}, "there is no evaluate"),
        ({"accumulate": 3}, "accumulate=3 must divide"),
        ({"evaluate": lambda w: {"loss": 1.0}}, "named 'loss'"),
    ],
)
def test_fit_refuses(arguments, message, key):
    data = ArraySource((jnp.ones((4, 4)), jnp.ones(4)), 4)
    with pytest.raises(ValueError, match=message):
        fit(jnp.ones(4), mse, optax.sgd(0.1), data, **{"steps": 2, "key": key, **arguments})


def test_fit_refuses_data(key):
    def run(data, steps=3):
        return fit(jnp.ones(4), mse, optax.sgd(0.1), data, steps=steps, key=key)

    batch = (np.ones((2, 4), np.float32), np.ones(2, np.float32))
    with pytest.raises(TypeError, match=r"data is a tuple.*ArraySource"):
        run(batch)
    with pytest.raises(TypeError, match="data is a int"):
        run(3)
    with pytest.raises(ValueError, match="ran out after 2 batches"):
        run(iter([batch] * 2))
    with pytest.raises(ValueError, match="batch 1 of the data is"):
        run(iter([batch, (batch[0][:1], batch[1][:1])]))


def test_fit_names_what_a_step_changed(key):
    def step(state, batch):
        return eqx.tree_at(lambda s: s.model, state, jnp.zeros(3)), {}

    state = init_state(jnp.zeros(2), optax.sgd(0.1), key=key)
    with pytest.raises(TypeError, match=r"changed model from float32\[2\] to float32\[3\]"):
        train(step, state, iter([np.zeros(1)] * 2), steps=2)


def test_one_step_at_a_time_is_the_same_training():
    # With `steps_per_dispatch=1` the program has no loop (convolutions want that on CPUs).
    x = jnp.linspace(-1.0, 1.0, 24)[:, None]
    source = ArraySource((x, 3 * x), 8)

    def loss(model, batch, key):
        return jnp.mean((jax.vmap(model)(batch[0]) - batch[1]) ** 2)

    model = eqx.nn.Linear(1, 1, key=jax.random.key(1))
    options = dict(steps=7, key=jax.random.key(2), checkpoint=False)
    looped = fit(model, loss, optax.adam(0.1), source, **options)
    single = fit(model, loss, optax.adam(0.1), source, steps_per_dispatch=1, **options)
    # Two programs of the same arithmetic: they may round differently.
    np.testing.assert_allclose(single.history["loss"], looped.history["loss"], rtol=1e-5)
    np.testing.assert_allclose(single.model.weight, looped.model.weight, rtol=1e-5)
    bad = eqx.tree_at(lambda m: m.weight, model, jnp.array([[jnp.inf]]))
    with pytest.raises(NonFiniteLoss):
        fit(bad, loss, optax.adam(0.1), source, steps_per_dispatch=1, **options)
