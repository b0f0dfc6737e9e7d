"""Lazy Newton against a restatement in numpy, against optimistix, and against its theorems."""

import jax
import jax.numpy as jnp
import numpy as np
import optimistix
import pytest
from scipy.optimize import brentq, minimize

from jaxsci.autodiff import GaussNewton
from jaxsci.optim import lazy_newton, minimise_lazy, scale_by_lazy_newton, trajectory
from jaxsci.train import ArraySource, fit

RNG = np.random.default_rng(3)
A, B = RNG.normal(size=(40, 6)), RNG.normal(size=40)


def logistic(x):
    """Mean logistic loss plus ridge; strictly convex."""
    return jnp.mean(jnp.logaddexp(0, A @ x * np.sign(B))) + 5e-3 * x @ x


def logistic_grad(x):
    p = 1 / (1 + np.exp(-(A @ x) * np.sign(B)))
    return A.T @ (p * np.sign(B)) / 40 + 1e-2 * x


def logistic_hess(x):
    p = 1 / (1 + np.exp(-(A @ x)))
    return A.T @ ((p * (1 - p))[:, None] * A) / 40 + 1e-2 * np.eye(6)


def waves(x):
    """Non-convex: Hessian eigenvalues −sin(a_iᵀx) mixed; its Hessian has Lipschitz constant 1."""
    return jnp.sum(jnp.sin(x)) + 0.5 * jnp.sum((x[1:] - x[:-1]) ** 2) * 0.1


def waves_grad(x):
    difference = 0.1 * np.diff(x)
    return np.cos(x) - np.append(difference, 0) + np.insert(difference, 0, 0)


def waves_hess(x):
    laplacian = 2 * np.eye(len(x)) - np.eye(len(x), k=1) - np.eye(len(x), k=-1)
    laplacian[0, 0] = laplacian[-1, -1] = 1
    return -np.diag(np.sin(x)) + 0.1 * laplacian


def cubic(r, H, g, M):
    return np.linalg.solve(H + M * r / 2 * np.eye(len(g)), -g)


def excess(r, H, g, M):
    return np.linalg.norm(cubic(r, H, g, M)) - r


def reference(grad, hess, x, m, regulariser, M, steps):
    """Twenty lines of numpy and scipy: dense solves, brentq for the radius, nothing reused."""
    points = []
    for k in range(steps):
        if k % m == 0:
            H = hess(x)
        g, w = grad(x), np.linalg.eigvalsh(H)[0]
        if regulariser == "cubic":
            low = max(0.0, -2 * w / M)
            high = low + np.sqrt(2 * np.linalg.norm(g) / M)
            radius = 0.0  # at the minimum, to rounding
            if np.linalg.norm(g) > 1e-12:
                radius = brentq(excess, low + 1e-15, high + 1e-12, (H, g, M))
            s = cubic(radius, H, g, M)
        else:
            norm = np.linalg.norm(g)
            lam = {"quadratic": np.sqrt(M * norm), "gradient": M * norm, "none": 0.0}[regulariser]
            s = np.linalg.solve(H + (lam + max(0.0, -w)) * np.eye(len(x)), -g)
        x = x + s
        points.append(x)
    return np.array(points)


@pytest.mark.parametrize(
    "regulariser, m, M", [("cubic", 4, 1.0), ("quadratic", 6, 0.5), ("gradient", 3, 1.0)]
)
def test_fifty_steps_of_a_convex_problem(x64, regulariser, m, M):
    tx = lazy_newton(m=m, regulariser=regulariser, M=M)
    points, _ = jax.jit(lambda x: trajectory(tx, logistic, x, 50))(jnp.ones(6))
    expected = reference(logistic_grad, logistic_hess, np.ones(6), m, regulariser, M, 50)
    # Rounding of the gradient (1e-16) over the smallest eigenvalue (1e-2).
    np.testing.assert_allclose(points, expected, atol=1e-12)


