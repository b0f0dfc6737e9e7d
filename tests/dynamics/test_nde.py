"""Differential equation models against matrix exponentials, Gaussian laws and exact posteriors."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.scipy as jsp
import numpy as np
import optax
import pytest
import scipy.integrate
import scipy.interpolate
import scipy.linalg
import scipy.stats

from jaxsci.dynamics import (
    CNF,
    AugmentedNODE,
    BackwardGRU,
    CDEField,
    GaussianEncoder,
    LatentODE,
    LatentSDE,
    NeuralCDE,
    NeuralODE,
    ReversibleAdjoint,
    control_path,
)

MATRIX = np.array([[-0.4, 1.3, 0.2], [-0.7, 0.1, 0.5], [0.3, -0.2, 0.25]])
TIGHT = dict(controller=dfx.PIDController(rtol=1e-9, atol=1e-10))


class Linear(eqx.Module):
    """y' = A y + b."""

    A: jax.Array
    b: jax.Array

    def __call__(self, t, y, args):
        return self.A @ y + self.b


def test_a_linear_field_and_its_gradient(x64):
    field = Linear(jnp.asarray(MATRIX), jnp.zeros(3))
    y0, ts = jnp.array([1.0, -0.5, 2.0]), jnp.array([0.0, 0.7, 1.6])
    exact = np.stack([scipy.linalg.expm(MATRIX * t) @ y0 for t in ts])
    by_hand = jax.jit(
        jax.grad(lambda A: sum(jnp.sum((jsp.linalg.expm(A * t) @ y0) ** 2) for t in (0.7, 1.6)))
    )(jnp.asarray(MATRIX))

    @eqx.filter_jit
    @eqx.filter_value_and_grad(has_aux=True)
    def value(model):
        out = model(y0, ts=ts)
        return jnp.sum(out.ys**2), out

    model = NeuralODE(field, t1=1.6, adjoint=ReversibleAdjoint(0.999), max_steps=512, **TIGHT)
    (_, out), gradient = value(model)
    # Tolerances of 1e-9 a step, some thirty steps, and growth by less than ten.
    np.testing.assert_allclose(out.ys, exact, rtol=1e-6)
    np.testing.assert_allclose(gradient.field.A, by_hand, rtol=1e-6)
    assert out.reg == 0 and 5 < out.stats["num_accepted_steps"] < 200


def test_augmentation_lets_trajectories_cross(x64):
    # y ↦ −y needs a second dimension: rotate by π.
    rotate = lambda t, y, args: jnp.pi * jnp.stack([-y[1], y[0]])  # noqa: E731
    model = AugmentedNODE(rotate, 1, **TIGHT)
    ends = jax.jit(jax.vmap(lambda y: model(y).ys))(jnp.array([[1.0], [-2.0]]))
    np.testing.assert_allclose(ends, [[-1, 0], [2, 0]], atol=1e-6)


def test_the_density_of_an_affine_flow(x64, key):
    b = np.array([0.3, -0.2, 1.0])
    field = Linear(jnp.asarray(MATRIX), jnp.asarray(b))
    x = jnp.array([0.5, 1.5, -0.3])
    flow = CNF(field, 3, t1=1.5, **TIGHT)
    carry = scipy.linalg.expm(1.5 * MATRIX)
    mean = np.linalg.solve(MATRIX, (carry - np.eye(3)) @ b)
    law = scipy.stats.multivariate_normal(mean, carry @ carry.T)
    z = jnp.array([0.2, -1.0, 0.4])

    @eqx.filter_jit
    def everything(flow):
        end, log_det = flow.transport(z)
        return end, log_det, jax.vmap(flow.log_prob)(jnp.stack([x, end])), flow.sample(key)

    end, log_det, log_probs, sample = everything(flow)
    # All of it to the tolerance of the solver.
    np.testing.assert_allclose(end, carry @ z + mean, rtol=1e-7)
    np.testing.assert_allclose(log_det, 1.5 * np.trace(MATRIX), rtol=1e-7)
    np.testing.assert_allclose(log_probs, law.logpdf(np.stack([x, end])), rtol=1e-7)
    np.testing.assert_allclose(sample, carry @ jr.normal(key, (3,)) + mean, rtol=1e-7)
    # With signs z, zᵀ A z is tr A plus the entries beside the diagonal: of variance
    # Σ_{i<j} (A_ij + A_ji)².
    estimates = jax.jit(
        jax.vmap(lambda k: CNF(field, 3, trace="hutchinson", t1=1.5).log_prob(x, key=k))
    )(jr.split(key, 512))
    sums = (MATRIX + MATRIX.T)[np.triu_indices(3, 1)]
    spread = 1.5 * np.linalg.norm(sums)
    assert abs(np.mean(estimates) - law.logpdf(x)) < 4 * spread / np.sqrt(512)
    np.testing.assert_allclose(np.std(estimates), spread, rtol=0.1)


