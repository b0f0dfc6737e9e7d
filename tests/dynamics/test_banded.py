"""Banded operators and their solver against dense linear algebra."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from jaxsci.dynamics import BandedOperator, BlockCyclicReduction, Rodas4, banded_jacobian

RNG = np.random.default_rng(3)


@pytest.mark.parametrize(
    "n, lower, upper", [(9, 1, 1), (17, 2, 2), (23, 3, 1), (7, 0, 2), (5, 0, 0)]
)
def test_against_dense(x64, n, lower, upper):
    bands = RNG.normal(size=(lower + upper + 1, n))
    bands[lower] += 6
    A = BandedOperator(jnp.asarray(bands), lower)
    dense = np.zeros((n, n))
    for i in range(n):
        for j in range(max(0, i - lower), min(n, i + upper + 1)):
            dense[i, j] = bands[j - i + lower, i]
    v = jnp.asarray(RNG.normal(size=n))
    # All to rounding.
    np.testing.assert_allclose(A.as_matrix(), dense, atol=0)
    np.testing.assert_allclose(A.mv(v), dense @ v, atol=1e-14)
    np.testing.assert_allclose(A.T.as_matrix(), dense.T, atol=0)
    shifted = lx.IdentityLinearOperator(A.in_structure()) - 0.1 * A / 2.0

    @jax.jit
    def both(v):
        def solve(v):
            return lx.linear_solve(shifted, v, BlockCyclicReduction()).value

        return solve(v), jax.vjp(solve, v)[1](v)[0]  # the second is the solve with Aᵀ

    matrix = np.eye(n) - 0.05 * dense
    forward, transposed = both(v)
    np.testing.assert_allclose(matrix @ forward, v, atol=1e-13)
    np.testing.assert_allclose(matrix.T @ transposed, v, atol=1e-13)
    field = lambda t, y, args: jnp.asarray(dense) @ jnp.sin(y) + args * y  # noqa: E731
    jacobian = banded_jacobian(field, lower, upper)(0.0, v, 2.0)
    np.testing.assert_allclose(jacobian.as_matrix(), dense * np.cos(v) + 2 * np.eye(n), atol=1e-14)


def test_brusselator_with_all_linear_algebra(x64):
    n = 12

    def field(t, y, args):
        u, v = y[::2], y[1::2]
        left = jnp.array([1.0]), jnp.array([3.0])
        diffusion = [
            jnp.diff(jnp.concatenate([w, x, w]), 2) * 0.02 * (n + 1) ** 2
            for w, x in zip(left, (u, v), strict=True)
        ]
        du = 1 + u**2 * v - 4 * u + diffusion[0]
        return jnp.stack([du, 3 * u - u**2 * v + diffusion[1]], 1).ravel()

    y0 = jnp.stack([1 + jnp.sin(jnp.arange(1, n + 1)), jnp.full(n, 3.0)], 1).ravel()
    banded = banded_jacobian(field, 2, 2)
    ends = []
    for options in (
        {},
        {"jacobian": banded},
        {"jacobian": banded, "linear_solver": BlockCyclicReduction()},
        {"jacobian": "matrix-free", "linear_solver": lx.GMRES(1e-13, 1e-13, restart=24)},
    ):
        sol = dfx.diffeqsolve(
            dfx.ODETerm(field), Rodas4(**options), 0.0, 0.2, 0.05, y0, max_steps=8
        )
        ends.append(sol.ys[0])
    # Four ways to the same numbers; GMRES to its tolerance.
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-12)
    np.testing.assert_allclose(ends[2], ends[0], atol=1e-12)
    np.testing.assert_allclose(ends[3], ends[0], atol=1e-9)


def test_tridiagonal_operators_and_what_is_refused(x64):
    main, off = jnp.array([4.0, 5.0, 6.0]), jnp.array([1.0, 2.0])
    operator = lx.TridiagonalLinearOperator(main, off, -off)
    x = lx.linear_solve(2.0 * operator, main, BlockCyclicReduction()).value
    np.testing.assert_allclose(2 * operator.as_matrix() @ x, main, atol=1e-14)
    for build, message in [
        (lambda: BandedOperator(jnp.ones((2, 5)), 2), "bands, lower"),
        (lambda: BandedOperator(jnp.ones(5), 0), "bands, lower"),
        (lambda: BandedOperator(jnp.ones((5, 2)), 2), "only 2 rows"),
        (lambda: banded_jacobian(lambda t, y, args: y, -1, 1), "lower = -1"),
        (lambda: banded_jacobian(lambda t, y, args: y, 1, 1)(0, jnp.ones((2, 2)), None), "one vec"),
        (
            lambda: BlockCyclicReduction().init(lx.MatrixLinearOperator(jnp.eye(3)), {}),
            "operator: expected a banded",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
