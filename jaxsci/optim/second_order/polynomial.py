"""Gradients preconditioned by a polynomial of a curvature matrix B, which hides its outliers.

    P_0 = I,    P_τ = σ_τ(λ) I − B P_{τ−1},    σ_τ = Σ over τ-subsets of the eigenvalues λ of B

On the eigenvector of λ_i, P_τ is σ_τ of all *other* eigenvalues: where τ eigenvalues stand out, it
is small on just their eigenvectors, without knowing them. An outlier that exceeds the *sum* of the
others is reduced to about that sum; in many dimensions only large gaps help. For μB ⪯ ∇²f ⪯ LB the
condition number (L/μ) λ₁/λ_n of a gradient method falls by σ_τ(λ without λ₁)/σ_τ(λ without λ_n).

    gradient   x⁺ = x − η P f'(x),  η = 1/(L λ_max(P B))
    fast       Nesterov's method in the norm of P⁻¹
    Krylov     x⁺ = argmin f over x + span{g, B g, …, B^τ g}: the best polynomial, found anew

(Doikov, Rodomanov, arXiv:2301.13194.)
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from jaxsci.autodiff import AbstractCurvature, Hessian, lanczos, materialise

from ..factor import DenseEigh
from ..flat import at_least_float32, flat_extra, ravel, unraveller, work_dtype

DENSE_LIMIT = 2048
Product = lx.AbstractLinearOperator | Callable[[PyTree], PyTree]


class PolynomialState(NamedTuple):
    """State of `poly_gradient` and `poly_fast_gradient`.

    - `count`: steps so far. `ratios`: σ_{k−1}/σ_k for k = 1 … τ, which define P.
    - `rate`: η. `momentum`: Nesterov's constant, 0 where it follows from `count`.
    - `previous`: the last point x of the fast method, whose weights are extrapolated ones.
    """

    count: Int[Array, ""]
    ratios: Float[Array, " tau"]
    rate: Float[Array, ""]
    momentum: Float[Array, ""]
    previous: PyTree


def elementary_symmetric(values: Float[Array, " d"], k: int) -> Float[Array, " k_plus_1"]:
    """σ_0 … σ_k of non-negative numbers, by σ_j(λ, λ') = σ_j(λ) + λ' σ_{j−1}(λ): no subtraction.

    **Arguments:** `values`: λ. `k`: the largest order, at most d.

    **Returns:** σ_0 = 1, …, σ_k = Σ over k-subsets of their products.

    **Raises:** `ValueError` for k outside [0, d].
    """
    if not 0 <= k <= values.shape[0]:
        raise ValueError(f"k = {k}: expected an integer from 0 to {values.shape[0]}")

    def body(sigma: Array, value: Array) -> tuple[Array, None]:
        return sigma.at[1:].add(value * sigma[:-1]), None

    return jax.lax.scan(body, jnp.zeros(k + 1, values.dtype).at[0].set(1), values)[0]


def symmetric_preconditioner(
    op: lx.AbstractLinearOperator,
    tau: int,
    *,
    n_probes: int = 30,
    key: PRNGKeyArray | None = None,
) -> lx.FunctionLinearOperator:
    """P_τ/σ_τ as an operator that takes τ products with B.

    Divided by σ_τ its eigenvalues lie in (0, 1] and no number overflows. Its alternating sum loses
    digits on the outliers' eigenvectors: use τ ≤ 6 in float64 and τ ≤ 2 in float32.

    **Arguments:**

    - `op`: B, symmetric positive semidefinite, on any pytree with d entries in all.
    - `tau`: τ, the number of outliers to hide; 1 to 4 are good values.
    - `n_probes`: random vectors for the traces tr Bⁱ, where d is more than 2048; below, they are
        exact, from d products and an eigenvalue problem.
    - `key`: for the probes.

    **Returns:** a symmetric `lineax.FunctionLinearOperator`.

    **Raises:** `ValueError` for τ outside [0, d) or an `op` that is not tagged as symmetric.
    """
    if not lx.is_symmetric(op):
        raise ValueError(
            "op: expected a symmetric operator, such as one with the tag lineax.symmetric_tag"
        )
    structure = op.in_structure()
    ratios, _ = _spectrum(op.mv, structure, tau, n_probes, key)
    return lx.FunctionLinearOperator(
        lambda v: _apply(op.mv, ratios, v), structure, lx.symmetric_tag
    )


def chebyshev_preconditioner(
    op: lx.AbstractLinearOperator, tau: int, lo: float | Array, hi: float | Array
) -> lx.FunctionLinearOperator:
    """The polynomial p of degree τ for which |1 − λ p(λ)| is smallest on all of [lo, hi]:

        1 − λ p(λ) = T_{τ+1}((hi + lo − 2λ)/(hi − lo)) / T_{τ+1}((hi + lo)/(hi − lo))

    The classical choice where only the ends of the spectrum are known; it sees no gaps.

    **Arguments:**

    - `op`: B, symmetric, with eigenvalues in [lo, hi]. `tau`: τ ≥ 0, the products with B.
    - `lo`, `hi`: 0 < lo < hi.

    **Returns:** p(B), a symmetric `lineax.FunctionLinearOperator`.

    **Raises:** `ValueError` for τ < 0, bounds out of order, or an `op` that is not symmetric.
    """
    if not lx.is_symmetric(op):
        raise ValueError(
            "op: expected a symmetric operator, such as one with the tag lineax.symmetric_tag"
        )
    if tau < 0:
        raise ValueError(f"tau = {tau}: expected an integer >= 0")
    numbers = isinstance(lo, int | float) and isinstance(hi, int | float)
    if numbers and not 0 < lo < hi:
        raise ValueError(f"lo = {lo}, hi = {hi}: expected 0 < lo < hi")
    centre, half = (hi + lo) / 2, (hi - lo) / 2

    def product(v: PyTree) -> PyTree:
        # Chebyshev's iteration for B x = v from x = 0, whose iterates are p(B) v.
        x = jax.tree.map(lambda a: a / centre, v)
        step, rho = x, half / centre
        for _ in range(tau):
            residual = jax.tree.map(jnp.subtract, v, op.mv(x))
            rho_next = 1 / (2 * centre / half - rho)
            step = jax.tree.map(
                lambda s, r, a=rho_next * rho, b=2 * rho_next / half: a * s + b * r, step, residual
            )
            x, rho = jax.tree.map(jnp.add, x, step), rho_next
        return x

    return lx.FunctionLinearOperator(product, op.in_structure(), lx.symmetric_tag)


def poly_gradient(
    op: Product,
    tau: int = 1,
    learning_rate: optax.ScalarOrSchedule = 1.0,
    *,
    L: float = 1.0,
    n_probes: int = 30,
    key: PRNGKeyArray | None = None,
) -> optax.GradientTransformationExtraArgs:
    """x⁺ = x − η P_τ f'(x) with η = `learning_rate`/(L λ_max(P B)).

    For functions whose Hessian is between multiples of a known matrix: B = AᵀA/n for a linear
    model with data A. Cost of a step: a gradient and τ products with B; no memory. At the start d
    products and an eigenvalue problem, or `n_probes` τ products where d is more than 2048.

    **Arguments:**

    - `op`: B, a lineax operator or a function v ↦ B v, on trees like the weights; symmetric and
        positive semidefinite.
    - `tau`: degree, see `symmetric_preconditioner`. `n_probes`, `key`: as there.
    - `learning_rate`: factor of the step; 1 is the method, and below 2 it converges.
    - `L`: the Hessian is at most L B.

    **Returns:** an optax transformation; `state[0]` is a `PolynomialState`.

    **Raises:** `ValueError` for options out of range; `TypeError` for complex parameters.
    """
    return optax.chain(
        _scale_by_polynomial(op, tau, 0.0, L, False, n_probes, key),
        optax.scale_by_learning_rate(learning_rate),
    )


def poly_fast_gradient(
    op: Product,
    tau: int = 1,
    *,
    mu: float = 0.0,
    L: float = 1.0,
    n_probes: int = 30,
    key: PRNGKeyArray | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Nesterov's method in the norm of P⁻¹:

        x_{k+1} = y_k − η P f'(y_k),    y_{k+1} = x_{k+1} + β (x_{k+1} − x_k)

    with β = (1 − √q)/(1 + √q), q = μ λ_min(P B)/(L λ_max(P B)), or β = k/(k + 3) for μ = 0. The
    weights that the optimiser moves are the y_k, where gradients are taken.

    **Arguments:** as for `poly_gradient`, and `mu`: the Hessian is at least μ B; 0 is always right.
    μ > 0 needs d ≤ 2048.

    **Returns, Raises:** as for `poly_gradient`.
    """
    if isinstance(mu, int | float) and not 0 <= mu:
        raise ValueError(f"mu = {mu}: expected a number >= 0")
    return optax.chain(_scale_by_polynomial(op, tau, mu, L, True, n_probes, key), optax.scale(-1.0))


def krylov_gradient(
    op: Product | AbstractCurvature | None = None,
    tau: int = 2,
    *,
    inner: int = 2,
    max_halvings: int = 30,
) -> optax.GradientTransformationExtraArgs:
    """x⁺ = argmin f over x + span{g, B g, …, B^τ g}, by Newton's method in these τ + 1 variables.

    The polynomial need not be known, nor any constant: the step is at least as good as that of
    `poly_gradient` with any rate. The span has an orthonormal basis (Lanczos); each Newton step has
    exact second derivatives, |eigenvalues|, and is halved until f falls enough. On a quadratic with
    B its Hessian this is τ + 1 steps of conjugate gradients. `update` needs `value_fn`.

    Cost of a step: τ + 1 products with B, and for each of the `inner` iterations a gradient, τ + 1
    Hessian-vector products and two values or more. Memory: τ + 1 copies of the weights.

    **Arguments:**

    - `op`: B, a lineax operator or a function v ↦ B v; or a curvature of `jaxsci.autodiff`, taken
        anew at each point. `None` is `Hessian()`.
    - `tau`: degree; 1 to 5.
    - `inner`: Newton steps; 2 or 3 are enough, as near the solution one is exact.
    - `max_halvings`: of one Newton step; if none helps, the weights stay.

    **Returns:** an optax transformation without a state.

    **Raises:** `ValueError` for options out of range or a missing `value_fn`; `TypeError` for
    parameters that are not real floating arrays.
    """
    if tau < 0 or inner < 1 or max_halvings < 0:
        raise ValueError(
            f"tau = {tau}, inner = {inner}, max_halvings = {max_halvings}: expected tau >= 0, "
            "inner >= 1 and max_halvings >= 0"
        )

    def init(params: PyTree) -> optax.EmptyState:
        work_dtype(params, "krylov_gradient")
        return optax.EmptyState()

    def update(
        updates: PyTree, state: optax.EmptyState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, optax.EmptyState]:
        if params is None or extra.get("value_fn") is None:
            missing = "params" if params is None else "the keyword argument value_fn"
            raise ValueError(f"krylov_gradient: update needs {missing}; it is missing")
        if not jax.tree.leaves(params):
            return updates, state
        dtype = work_dtype(params, "krylov_gradient")
        unravel = unraveller(params, dtype)
        x, g = ravel(params, dtype), ravel(updates, dtype)
        flat = flat_extra(extra, unravel, dtype)
        if op is None or isinstance(op, AbstractCurvature):
            operator = (Hessian() if op is None else op).at(x, **flat)
        else:
            operator = _flat_operator(_product(op), params, dtype)
        basis = lanczos(operator, g, min(tau + 1, x.size)).basis

        def along(c: Float[Array, " p"]) -> Float[Array, ""]:
            return jnp.asarray(flat["value_fn"](x + c @ basis), dtype)

        c = jnp.zeros(len(basis), dtype)
        for _ in range(inner):
            c = _newton_step(along, c, max_halvings)
        return unravel(c @ basis), state

    return optax.GradientTransformationExtraArgs(cast(Any, init), cast(Any, update))


def _newton_step(
    f: Callable[[Array], Array], c: Float[Array, " p"], max_halvings: int
) -> Float[Array, " p"]:
    """A step of Newton's method with |eigenvalues|, halved until Armijo's condition holds."""
    value, slope = jax.value_and_grad(f)(c)
    # Where the span is exhausted the matrix has zero rows, and DenseEigh leaves those alone.
    weights, basis = jnp.linalg.eigh(jax.hessian(f)(c))
    step = -DenseEigh(basis, jnp.abs(weights)).solve(slope)
    step = jnp.where(jnp.all(jnp.isfinite(step)), step, -slope)
    decrease = slope @ step
    # Rounding of f: near the minimum no step could show a decrease.
    slack = 4 * jnp.finfo(c.dtype).eps * jnp.abs(value)

    def fails(carry: tuple[Array, Array]) -> Array:
        k, t = carry
        return ~(f(c + t * step) <= value + 1e-4 * t * decrease + slack) & (k <= max_halvings)

    def halve(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        return carry[0] + 1, carry[1] / 2

    k, t = jax.lax.while_loop(fails, halve, (jnp.zeros((), jnp.int32), jnp.ones((), c.dtype)))
    return c + jnp.where(k > max_halvings, 0, t) * step


def _scale_by_polynomial(
    op: Product, tau: int, mu: Any, L: Any, fast: bool, n_probes: int, key: PRNGKeyArray | None
) -> optax.GradientTransformationExtraArgs:
    """η P g, or y_k − y_{k+1} of the fast method, in place of the gradient."""
    if isinstance(L, int | float) and not L > 0:
        raise ValueError(f"L = {L}: expected a positive number")
    product = _product(op)

    def init(params: PyTree) -> PolynomialState:
        dtype = work_dtype(params, "poly_gradient")
        zero = jnp.zeros((), dtype)
        previous = (
            jax.tree.map(lambda p: jnp.array(p, at_least_float32(p)), params) if fast else None
        )
        count = jnp.zeros((), jnp.int32)
        if not jax.tree.leaves(params):
            return PolynomialState(count, jnp.zeros(tau, dtype), zero, zero + 0, previous)
        wide = jax.tree.map(lambda p: jax.ShapeDtypeStruct(jnp.shape(p), dtype), params)
        ratios, (lowest, largest) = _spectrum(product, wide, tau, n_probes, key)
        q = jnp.sqrt(jnp.clip(mu * lowest / (L * largest), 0, 1))
        momentum = (1 - q) / (1 + q) * (q > 0)
        return PolynomialState(count, ratios, 1 / (L * largest), momentum, previous)

    def update(
        updates: PyTree, state: PolynomialState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, PolynomialState]:
        count = jnp.asarray(optax.safe_increment(state.count))
        if not jax.tree.leaves(updates):
            return updates, state._replace(count=count)
        grads = jax.tree.map(lambda g: g.astype(at_least_float32(g)), updates)
        direction = jax.tree.map(lambda n: state.rate * n, _apply(product, state.ratios, grads))
        previous = state.previous
        if fast:
            if params is None:
                raise ValueError("poly_fast_gradient: update needs params, got None")
            k = state.count.astype(state.rate.dtype)
            beta = jnp.where(state.momentum > 0, state.momentum, k / (k + 3))
            x = jax.tree.map(lambda y, n: y - n, params, direction)
            direction = jax.tree.map(
                lambda n, new, old: n - beta * (new - old), direction, x, previous
            )
            previous = jax.tree.map(lambda new, old: new.astype(old.dtype), x, previous)
        new = jax.tree.map(lambda n, g: n.astype(g.dtype), direction, updates)
        return new, state._replace(count=count, previous=previous)

    return optax.GradientTransformationExtraArgs(cast(Any, init), cast(Any, update))


def _apply(product: Callable[[PyTree], PyTree], ratios: Float[Array, " tau"], v: PyTree) -> PyTree:
    """P_τ v/σ_τ, by N_k = I − (σ_{k−1}/σ_k) B N_{k−1}."""

    def body(n: PyTree, ratio: Array) -> tuple[PyTree, None]:
        return jax.tree.map(lambda a, b: (a - ratio * b).astype(a.dtype), v, product(n)), None

    return jax.lax.scan(body, v, ratios)[0]


def _spectrum(
    product: Callable[[PyTree], PyTree],
    structure: PyTree,
    tau: int,
    n_probes: int,
    key: PRNGKeyArray | None,
) -> tuple[Float[Array, " tau"], tuple[Float[Array, ""], Float[Array, ""]]]:
    """The ratios σ_{k−1}/σ_k, and the least and largest eigenvalue of P B/σ_τ."""
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), structure)
    dtype = work_dtype(zeros, "symmetric_preconditioner")
    d = sum(leaf.size for leaf in jax.tree.leaves(zeros))
    if not 0 <= tau < d:
        raise ValueError(f"tau = {tau}: expected an integer from 0 to {d - 1}, less than {d}")
    operator = _flat_operator(product, zeros, dtype)
    if d > DENSE_LIMIT:
        key = jax.random.key(0) if key is None else key
        ratios, bounds = _estimated_spectrum(operator, zeros, dtype, tau, n_probes, key)
    else:
        values = jnp.linalg.eigvalsh(materialise(operator))
        values = eqx.error_if(
            values,
            values[0] < -jnp.sqrt(jnp.finfo(dtype).eps) * jnp.abs(values[-1]),
            "op: expected a positive semidefinite matrix, got one with a negative eigenvalue",
        )
        # Rounding makes small eigenvalues negative. In units of the trace σ_k is at most 1/k!.
        values = jnp.maximum(values, 0)
        trace = jnp.sum(values)
        sigma = elementary_symmetric(values / trace, tau)
        without = jax.vmap(lambda i: elementary_symmetric((values / trace).at[i].set(0), tau)[-1])(
            jnp.arange(d)
        )
        ratios = sigma[:-1] / sigma[1:] / trace
        of_product = values * without / sigma[-1]
        bounds = jnp.min(of_product), jnp.max(of_product)
    ratios = eqx.error_if(
        ratios, ~jnp.all(jnp.isfinite(ratios)), "op: expected a matrix with a rank of at least tau"
    )
    return ratios, bounds


