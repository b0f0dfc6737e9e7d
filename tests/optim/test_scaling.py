"""The scaling rules against exact moments of SGD, and their algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci.optim import HyperScale, param_ema, progressive, scale_ema


def moments(lr, rho, noise, steps, h=np.array([1.0, 0.3, 0.1])):
    """E[ζ²] over steps for x⁺ = (1 − lr h) x + lr noise z, ζ⁺ = ρ ζ + (1 − ρ) x⁺, x₀ = ζ₀ = 1.

    Exact: the second moments of (x, ζ) obey a linear recursion.
    """
    out = np.zeros((steps, h.size))
    for i, curvature in enumerate(h):
        a = 1 - lr * curvature
        matrix = np.array([[a, 0], [(1 - rho) * a, rho]])
        kick = lr * noise * np.array([1, 1 - rho])
        second = np.ones((2, 2))
        for k in range(steps):
            second = matrix @ second @ matrix.T + np.outer(kick, kick)
            out[k, i] = second[1, 1]
    return out


@pytest.mark.parametrize("kappa", [4, 16])
def test_average_of_sgd_stays_the_same_in_expectation(kappa):
    base = HyperScale(2e-3, ema=0.999, batch=32)
    steps, noise = 2048, 2.0
    reference = moments(base.lr, base.ema, noise, steps)[kappa - 1 :: kappa]
    deviations = {}
    for rule in ("power", "linear", "none"):
        scaled = base.to_batch(kappa, "sgd-linear", rule)
        assert scaled.batch == 32 * kappa and scaled.lr == pytest.approx(kappa * 2e-3)
        found = moments(scaled.lr, scaled.ema, noise / kappa**0.5, steps // kappa)
        deviations[rule] = np.max(np.abs(found - reference) / reference)
    # The rules agree to first order in κ lr h ≤ 0.032 and κ (1 − ρ) ≤ 0.016, over some 4 e-folds.
    assert deviations["power"] < 0.05
    assert deviations["power"] < deviations["linear"] < 0.1
    assert deviations["none"] > 0.5


def test_square_root_rules():
    base = HyperScale(1e-3, 0.9, 0.99, 1e-6, weight_decay=0.1)
    adam = base.to_batch(4)
    assert (adam.lr, adam.eps, adam.weight_decay) == pytest.approx((2e-3, 5e-7, 0.2))
    assert (1 - adam.b1, 1 - adam.b2) == pytest.approx((0.4, 0.04))
    rms = base.to_batch(4, "rmsprop-sqrt")
    assert rms.b1 == 0.9 and rms.b2 == adam.b2 and rms.eps == adam.eps
    sgd = base.to_batch(4, "sgd-linear")
    assert (sgd.lr, sgd.b1, sgd.b2, sgd.eps, sgd.weight_decay) == pytest.approx(
        (4e-3, 0.9, 0.99, 1e-6, 0.1)
    )
    # The decay per sample of decoupled weight decay: lr λ / κ.
    for scaled in (adam, rms, sgd):
        assert scaled.lr * scaled.weight_decay / 4 == pytest.approx(1e-3 * 0.1)
    assert HyperScale(1e-3, b1=0.0, b2=0.99).to_batch(16).b1 == 0.0


def test_rules_compose_and_invert():
    base = HyperScale(1e-3, 0.95, 0.999, ema=0.9999, weight_decay=0.01, batch=64)
    for rule in ("sgd-linear", "rmsprop-sqrt", "adam-sqrt"):
        once, twice = base.to_batch(8, rule), base.to_batch(2, rule).to_batch(4, rule)
        back = once.to_batch(0.125, rule)
        for name in ("lr", "b1", "b2", "eps", "ema", "weight_decay", "batch"):
            assert getattr(once, name) == pytest.approx(getattr(twice, name), rel=1e-12)
            assert getattr(back, name) == pytest.approx(getattr(base, name), rel=1e-12)
    assert scale_ema(0.999, 8) == pytest.approx(0.999**8)
    assert scale_ema(0.999, 8, "linear") == pytest.approx(0.992)


def test_schedules_are_read_at_the_same_number_of_samples():
    cosine = optax.cosine_decay_schedule(1e-2, 800)
    scaled = HyperScale(cosine).to_batch(4)
    for step in (0, 50, 200):
        assert float(scaled.lr(step)) == pytest.approx(2 * float(cosine(4 * step)), abs=1e-9)
    # Hyperparameters may be traced: κ as the leaf of a program.
    traced = jax.jit(lambda kappa: HyperScale(1e-3, ema=0.9).to_batch(kappa))(2.0)
    assert float(traced.ema) == pytest.approx(0.81) and float(traced.b1) == pytest.approx(0.8)


def test_progressive():
    base = HyperScale(optax.linear_schedule(1.0, 0.0, 100), 0.95, 0.99, ema=0.99, batch=8)
    run = progressive(base, [(0, 1), (40, 4)])
    assert run.at(39).batch == 8 and run.at(40).batch == 32
    # After 45 steps: 40 + 4 × 5 steps of the small batch.
    assert float(run.samples(45)) == 60
    assert float(run.lr(39)) == pytest.approx(0.61) and float(run.lr(45)) == pytest.approx(0.8)
    assert float(run.ema(39)) == pytest.approx(0.99)
    assert float(run.ema(40)) == pytest.approx(0.99**4)
    assert float(run.b1(40)) == pytest.approx(0.8) and float(run.b2(40)) == pytest.approx(0.96)
    assert float(run.eps(40)) == pytest.approx(5e-9) and float(run.weight_decay(40)) == 0.0

    @jax.jit
    def go():
        adam = optax.inject_hyperparams(optax.adam)(run.lr, b1=run.b1, b2=run.b2, eps=run.eps)
        tx = optax.chain(adam, param_ema(run.ema))
        state = tx.init(jnp.ones(2))

        def body(carry, _):
            x, state = carry
            updates, state = tx.update(x, state, x)
            return (x + updates, state), state[0].hyperparams["b1"]

        return jax.lax.scan(body, (jnp.ones(2), state), length=50)

    (x, _), b1 = go()
    assert np.all(np.isfinite(x)) and float(b1[0]) == pytest.approx(0.95)
    assert float(b1[-1]) == pytest.approx(0.8)


def test_what_is_refused():
    base = HyperScale(1e-3, ema=0.999, batch=10)
    for build, message in [
        (lambda: HyperScale(0.0), "lr = 0.0"),
        (lambda: HyperScale(1e-3, b1=1.0), "b1 = 1.0"),
        (lambda: HyperScale(1e-3, b2=-0.1), "b2 = -0.1"),
        (lambda: HyperScale(1e-3, ema=1.0), "ema = 1.0"),
        (lambda: HyperScale(1e-3, eps=-1.0), "eps = -1.0"),
        (lambda: HyperScale(1e-3, weight_decay=-1.0), "weight_decay = -1.0"),
        (lambda: HyperScale(1e-3, batch=0), "batch = 0"),
        (lambda: base.to_batch(0), "kappa = 0"),
        # 0.9 allows κ < 10, and rounding shall not let 10 pass.
        (lambda: base.to_batch(10), "kappa < 10"),
        (lambda: base.to_batch(2, "square"), "rule = 'square'"),
        (lambda: base.to_batch(2, ema="square"), "ema = 'square'"),
        (lambda: base.to_batch(1.25), "no whole number"),
        (lambda: scale_ema(0.9, 20, "linear"), "kappa <= "),
        (lambda: scale_ema(1.0, 2), "rho = 1.0"),
        (lambda: scale_ema(0.9, 0), "kappa = 0"),
        (lambda: progressive(base, [(5, 1)]), "phases"),
        (lambda: progressive(base, [(0, 1), (0, 2)]), "phases"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
