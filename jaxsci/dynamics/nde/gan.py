"""Neural stochastic differential equations, and how they learn a law of paths as a GAN.

generator       x(0) = ζ(v), v ~ N(0, I),    dx = μ(t, x) dt + σ(t, x) ∘ dW,    y = readout(x)
discriminator   a neural CDE that reads (t, y) and ends in one number D
min over the generator, max over the discriminator, of  E D(data) − E D(y)

The gap is a Wasserstein distance if D is Lipschitz: hence `lipswish` and `clip_linear`.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, Real

from .cde import NeuralCDE
from .problem import AbstractNDE
from .sde import check_sde

Model = TypeVar("Model")


def lipswish(x: Array) -> Array:
    """0.909 x sigmoid(x): smooth, with slopes between −0.1 and 1.

    Chen, Behrmann, Duvenaud and Jacobsen, arXiv:1906.02735.
    """
    return 0.909 * jax.nn.silu(x)


def clip_linear(model: Model) -> Model:
    """Clips the weights of every `equinox.nn.Linear` with n inputs to ±1/n; biases are free.

    Then |W x|_∞ ≤ |x|_∞, so that a perceptron with `lipswish` has the Lipschitz constant 1.
    To be applied after every update of a discriminator.

    Kidger, Foster, Li and Lyons, arXiv:2105.13493.
    """

    def clip(layer: Any) -> Any:
        if not isinstance(layer, eqx.nn.Linear):
            return layer
        limit = 1 / layer.weight.shape[1]
        return eqx.tree_at(lambda l: l.weight, layer, jnp.clip(layer.weight, -limit, limit))

    return jax.tree.map(clip, model, is_leaf=lambda x: isinstance(x, eqx.nn.Linear))


class NeuralSDE(AbstractNDE):
    """A law of paths: a diffusion in the sense of Stratonovich, read out linearly or otherwise.

    - `initial`: ζ, from normal numbers v to x(0): randomness at the start.
    - `field`: the drift μ, `(t, x) -> dx`.
    - `diffusion`: σ, `(t, x) -> (len(x), noise)`.
    - `readout`: from x to the channels.
    - `initial_noise`, `noise`: lengths of v and W.
    - `dt0`: the step; times between steps are interpolated.
    - `solver`: one that converges to the Stratonovich solution, with constant steps. With
        `diffrax.ReversibleHeun` a step needs one evaluation of the fields.
    - `controller`, `adjoint`, `max_steps`: as for diffrax.

    Kidger, Foster, Li and Lyons, arXiv:2102.03657; Kidger, arXiv:2202.02435.

    **Raises:** `ValueError` for a step that is not positive, or a solver for Itô equations.
    """

    initial: Callable[[Array], Array]
    field: Callable[[Any, Array], Array]
    diffusion: Callable[[Any, Array], Array]
    readout: Callable[[Array], Array]
    initial_noise: int = eqx.field(static=True)
    noise: int = eqx.field(static=True)
    dt0: float
    solver: dfx.AbstractSolver = dfx.ReversibleHeun()
    controller: dfx.AbstractStepSizeController = dfx.ConstantStepSize()
    adjoint: dfx.AbstractAdjoint = dfx.RecursiveCheckpointAdjoint()
    max_steps: int = eqx.field(default=4096, static=True)

    def __check_init__(self):
        check_sde(self.dt0, self.solver, dfx.AbstractStratonovichSolver, "Stratonovich")

    def sample(self, key: PRNGKeyArray, ts: Real[Array, " n"]) -> Float[Array, "n c"]:
        """One path at the times `ts`, started at ts[0].

        **Arguments:**

        - `ts`: increasing times.
        """
        start_key, path_key = jr.split(key)
        x0 = self.initial(jr.normal(start_key, (self.initial_noise,)))
        shape = jax.ShapeDtypeStruct((self.noise,), x0.dtype)
        # Step boundaries never come closer than this, so the path need not resolve more.
        brownian = dfx.VirtualBrownianTree(ts[0], ts[-1], self.dt0 / 2, shape, path_key)
        terms = dfx.MultiTerm(
            dfx.ODETerm(lambda t, x, model: model.field(t, x)),
            dfx.ControlTerm(lambda t, x, model: model.diffusion(t, x), brownian),
        )
        xs, _ = self.problem(terms, x0, self, ts[0], ts[-1], ts).solve()
        return jax.vmap(self.readout)(xs)


class SDEGAN(eqx.Module):
    """A `NeuralSDE` and the `NeuralCDE` that judges its paths.

    - `discriminator`: takes linear interpolation ("linear") and gives one number. Its layers
        should use `lipswish`, and start within `clip_linear`.

    Training descends in the generator and ascends in the discriminator, at once:

        gradient = model.saddle(equinox.filter_grad(lambda m: m.gap(ts, ys, key=key))(model))

    and `model.clipped()` after every update; with an optimiser without momentum (Adadelta, RMSprop)
    and an average of the generator's weights over the later updates.
    """

    generator: NeuralSDE
    discriminator: NeuralCDE

    def gap(
        self, ts: Real[Array, " n"], ys: Float[Array, "b n c"], *, key: PRNGKeyArray
    ) -> Float[Array, ""]:
        """Mean of D over the series ys minus that over as many generated ones."""
        fake = jax.vmap(lambda k: self.generator.sample(k, ts))(jr.split(key, ys.shape[0]))
        scores = jax.vmap(lambda y: self.discriminator(ts, y).ys)(jnp.concatenate([ys, fake]))
        return jnp.mean(scores[: ys.shape[0]]) - jnp.mean(scores[ys.shape[0] :])

    def saddle(self, gradient: "SDEGAN") -> "SDEGAN":
        """A gradient of `gap` made one to descend along: the discriminator's part changes sign."""
        turned = jax.tree.map(jnp.negative, gradient.discriminator)
        return SDEGAN(gradient.generator, turned)

    def clipped(self) -> "SDEGAN":
        """The same with `clip_linear` on the discriminator."""
        return SDEGAN(self.generator, clip_linear(self.discriminator))
