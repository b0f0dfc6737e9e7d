"""SDEs of optimisers against closed forms, the discrete methods, and sampled updates."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.optim import (
    adam_sde,
    dnsam_sde,
    rmsprop_sde,
    saddle_radius,
    sam_sde,
    sgd_sde,
    simulate,
    usam_sde,
    weak_error,
)


def test_rmsprop_with_stationary_v_is_an_ornstein_uhlenbeck_process(x64, key):
    """Of dX = −(h X dt + σ₀ s dW)/P: mean e^(−ht/P) x, variance σ₀² s² (1 − e^(−2ht/P)) / 2hP."""
    h, s = jnp.array([1.0, 0.4]), jnp.array([1.0, 2.0])
    eta, sigma, eps = 0.2, 1.5, 0.3
    sde = rmsprop_sde(lambda x: h * x, s**2, eta=eta, sigma=sigma, b2=0.9, eps=eps)
    x0, steps = jnp.array([1.0, -1.0]), 25
    found = jax.jit(lambda k: simulate(sde, x0, steps, k, paths=10_000, substeps=4, saves=2))(key)
    for i, t in enumerate(np.array([12.5, 25]) * eta**2):
        P = sigma * eta * s + eps * eta
        decay = np.exp(-h * t / P)
        variance = (sigma * eta * s) ** 2 / (2 * h * P) * (1 - decay**2)
        points = found[:, i]
        # 1e4 paths: 1 % of a standard deviation, 1.4 % of a variance; three of these, and Euler's
        # error at dt = η²/4.
        np.testing.assert_allclose(
            points.mean(0), decay * x0, atol=0.03 * variance.max() ** 0.5 + 5e-3
        )
        np.testing.assert_allclose(points.var(0), variance, rtol=0.06)


def discrete_rmsprop(key, eta, sigma0, eps0, c2, u0, steps, paths):
    sigma, b2, eps = sigma0 / eta, 1 - c2 * eta**2, eps0 / eta

    def body(carry, key):
        x, v = carry
        g = x + sigma * jax.random.normal(key, x.shape)
        return (x - eta * g / (jnp.sqrt(v) + eps), b2 * v + (1 - b2) * g**2), None

    start = (jnp.ones(paths), jnp.full(paths, sigma**2 * u0))
    return jax.lax.scan(body, start, jax.random.split(key, steps))[0][0]


def test_rmsprop_weak_order(x64, key):
    """The SDE's error in E x and E x² halves with η², over t = 0.96 on f = x²/2."""
    sigma0, eps0, c2, u0, paths = 0.3, 0.05, 1.0, 0.3, 100_000

    def gap(steps, key):
        eta = (0.96 / steps) ** 0.5
        sigma, b2 = sigma0 / eta, 1 - c2 * eta**2
        sde = rmsprop_sde(
            lambda x: x, jnp.ones(1), eta=eta, sigma=sigma, b2=b2, eps=eps0 / eta, u0=u0
        )
        first, second = jax.random.split(key)
        points = discrete_rmsprop(first, eta, sigma0, eps0, c2, u0, steps, paths)[:, None]
        return weak_error(
            points,
            sde,
            lambda x: jnp.array([x[0], x[0] ** 2]),
            jnp.ones(1),
            steps,
            second,
            paths=paths,
            substeps=96 // steps,
        )

    gaps = np.array([jax.jit(gap, static_argnums=0)(steps, key) for steps in (6, 12, 24)])
    # The smallest gap is about 1e-2, with a Monte Carlo error of 1.3e-3.
    assert gaps.min() > 4e-3
    ratios = gaps[:-1] / gaps[1:]
    assert (ratios > 1.5).all() and (ratios < 2.9).all(), (gaps, ratios)


def test_adam_follows_its_sde_from_the_start_and_its_bias_corrections(x64, key):
    """Mean and variance of Adam on f = Σ h x²/2 with noise that dominates, from v = 0."""
    h, x0 = jnp.array([1.0, 0.3]), jnp.array([1.0, -1.0])
    eta, sigma, b1, b2, eps, steps, paths = 0.05, 1.5, 0.8, 0.98, 0.1, 160, 10_000

    def adam(key):
        def body(carry, entry):
            x, m, v = carry
            key, k = entry
            g = h * x + sigma * jax.random.normal(key, x.shape)
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            step = m / (1 - b1**k) / (jnp.sqrt(v / (1 - b2**k)) + eps)
            return (x - eta * step, m, v), None

        start = (jnp.tile(x0, (paths, 1)), jnp.zeros((paths, 2)), jnp.zeros((paths, 2)))
        entries = (jax.random.split(key, steps), jnp.arange(1, steps + 1))
        return jax.lax.scan(body, start, entries)[0][0]

    first, second = jax.random.split(key)
    sde = adam_sde(lambda x: h * x, jnp.ones(2), eta=eta, sigma=sigma, b1=b1, b2=b2, eps=eps)
    assert sde.step == eta**2 and sde.t0 == sde.step
    points = jax.jit(adam)(first)
    model = jax.jit(lambda k: simulate(sde, x0, steps, k, paths=paths))(second)[:, 0]
    # Weak order 1 in η² = 0.0025 with constants of order ten, and Monte Carlo errors of 1 %.
    np.testing.assert_allclose(model.mean(0), points.mean(0), atol=0.04)
    np.testing.assert_allclose(model.std(0), points.std(0), rtol=0.05)
    assert np.all(np.asarray(points.std(0)) > 0.1)