def _estimated_spectrum(
    operator: lx.AbstractLinearOperator,
    zeros: PyTree,
    dtype: jnp.dtype,
    tau: int,
    n_probes: int,
    key: PRNGKeyArray,
) -> tuple[Float[Array, " tau"], tuple[Float[Array, ""], Float[Array, ""]]]:
    """The same for large d: Ritz values for the outliers, and all others as equal.

    The sum of the others is Hutchinson's estimate on the complement of the Ritz vectors (as in
    Hutch++), so that its noise is that of the bulk alone. The least eigenvalue is not known (0).
    """
    if n_probes < 1:
        raise ValueError(f"n_probes = {n_probes}: expected an integer >= 1")
    d = sum(leaf.size for leaf in jax.tree.leaves(zeros))
    start_key, probe_key, last_key = jax.random.split(key, 3)
    p = tau + 20
    krylov = lanczos(operator, jax.random.normal(start_key, (d,), dtype), p)
    top = jnp.maximum(jnp.linalg.eigvalsh(_tridiagonal(krylov.diag, krylov.off)), 0)

    def rest_of(key: PRNGKeyArray) -> Array:
        z = jax.random.rademacher(key, (d,), dtype)
        z = z - (krylov.basis @ z) @ krylov.basis
        return z @ operator.mv(z)

    rest = jnp.mean(jax.lax.map(rest_of, jax.random.split(probe_key, n_probes)))
    trace = jnp.sum(top) + jnp.maximum(rest, 0)
    orders = jnp.arange(1, tau + 1)
    # σ_k of n equal numbers m is C(n, k) m^k.
    steps = (d - p - orders + 1) / orders * jnp.maximum(rest, 0) / (d - p) / trace
    bulk = jnp.concatenate([jnp.ones(1, dtype), jnp.cumprod(steps.astype(dtype))])
    sigma = jnp.convolve(elementary_symmetric(top / trace, tau), bulk)[: tau + 1]
    ratios = sigma[:-1] / sigma[1:] / trace

    def product(v: Array) -> Array:
        return _apply(operator.mv, ratios, operator.mv(v))

    both = lx.FunctionLinearOperator(product, jax.ShapeDtypeStruct((d,), dtype), lx.symmetric_tag)
    last = lanczos(both, jax.random.normal(last_key, (d,), dtype), p)
    largest = jnp.linalg.eigvalsh(_tridiagonal(last.diag, last.off))[-1]
    # Ritz values are from below; so many steps leave far less than a twentieth.
    return ratios, (jnp.zeros((), dtype), 1.05 * largest)