def test_fifty_steps_of_an_indefinite_problem(x64):
    x0 = np.array([1.4, 1.2, -3.0, 0.3, 2.0])
    tx = lazy_newton(m=3, M=4.0)
    points, _ = jax.jit(lambda x: trajectory(tx, waves, x, 50))(jnp.asarray(x0))
    expected = reference(waves_grad, waves_hess, x0, 3, "cubic", 4.0, 50)
    assert np.linalg.eigvalsh(waves_hess(x0))[0] < -0.5
    # While the Hessian is indefinite, differences grow by a small factor in each step.
    np.testing.assert_allclose(points, expected, atol=1e-10)


def test_without_regularisation_it_is_newton_and_chord(x64):
    """With m = 1 it is optimistix.Newton on the gradient, with m = ∞ optimistix.Chord."""

    def iterates(solver, steps):
        def f(x, _):
            return jax.grad(logistic)(x)

        out = [
            optimistix.root_find(f, solver, jnp.full(6, 0.1), max_steps=n, throw=False).value
            for n in range(1, steps + 1)
        ]
        return np.array(out)

    for m, solver in ((1, optimistix.Newton), (100, optimistix.Chord)):
        tx = lazy_newton(m=m, regulariser="none", factor="cholesky")
        points, _ = trajectory(tx, logistic, jnp.full(6, 0.1), 3)
        theirs = iterates(solver(rtol=1e-30, atol=1e-30), 3)
        np.testing.assert_allclose(points, theirs, atol=1e-12)


@pytest.mark.parametrize("factor, rank", [("eigh", None), ("ritz", 6)])
def test_step_form_and_phase_form_agree(x64, factor, rank):
    """The transformation that undoes a failed phase against the loop that never starts it."""
    x0 = jnp.asarray([1.4, 1.2, -3.0, 0.3, 2.0, 0.7])
    options = dict(m=5, M="adaptive", M0=1e-3, factor=factor, rank=rank)
    result = minimise_lazy(waves, x0, gtol=0.0, max_phases=3, **options)
    n = int(result.n_grad) - 1
    assert n > 15  # some phases were done again
    points, _ = trajectory(lazy_newton(**options), waves, x0, n)
    np.testing.assert_allclose(points[-1], result.x, atol=1e-11)


def errors_per_phase(m, regulariser, M, x0, phases):
    x, found = x0, [abs(float(x0[0]))]
    for _ in range(phases):
        x = trajectory(lazy_newton(m=m, regulariser=regulariser, M=M), steep, x, m)[0][-1]
        found.append(abs(float(x[0])))
    return found


def steep(x):
    """Minimum at 0 with f'' = 1, f''' = 1."""
    return jnp.sum(jnp.exp(x) - x)


@pytest.mark.parametrize(
    "m, regulariser, order, start, tolerance",
    [
        (1, "none", 2.0, 1e-4, 0.05),
        (2, "none", 3.0, 1e-3, 0.05),
        (3, "none", 4.0, 3e-3, 0.15),
        (1, "quadratic", 1.5, 1e-8, 0.05),
        (2, "quadratic", 2.25, 1e-5, 0.1),
    ],
)
def test_local_order_of_a_phase(x64, m, regulariser, order, start, tolerance):
    """Exponent p of e' ~ eᵖ over a phase, from two sizes of e: m + 1 without regularisation; with
    the quadratic one a₀ = 1, a_{j+1} = a_j + min(1, a_j/2)."""
    slopes = []
    for e in (start, start / 4):
        slopes.append(errors_per_phase(m, regulariser, 1.0, jnp.asarray([e]), 1)[-1])
    measured = np.log(slopes[0] / slopes[1]) / np.log(4)
    assert measured == pytest.approx(order, abs=tolerance)


