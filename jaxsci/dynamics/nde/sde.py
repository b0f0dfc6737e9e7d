"""The latent SDE: a variational posterior that is a diffusion, against a prior diffusion.

prior       dz = h(t, z) dt + σ(t, z) dW,      z(0) ~ N(0, I)
posterior   dz = f(t, z, c(t)) dt + σ(t, z) dW,  z(0) ~ N(mean, std²)
log p(x) ≥ E_q [Σ_i log p(x_i | z(t_i)) − ∫ ½ |(f − h)/σ|² dt] − KL(q(z₀) ‖ N(0, I))
"""

from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PRNGKeyArray, Real

from .latent import check_series, gaussian_log_likelihood, standard_kl
from .problem import AbstractNDE


def check_sde(dt0: float, solver: dfx.AbstractSolver, kind: type, calculus: str) -> None:
    """Raises `ValueError` for a step that is not positive, or a solver of the other calculus."""
    if not dt0 > 0:
        raise ValueError(f"dt0 = {dt0}: expected a positive number")
    if not isinstance(solver, kind):
        raise ValueError(
            f"solver: expected one for {calculus} equations, got {type(solver).__name__}"
        )


class LatentSDE(AbstractNDE):
    """A generative model of series by a diffusion, fitted by the evidence lower bound above.

    Prior and posterior share the noise σ; otherwise their laws would be singular to each other.

    - `field`: the prior's drift h, `(t, z) -> dz`.
    - `posterior`: the posterior's drift f, `(t, z, context) -> dz`.
    - `diffusion`: σ, `(t, z) -> (d,)`, positive: noise of its own for every component.
    - `encoder`: `(ts, xs) -> (mean, log_std, contexts)`; row i of `contexts` is the context between
        t_{i−1} and t_i, and may know the observations from t_i on.
    - `decoder`: from a latent state to the channels. `obs_std`: noise of the observations.
    - `dt0`: the step; times of observations between steps are interpolated.
    - `solver`: one that converges to the Itô solution, with constant steps.
    - `controller`, `adjoint`, `max_steps`: as for diffrax.

    Li, Wong, Chen and Duvenaud, arXiv:2001.01328; Kidger, arXiv:2202.02435.

    **Raises:** `ValueError` for a step that is not positive, or a Stratonovich solver.
    """

    field: Callable[[Any, Array], Array]
    posterior: Callable[[Any, Array, Any], Array]
    diffusion: Callable[[Any, Array], Array]
    encoder: Callable[..., tuple[Array, Array, Any]]
    decoder: Callable[[Array], Array]
    dt0: float
    obs_std: float | Array = 0.1
    solver: dfx.AbstractSolver = dfx.Euler()
    controller: dfx.AbstractStepSizeController = dfx.ConstantStepSize()
    adjoint: dfx.AbstractAdjoint = dfx.RecursiveCheckpointAdjoint()
    max_steps: int = eqx.field(default=4096, static=True)

    def __check_init__(self):
        check_sde(self.dt0, self.solver, dfx.AbstractItoSolver, "Itô")

    def elbo(
        self, ts: Real[Array, " n"], xs: Float[Array, "n c"], *, key: PRNGKeyArray
    ) -> Float[Array, ""]:
        """The lower bound of log p(x) from one path of the posterior, started at time 0.

        **Arguments:**

        - `ts`: increasing times ≥ 0. `xs`: observations, NaN where missing.
        """
        check_series(ts, xs)
        start_key, path_key = jax.random.split(key)
        mean, log_std, contexts = self.encoder(ts, xs)
        z0 = mean + jnp.exp(log_std) * jax.random.normal(start_key, mean.shape, mean.dtype)

        def drift(t: Any, state: tuple[Array, Array], packed: Any) -> tuple[Array, Array]:
            model, ts, contexts = packed
            row = jnp.minimum(jnp.searchsorted(ts, t, side="right"), ts.shape[0] - 1)
            f = model.posterior(t, state[0], jax.tree.map(lambda c: c[row], contexts))
            u = (f - model.field(t, state[0])) / model.diffusion(t, state[0])
            return f, jnp.sum(u**2) / 2

        state = (z0, jnp.zeros((), z0.dtype))
        (zs, energies), _ = self._problem(drift, state, (self, ts, contexts), ts, path_key).solve()
        fit = gaussian_log_likelihood(xs, jax.vmap(self.decoder)(zs), self.obs_std)
        return fit - energies[-1] - standard_kl(mean, log_std)

    def sample(self, key: PRNGKeyArray, latent: int, at: Real[Array, " m"]) -> Float[Array, "m c"]:
        """Means of the observations at the times `at` along a path of the prior."""
        start_key, path_key = jax.random.split(key)
        z0 = jax.random.normal(start_key, (latent,))

        def drift(t: Any, state: tuple[Array, Array], packed: Any) -> tuple[Array, Array]:
            return packed[0].field(t, state[0]), jnp.zeros((), z0.dtype)

        state = (z0, jnp.zeros((), z0.dtype))
        (zs, _), _ = self._problem(drift, state, (self, at), at, path_key).solve()
        return jax.vmap(self.decoder)(zs)

    def _problem(self, drift: Any, state: Any, packed: Any, ts: Array, key: PRNGKeyArray) -> Any:
        shape = jax.eval_shape(lambda: state[0])
        # Step boundaries never come closer than this, so the path need not resolve more.
        brownian = dfx.VirtualBrownianTree(0.0, ts[-1], self.dt0 / 4, shape, key)

        def noise(t: Any, state: tuple[Array, Array], packed: Any) -> lx.AbstractLinearOperator:
            sigma = packed[0].diffusion(t, state[0])
            return lx.FunctionLinearOperator(
                lambda dw: (sigma * dw, jnp.zeros((), dw.dtype)), shape
            )

        terms = dfx.MultiTerm(dfx.ODETerm(drift), dfx.ControlTerm(noise, brownian))
        return self.problem(terms, state, packed, 0.0, ts[-1], ts)