def _tridiagonal(diag: Array, off: Array) -> Array:
    return jnp.diag(diag) + jnp.diag(off, 1) + jnp.diag(off, -1)


def _product(op: Product) -> Callable[[PyTree], PyTree]:
    """The map v ↦ B v for trees of any format."""
    if not isinstance(op, lx.AbstractLinearOperator):
        if not callable(op):
            raise ValueError(f"op = {op!r}: expected a lineax operator or a function v ↦ B v")
        return op
    if not lx.is_symmetric(op):
        raise ValueError(
            "op: expected a symmetric operator, such as one with the tag lineax.symmetric_tag"
        )
    structure = op.in_structure()

    def product(v: PyTree) -> PyTree:
        return op.mv(jax.tree.map(lambda a, s: a.astype(s.dtype), v, structure))

    return product


def _flat_operator(
    product: Callable[[PyTree], PyTree], params: PyTree, dtype: jnp.dtype
) -> lx.FunctionLinearOperator:
    """B on vectors."""
    wide = jax.tree.map(lambda p: jnp.zeros(jnp.shape(p), dtype), params)
    unravel = unraveller(wide, dtype)
    d = sum(leaf.size for leaf in jax.tree.leaves(wide))
    return lx.FunctionLinearOperator(
        lambda v: ravel(product(unravel(v)), dtype),
        jax.ShapeDtypeStruct((d,), dtype),
        lx.symmetric_tag,
    )
