"""Residual networks that are Euler steps of a neural ODE, trained so that they stay so.

    h₀ = A x,   h_{k+1} = h_k + L^(−β) m^(−1/2) V_k σ(W_k h_k q^(−1/2)),   F(x) = B h_L

with state width q, hidden width m, depth L. For β = 1 and weights that are functions of k/L, depth
is the number of Euler steps.
"""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from .nde.ode import NeuralODE

Init = Literal["tied", "smooth", "iid"]
_FEATURES = 128


class ScaledResNet(eqx.Module):
    """A residual network scaled by a power of its depth.

    - `in_size`, `out_size`, `depth` L, `width` q, `hidden` m.
    - `scaling`: β. 1 has an ODE as its limit for weights smooth in depth, 1/2 an SDE for i.i.d.
        ones.
    - `init`: `"tied"`, V = 0 and one Gaussian W for all layers, the paper's; `"smooth"`, both
        Gaussian processes in depth with covariance exp(−(s − s')²/2ℓ²), ℓ = 0.1, by random Fourier
        features, so that one key gives one function of s at every depth; `"iid"`, both anew in
        every layer.
    - `activation`: σ.

    Train it with `depth_flow`. Marion, Wu, Sander and Biau, arXiv:2309.01213.

    **Raises:** `ValueError` for a depth < 2, other sizes < 1, and another `init`.
    """

    enter: Float[Array, "q in"]
    inner: Float[Array, "L m q"]
    outer: Float[Array, "L q m"]
    leave: Float[Array, "out q"]
    scaling: float = eqx.field(static=True)
    activation: Callable[[Any], Any] = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_size: int,
        depth: int,
        width: int,
        hidden: int,
        *,
        scaling: float = 1.0,
        init: Init = "tied",
        activation: Callable[[Any], Any] = jnp.tanh,
        key: PRNGKeyArray,
    ):
        if depth < 2:
            raise ValueError(f"depth = {depth}: expected an integer >= 2")
        sizes = {"in_size": in_size, "out_size": out_size, "width": width, "hidden": hidden}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} = {size}: expected an integer >= 1")
        enter_key, inner_key, outer_key, leave_key = jr.split(key, 4)
        self.enter = jr.normal(enter_key, (width, in_size)) / in_size**0.5
        self.leave = jr.normal(leave_key, (out_size, width)) / width**0.5
        shapes = (hidden, width), (width, hidden)
        if init == "tied":
            self.inner = jnp.tile(jr.normal(inner_key, shapes[0]), (depth, 1, 1))
            self.outer = jnp.zeros((depth, *shapes[1]))
        elif init == "smooth":
            self.inner = _smooth(inner_key, depth, shapes[0])
            self.outer = _smooth(outer_key, depth, shapes[1])
        elif init == "iid":
            self.inner = jr.normal(inner_key, (depth, *shapes[0]))
            self.outer = jr.normal(outer_key, (depth, *shapes[1]))
        else:
            raise ValueError(f"init = {init!r}: expected 'tied', 'smooth' or 'iid'")
        self.scaling = scaling
        self.activation = activation

    @property
    def depth(self) -> int:
        """The number of residual layers L."""
        return self.inner.shape[0]

    def residual(
        self, outer: Float[Array, "q m"], inner: Float[Array, "m q"], h: Float[Array, " q"]
    ) -> Float[Array, " q"]:
        """The field V σ(W h/√q)/√m."""
        m, q = inner.shape
        return outer @ self.activation(inner @ h / q**0.5) / m**0.5

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        """F(x)."""

        def layer(h: Array, weights: tuple[Array, Array]) -> tuple[Array, None]:
            return h + self.residual(*weights, h) / self.depth**self.scaling, None

        h, _ = jax.lax.scan(layer, self.enter @ x, (self.outer, self.inner))
        return self.leave @ h

    def to_ode(self, **how: Any) -> "ResNetODE":
        """The neural ODE with the weights joined by lines, W(k/L) = W_k, constant after the last.

        **Arguments:**

        - `how`: `solver`, `controller`, `adjoint`, `dt0`, … of `NeuralODE`. With
            `solver=Euler(), dt0=1/L` and constant steps it is the network again.

        **Returns:** a `ResNetODE`.

        **Raises:** `ValueError` for a scaling other than 1, which has no ODE as its limit.
        """
        if self.scaling != 1:
            raise ValueError(f"scaling = {self.scaling}: expected 1, for an ODE as the limit")
        return ResNetODE(self.enter, NeuralODE(_Field(self), **how), self.leave)


