"""Windows of time: a field for each, begun with the end of the one before.

    0 = t_0 < t_1 < … < t_w,    u = u_i on [t_{i−1}, t_i],    u_i(t_{i−1}) = u_{i−1}(t_{i−1})

A network that is trained on all times at once fits late times before the early ones are right. In
windows, causality holds between them by construction (Wight and Zhao, arXiv:2007.04542; Wang,
Sankaran and Perdikaris, arXiv:2203.07404), each network has less to represent, and all windows
share one compiled program.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxsci.pde import SpaceTime, benchmarks

from .problem import Problem, Term
from .samplers import R3, AbstractSampler
from .solve import Solver


class Window(eqx.Module):
    """A field on one window of time, `evolution.form` of a network and a start."""

    net: Any
    start: Any
    begin: Float[Array, ""]
    length: Float[Array, ""]
    evolution: benchmarks.Evolution

    def __call__(self, x: Float[Array, " d"]) -> Array:
        since = x[-1] - self.begin
        return self.evolution.form(self.net, self.start, since, self.length, x[:-1])


class Windows(eqx.Module):
    """Fields on windows of equal length, one after the other, as one field.

    - `pieces`: of all windows, stacked. `begin`, `length`: the first time, and of a window.
    """

    pieces: Window
    begin: float = eqx.field(static=True)
    length: float = eqx.field(static=True)

    def __call__(self, x: Float[Array, " d"]) -> Array:
        count = self.pieces.begin.shape[0]
        i = jnp.clip(((x[-1] - self.begin) / self.length).astype(jnp.int32), 0, count - 1)
        arrays, rest = eqx.partition(self.pieces, eqx.is_array)
        return eqx.combine(jax.tree.map(lambda a: a[i], arrays), rest)(x)


class _Residual(eqx.Module):
    """The equation's residual as a function of a window's network."""

    start: Any
    begin: Float[Array, ""]
    length: Float[Array, ""]
    statement: benchmarks.FieldProblem

    def __call__(self, net: Any, x: Float[Array, " d"]) -> Array:
        assert self.statement.evolution is not None
        field = Window(net, self.start, self.begin, self.length, self.statement.evolution)
        return self.statement.equation(field, x)


class _Draw(eqx.Module):
    """Uniform points of a window."""

    begin: Float[Array, ""]
    length: Float[Array, ""]
    domain: SpaceTime

    def __call__(self, key: PRNGKeyArray, n: int) -> Float[Array, "n d"]:
        x = self.domain.sample(key, n)
        share = (x[:, -1] - self.domain.t0) / (self.domain.t1 - self.domain.t0)
        return x.at[:, -1].set(self.begin + share * self.length)


def march(
    statement: benchmarks.FieldProblem,
    make: Callable[[PRNGKeyArray], Any],
    optimizer: optax.GradientTransformation,
    *,
    windows: int,
    steps: int,
    key: PRNGKeyArray,
    n: int = 1000,
    sampler: AbstractSampler | None = None,
    curvature: bool = False,
    report: Callable[[int, float], Any] | None = None,
) -> Windows:
    """Solves a problem window by window.

    The first network is `make(key)`, each next one starts from the weights of the one before. No
    condition needs a term: all are met by the problem's `evolution`.

    **Arguments:**

    - `statement`: with an `evolution`, e.g. `benchmarks.pinnacle.ks()`.
    - `make`: a network of `evolution.inputs` numbers with `evolution.outputs` values, from a key.
    - `optimizer`, `curvature`: as for `Solver`; its state begins anew in each window.
    - `windows`, `steps`: how many windows, and updates in each.
    - `n`, `sampler`: points of the equation in a window, and how they move, `R3()` if `None`.
    - `report`: `report(window, loss)` after each of them, with its last loss.

    **Returns:** the field at all times.

    **Raises:** `ValueError` for a problem without `evolution`, or fewer than one window or step;
    `FloatingPointError` when a window ends with a loss that is not finite.
    """
    evolution, domain = statement.evolution, statement.domain
    if evolution is None or not isinstance(domain, SpaceTime):
        raise ValueError(f"march: {statement.name} cannot be restarted: it has no evolution")
    for name, value in (("windows", windows), ("steps", steps)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"march: {name} = {value!r}, expected an integer >= 1")
    rule = R3() if sampler is None else sampler

    def solver(start: Any, begin: Array, length: Array) -> Solver:
        residual = _Residual(start, begin, length, statement)
        term = Term("equation", residual, _Draw(begin, length, domain), n, sampler=rule)
        return Solver(Problem(term), optimizer, curvature)

    @eqx.filter_jit
    def solve_window(
        net: Any, start: Any, begin: Array, length: Array, key: PRNGKeyArray
    ) -> tuple[Window, Any, Array]:
        here = solver(start, begin, length)
        dynamic, static = eqx.partition(here.init(net, key), eqx.is_array)

        def one(_, carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
            state, metrics = here.step(eqx.combine(carry[0], static))
            return eqx.filter(state, eqx.is_array), metrics["loss"]

        zero = jnp.zeros((), length.dtype)
        dynamic, loss = jax.lax.fori_loop(0, steps, one, (dynamic, zero))
        net = eqx.combine(dynamic, static).field
        ending = evolution.restart(lambda x: evolution.form(net, start, length, length, x))
        return Window(net, start, begin, length, evolution), ending, loss

    length = (domain.t1 - domain.t0) / windows
    net_key, key = jr.split(key)
    net, start = make(net_key), evolution.restart(evolution.initial)
    pieces = []
    for i in range(windows):
        begin = jnp.asarray(domain.t0 + i * length, float)
        piece, start, loss = solve_window(
            net, start, begin, jnp.asarray(length, float), jr.fold_in(key, i)
        )
        if not np.isfinite(float(loss)):
            raise FloatingPointError(f"march: the loss of window {i} is {float(loss)}")
        net = piece.net
        pieces.append(piece)
        if report is not None:
            report(i, float(loss))
    arrays = [eqx.filter(piece, eqx.is_array) for piece in pieces]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays)
    return Windows(eqx.combine(stacked, pieces[0]), domain.t0, length)
