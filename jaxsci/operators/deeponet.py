"""DeepONet: a function is read by one network and asked for by another.

    G(u)(y) = Σ_{i≤p} b_i(u) t_i(y) + b₀

The branch b sees the input function at fixed sensors, the trunk t the point y where the output is
wanted: any point, so that the output has no grid.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from jaxsci.nn import Buffer
from jaxsci.pde import Grid

Network = Callable[[Float[Array, " n"]], Float[Array, " m"]]


def fourier_features(
    y: Float[Array, " d"], frequencies: Sequence[float] | Float[ArrayLike, " k"]
) -> Float[Array, " d+2*k*d"]:
    """[y, cos 2πf₁y, sin 2πf₁y, …, cos 2πf_k y, sin 2πf_k y], coordinate by coordinate.

    With them a trunk sees waves of about the right length at the start. Good values: f, f/2, f/3,
    where f is the highest frequency of the output, per unit of y.

    **Raises:** `ValueError` unless y and the frequencies have one axis.
    """
    y, f = jnp.asarray(y), jnp.asarray(frequencies)
    if y.ndim != 1 or f.ndim != 1:
        raise ValueError(
            f"fourier_features: expected one point and a list of frequencies, got shapes {y.shape} "
            f"and {f.shape}"
        )
    angle = 2 * jnp.pi * f.astype(y.dtype)[:, None] * y
    waves = jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)
    return jnp.concatenate([y, waves.ravel()])


class ModifiedMLP(eqx.Module):
    """A perceptron whose layers are blends of two encodings of the input.

        U = σ(W_U x + b_U),   V = σ(W_V x + b_V)
        h ← σ(ω₀ (W₀ x + b₀)),   then for each layer   h ← σ(W h + b),   h ← h ⊙ U + (1 − h) ⊙ V

    and a linear head. The input reaches every layer as a factor, which helps where the output is a
    product of functions of the input. With sines, ω₀ spreads the first layer over many
    wavelengths; U and V have no such factor.

    **Arguments:**

    - `c_in`, `c_out`: sizes of the vectors in and out.
    - `width`, `depth`: of the hidden layers; depth counts them after the first, so that 0 is one
        hidden layer without blending. Good values: 128 and 3 (the paper: 2048 and 5).
    - `activation`: σ. With "sin" weights start as a SIREN's: U(±1/c_in) for W₀, W_U and W_V,
        U(±√(6/width)) after. With a function they start as Glorot normals, biases 0.
    - `omega0`: ω₀. 30 in the paper; 1 is a good value with Fourier features or another σ.
    - `features`: applied to the input first, such as `fourier_features`, with the frequencies
        bound; c_in is the size before. By default none.

    **Raises:** `ValueError` for sizes out of range, ω₀ that is not positive, an input of another
    size; `TypeError` for an activation that is neither "sin" nor callable.

    Reference: Wang, Teng & Perdikaris, arXiv:2001.04536 (as "improved architecture").
    """

    gates: tuple[eqx.nn.Linear, eqx.nn.Linear]
    layers: tuple[eqx.nn.Linear, ...]
    head: eqx.nn.Linear
    activation: Callable[[Array], Array] = eqx.field(static=True)
    omega0: float = eqx.field(static=True)
    features: Callable | None = eqx.field(static=True)
    c_in: int = eqx.field(static=True)

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        width: int = 128,
        depth: int = 3,
        activation: Literal["sin"] | Callable[[Array], Array] = "sin",
        omega0: float = 30.0,
        features: Callable | None = None,
        key: PRNGKeyArray,
    ):
        for name, value, least in (("c_in", c_in, 1), ("c_out", c_out, 1), ("width", width, 1)):
            if value < least:
                raise ValueError(f"ModifiedMLP: {name} must be at least {least}, got {value}")
        if depth < 0:
            raise ValueError(f"ModifiedMLP: depth must be at least 0, got {depth}")
        if not omega0 > 0:
            raise ValueError(f"ModifiedMLP: omega0 must be positive, got {omega0}")
        if activation != "sin" and not callable(activation):
            raise TypeError(f"ModifiedMLP: activation must be 'sin' or callable, got {activation}")
        size = c_in
        if features is not None:
            size = jax.eval_shape(features, jax.ShapeDtypeStruct((c_in,), jnp.float32)).shape[0]
        sines = activation == "sin"

        def linear(key, a, b, first):
            weight_key, bias_key = jr.split(key)
            layer = eqx.nn.Linear(a, b, key=bias_key)
            if sines:
                limit = 1 / a if first else (6 / a) ** 0.5
                weight = jr.uniform(weight_key, (b, a), minval=-limit, maxval=limit)
                return eqx.tree_at(lambda m: m.weight, layer, weight)
            weight = jr.normal(weight_key, (b, a)) * (2 / (a + b)) ** 0.5
            return eqx.tree_at(lambda m: (m.weight, m.bias), layer, (weight, jnp.zeros(b)))

        u_key, v_key, first_key, head_key, *keys = jr.split(key, 4 + depth)
        self.gates = (linear(u_key, size, width, True), linear(v_key, size, width, True))
        self.layers = (
            linear(first_key, size, width, True),
            *(linear(k, width, width, False) for k in keys),
        )
        # The head is linear: unit variance in, unit variance out.
        limit = (3 / width) ** 0.5 if not sines else (6 / width) ** 0.5
        head = eqx.nn.Linear(width, c_out, key=head_key)
        weight = jr.uniform(head_key, (c_out, width), minval=-limit, maxval=limit)
        self.head = eqx.tree_at(lambda m: (m.weight, m.bias), head, (weight, jnp.zeros(c_out)))
        self.activation = jnp.sin if sines else activation
        self.omega0, self.features, self.c_in = float(omega0), features, c_in

    def __call__(self, x: Float[Array, " c_in"]) -> Float[Array, " c_out"]:
        """The network at one input vector."""
        if x.shape != (self.c_in,):
            raise ValueError(f"ModifiedMLP: expected shape {(self.c_in,)}, got {x.shape}")
        if self.features is not None:
            x = self.features(x)
        u, v = (self.activation(gate(x)) for gate in self.gates)
        first, *rest = self.layers
        h = self.activation(self.omega0 * first(x))
        for layer in rest:
            h = self.activation(layer(h))
            h = h * u + (1 - h) * v
        return self.head(h)


class DeepONet(eqx.Module):
    """The operator G(u)(y)_c = Σ_{i≤p} b_{ci}(u) t_i(y) + b₀_c.

    Several input functions (MIONet, arXiv:2202.06137) have a branch each, whose values are
    multiplied: b_{ci} = Π_k b_{ci}^k(u_k).

    ```python
    branch_key, trunk_key = jax.random.split(jax.random.key(0))
    branch = eqx.nn.MLP(32, 100, 128, 3, key=branch_key)  # 32 sensors
    trunk = ModifiedMLP(2, 100, width=128, key=trunk_key)  # points (x, t)
    operator = DeepONet(branch, trunk, p=100)
    values = operator(u, out=points)  # u: (1, 32); points: (n, 2); values: (1, n)
    ```

    **Arguments:**

    - `branch`: from the input's values, raveled, to c_out · p numbers; or a tuple of such networks.
    - `trunk`: from a point y to p numbers.
    - `p`: number of products. Good value: 100.
    - `c_out`: channels of the output; they share the trunk.
    - `bias`: whether there is b₀; it starts at 0.
    - `shift`, `scale`: y is (point − shift)/scale inside, one number or one for each coordinate; so
        that points are given in the problem's own units. Not trained.

    **Raises:** `TypeError` for networks that cannot be called; `ValueError` for p or c_out below 1,
    a scale of 0, or networks with other sizes (when called).

    Reference: Lu et al., arXiv:1910.03193.
    """

    branches: tuple[Network, ...]
    trunk: Network
    bias: Float[Array, " c_out"] | None
    shift: Buffer
    scale: Buffer
    p: int = eqx.field(static=True)
    c_out: int = eqx.field(static=True)

    def __init__(
        self,
        branch: Network | tuple[Network, ...],
        trunk: Network,
        *,
        p: int = 100,
        c_out: int = 1,
        bias: bool = True,
        shift: Float[ArrayLike, "*d"] = 0.0,
        scale: Float[ArrayLike, "*d"] = 1.0,
    ):
        branches = branch if isinstance(branch, tuple) else (branch,)
        for name, each in (("trunk", trunk), *(("branch", b) for b in branches)):
            if not callable(each):
                raise TypeError(f"DeepONet: {name} must be callable, got {each!r}")
        for name, value in (("p", p), ("c_out", c_out), ("number of branches", len(branches))):
            if value < 1:
                raise ValueError(f"DeepONet: {name} must be at least 1, got {value}")
        if np.any(np.asarray(scale) == 0):
            raise ValueError(f"DeepONet: scale must not be 0, got {scale}")
        self.branches, self.trunk, self.p, self.c_out = branches, trunk, p, c_out
        self.bias = jnp.zeros(c_out) if bias else None
        self.shift, self.scale = Buffer(jnp.asarray(shift)), Buffer(jnp.asarray(scale))

    def encode(self, u: Array | tuple[Array, ...]) -> Float[Array, "c_out p"]:
        """b(u): all that the points need to know of the input. Once for any number of them.

        **Raises:** `ValueError` for another number of functions than branches, or a branch of
        another size.
        """
        functions = u if isinstance(u, tuple) else (u,)
        if len(functions) != len(self.branches):
            raise ValueError(
                f"DeepONet: {len(functions)} input functions for {len(self.branches)} branches"
            )
        code = jnp.ones(())
        for branch, function in zip(self.branches, functions, strict=True):
            each = branch(jnp.ravel(function))
            if each.shape != (self.c_out * self.p,):
                raise ValueError(
                    f"DeepONet: a branch must return {self.c_out * self.p} numbers, got shape "
                    f"{each.shape}"
                )
            code = code * each
        return code.reshape(self.c_out, self.p)

    def basis(self, points: Float[Array, "n d"]) -> Float[Array, "n p"]:
        """t(y) at all points: the same for every input.

        **Raises:** `ValueError` unless the points are rows, or a trunk of another size.
        """
        if points.ndim != 2:
            raise ValueError(f"DeepONet: out must have shape (n, d), got {points.shape}")
        scaled = (points - self.shift.value) / self.scale.value
        values = jax.vmap(self.trunk)(scaled.astype(points.dtype))
        if values.shape[1:] != (self.p,):
            raise ValueError(
                f"DeepONet: the trunk must return {self.p} numbers, got shape {values.shape[1:]}"
            )
        return values

    def decode(
        self, code: Float[Array, "c_out p"], basis: Float[Array, "n p"]
    ) -> Float[Array, "c_out n"]:
        """The sums b t + b₀: one matrix product for all points (and, under `vmap`, all inputs)."""
        values = code @ basis.T
        return values if self.bias is None else values + self.bias[:, None]

    def __call__(
        self,
        u: Float[Array, "c *grid"] | tuple[Array, ...],
        *,
        out: Grid | Float[Array, "n d"],
        cond: Any = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "c_out *out"]:
        """The output function at `out`: on a grid, (c_out, *grid), or at n points, (c_out, n).

        `cond` and `key` belong to the protocol and are not used.

        **Raises:** `ValueError` if `cond` is given, and as `encode` and `basis`.
        """
        del key
        if cond is not None:
            raise ValueError("DeepONet: takes no cond; parameters are one more input function")
        if not isinstance(out, Grid):
            return self.decode(self.encode(u), self.basis(jnp.asarray(out)))
        points = jnp.asarray(out.coords()).reshape(out.n_dims, -1).T
        return self.decode(self.encode(u), self.basis(points)).reshape(self.c_out, *out.shape)
