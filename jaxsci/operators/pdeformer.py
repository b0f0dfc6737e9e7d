"""PDEformer: reads an equation as a graph and answers with its solution as a field.

    equation → graph → Graphormer → μ₁ … μ_L → PolyINR with s_l = S_l(μ_l), r_l = R_l(μ_l) → u(t, x)

One network for many equations; a new one is solved without training, or after a little of it.
"""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxsci.fields import PolyINR
from jaxsci.nn import Graphormer, stacked
from jaxsci.pde import Grid

from .equations import N_KINDS, PDEGraph
from .metrics import relative_l2


class AbstractNumberEncoder(eqx.Module):
    """Vectors for the numbers in an equation: its coefficients and its functions."""

    branches: eqx.AbstractVar[int]

    @abc.abstractmethod
    def scalar(self, value: Float[Array, ""]) -> Float[Array, " c"]:
        """The vector of a coefficient. Nodes without a number have that of 0."""

    @abc.abstractmethod
    def function(
        self, points: Float[Array, " x"], values: Float[Array, " x"]
    ) -> Float[Array, "branches c"]:
        """The vectors of a function."""


class PatchEncoder(AbstractNumberEncoder):
    """A function in patches of p neighbouring values, a coefficient as p equal ones; one MLP.

    For functions on one grid.

    **Arguments:**

    - `points`: of the grid. `branches`: N, patches; must divide `points`.
    - `width`: of the vectors. `hidden`, `depth`: of the MLP's hidden layers.

    **Raises:** `ValueError` for patches that do not divide the points, or another number of values.

    Reference: Ye et al., arXiv:2402.12652.
    """

    mlp: eqx.nn.MLP
    branches: int = eqx.field(static=True)

    def __init__(
        self,
        points: int,
        branches: int,
        width: int,
        *,
        hidden: int = 256,
        depth: int = 2,
        key: PRNGKeyArray,
    ):
        if branches < 1 or points < 1 or points % branches:
            raise ValueError(
                f"PatchEncoder: branches={branches} must divide points={points}, both positive"
            )
        self.mlp = eqx.nn.MLP(points // branches, width, hidden, depth, key=key)
        self.branches = branches

    def scalar(self, value: Float[Array, ""]) -> Float[Array, " c"]:
        """The vector of a constant patch."""
        return self.mlp(jnp.broadcast_to(value, (self.mlp.in_size,)))  # pyright: ignore[reportArgumentType]

    def function(
        self, points: Float[Array, " x"], values: Float[Array, " x"]
    ) -> Float[Array, "branches c"]:
        """The vectors of the patches, from left to right."""
        del points
        size = self.branches * int(self.mlp.in_size)
        if values.shape != (size,):
            raise ValueError(f"PatchEncoder: expected {size} values, got shape {values.shape}")
        return jax.vmap(self.mlp)(values.reshape(self.branches, -1))


class GridEncoder(AbstractNumberEncoder):
    """A function on one grid as N vectors, each of which sees all of it; a coefficient by an MLP.

    Where patches of a function have to find their places by attention, which takes long to learn,
    here every vector is a function of all values from the start.

    **Arguments:**

    - `points`: of the grid. `branches`: N. `width`: of the vectors.
    - `hidden`, `depth`: of the MLPs' hidden layers.
    """

    of_scalar: eqx.nn.MLP
    of_function: eqx.nn.MLP
    branches: int = eqx.field(static=True)

    def __init__(
        self,
        points: int,
        branches: int,
        width: int,
        *,
        hidden: int = 256,
        depth: int = 2,
        key: PRNGKeyArray,
    ):
        keys = jr.split(key)
        self.of_scalar = eqx.nn.MLP(1, width, hidden, depth, key=keys[0])
        self.of_function = eqx.nn.MLP(points, branches * width, hidden, depth, key=keys[1])
        self.branches = branches

    def scalar(self, value: Float[Array, ""]) -> Float[Array, " c"]:
        """The vector of a coefficient."""
        return self.of_scalar(value[None])

    def function(
        self, points: Float[Array, " x"], values: Float[Array, " x"]
    ) -> Float[Array, "branches c"]:
        """The vectors of a function."""
        del points
        if values.shape != (self.of_function.in_size,):
            raise ValueError(
                f"GridEncoder: expected {self.of_function.in_size} values, got shape {values.shape}"
            )
        return self.of_function(values).reshape(self.branches, -1)


class SetEncoder(AbstractNumberEncoder):
    """A function as a set of pairs y = (x, f(x)), at any points; a coefficient by an MLP.

        [v₁ … v_N] = MLP( Σ_y softmax_y(ω(y)) ⊙ φ(y) )

    with PolyINRs φ and ω, the softmax over the points, channel by channel.

    **Arguments:**

    - `branches`: N, vectors that a function is spread over. `width`: of the vectors.
    - `hidden`: of φ, ω and the MLP after them. `scalar_hidden`: of the coefficients' MLP.
    - `depth`: of all hidden layers.

    Reference: Ye et al., arXiv:2407.06664 ("PDEformer-1").
    """

    of_scalar: eqx.nn.MLP
    feature: PolyINR
    weight: PolyINR
    join: eqx.nn.MLP
    branches: int = eqx.field(static=True)

    def __init__(
        self,
        branches: int,
        width: int,
        *,
        hidden: int = 512,
        scalar_hidden: int = 256,
        depth: int = 2,
        key: PRNGKeyArray,
    ):
        keys = jr.split(key, 4)
        self.of_scalar = eqx.nn.MLP(1, width, scalar_hidden, depth, key=keys[0])
        self.feature, self.weight = (
            PolyINR(2, hidden, width=hidden, depth=depth, key=k) for k in keys[1:3]
        )
        self.join = eqx.nn.MLP(hidden, branches * width, hidden, depth, key=keys[3])
        self.branches = branches

    def scalar(self, value: Float[Array, ""]) -> Float[Array, " c"]:
        """The vector of a coefficient."""
        return self.of_scalar(value[None])

    def function(
        self, points: Float[Array, " x"], values: Float[Array, " x"]
    ) -> Float[Array, "branches c"]:
        """The vectors of the set."""
        pairs = jnp.stack([points, values], 1)
        shares = jax.nn.softmax(jax.vmap(self.weight)(pairs), 0)
        total = jnp.sum(shares * jax.vmap(self.feature)(pairs), 0)
        return self.join(total).reshape(self.branches, -1)


class PDEformer(eqx.Module):
    """û_i(t, x) for the unknowns u_i of an equation or system, given as a `PDEGraph`.

        z = encoder(numbers),   μ = Graphormer(z, graph) at the nodes m₁ … m_L of u_i
        û_i(y) = PolyINR(y; s_l = S_l(μ_l), r_l = R_l(μ_l))

    with MLPs S_l and R_l of their own for each layer.

    ```python
    encoder = PatchEncoder(64, 8, 32, key=keys[0])
    transformer = Graphormer(32, 4, 2, key=keys[1])
    model = PDEformer(encoder, transformer, PolyINR(2, 1, width=32, depth=4, key=keys[2]), key=key)
    u = equations.unknown()
    left = equations.dt(u) + 0.5 * equations.dx(u)
    graph = pde_graph(left, {u: g}, x, modulations=4, branches=8)
    values = model(graph, out=points)  # points: (n, 2), rows (t, x); values: (1, n)
    ```

    The network knows the equations it was trained with, on one domain: coordinates have to be
    scaled to it, and the coefficients with them (with t' = t/2, u_t + c u_x = 0 becomes
    u_t' + 2c u_x = 0).

    **Arguments:**

    - `encoder`: a `PatchEncoder`, `SetEncoder` or `GridEncoder`.
    - `transformer`: a `jaxsci.nn.Graphormer` with `N_KINDS` kinds or more.
    - `field`: a `jaxsci.fields.PolyINR` with one channel.
    - `hidden`, `depth`: of the hidden layers of S_l and R_l.
    - `key`: for these.

    **Raises:** `ValueError` for a transformer of too few kinds, a field of more than one channel,
    or a graph with other numbers of b_j or m_l.

    Reference: Ye et al., arXiv:2402.12652, arXiv:2407.06664.
    """

    encoder: AbstractNumberEncoder
    transformer: Graphormer
    field: PolyINR
    scale: eqx.nn.MLP
    shift: eqx.nn.MLP

    def __init__(
        self,
        encoder: AbstractNumberEncoder,
        transformer: Graphormer,
        field: PolyINR,
        *,
        hidden: int = 256,
        depth: int = 2,
        key: PRNGKeyArray,
    ):
        kinds, width = transformer.kind.shape
        if kinds <= N_KINDS:
            raise ValueError(
                f"PDEformer: the transformer has {kinds - 1} kinds, expected {N_KINDS} or more"
            )
        if field.head.bias is None or field.head.bias.shape != (1,):
            raise ValueError("PDEformer: field must have one channel; unknowns share it")
        self.encoder, self.transformer, self.field = encoder, transformer, field

        self.scale, self.shift = (
            stacked(lambda k: eqx.nn.MLP(width, field.width, hidden, depth, key=k), k, field.depth)
            for k in jr.split(key)
        )

    def encode(self, graph: PDEGraph) -> Float[Array, "u l c"]:
        """μ: all that the points need to know of the equation. Once for any number of them."""
        modulation = jnp.asarray(graph.modulation)
        if modulation.shape[1] != self.field.depth:
            raise ValueError(
                f"PDEformer: the graph has {modulation.shape[1]} modulations, the field "
                f"{self.field.depth} layers"
            )
        kind, branch = jnp.asarray(graph.kind), jnp.asarray(graph.branch)
        points, values = jnp.asarray(graph.points), jnp.asarray(graph.values)
        rows = jax.vmap(lambda v: self.encoder.function(points, v))(values)
        rows = rows.reshape(-1, rows.shape[-1])
        numbers = jax.vmap(self.encoder.scalar)(jnp.asarray(graph.scalar))
        z = jnp.where((branch >= 0)[:, None], rows[jnp.maximum(branch, 0)], numbers)
        x = self.transformer(
            z,
            kind,
            jnp.asarray(graph.in_degree),
            jnp.asarray(graph.out_degree),
            jnp.asarray(graph.distance),
        )
        return x[modulation]

    def modulations(self, code: Float[Array, "l c"]) -> tuple[Array, Array]:
        """S_l(μ_l) and R_l(μ_l), each "l width"."""
        scale, shift = (
            eqx.filter_vmap(lambda mlp, mu: mlp(mu))(mlps, code)
            for mlps in (self.scale, self.shift)
        )
        return scale, shift

    def decode(self, code: Float[Array, "l c"], points: Float[Array, "n d"]) -> Float[Array, " n"]:
        """One unknown at any points."""
        scale, shift = self.modulations(code)
        return jax.vmap(lambda y: self.field(y, scale, shift))(points)[:, 0]

    def __call__(
        self,
        graph: PDEGraph,
        *,
        out: Grid | Float[Array, "n d"],
        cond: None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "u *out"]:
        """The solution at n points (t, x), "u n", or on a grid of t and x, "u t x".

        `cond` and `key` belong to the protocol: the parameters are in the graph.
        """
        del key
        if cond is not None:
            raise ValueError("PDEformer: takes no cond; parameters are scalars of the graph")
        if not isinstance(out, Grid):
            points, shape = jnp.asarray(out), (-1,)
        else:
            points, shape = jnp.asarray(out.coords()).reshape(out.n_dims, -1).T, out.shape
        found = jax.vmap(lambda code: self.decode(code, points))(self.encode(graph))
        return found.reshape(found.shape[0], *shape)


def recover(
    model: PDEformer,
    graph_of: Callable[[Float[Array, " p"]], PDEGraph],
    observed: Float[Array, "u n"],
    points: Float[Array, "n d"],
    low: Float[Array, " p"],
    high: Float[Array, " p"],
    *,
    starts: int = 16,
    steps: int = 100,
    rate: float = 0.05,
    key: PRNGKeyArray,
) -> tuple[Float[Array, " p"], Float[Array, ""]]:
    """Coefficients of an equation whose solution was observed:

        θ* = argmin_θ ‖model(graph_of(θ)) − observed‖₂ / ‖observed‖₂,   low ≤ θ ≤ high

    by Adam from several random starts at once, through the network.

    **Arguments:**

    - `graph_of`: θ to a graph, such as a function that calls `pde_graph`. Scale θ so that its
        entries matter alike: the logarithm of a viscosity.
    - `observed`, `points`: values of all unknowns there.
    - `low`, `high`: of θ. Starts are uniform between them.
    - `rate`: Adam's, as a fraction of high − low; it falls to zero.

    **Returns:** θ*, and the relative error there.

    **Raises:** `ValueError` for counts below 1 or bounds of different shapes.
    """
    if starts < 1 or steps < 1:
        raise ValueError(f"recover: starts and steps must be positive, got {starts} and {steps}")
    low, high = jnp.asarray(low, float), jnp.asarray(high, float)
    if low.ndim != 1 or low.shape != high.shape:
        raise ValueError(f"recover: low and high must be lists of numbers, got {low} and {high}")

    def error(unit: Array) -> Array:
        found = model(graph_of(low + (high - low) * unit), out=points)
        return relative_l2(found, observed)

    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
    slope = jax.vmap(jax.grad(error))

    def step(carry, _):
        units, state = carry
        updates, state = optimizer.update(slope(units), state)
        return (jnp.clip(units + updates, 0, 1), state), None

    units = jr.uniform(key, (starts, low.shape[0]))
    (units, _), _ = jax.lax.scan(step, (units, optimizer.init(units)), None, steps)
    errors = jax.vmap(error)(units)
    best = jnp.argmin(errors)
    return low + (high - low) * units[best], errors[best]