class Swing(eqx.Module):
    """Pendulums whose law of friction is learnt: v' = −sin x − v |c(v)|, c a network."""

    friction: eqx.nn.MLP

    def force(self, v):
        return -v * jnp.abs(jax.vmap(self.friction)(v[:, None])[:, 0])

    def __call__(self, t, y, args):
        return jnp.stack([y[1], -jnp.sin(y[0]) + self.force(y[1])])


def test_a_hybrid_model_finds_the_unknown_term(x64):
    """From positions and speeds of four swings with the friction 0.2 v + 0.3 v |v|."""
    ts, starts = (
        np.linspace(0, 3, 13),
        np.array([[2.5, 0.0], [-2.5, 0.0], [1.0, -2.0], [-1.0, 2.0]]),
    )

    def truth(t, y):
        return [y[1], -np.sin(y[0]) - 0.2 * y[1] - 0.3 * y[1] * abs(y[1])]

    series = jnp.stack(
        [scipy.integrate.solve_ivp(truth, (0, 3), y, t_eval=ts, rtol=1e-8).y.T for y in starts]
    )
    field = Swing(eqx.nn.MLP(1, 1, 8, 1, jnp.tanh, key=jr.key(0, impl="rbg")))
    moving, static = eqx.partition(field, eqx.is_inexact_array)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 200))

    def misfit(moving):
        model = NeuralODE(
            eqx.combine(moving, static), t1=3.0, solver=dfx.Bosh3(), dt0=0.25, max_steps=16,
            controller=dfx.ConstantStepSize(), adjoint=dfx.RecursiveCheckpointAdjoint(16),
        )  # fmt: skip
        found = model(starts.T, ts=jnp.asarray(ts)).ys  # all swings at once
        return jnp.mean((jnp.moveaxis(found, 2, 0) - series) ** 2)

    @jax.jit
    def train(moving):
        def update(carry, _):
            moving, state = carry
            updates, state = optimizer.update(jax.grad(misfit)(moving), state)
            return (optax.apply_updates(moving, updates), state), None

        return jax.lax.scan(update, (moving, optimizer.init(moving)), length=200)[0][0]

    learnt = eqx.combine(train(moving), static)
    vs = jnp.linspace(-1.75, 1.75, 9)
    found = learnt.force(vs)
    # Of up to 1.3; third-order steps of 0.25 are right to a few in a thousand.
    np.testing.assert_allclose(found, -0.2 * vs - 0.3 * vs * jnp.abs(vs), atol=0.08)


def exact_gaussian_posterior(design, xs, noise):
    """Mean and standard deviation of z ~ N(0, 1) given x = design z + noise, and log p(x)."""
    precision = 1 + np.sum(design**2) / noise**2
    mean = np.sum(design * xs) / noise**2 / precision
    covariance = np.outer(design, design) + noise**2 * np.eye(len(xs))
    return mean, precision**-0.5, scipy.stats.multivariate_normal(cov=covariance).logpdf(xs)


def test_the_bound_of_a_latent_ode_is_tight_at_the_posterior(x64, key):
    ts, noise = jnp.array([0.2, 0.5, 1.1, 1.5]), 0.3
    xs = jnp.array([[1.2, 2.0], [0.9, jnp.nan], [0.5, 0.7], [jnp.nan, 0.9]])
    there = ~np.isnan(np.asarray(xs))
    design = np.outer(np.exp(-0.6 * np.asarray(ts)), [1.0, 2.0])[there]
    mean, std, evidence = exact_gaussian_posterior(design, np.asarray(xs)[there], noise)
    encoder = lambda ts, xs: (jnp.array([mean]), jnp.log(jnp.array([std])))  # noqa: E731
    model = LatentODE(
        encoder,
        NeuralODE(lambda t, z, args: -0.6 * z, t1=1.5, **TIGHT),
        lambda z: jnp.array([1.0, 2.0]) * z,
        noise,
    )
    bounds, regs = jax.jit(jax.vmap(lambda k: model.elbo(ts, xs, key=k)))(jr.split(key, 1024))
    # One z: the spread of the bound at the posterior is that of χ²₁/2 times a factor near 1.
    assert abs(np.mean(bounds) - evidence) < 4 * np.std(bounds) / np.sqrt(1024)
    assert np.std(bounds) < 1 and np.all(regs == 0)
    predicted = eqx.filter_jit(model.predict)(ts, xs, ts)
    np.testing.assert_allclose(
        predicted, mean * np.outer(np.exp(-0.6 * np.asarray(ts)), [1, 2]), rtol=1e-7
    )