DATA = {
    "a": np.array([[1.0, 0.5], [-0.3, 0.8], [0.7, -1.1]]),
    "b": np.array([1.0, -0.5, 0.3]),
}
X = np.array([0.4, -0.7])


def sample_loss(x, sample):
    return jnp.logaddexp(0.0, 3 * (sample["a"] @ x - sample["b"])) + jnp.sum(x**4) / 4


def moments_of_an_update(rule, eta, rho):
    """Mean and covariance of −(x⁺ − x)/η over the three samples, exactly."""

    def gradient(x, sample):
        return jax.grad(sample_loss)(x, sample)

    g = jax.vmap(gradient, (None, 0))(X, DATA)
    norms = {
        "usam": jnp.ones(3),
        "dnsam": jnp.full(3, jnp.linalg.norm(g.mean(0))),
        "sam": jnp.linalg.norm(g, axis=1),
    }[rule]
    moved = jax.vmap(gradient)(X + rho * g / norms[:, None], DATA)
    return moved.mean(0), jnp.cov(moved.T, bias=True)


@pytest.mark.parametrize("rule, make", [("usam", usam_sde), ("dnsam", dnsam_sde), ("sam", sam_sde)])
def test_drift_and_noise_of_sam_are_those_of_an_update_to_first_order(x64, rule, make):
    """The rest is O(ρ²): a tenth of ρ, a hundredth of the error."""
    errors = []
    for rho in (1e-2, 1e-3):
        sde = make(sample_loss, DATA, 0.1, rho)
        mean, covariance = moments_of_an_update(rule, 0.1, rho)
        root = jax.vmap(lambda dw, sde=sde: sde.noise(0.0, jnp.asarray(X), dw))(jnp.eye(2))
        errors.append(
            [
                float(jnp.linalg.norm(-sde.drift(0.0, jnp.asarray(X)) - mean)),
                float(jnp.linalg.norm(root @ root.T / 0.1 - covariance)),
            ]
        )
    ratios = np.array(errors[0]) / errors[1]
    assert (ratios > 60).all() and (ratios < 140).all(), errors
    # Without the Hessian in the noise it is first order that is missing.
    plain = make(sample_loss, DATA, 0.1, 1e-2, hessian_noise=False)
    root = jax.vmap(lambda dw: plain.noise(0.0, jnp.asarray(X), dw))(jnp.eye(2))
    _, covariance = moments_of_an_update(rule, 0.1, 1e-2)
    assert jnp.linalg.norm(root @ root.T / 0.1 - covariance) > 10 * errors[0][1]


def test_drifts_are_gradients_of_regularised_losses(x64):
    def f(x, sample):
        return sample_loss(x, sample)

    def regularised(power):
        def value(x):
            g = jax.vmap(jax.grad(f), (None, 0))(x, DATA)
            size = jnp.sum(g**2, 1) / 2 if power == 2 else jnp.linalg.norm(g, axis=1)
            return jnp.mean(jax.vmap(f, (None, 0))(x, DATA)) + 0.3 * jnp.mean(size)

        return -jax.grad(value)(jnp.asarray(X))

    np.testing.assert_allclose(
        usam_sde(f, DATA, 0.1, 0.3).drift(0, jnp.asarray(X)), regularised(2), atol=1e-13
    )
    np.testing.assert_allclose(
        sam_sde(f, DATA, 0.1, 0.3).drift(0, jnp.asarray(X)), regularised(1), atol=1e-13
    )