class _Field(eqx.Module):
    """The residual as a function of depth s in [0, 1]."""

    network: ScaledResNet

    def __call__(self, s: Any, h: Float[Array, " q"], args: Any) -> Float[Array, " q"]:
        net = self.network
        place = s * net.depth
        return net.residual(_between(net.outer, place), _between(net.inner, place), h)


class ResNetODE(eqx.Module):
    """F(x) = B h(1), dh/ds = V(s) σ(W(s) h/√q)/√m, h(0) = A x."""

    enter: Float[Array, "q in"]
    ode: NeuralODE
    leave: Float[Array, "out q"]

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        """F(x)."""
        return self.leave @ self.ode(self.enter @ x).ys


def _between(weights: Float[Array, "L *shape"], place: Any) -> Float[Array, "*shape"]:
    """Weights at a place among the layers 0 … L − 1, linearly interpolated."""
    last = weights.shape[0] - 1
    # A time k/L in floating point may lie just below layer k: that is where it belongs.
    place = jnp.clip(place, 0, last)
    low = jnp.clip(jnp.floor(place), 0, last - 1).astype(int)
    share = place - low
    return (1 - share) * weights[low] + share * weights[low + 1]


def _smooth(key: PRNGKeyArray, depth: int, shape: tuple[int, int]) -> Float[Array, "L a b"]:
    frequency_key, phase_key = jr.split(key)
    frequency = jr.normal(frequency_key, (_FEATURES, *shape)) / 0.1
    phase = jr.uniform(phase_key, (_FEATURES, *shape), maxval=2 * jnp.pi)

    def at(s: Array) -> Array:
        return jnp.sqrt(2 / _FEATURES) * jnp.sum(jnp.cos(frequency * s + phase), 0)

    return jax.lax.map(at, jnp.arange(depth) / depth)


def depth_refine(network: ScaledResNet, factor: int) -> ScaledResNet:
    """The same functions of depth with `factor` times as many layers, between by lines.

    **Raises:** `ValueError` unless the factor is an integer ≥ 1.
    """
    if not isinstance(factor, int) or factor < 1:
        raise ValueError(f"factor = {factor!r}: expected an integer >= 1")
    places = jnp.arange(factor * network.depth) / factor
    finer = [
        jax.vmap(lambda p, w=w: _between(w, p))(places) for w in (network.inner, network.outer)
    ]
    return eqx.tree_at(lambda n: (n.inner, n.outer), network, tuple(finer))


def depth_lipschitz(network: ScaledResNet) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The largest L ‖W_{k+1} − W_k‖ and L ‖V_{k+1} − V_k‖ (Frobenius): bounded in L if smooth."""

    def largest(weights: Float[Array, "L a b"]) -> Array:
        return network.depth * jnp.max(jnp.linalg.norm(jnp.diff(weights, axis=0), axis=(1, 2)))

    return largest(network.inner), largest(network.outer)


def depth_flow(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Gradient descent on a `ScaledResNet` as a discretised gradient flow of functions of depth.

        A ← A − η ∂ℓ/∂A,   V_k ← V_k − η L^(2β−1) ∂ℓ/∂V_k,  and B, W_k likewise.

    A layer's gradient is of the order of L^(−β), and L of them act together: without the factor
    (L for β = 1) deep networks learn with A and B alone, and all looks smooth.

    **Arguments:**

    - `learning_rate`: η, a number or a schedule.

    **Returns:** an optax transformation, whose updates are a `ScaledResNet`.
    """

    def scale(updates: Any, params: Any) -> Any:
        del params
        factor = updates.depth ** (2 * updates.scaling - 1)
        where = lambda n: (n.inner, n.outer)  # noqa: E731
        return eqx.tree_at(where, updates, (factor * updates.inner, factor * updates.outer))

    return optax.chain(optax.stateless(scale), optax.scale_by_learning_rate(learning_rate))