def test_encoders_read_backwards_and_past_holes(key):
    ts, xs = jnp.array([0.0, 0.4, 1.0]), jnp.array([[1.0, 2.0], [jnp.nan, 1.0], [0.3, jnp.nan]])
    gru = BackwardGRU(2, 5, key=key)
    states = gru(ts, xs)
    # State i knows observations i, i + 1, … and their times, and no others.
    before = gru(ts - jnp.array([0.1, 0, 0]), xs.at[0].set(7.0))
    np.testing.assert_array_equal(states[1:], before[1:])
    assert jnp.all(jnp.any(states[:1] != before[:1], axis=1)) and jnp.all(jnp.isfinite(states))
    after = gru(ts, xs.at[2, 0].set(7.0))
    assert jnp.all(jnp.any(states != after, axis=1))
    mean, log_std = GaussianEncoder(2, 5, 3, key=key)(ts, xs)
    assert mean.shape == log_std.shape == (3,)


KNOTS = np.array([0.0, 0.3, 0.4, 0.9, 1.6])
SERIES = np.array([[1.0, 0.2], [1.4, np.nan], [np.nan, -0.3], [0.3, 0.1], [0.8, np.nan]])


@pytest.mark.parametrize("interpolation", ["hermite", "linear", "rectilinear"])
def test_a_linear_controlled_equation_is_an_exponential(x64, interpolation):
    # dz = Σ_i Aⁱ z dXᵢ with matrices that commute: z = exp(Σ_i Aⁱ (X(t) − X(0))ᵢ) z₀.
    A = jnp.asarray(MATRIX)
    matrices = jnp.stack([A, A @ A, A @ A @ A], axis=1)  # row, channel, column
    model = NeuralCDE(
        lambda x: jnp.ones(3) + x,
        lambda t, z, args: matrices @ z,
        lambda z: z,
        interpolation=interpolation,
        **TIGHT,
    )
    ts, xs = jnp.asarray(KNOTS), jnp.asarray(SERIES)
    path = eqx.filter_jit(lambda ts, xs: model(ts, xs, evolving=True))(ts, xs)
    # What is missing: interpolated, or kept as it was; at the end always kept.
    filled = SERIES.copy()
    if interpolation == "rectilinear":
        filled[1, 1], filled[2, 0] = 0.2, 1.4
    else:
        filled[1, 1] = 0.2 - 0.5 * 0.3 / 0.4
        filled[2, 0] = 1.4 - 1.1 * 0.1 / 0.6
    if interpolation == "hermite":  # by the cubic through the neighbours
        slopes = [0.4 / 0.3, -1.1 / 0.6]
        cubic = scipy.interpolate.CubicHermiteSpline([0.3, 0.9], [1.4, 0.3], slopes)
        filled[2, 0] = cubic(0.4)
    filled[4, 1] = 0.1
    moves = np.concatenate([KNOTS[:, None], filled], axis=1)
    moves = moves - moves[0]
    z0 = 1 + np.array([0.0, *SERIES[0]])
    powers = [MATRIX, MATRIX @ MATRIX, MATRIX @ MATRIX @ MATRIX]
    exact = [
        scipy.linalg.expm(sum(m * p for m, p in zip(row, powers, strict=True))) @ z0
        for row in moves
    ]
    np.testing.assert_allclose(path.ys, exact, rtol=1e-6)
    if interpolation == "hermite":
        end = eqx.filter_jit(model)(ts, xs)
        np.testing.assert_allclose(end.ys, exact[-1], rtol=1e-6)


def test_paths_are_causal_and_count(x64):
    ts, xs = jnp.asarray(KNOTS), jnp.asarray(SERIES).at[:, 0].set(jnp.arange(5.0) ** 2)
    later = xs.at[4].set(9.0)
    for interpolation in ("hermite", "linear"):
        path, knots = control_path(ts, xs[:, :1], interpolation, counts=True)
        other, _ = control_path(ts, later[:, :1], interpolation, counts=True)
        early = jnp.linspace(0, 0.9, 7)
        np.testing.assert_array_equal(
            jax.vmap(path.evaluate)(early), jax.vmap(other.evaluate)(early)
        )
        np.testing.assert_array_equal(knots, ts)
        # time, value and count of the only channel
        np.testing.assert_allclose(path.evaluate(ts[3]), [0.9, 9.0, 4.0])
    # Backward differences: the slope after a knot is that of the interval before it.
    smooth, _ = control_path(ts, xs[:, :1])
    np.testing.assert_allclose(smooth.derivative(ts[2], left=False)[1], 3 / 0.1, rtol=1e-9)
    online, knots = control_path(ts, xs, "rectilinear", counts=True)
    assert knots.shape == (9,)
    np.testing.assert_allclose(online.evaluate(2.0), [0.3, 1.0, 0.2, 2.0, 1.0])
    np.testing.assert_allclose(online.evaluate(3.0), [0.4, 1.0, 0.2, 2.0, 1.0])