def test_without_perturbation_sam_is_sgd(x64):
    def mean_gradient(x):
        return jax.grad(lambda x: jnp.mean(jax.vmap(sample_loss, (None, 0))(x, DATA)))(x)

    def covariance(x):
        g = jax.vmap(jax.grad(sample_loss), (None, 0))(x, DATA)
        return jnp.cov(g.T, bias=True)

    sgd, x, dw = sgd_sde(mean_gradient, covariance, eta=0.1), jnp.asarray(X), jnp.array([0.3, 2.0])
    for make in (usam_sde, dnsam_sde, sam_sde):
        sde = make(sample_loss, DATA, 0.1, 0.0)
        np.testing.assert_allclose(sde.drift(0.0, x), sgd.drift(0.0, x), atol=1e-13)
        np.testing.assert_allclose(sde.noise(0.0, x, dw), sgd.noise(0.0, x, dw), atol=1e-13)
    # A gradient of zero: 0/0 counts as 0.
    flat = sam_sde(lambda x, s: jnp.sum(x**2) * s, jnp.ones(2), 0.1, 0.5)
    np.testing.assert_array_equal(flat.drift(0.0, jnp.zeros(2)), 0)


def test_sgd_against_its_stationary_variance_and_on_a_given_path(x64, key):
    """Of dX = −hX dt + η^½ σ s dW: variance η σ² s² / 2h; and Euler's steps on a given path."""
    h = jnp.array([2.0, 0.5])
    sde = sgd_sde(lambda x: h * x, jnp.diag(jnp.array([1.0, 4.0])), eta=0.05, sigma=0.8)
    found = simulate(sde, jnp.zeros(2), 200, key, paths=4000, substeps=2)[:, 0]
    expected = 0.05 * 0.8**2 * np.array([1.0, 4.0]) / (2 * h) * (1 - np.exp(-2 * h * 10))
    np.testing.assert_allclose(found.var(0), expected, rtol=0.12)  # 4 · (2/4000)^½, and Euler's
    motion = diffrax.VirtualBrownianTree(
        0.0, 1.0, 1e-3, jax.ShapeDtypeStruct((2,), jnp.float64), key
    )
    terms = sde.terms(jnp.ones(2), motion)
    end = diffrax.diffeqsolve(terms, diffrax.Euler(), 0.0, 1.0, 0.25, jnp.ones(2)).ys[-1]
    x = np.ones(2)
    for i in range(4):
        dw = np.asarray(motion.evaluate(0.25 * i, 0.25 * (i + 1)))
        x = x - 0.25 * np.asarray(h) * x + 0.05**0.5 * 0.8 * np.array([1.0, 2.0]) * dw
    np.testing.assert_allclose(end, x, atol=1e-12)


def test_saddles_trap_sam(x64):
    """Full-batch SAM at H = diag(1, −1), started on the unstable axis: trapped below ρ l."""
    H, rho, eta = jnp.diag(jnp.array([1.0, -1.0])), 0.1, 1e-3

    def run(radius):
        def body(x, _):
            g = H @ x
            return x - eta * H @ (x + rho * g / jnp.linalg.norm(g)), None

        return jax.lax.scan(body, jnp.array([0.0, radius]), length=5000)[0]

    radius = float(saddle_radius(H, rho))
    assert radius == pytest.approx(0.1, rel=1e-12)
    assert abs(run(0.99 * radius)[1]) < 1e-3 and abs(run(1.01 * radius)[1]) > 0.2
    assert saddle_radius(jnp.eye(2), 0.1) == 0


def test_what_is_refused():
    def gradient(x):
        return x

    one = jnp.ones(1)
    for options, message in [
        (dict(eta=0.0), "eta = 0"),
        (dict(sigma=-1.0), "sigma = -1"),
        (dict(b2=1.0), "b2 = 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            rmsprop_sde(gradient, one, **(dict(eta=0.1, sigma=1.0) | options))
    with pytest.raises(ValueError, match="b1 = 1"):
        adam_sde(gradient, one, eta=0.1, sigma=1.0, b1=1.0)
    with pytest.raises(ValueError, match="t0_steps = 0"):
        adam_sde(gradient, one, eta=0.1, sigma=1.0, t0_steps=0)
    with pytest.raises(ValueError, match="eta = 0"):
        sgd_sde(gradient, one, eta=0.0)
    with pytest.raises(TypeError, match="covariance"):
        sgd_sde(gradient, "white", eta=0.1)
    for make in (usam_sde, dnsam_sde, sam_sde):
        with pytest.raises(ValueError, match="rho = -1"):
            make(sample_loss, DATA, 0.1, -1.0)
        with pytest.raises(ValueError, match="eta = 0"):
            make(sample_loss, DATA, 0.0, 0.1)
    with pytest.raises(ValueError, match="rho = -1"):
        saddle_radius(jnp.eye(2), -1.0)
    sde = sgd_sde(gradient, one, eta=0.1)
    for options, message in [
        (dict(paths=0), "paths = 0"),
        (dict(substeps=0), "substeps = 0"),
        (dict(saves=4), "saves = 4"),
    ]:
        with pytest.raises(ValueError, match=message):
            simulate(sde, one, 3, jax.random.key(0), **options)
    with pytest.raises(ValueError, match="steps = 0"):
        simulate(sde, one, 0, jax.random.key(0))
