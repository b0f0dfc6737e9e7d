"""The latent ODE: a variational autoencoder of irregular series whose latent state obeys an ODE."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Real

from .ode import NeuralODE


class BackwardGRU(eqx.Module):
    """A gated recurrent unit that reads a series from its end to its start.

    It sees, at each observation, the time to the one read before, the values (0 where missing) and
    which of them are there.

    - `in_size`: channels of the series. `hidden`: size of the state.
    """

    cell: eqx.nn.GRUCell

    def __init__(self, in_size: int, hidden: int, *, key: PRNGKeyArray):
        self.cell = eqx.nn.GRUCell(2 * in_size + 1, hidden, key=key)

    def __call__(self, ts: Real[Array, " n"], xs: Float[Array, "n c"]) -> Float[Array, "n hidden"]:
        """State i has read the observations n − 1, …, i. Missing values are NaN."""
        check_series(ts, xs)
        there = ~jnp.isnan(xs)
        gaps = jnp.append(jnp.diff(ts), 0).astype(xs.dtype)[:, None]
        rows = jnp.concatenate([gaps, jnp.where(there, xs, 0), there.astype(xs.dtype)], axis=1)

        def read(h: Array, row: Array) -> tuple[Array, Array]:
            h = self.cell(row, h)
            return h, h

        start = jnp.zeros((self.cell.hidden_size,), xs.dtype)
        return jax.lax.scan(read, start, rows, reverse=True)[1]


class GaussianEncoder(eqx.Module):
    """q(z₀ | series) = N(mean, std²) from a `BackwardGRU`'s last state; returns mean and log std.

    - `in_size`, `hidden`: of the recurrent unit. `latent`: length of z₀.
    """

    gru: BackwardGRU
    head: eqx.nn.Linear

    def __init__(self, in_size: int, hidden: int, latent: int, *, key: PRNGKeyArray):
        gru_key, head_key = jax.random.split(key)
        self.gru = BackwardGRU(in_size, hidden, key=gru_key)
        self.head = eqx.nn.Linear(hidden, 2 * latent, key=head_key)

    def __call__(
        self, ts: Real[Array, " n"], xs: Float[Array, "n c"]
    ) -> tuple[Float[Array, " latent"], Float[Array, " latent"]]:
        mean, log_std = jnp.split(self.head(self.gru(ts, xs)[0]), 2)
        return mean, log_std


class LatentODE(eqx.Module):
    """z(0) ~ N(0, I),  dz/dt = f(t, z),  x_i = g(z(t_i)) + ε_i,  ε_i ~ N(0, obs_std² I).

    - `encoder`: `(ts, xs) -> (mean, log_std)` of q(z(0) | series), such as `GaussianEncoder`.
    - `ode`: a `NeuralODE` on the latent space; times of the series are counted from its t₀ on.
    - `decoder`: g, from a latent state to the channels.
    - `obs_std`: standard deviation of the noise.

    Rubanova, Chen and Duvenaud, arXiv:1907.03907.
    """

    encoder: Callable[..., tuple[Array, Array]]
    ode: NeuralODE
    decoder: Callable[[Array], Array]
    obs_std: float | Array = 0.1

    def elbo(
        self, ts: Real[Array, " n"], xs: Float[Array, "n c"], *, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """E_q log p(x | z) − KL(q ‖ N(0, I)), with one sample of q, and the regulariser's penalty.

        **Arguments:**

        - `ts`: increasing times. `xs`: the observations, NaN where missing.

        **Returns:** the lower bound of log p(x), and the penalty of `ode.regulariser`.
        """
        check_series(ts, xs)
        draw, ode_key = jax.random.split(key)
        mean, log_std = self.encoder(ts, xs)
        z0 = mean + jnp.exp(log_std) * jax.random.normal(draw, mean.shape, mean.dtype)
        out = self.ode(z0, ts=ts, key=ode_key)
        fit = gaussian_log_likelihood(xs, jax.vmap(self.decoder)(out.ys), self.obs_std)
        return fit - standard_kl(mean, log_std), out.reg

    def predict(
        self,
        ts: Real[Array, " n"],
        xs: Float[Array, "n c"],
        at: Real[Array, " m"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "m c"]:
        """g(z(t)) at the times `at`, from the mean of q or, with a key, from a sample of it."""
        mean, log_std = self.encoder(ts, xs)
        if key is not None:
            mean = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape, mean.dtype)
        return jax.vmap(self.decoder)(self.ode(mean, ts=at).ys)

    def sample(self, key: PRNGKeyArray, latent: int, at: Real[Array, " m"]) -> Float[Array, "m c"]:
        """g(z(t)) at the times `at` for z(0) ~ N(0, I) of length `latent`."""
        return jax.vmap(self.decoder)(self.ode(jax.random.normal(key, (latent,)), ts=at).ys)


def gaussian_log_likelihood(
    xs: Float[Array, "n c"], means: Float[Array, "n c"], std: float | Array
) -> Float[Array, ""]:
    """Σ log N(x; mean, std²) over the values that are there."""
    there = ~jnp.isnan(xs)
    residual = jnp.where(there, xs, 0) - jnp.where(there, means, 0)
    terms = (residual / std) ** 2 / 2 + jnp.log(std * jnp.sqrt(2 * jnp.pi))
    return -jnp.sum(jnp.where(there, terms, 0))


def standard_kl(mean: Float[Array, " d"], log_std: Float[Array, " d"]) -> Float[Array, ""]:
    """KL(N(mean, std²) ‖ N(0, I))."""
    return jnp.sum((mean**2 + jnp.exp(2 * log_std) - 1) / 2 - log_std)


def check_series(ts: Array, xs: Array) -> None:
    """Refuses times and values that do not belong together."""
    if jnp.ndim(ts) != 1 or jnp.ndim(xs) != 2 or ts.shape[0] != xs.shape[0] or ts.shape[0] < 2:
        raise ValueError(
            f"ts, xs: expected shapes (n,) and (n, c) with n >= 2, "
            f"got {jnp.shape(ts)} and {jnp.shape(xs)}"
        )
