"""Records reference solutions of the stiff problems: SciPy's Radau, at two tolerances.

    python tests/oracles/record_stiff.py

writes `jaxsci/dynamics/stiff_reference.npz`. The Jacobians are exact; tolerances are 1e-12 relative
and 1e-12 of each component's typical size (1e-13 for the small systems).
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

from jaxsci.dynamics import stiff_problems

jax.config.update("jax_enable_x64", True)
found = {}
for problem in stiff_problems():
    jacobian = jax.jit(jax.jacfwd(lambda y, p=problem: p.field(0.0, y)))
    rtol = 1e-13 if len(problem.y0) < 10 else 1e-12
    runs = [
        solve_ivp(
            problem.numpy_field,
            (0, problem.t1),
            problem.y0,
            method=method,
            rtol=tol,
            atol=tol * problem.scale,
            jac=lambda t, y, f=jacobian: np.asarray(f(jnp.asarray(y))),
        )
        for method, tol in (("Radau", rtol), ("Radau", 30 * rtol))
    ]
    ends = [run.y[:, -1] for run in runs]
    gap = np.max(np.abs(ends[1] - ends[0]) / (problem.scale + np.abs(ends[0])))
    print(f"{problem.name}: {runs[0].t.size} steps, 30 times the tolerance moves it by {gap:.1e}")
    found[problem.name] = ends[0]
np.savez(Path(__file__).parents[2] / "jaxsci/dynamics/stiff_reference.npz", **found)
