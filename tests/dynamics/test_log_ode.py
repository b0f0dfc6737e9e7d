"""The log-ODE method against products and logarithms of matrix exponentials."""

from functools import reduce
from pathlib import Path

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxsci.dynamics import LogODE, log_signature

RNG = np.random.default_rng(5)


def test_log_signatures_are_logarithms_of_products(x64):
    """In nilpotent matrices words of four letters vanish: log Π exp(Σ Aᵢ dXᵢ) = Σ_w ℓ^w A_w."""
    xs = RNG.normal(size=(6, 2))
    A = np.triu(RNG.normal(size=(2, 4, 4)), 1)
    product = reduce(
        np.matmul, [scipy.linalg.expm(np.tensordot(d, A, 1)) for d in np.diff(xs, axis=0)]
    )
    words = [A, np.einsum("iab,jbc->ijac", A, A), np.einsum("iab,jbc,kcd->ijkad", A, A, A)]
    levels = jax.jit(lambda xs: log_signature(xs, 3))(xs)
    found = sum(np.tensordot(l, w, l.ndim) for l, w in zip(levels, words, strict=True))
    np.testing.assert_allclose(found, scipy.linalg.logm(product), atol=1e-12)
    # The area of a triangle, counterclockwise.
    area = log_signature(jnp.array([[0.0, 0], [3, 0], [0, 2], [0, 0]]), 2)[1]
    np.testing.assert_allclose(area, [[0, 3], [-3, 0]], atol=1e-14)


def test_log_signatures_are_those_of_signax(x64):
    """Recorded by tests/oracles/record_signax.py; to rounding, as both use Chen's identity."""
    record = np.load(Path(__file__).parents[1] / "oracles" / "data" / "signax.npz")
    levels = jax.jit(lambda xs: log_signature(xs, 3))(record["path"])
    for k, level in enumerate(levels, start=1):
        np.testing.assert_allclose(level, record[f"level {k}"], atol=1e-12)


def test_order_in_the_window_is_twice_the_depth(x64):
    """On dz = Σ Aᵢ z dXᵢ, where it is Magnus's expansion: on smooth paths of order 2 depth."""
    A = jnp.asarray(0.6 * RNG.normal(size=(2, 3, 3)))  # time, x; they do not commute
    ts = np.linspace(0, 1, 65)
    xs = np.sin(5 * ts)[:, None] + ts[:, None] ** 2
    moves = np.diff(np.concatenate([ts[:, None], xs], 1), axis=0)
    z0 = np.array([1.0, -0.5, 2.0])
    flows = [scipy.linalg.expm(np.tensordot(move, A, 1)) for move in moves]
    exact = reduce(lambda z, flow: flow @ z, flows, z0)

    def ends(depth):
        def model(window):
            field = lambda s, z, args: jnp.einsum("iab,b->ai", A, z)  # noqa: E731
            start, end = (lambda x: jnp.asarray(z0)), (lambda z: z)
            return LogODE(start, field, end, depth, window, solver=dfx.Tsit5(), dt0=0.25)

        coarse, point = model(8).windows(ts, xs)
        fine, _ = model(4).windows(ts, xs)
        # The coarse ones stand still afterwards, so that one program does both.
        both = jax.tree.map(lambda a, b: jnp.stack([jnp.concatenate([a, 0 * a]), b]), coarse, fine)
        return jax.vmap(lambda w: model(4).from_windows(w, point, evolving=True).ys)(both)

    errors = np.abs(
        np.asarray(jax.jit(lambda: jnp.stack([ends(1), ends(2)]))())[:, :, -1] - exact
    ).max(-1)
    np.testing.assert_allclose(np.log2(errors[:, 0] / errors[:, 1]), [2, 4], atol=0.3)


def test_windows_fill_holes_and_stand_still_at_the_end():
    ts = jnp.array([0.0, 0.2, 0.5, 0.6, 1.0, 1.5])
    xs = jnp.array([[1.0], [2.0], [jnp.nan], [4.0], [-1.0], [jnp.nan]])
    model = LogODE(jnp.tanh, jnp.tanh, jnp.tanh, depth=2, window=3)
    (moves, areas), start = jax.jit(model.windows)(ts, xs)
    np.testing.assert_allclose(start, [0, 1])
    np.testing.assert_allclose(moves, [[0.6, 3], [0.9, -5]], rtol=1e-6)
    # ½ ∫ t dx − x dt from the start of the window; straight lines from 0.2 to 0.6.
    first = (0.2 * 3 - 1 * 0.6) / 2
    second = (0.4 * -5 - -5 * 0.9) / 2
    np.testing.assert_allclose(areas[:, 0, 1], [first, second], atol=1e-6)
    np.testing.assert_allclose(areas, -jnp.swapaxes(areas, 1, 2), atol=1e-6)


def test_what_is_refused():
    identity = lambda *a: a[0]  # noqa: E731
    for build, message in [
        (lambda: log_signature(jnp.ones((3, 2)), 0), "depth = 0"),
        (lambda: log_signature(jnp.ones((1, 2)), 2), r"xs: expected shape \(n, c\)"),
        (lambda: LogODE(identity, identity, identity, depth=0), "depth = 0"),
        (lambda: LogODE(identity, identity, identity, window=0), "window = 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