@pytest.mark.parametrize("m", [1, 5])
def test_the_theorem_of_the_cubic_method(x64, m):
    """With M = 6 m L every phase decreases f by (M/12) Σ r³, and the gradient after a step is at
    most (M + L)/2 r² + L δ r with δ the distance to the snapshot; hence the ε^(−3/2) rate."""
    L, x0 = 1.0, jnp.asarray([1.5, 1.6, 1.4, 1.7, 1.5])
    M, k = 6 * m * L, 60
    points, _ = trajectory(lazy_newton(m=m, M=M), waves, x0, k)
    points = np.concatenate([x0[None], points])
    radii = np.linalg.norm(np.diff(points, axis=0), axis=1)
    values = np.array([waves(x) for x in points])
    norms = np.array([np.linalg.norm(waves_grad(x)) for x in points])
    for i in range(0, k, m):
        assert values[i] - values[i + m] >= M / 12 * np.sum(radii[i : i + m] ** 3) - 1e-13
        for j in range(i, i + m):
            delta = np.linalg.norm(points[j] - points[i])
            bound = (M + L) / 2 * radii[j] ** 2 + L * delta * radii[j]
            assert norms[j + 1] <= bound + 1e-13
    # Summed with δ ≤ Σ r over the phase, these give min ‖∇f‖ ≤ C (√(m L) Δ / k)^(2/3).
    descent = values[0] - values[-1]
    assert norms.min() <= 8 * m * L * (2 * descent / (m * L * k)) ** (2 / 3)
    # And it reached a minimum (second-order stationary), although it began near a maximum.
    assert np.linalg.eigvalsh(waves_hess(points[-1]))[0] > 0


def test_optimum_is_scipys_and_the_hessian_is_rarely_computed(x64):
    optimum = minimize(
        lambda x: float(logistic(x)),
        np.zeros(6),
        jac=logistic_grad,
        hess=logistic_hess,
        method="trust-exact",
        options={"gtol": 1e-10},
    )
    for m in (1, 6):
        result = minimise_lazy(logistic, jnp.ones(6), m=m, gtol=1e-10)
        assert result.converged
        np.testing.assert_allclose(result.x, optimum.x, atol=1e-8)
        assert int(result.n_hess) == np.sum(result.trace["n_grad"] >= 0)
        assert int(result.n_hvp) == 6 * int(result.n_hess)
        if m == 1:
            every = int(result.n_hess)
    assert int(result.n_hess) <= every / 2


def test_mapped_over_starting_points(x64):
    starts = jnp.asarray(RNG.normal(size=(3, 6)))
    together = jax.vmap(lambda x: minimise_lazy(logistic, x, m=6, gtol=1e-9).x)(starts)
    one = minimise_lazy(logistic, starts[2], m=6, gtol=1e-9)
    np.testing.assert_allclose(together[2], one.x, atol=1e-9)


def test_gauss_newton_solves_linear_least_squares_in_one_step(x64):
    params = {"w": jnp.zeros((2, 3)), "b": jnp.zeros(())}
    x, y = jnp.asarray(A[:, :3]), jnp.asarray(RNG.normal(size=(40, 2)))
    tx = lazy_newton(regulariser="none", curvature=GaussNewton())

    def model_fn(p):
        return x @ p["w"].T + p["b"]

    def outer_fn(out):
        return jnp.mean((out - y) ** 2)

    def value_fn(p):
        return outer_fn(model_fn(p))

    points, _ = trajectory(tx, value_fn, params, 1, model_fn=model_fn, outer_fn=outer_fn)
    grads = jax.grad(value_fn)(jax.tree.map(lambda p: p[0], points))
    np.testing.assert_allclose(
        jnp.concatenate([grads["w"].ravel(), grads["b"][None]]), 0, atol=1e-13
    )
    found = minimise_lazy(
        value_fn,
        params,
        M=1e-8,
        curvature=GaussNewton(),
        model_fn=model_fn,
        outer_fn=outer_fn,
        max_phases=2,
    )
    assert found.converged


def test_an_adaptive_run_gets_over_a_constant_that_is_far_too_small(x64):
    def rosenbrock(x):
        return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    result = minimise_lazy(rosenbrock, jnp.asarray([-1.2, 1.0, -1.2, 1.0]), m=4, M0=1e-6)
    assert result.converged and result.M > 1e-2
    value = np.asarray(result.trace["value"])
    assert np.all(np.diff(value[~np.isnan(value)]) <= 0)  # no accepted phase goes uphill