def test_controlled_equations_with_networks(key):
    field = CDEField(4, 5, 8, 1, key=key)
    large = field(0.0, 1e3 * jnp.ones(4))
    assert large.shape == (4, 5) and jnp.max(jnp.abs(large)) <= 1
    ts, xs = jnp.asarray(KNOTS, jnp.float32), jnp.asarray(SERIES, jnp.float32)
    with pytest.raises(ValueError, match=r"field: expected a matrix of shape \(4, 3\)"):
        NeuralCDE(lambda x: jnp.zeros(4), field, lambda z: z)(ts, xs)


def test_the_bound_of_a_latent_sde_is_tight_at_the_posterior(x64, key):
    """An Ornstein-Uhlenbeck process seen once, whose posterior is known in closed form."""
    theta, sigma, noise, end, x = 0.8, 0.7, 0.4, 1.5, 1.3

    def law(t, z):  # of x, given z(t) = z
        decay = jnp.exp(-theta * (end - t))
        return decay, sigma**2 * (1 - decay**2) / (2 * theta) + noise**2

    def posterior(t, z, context):
        decay, variance = law(t, z)
        return -theta * z + sigma**2 * decay * (x - decay * z) / variance

    decay, variance = law(0.0, 0.0)
    gain = decay / (decay**2 + variance)
    mean, std = gain * x, jnp.sqrt(1 - gain * decay)
    model = LatentSDE(
        lambda t, z: -theta * z,
        posterior,
        lambda t, z: jnp.full((1,), sigma),
        lambda ts, xs: (mean[None], jnp.log(std)[None], jnp.zeros((2, 0))),
        lambda z: z,
        dt0=0.02,
        obs_std=noise,
    )
    ts, xs = jnp.array([1.0, end]), jnp.array([[jnp.nan], [x]])
    fast = jr.key(1, impl="rbg")
    bounds = jax.jit(jax.vmap(lambda k: model.elbo(ts, xs, key=k)))(jr.split(fast, 512))
    evidence = scipy.stats.norm(0, np.sqrt(decay**2 + variance)).logpdf(x)
    # Four standard errors, and the first-order error of 75 steps.
    assert abs(np.mean(bounds) - evidence) < 4 * np.std(bounds) / np.sqrt(512) + 0.02
    paths = jax.jit(jax.vmap(lambda k: model.sample(k, 1, ts)))(jr.split(fast, 512))[:, 1, 0]
    np.testing.assert_allclose(np.var(paths), variance - noise**2 + decay**2, rtol=0.25)


def test_what_is_refused(key):
    field = lambda t, y, args: -y  # noqa: E731
    for build, message in [
        (lambda: NeuralODE(field, t0=1.0), "t1 = 1.0"),
        (lambda: AugmentedNODE(field, 0), "extra = 0"),
        (lambda: AugmentedNODE(field, 1, t1=0.0), "t1 = 0.0"),
        (lambda: CNF(field, 0), "dim = 0"),
        (lambda: CNF(field, 2, probes=0), "probes = 0"),
        (lambda: CNF(field, 2, trace="full"), "trace = 'full'"),
        (lambda: CNF(field, 2)(jnp.ones(3)), r"x: expected shape \(2,\), got \(3,\)"),
        (lambda: CNF(field, 2, trace="hutchinson")(jnp.ones(2)), "key: expected one"),
        (lambda: ReversibleAdjoint(0.0), "l = 0.0"),
        (lambda: control_path(jnp.arange(3.0), jnp.ones((4, 1))), "ts, xs: expected shapes"),
        (lambda: control_path(jnp.arange(3.0), jnp.ones((3, 1)), "cubic"), "'cubic'"),
        (lambda: BackwardGRU(1, 2, key=key)(jnp.arange(3.0), jnp.ones(3)), "ts, xs: expected"),
        (
            lambda: LatentSDE(field, field, field, field, field, dt0=0.0),
            "dt0 = 0.0: expected a positive",
        ),
        (
            lambda: LatentSDE(field, field, field, field, field, dt0=0.1, solver=dfx.Heun()),
            "for Itô equations, got Heun",
        ),
        (
            lambda: NeuralODE(field, adjoint=ReversibleAdjoint(), solver=dfx.Kvaerno3())(
                jnp.ones(2)
            ),
            "Kvaerno3",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
    ts = jnp.array([0.0, 1.0, 1.0])
    with pytest.raises(Exception, match="monotonically"):
        jax.block_until_ready(control_path(ts, jnp.ones((3, 1)))[0].evaluate(0.5))
    with pytest.raises(Exception, match="first row"):
        path, _ = control_path(jnp.arange(3.0), jnp.ones((3, 1)).at[0].set(jnp.nan))
        jax.block_until_ready(path.evaluate(0.5))
