"""Learned stencils against JAX-CFD's; the history against dense solves and Laplace transforms."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.linalg

from jaxsci.dynamics import discretize, hippo
from jaxsci.operators import (
    HippoHistory,
    LearnedStencil,
    StencilNet,
    forecast,
    polynomial_constraints,
    unrolled,
)
from jaxsci.pde import BurgersFlux, Grid, StaggeredFlow, rollout

RECORDED = np.load(Path(__file__).parents[1] / "oracles" / "data" / "jax_cfd.npz")
LINE = Grid(0.0, 2 * np.pi, 16, periodic=True)


class Says(eqx.Module):
    """A net that returns the same logits for all features."""

    logits: jax.Array

    def __call__(self, features):
        return self.logits.astype(features.dtype)


@pytest.mark.parametrize(
    ("name", "sizes", "shift", "derivative", "order", "free"),
    [
        ("value_1d", (6,), (0.5,), (0,), 1, 5),
        ("value_1d_second", (6,), (0.5,), (0,), 2, 4),
        ("value_1d_third", (6,), (0.5,), (0,), 3, 3),
        ("slope_1d", (6,), (0.5,), (1,), 1, 4),
        ("value_2d", (4, 4), (0.5, 0.0), (0, 0), 1, 15),
        ("value_2d_second", (4, 4), (0.0, 0.5), (0, 0), 2, 13),
    ],
)
def test_jax_cfds_constraints(name, sizes, shift, derivative, order, free):
    offsets = [-((n - 1) // 2) + np.arange(n) - s for n, s in zip(sizes, shift, strict=True)]
    A, b = polynomial_constraints(offsets, derivative, order)
    nullspace = RECORDED[f"{name}_nullspace"]
    assert nullspace.shape == (free, np.prod(sizes)) and len(A) == np.prod(sizes) - free
    np.testing.assert_allclose(A @ RECORDED[f"{name}_bias"], b, atol=1e-12)
    np.testing.assert_allclose(A @ nullspace.T, 0, atol=1e-12)


def test_jax_cfds_learned_interpolation(x64):
    del x64
    grid = Grid((0.0, 0.0), (1.5, 2.0), (6, 8), periodic=True)
    forced = {"viscosity": 0.05, "drag": 0.1, "amplitude": 1.5, "wavenumber": 1}
    flow = StaggeredFlow(grid, 0.02, stages=1, **forced)
    model = LearnedStencil(flow, Says(jnp.zeros(120)), scale=1.0)
    # The same weights in our basis of the same space.
    logits = [
        np.einsum("ms,ns,nxy->mxy", ours.value, theirs, given)
        for ours, theirs, given in zip(
            model.nullspaces, RECORDED["nullspaces"], RECORDED["logits"], strict=True
        )
    ]
    net = Says(jnp.asarray(np.concatenate(logits)))
    start = jnp.asarray(RECORDED["projected"])
    (after,) = forecast(LearnedStencil(flow, net, scale=1.0), start[None], 1)
    np.testing.assert_allclose(after, RECORDED["learned"], atol=1e-12)


def test_without_logits_it_is_the_solver_bit_by_bit(key):
    solver = BurgersFlux(LINE, 0.05, 0.02)
    history = HippoHistory(3, frames=4)
    past = jr.normal(key, (4, 1, 16))
    _, c_out = LearnedStencil.channels(solver, 1, history, bundle=2, stencil=6)
    model = LearnedStencil(solver, Says(jnp.zeros((c_out, 16))), history, bundle=2, stencil=6)
    found, wanted = jax.jit(lambda p: (forecast(model, p, 5), rollout(solver, p[-1], 5)))(past)
    np.testing.assert_array_equal(found, wanted)


def test_whatever_the_network_says(key):
    # Any logits: momentum, the divergence, constants, and what `order` promises.
    flow = StaggeredFlow(Grid(0.0, 1.0, (8, 8), periodic=True), 0.01, 0.01, stages=1)
    logits = 5 * jr.normal(key, (104, 8, 8))  # 8 faces with 13 free weights each
    model = LearnedStencil(flow, Says(logits), order=2)
    x, y = np.meshgrid(np.arange(4) - 1, np.arange(4) - 1, indexing="ij")
    moments = np.stack([np.ones(16), x.ravel(), y.ravel()])
    wind = np.array([1.0, -2.0], np.float32)[:, None, None] * np.ones((2, 8, 8), np.float32)
    noise = 0.1 * jr.normal(key, (2, 8, 8))

    @jax.jit
    def found(noise):
        start = jnp.stack([wind, wind + flow.project(noise)])
        end = jax.vmap(lambda u: forecast(model, u[None], 3)[-1])(start)
        added = jnp.stack(model.weights(0.1 * logits))
        return start, end, jnp.einsum("is,fsxy->fixy", moments, added), flow.divergence(end[1])

    start, end, sums, divergence = found(noise)
    # Sums of 16 weights of order 1 in float32.
    np.testing.assert_allclose(sums, 0, atol=1e-5)
    np.testing.assert_allclose(end[0], wind, atol=1e-5)
    assert np.abs(end[1] - start[1]).max() > 1e-3
    np.testing.assert_allclose(np.mean(end, (2, 3)), np.mean(start, (2, 3)), atol=1e-6)
    # Velocities of order 1 over h = 1/8, rounded.
    np.testing.assert_allclose(divergence, 0, atol=1e-5)


def test_history_steps_are_dense_solves(x64, key):
    del x64
    n, dt = 12, 0.7
    A, B, _ = hippo("lagt", n)
    history = HippoHistory(n, dt=dt)
    h, v = jr.normal(key, (n, 1, 3)), jnp.array([[1.0, -2.0, 0.5]])
    right = (np.eye(n) + dt / 2 * A) @ h[:, 0] + dt * B[:, None] * v
    wanted = scipy.linalg.solve(np.eye(n) - dt / 2 * A, right)
    found = history.update(h, v)[:, 0]
    np.testing.assert_allclose(found, wanted, atol=1e-10)
    step = discretize(A, B, dt, "s4")
    np.testing.assert_allclose(found, step.A @ h[:, 0] + step.B1[:, None] * v, atol=1e-10)


def test_coefficients_of_growing_exponentials():
    # For v = exp(λt): h_n = v ∫ exp(−λs) L_n(s) exp(−s/2) ds = v (λ − ½)ⁿ/(λ + ½)ⁿ⁺¹, and h' = λ h.
    A, B, _ = hippo("lagt", 9)
    for growth in (0.1, 0.8):
        h = (growth - 0.5) ** np.arange(9) / (growth + 0.5) ** np.arange(1, 10)
        np.testing.assert_allclose(A @ h + B, growth * h, atol=1e-12 * np.abs(h).max())


def test_the_state_keeps_its_own_frames(key):
    solver = BurgersFlux(LINE, 0.05, 0.02, stages=1)
    history = HippoHistory(4, frames=3)
    sizes = LearnedStencil.channels(solver, 1, history, bundle=2, stencil=4)
    assert sizes == (5, 2 * (3 + 3 + 2))
    net = StencilNet(1, *sizes, width=4, depth=2, key=key)
    model = LearnedStencil(solver, net, history, bundle=2)
    window = jr.normal(key, (5, 1, 16))

    @eqx.filter_jit
    def states(model):
        recipe = unrolled(1, remat=True, in_line=True)
        loss, slopes = eqx.filter_value_and_grad(lambda m: recipe(m, window)[0])(model)
        last = model.step(model.init(window[:3]))
        seen = jnp.concatenate([window[:3], last.frames])
        return last, seen, history.init(seen), loss, slopes

    last, seen, memory, loss, slopes = states(model)
    np.testing.assert_allclose(last.memory, memory, atol=1e-5)
    assert float(last.time) == pytest.approx(0.1)
    assert float(loss) == pytest.approx(float(np.mean((seen - window)[3:] ** 2)), rel=1e-5)
    # The weights of the network learn, the bases stay.
    assert all(rows.bits is None for rows in slopes.nullspaces)
    assert all(float(np.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(slopes))


def test_bad_input():
    solver = BurgersFlux(LINE, 0.05, 0.02, order=1)
    past = jnp.ones((1, 1, 16))
    for call, message in (
        (lambda: LearnedStencil(solver, abs, stencil=2), "nothing is left to learn"),
        (lambda: LearnedStencil(solver, abs, order=2), "not that accurate"),
        (lambda: LearnedStencil(solver, abs, bundle=0), "bundle must be a positive"),
        (lambda: HippoHistory(8, frames=1), "frames must be at least 2"),
        (lambda: HippoHistory(8, dt=4.0), "dt must lie between"),
        (lambda: polynomial_constraints([np.arange(3)], (0, 0)), "expected 1 orders"),
        (lambda: forecast(LearnedStencil(solver, abs), past, 1), "net must return 1 x 8"),
        (lambda: LearnedStencil(solver, abs).init(past[0]), "expected 1 frames"),
        (lambda: StencilNet(1, 1, 1, depth=1, key=jr.key(0)), "depth must be at least 2"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="AbstractFluxForm"):
        LearnedStencil(abs, abs)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="net must be callable"):
        LearnedStencil(solver, None)  # pyright: ignore[reportArgumentType]
