"""Errors in libraries that this room builds on; a test that fails here says that one is mended."""

import diffrax as dfx
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from jaxsci.dynamics import BandedOperator, BlockCyclicReduction, reversible_solve


def test_lineax_lu_conjugates_into_the_conjugate_transpose(x64):
    A = jnp.array([[1 + 1j, 2.0], [0.5j, 3 - 1j]])
    b = jnp.array([1.0, 2j])
    conjugate, transposed = np.asarray(A).conj(), np.asarray(A).conj().T

    def through(solver, operator):
        state, _ = solver.conj(solver.init(operator, {}), {})
        return solver.compute(state, b, {})[0]

    lu = through(lx.LU(), lx.MatrixLinearOperator(A))
    np.testing.assert_allclose(lu, np.linalg.solve(transposed, b), rtol=1e-12)
    bands = jnp.array([[0, A[1, 0]], [A[0, 0], A[1, 1]], [A[0, 1], 0]])
    ours = through(BlockCyclicReduction(), BandedOperator(bands, 1))
    np.testing.assert_allclose(ours, np.linalg.solve(conjugate, b), rtol=1e-12)


def test_diffrax_forward_mode_fails_on_wrapped_solvers(x64):
    term, y0 = dfx.ODETerm(lambda t, y, args: -y), jnp.ones(1)
    with pytest.raises(AttributeError, match="scan_kind"):
        dfx.diffeqsolve(
            term, dfx.HalfSolver(dfx.Heun()), 0.0, 1.0, 0.1, y0, adjoint=dfx.ForwardMode()
        )
    end = reversible_solve(term, dfx.Heun(), 0.0, 1.0, 0.1, y0).y
    np.testing.assert_allclose(end, np.exp(-1), rtol=1e-2)  # second order, h = 0.1