def test_in_fit_with_mini_batches(key):
    inputs = jax.random.normal(key, (64, 3))
    targets = inputs @ jnp.asarray([1.0, -2.0, 0.5])

    def loss(w, batch, key):
        return jnp.mean((batch[0] @ w - batch[1]) ** 2)

    source = ArraySource((inputs, targets), 32)
    optimizer = lazy_newton(m=4, M="adaptive")
    result = fit(jnp.zeros(3), loss, optimizer, source, steps=12, key=key)
    np.testing.assert_allclose(result.model, [1.0, -2.0, 0.5], atol=1e-4)
    assert int(result.state.opt_state[0].metrics["refreshes"]) == 3


def test_a_step_between_snapshots_needs_no_hessian_and_no_cube(x64):
    """The kept factor is reused: only the conditional's refresh branch holds an eigh."""
    tx = scale_by_lazy_newton(m=5)
    x = jnp.ones(6)
    jaxpr = jax.make_jaxpr(lambda s: tx.update(jax.grad(logistic)(x), s, x, value_fn=logistic))(
        tx.init(x)
    )
    top = [equation.primitive.name for equation in jaxpr.eqns]
    assert "cond" in top and "eigh" not in top


def test_what_is_refused():
    x = jnp.ones(3)
    for options, message in [
        (dict(m=0), "m = 0"),
        (dict(M=0.0), "M = 0.0"),
        (dict(M="auto"), "M = 'auto'"),
        (dict(M0=-1.0), "M0 = -1.0"),
        (dict(regulariser="l2"), "regulariser = 'l2'"),
        (dict(factor="lu"), "factor = 'lu'"),
        (dict(factor="cholesky"), "cholesky"),
        (dict(factor="ritz"), "rank = None"),
        (dict(nonconvex="drop"), "nonconvex = 'drop'"),
        (dict(learning_rate=0.5, M="adaptive"), "learning_rate = 0.5"),
    ]:
        with pytest.raises(ValueError, match=message):
            lazy_newton(**options)
    tx = lazy_newton()
    with pytest.raises(ValueError, match="params"):
        tx.update(x, tx.init(x))
    with pytest.raises(ValueError, match="value_fn"):
        tx.update(x, tx.init(x), x)
    adaptive = lazy_newton(M="adaptive")
    with pytest.raises(ValueError, match="value_fn"):
        adaptive.update(x, adaptive.init(x), x, hvp_fn=lambda p, v: v)
    with pytest.raises(ValueError, match="scalar"):
        tx.update(x, tx.init(x), x, value_fn=lambda p: p)
    with pytest.raises(ValueError, match="4097 parameters"):
        tx.init(jnp.zeros(4097))
    with pytest.raises(ValueError, match="rank = 5"):
        lazy_newton(factor="ritz", rank=5).init(x)
    with pytest.raises(TypeError, match="int32"):
        tx.init(jnp.arange(3))
    with pytest.raises(TypeError, match="complex64"):
        tx.init(x + 1j)
    with pytest.raises(ValueError, match="gtol"):
        minimise_lazy(logistic, x, gtol=-1.0)
    with pytest.raises(ValueError, match="steps = 0"):
        trajectory(tx, logistic, x, 0)


def test_an_adaptive_phase_survives_an_overflow():
    """From 0 the second step lands at −1287, where the gradient is infinite."""

    def f(x):
        return jnp.exp(x[0] ** 2) - 5 * x[0]

    points, values = trajectory(lazy_newton(m=4, M="adaptive", M0=1e-6), f, jnp.zeros(1), 300)
    assert jnp.any(jnp.isinf(values)) and jnp.all(jnp.isfinite(points))
    # 2x exp(x²) = 5; rounding of float32 where the second derivative is about 14.
    assert abs(jax.grad(f)(points[-1])[0]) < 1e-4
