"""Neural spectral methods: an operator between coefficients, trained by its residual alone.

    input φ̂, output û    coefficients in the same basis
    layer                 v ← σ( F⁻¹ R F v + W v + b ),    R a matrix of channels for each function
    loss                  ‖ R(û; φ̂) ‖² by Parseval: no grid, no derivative of the network

A grid appears only inside the activations, which act at the n nodes of n functions: F is then
invertible, and maps of channels may act on values or on coefficients alike. The residual is formed
by the exact algebra of `jaxsci.nn.TensorBasis`, so that a training of the network is a training
against the equation and not against a scheme for it.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxsci.nn import ChannelLinear, FourierAxis, SpectralConv, TensorBasis
from jaxsci.pde import Grid

from .stepping import check_count


class NSM(eqx.Module):
    """A neural spectral operator, φ̂ ↦ û, between coefficients of one `TensorBasis`.

        v = σ(W₂ σ(W₁ [F⁻¹φ̂, x]))
        v ← σ(F⁻¹ R_l F v + W_l v + b_l),    l = 1 … depth
        û = s F (W₅ σ(W₄ σ(W₃ v)))

    R_l has a matrix of channels for each of the basis' functions: nothing is truncated. A cosine
    and its sine have matrices of their own, so that one layer turns no phase; the coordinates in
    the first layer make up for it.

    ```python
    basis = TensorBasis((ChebyshevAxis(16), FourierAxis(31)))  # (t, x)
    operator = NSM(basis, 1, 1, width=32, key=jax.random.key(0))
    u = operator(phi)  # coefficients (1, 16, 31) to coefficients (1, 16, 31)
    values = operator(phi, out=grid)  # on any grid of the unit box; or at points (n, 2)
    ```

    **Arguments:**

    - `basis`: a `jaxsci.nn.TensorBasis`.
    - `c_in`, `c_out`: channels.
    - `width`, `depth`: channels inside, spectral layers. Good values: 32 to 64, 4 to 10.
    - `scale`: s. The paper's 1e-3 starts the training from the constraint alone (from the initial
        value with u = φ + t û), and needs long trainings.
    - `coordinates`: append x to the input; on Fourier axes cos 2πx and sin 2πx, which unlike x the
        basis can hold.
    - `activation`: σ; the paper's is `jax.nn.relu`.

    **Raises:** `ValueError` for sizes that are not positive or coefficients of another shape;
    `TypeError` if `basis` is no `TensorBasis`.

    Reference: Du, Chalapathi & Krishnapriyan, arXiv:2312.05225.
    """

    lift: tuple[ChannelLinear, ...]
    layers: tuple[SpectralConv, ChannelLinear]
    head: tuple[ChannelLinear, ...]
    basis: TensorBasis
    scale: float = eqx.field(static=True)
    depth: int = eqx.field(static=True)
    c_in: int = eqx.field(static=True)
    coordinates: bool = eqx.field(static=True)
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        basis: TensorBasis,
        c_in: int,
        c_out: int,
        *,
        width: int = 64,
        depth: int = 4,
        scale: float = 1.0,
        coordinates: bool = True,
        activation: Callable[[Array], Array] = jax.nn.gelu,
        key: PRNGKeyArray,
    ):
        if not isinstance(basis, TensorBasis):
            raise TypeError(f"NSM: basis must be a TensorBasis, got {basis!r}")
        for name, value in (("c_in", c_in), ("c_out", c_out), ("width", width), ("depth", depth)):
            check_count(f"NSM: {name}", value)
        lift_key, layer_key, head_key = jr.split(key, 3)
        self.basis, self.c_in, self.depth, self.scale = basis, c_in, depth, float(scale)
        self.coordinates, self.activation = coordinates, activation
        c_lift = c_in + (len(self._coordinates()) if coordinates else 0)

        def maps(key, *sizes):
            keys = jr.split(key, len(sizes) - 1)
            pairs = zip(sizes[:-1], sizes[1:], keys, strict=True)
            return tuple(ChannelLinear(a, b, key=k) for a, b, k in pairs)

        self.lift = maps(lift_key, c_lift, 4 * width, width)
        # R_l and W_l of all layers, stacked.
        self.layers = eqx.filter_vmap(
            lambda a, b: (
                SpectralConv(basis, width, width, init="normal", key=a),
                ChannelLinear(width, width, key=b),
            )
        )(*jr.split(layer_key, (2, depth)))
        self.head = maps(head_key, width, width, 4 * width, c_out)

    def _coordinates(self) -> Float[np.ndarray, "c *grid"]:
        channels = []
        for axis, x in zip(self.basis.axes, self.basis.nodes(), strict=True):
            if isinstance(axis, FourierAxis):
                channels += [np.cos(2 * np.pi * x), np.sin(2 * np.pi * x)]
            else:
                channels.append(2 * x - 1)
        return np.stack(channels)

    def __call__(
        self,
        u: Float[Array, "c_in *modes"],
        *,
        cond: Any = None,
        out: Grid | Float[Array, "n d"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "c_out *modes"]:
        """Applies the operator.

        **Arguments:**

        - `u`: coefficients of the input; of a function of fewer variables by
            `jaxsci.nn.TensorBasis.pad`.
        - `out`: None for coefficients; a `Grid` on the unit box or points (n, d) for values there.
        - `cond`, `key`: part of every operator's signature, not used.

        **Raises:** `ValueError` for coefficients of another shape, or if `cond` is given.
        """
        del key
        if cond is not None:
            raise ValueError("NSM: takes no cond; parameters are constant input functions")
        if u.shape != (self.c_in, *self.basis.modes):
            raise ValueError(
                f"NSM: expected coefficients {(self.c_in, *self.basis.modes)}, got {u.shape}"
            )
        v = self.basis.inverse(u, self.basis.modes)
        if self.coordinates:
            v = jnp.concatenate([v, jnp.asarray(self._coordinates(), v.dtype)])
        for linear in self.lift:
            v = self.activation(linear(v))
        arrays, static = eqx.partition(self.layers, eqx.is_array)

        def layer(v, weights):
            spectral, linear = eqx.combine(weights, static)
            return self.activation(spectral(v) + linear(v)), None

        # As in FNO: unrolled while that compiles in seconds.
        v, _ = jax.lax.scan(layer, v, arrays, unroll=self.depth <= 8)
        *hidden, last = self.head
        for linear in hidden:
            v = self.activation(linear(v))
        coef = self.scale * self.basis.forward(last(v))
        if out is None:
            return coef
        if isinstance(out, Grid):
            points = tuple(jnp.asarray(out.axis(a), coef.dtype) for a in range(out.n_dims))
            return self.basis.evaluate_product(coef, points)
        return self.basis.evaluate(coef, jnp.asarray(out))
