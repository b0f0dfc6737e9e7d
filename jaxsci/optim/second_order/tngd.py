"""Thermodynamic natural gradient descent: a linear system left to an Ornstein-Uhlenbeck process.

    dx = −(A x − b) dt + (2/β)^½ dW,    A = F + λ I,    b = ∇L
    mean at time t:        x(t) = A⁻¹ b + e^{−A t} (x(0) − A⁻¹ b)
    covariance at time t:  (I − e^{−2 A t}) A⁻¹ / β
    θ ← θ − η x(t)

From x(0) = b, time goes from gradient descent (t = 0) to the natural gradient (t → ∞). On an
analog device the process is physics and takes its own short time; here it is simulated, so what
this module gives is the method's convergence, not its speed (Donatella et al., arXiv:2405.13817).
"""

import math
from typing import Any, Literal, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, UInt32

from jaxsci.autodiff import AbstractCurvature, GaussNewton, lanczos

from ..flat import flat_extra, ravel, unraveller, work_dtype

Number = float | Float[Array, ""]


def ou_exact(
    operator: lx.AbstractLinearOperator,
    b: Float[Array, " d"],
    x0: Float[Array, " d"],
    time: Number,
    *,
    beta: Number = math.inf,
    rank: int = 20,
    key: PRNGKeyArray | None = None,
) -> Float[Array, " d"]:
    """The process at one time, by functions of A on Krylov spaces,

        x(t) = x(0) − φ(A) (A x(0) − b),  φ(z) = (1 − e^{−z t})/z,   and   + (φ₂(A)/β)^½ ξ,
        φ₂(z) = (1 − e^{−2 z t})/z,  ξ ~ N(0, I).

    Exact for `rank` = d; the mean's error falls like that of conjugate gradients.

    **Arguments:**

    - `operator`: A, symmetric, on vectors of length d. `b`: right-hand side. `x0`: x(0).
    - `time`: t ≥ 0; `inf` is A⁻¹ b, or a sample of the stationary law.
    - `beta`: inverse temperature; `inf` gives the mean.
    - `rank`: products with A for the mean (one more for the residual), and for the noise.
    - `key`: for the noise; needed if `beta` is finite.

    **Returns:** x(t). **Raises:** `ValueError` for a finite `beta` without `key`, or a negative
    time; and as `lanczos` for the rank.
    """
    _check_time(time, beta)

    def apply(start: Array, function) -> Array:
        basis, diag, off = lanczos(operator, start, rank)
        theta, vectors = jnp.linalg.eigh(jnp.diag(diag) + jnp.diag(off, 1) + jnp.diag(off, -1))
        weights = vectors @ (function(theta) * vectors[0])
        return jnp.linalg.norm(start) * (weights @ basis)

    def phi(z: Array, time: Number) -> Array:
        """(1 − e^{−z t})/z; zero, and not infinite, on what the Krylov space did not reach."""
        safe = jnp.where(z == 0, 1, z)
        limit = jnp.where(jnp.isfinite(time), time, 0)
        return jnp.where(z == 0, limit, -jnp.expm1(-safe * time) / safe)

    mean = x0 - apply(operator.mv(x0) - b, lambda z: phi(z, time))
    if _noiseless(beta):
        return mean
    noise = jr.normal(_needed(key), b.shape, b.dtype)
    return mean + apply(noise, lambda z: jnp.sqrt(jnp.maximum(phi(z, 2 * time), 0) / beta))


def ou_euler(
    operator: lx.AbstractLinearOperator,
    b: Float[Array, " d"],
    x0: Float[Array, " d"],
    dt: Number,
    steps: int | Int[Array, ""],
    *,
    beta: Number = math.inf,
    key: PRNGKeyArray | None = None,
) -> Float[Array, " d"]:
    """The process by the Euler-Maruyama method, x ← x − dt (A x − b) + (2 dt/β)^½ ξ.

    **Arguments:** as for `ou_exact`, and `dt`: below 2/λ_max(A), or it diverges; `steps`: how many,
    may be traced. One product with A each.

    **Returns:** x(dt · steps). **Raises:** `ValueError` for a finite `beta` without `key`.
    """
    _check_time(dt, beta)
    noisy = not _noiseless(beta)
    keys = _needed(key) if noisy else None

    def body(i: Array, x: Array) -> Array:
        x_new = x - dt * (operator.mv(x) - b)
        if keys is not None:
            x_new += jnp.sqrt(2 * dt / beta) * jr.normal(jr.fold_in(keys, i), x.shape, x.dtype)
        return x_new.astype(x.dtype)

    return jax.lax.fori_loop(0, steps, body, x0)


class OUSolve(lx.AbstractLinearSolver):
    """Solves A x = b for a positive definite A as the mean of the process at a late time.

    A `lineax` solver, for its `linear_solve`; on any pytree.

    - `time`: t. The error is that of e^{−A t}: at most ‖x‖ e^{−λ_min t}, beside that of the rank.
    - `rank`: products with A.
    """

    time: float = math.inf
    rank: int = 20

    def __check_init__(self):
        _check_time(self.time, math.inf)
        if self.rank < 1:
            raise ValueError(f"rank = {self.rank}: expected an integer >= 1")

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]):
        if not (lx.is_symmetric(operator) or lx.is_positive_semidefinite(operator)):
            raise ValueError("OUSolve: expected a symmetric operator, tagged as such")
        return operator

    def compute(self, state, vector: PyTree, options: dict[str, Any]):
        dtype = work_dtype(vector, "OUSolve")
        unravel = unraveller(vector, dtype)
        b = ravel(vector, dtype)

        def product(v: Array) -> Array:
            return ravel(state.mv(unravel(v)), dtype)

        flat = lx.FunctionLinearOperator(product, jax.eval_shape(lambda: b), lx.symmetric_tag)
        rank = min(self.rank, b.size)
        x = ou_exact(flat, b, jnp.zeros_like(b), self.time, rank=rank)
        return unravel(x), lx.RESULTS.successful, {"products": rank + 1}

    def transpose(self, state, options: dict[str, Any]):
        return state, options

    def conj(self, state, options: dict[str, Any]):
        return state, options

    def assume_full_rank(self) -> bool:
        return True


class TNGDState(NamedTuple):
    """State of `scale_by_tngd`.

    - `count`: steps so far. `x`: the process where it was left. `queue`: directions on their way.
    - `key`: data of the key. `largest`: estimate of λ_max(A), for `solver="euler"`.
    - `metrics`: the number of `products` with A so far.
    """

    count: Int[Array, ""]
    x: Float[Array, " d"]
    queue: Float[Array, "delay d"]
    key: UInt32[Array, " words"]
    largest: Float[Array, ""]
    metrics: dict[str, Array]


def scale_by_tngd(
    damping: float = 1e-3,
    time: float = 10.0,
    *,
    solver: Literal["exact", "euler"] = "exact",
    rank: int = 20,
    dt: float | Literal["auto"] = "auto",
    max_steps: int = 10_000,
    refresh: int = 10,
    beta: float = math.inf,
    delay: int = 0,
    init: Literal["previous", "gradient", "zero"] = "previous",
    curvature: AbstractCurvature | None = None,
    key: PRNGKeyArray | None = None,
) -> optax.GradientTransformationExtraArgs:
    """x(t) in place of the gradient; `tngd` is the same with −η, and explains all.

    The paper's hybrid with Adam is `optax.chain(scale_by_tngd(…), optax.scale_by_adam(), …)`.
    """
    if isinstance(damping, int | float) and not damping >= 0:
        raise ValueError(f"damping = {damping}: expected a number >= 0")
    _check_time(time, beta)
    if solver not in ("exact", "euler"):
        raise ValueError(f"solver = {solver!r}: expected 'exact' or 'euler'")
    if solver == "euler" and isinstance(time, int | float) and math.isinf(time):
        raise ValueError("time = inf: solver = 'euler' expects a finite time")
    counts = {"rank": (rank, 1), "max_steps": (max_steps, 1), "refresh": (refresh, 1)}
    for name, (value, least) in {**counts, "delay": (delay, 0)}.items():
        if not (isinstance(value, int) and value >= least):
            raise ValueError(f"{name} = {value!r}: expected an integer >= {least}")
    if isinstance(dt, str) and dt != "auto":
        raise ValueError(f"dt = {dt!r}: expected a positive number or 'auto'")
    if isinstance(dt, int | float) and not dt > 0:
        raise ValueError(f"dt = {dt}: expected a positive number or 'auto'")
    if init not in ("previous", "gradient", "zero"):
        raise ValueError(f"init = {init!r}: expected 'previous', 'gradient' or 'zero'")
    matrix = GaussNewton() if curvature is None else curvature

    def init_fn(params: PyTree) -> TNGDState:
        dtype = work_dtype(params, "tngd")
        d = sum(jnp.size(leaf) for leaf in jax.tree.leaves(params))
        first = jr.key(0) if key is None else key
        return TNGDState(
            jnp.zeros((), jnp.int32),
            jnp.zeros(d, dtype),
            jnp.zeros((delay, d), dtype),
            # A copy, so that donating a state leaves the caller's key alone.
            jnp.array(jr.key_data(first)),
            jnp.zeros((), dtype),
            {"products": jnp.zeros((), jnp.int32)},
        )

    def update(
        updates: PyTree, state: TNGDState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, TNGDState]:
        if params is None:
            raise ValueError("tngd: update needs params, got None")
        count = jnp.asarray(optax.safe_increment(state.count))
        if not jax.tree.leaves(params):
            return updates, state._replace(count=count)
        dtype = work_dtype(params, "tngd")
        unravel = unraveller(params, dtype)
        b = ravel(updates, dtype)
        fisher = matrix.at(ravel(params, dtype), **flat_extra(extra, unravel, dtype))
        operator = lx.FunctionLinearOperator(
            lambda v: fisher.mv(v) + damping * v, jax.eval_shape(lambda: b), lx.symmetric_tag
        )
        base = extra.get("key")
        base = jr.wrap_key_data(state.key) if base is None else base
        probe_key, noise_key = jr.split(jr.fold_in(base, state.count))
        x0 = {"previous": state.x, "gradient": b, "zero": jnp.zeros_like(b)}[init]
        largest, products = state.largest, state.metrics["products"]
        if solver == "exact":
            p = min(rank, b.size)
            x = ou_exact(operator, b, x0, time, beta=beta, rank=p, key=noise_key)
            products = products + p + 1 + (0 if _noiseless(beta) else p)
        else:
            p = min(8, b.size)
            anew = state.count % refresh == 0
            largest = jax.lax.cond(
                anew, lambda: _largest(operator, b, p, probe_key), lambda: state.largest
            )
            step, steps = _euler_steps(time, dt, largest, max_steps)
            x0 = eqx.error_if(
                x0,
                step * largest >= 2,
                f"tngd: dt = {dt} is not below 2/λ_max(A), where Euler's method diverges; "
                "dt='auto' chooses it",
            )
            x = ou_euler(operator, b, x0, step, steps, beta=beta, key=noise_key)
            products = products + steps + jnp.where(anew, p, 0)
        out, queue = x, state.queue
        if delay:
            slot = state.count % delay
            out, queue = queue[slot], queue.at[slot].set(x)
        metrics = {"products": products.astype(jnp.int32)}
        return unravel(out), TNGDState(count, x, queue, state.key, largest, metrics)

    return optax.GradientTransformationExtraArgs(cast(Any, init_fn), cast(Any, update))


def tngd(
    learning_rate: optax.ScalarOrSchedule,
    damping: float = 1e-3,
    time: float = 10.0,
    *,
    solver: Literal["exact", "euler"] = "exact",
    rank: int = 20,
    dt: float | Literal["auto"] = "auto",
    max_steps: int = 10_000,
    refresh: int = 10,
    beta: float = math.inf,
    delay: int = 0,
    init: Literal["previous", "gradient", "zero"] = "previous",
    curvature: AbstractCurvature | None = None,
    key: PRNGKeyArray | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Natural gradient descent whose linear systems are solved for a time t only (formulas above).

    `update` needs what the curvature asks for: by default `model_fn` and `outer_fn`, which
    `jaxsci.train.fit` passes with its `extra_args`. Cost of a step: `rank` + 1 products with the
    Gauss-Newton matrix, each some gradients; memory `rank` · d.

    **Arguments:**

    - `learning_rate`: η; 0.01 to 1.
    - `damping`: λ. With 0 and a singular matrix the process never settles.
    - `time`: t, in units of 1/curvature; 1 to 100.
    - `solver`: `"exact"` in time, by Krylov spaces of dimension `rank`; or `"euler"`, which costs
        t λ_max(A) products, as many as the device's time constant would do at once.
    - `rank`: as good as so many iterations of conjugate gradients.
    - `dt`: step of `"euler"`; `"auto"` is at most 1/λ_max(A).
    - `max_steps`: at most so many products per step; if t asks for more, it is cut short.
    - `refresh`: steps between two estimates of λ_max(A), 8 products each; 1 where the curvature
        may double within a few steps.
    - `beta`: inverse temperature. Noise of variance tr(A⁻¹)/β is large along flat directions.
    - `delay`: the direction of step k is used in step k + delay, as if the device worked on while
        the gradients are computed; the first `delay` updates are zero.
    - `init`: where the process starts: `"previous"` where the last one was left (for small t that
        is like momentum), `"gradient"` at b, or `"zero"`.
    - `curvature`: `GaussNewton()`, or another one that is positive semidefinite; along a negative
        eigenvalue of a Hessian the process runs away.
    - `key`: of the noise; the same for every run unless given.

    **Returns:** an optax transformation; `state[0]` is a `TNGDState`.

    **Raises:** `ValueError` for options out of range or missing arguments of the curvature;
    `TypeError` for parameters that are not real floating arrays; at run time if `dt` ≥ 2/λ_max(A).
    """
    return optax.chain(
        scale_by_tngd(
            damping,
            time,
            solver=solver,
            rank=rank,
            dt=dt,
            max_steps=max_steps,
            refresh=refresh,
            beta=beta,
            delay=delay,
            init=init,
            curvature=curvature,
            key=key,
        ),
        optax.scale_by_learning_rate(learning_rate),
    )


def _largest(operator: lx.AbstractLinearOperator, b: Array, p: int, key: PRNGKeyArray) -> Array:
    """λ_max from a few Lanczos steps from a random vector; the last β bounds what they missed."""
    _, diag, off = lanczos(operator, jr.normal(key, b.shape, b.dtype), p)
    ritz = jnp.linalg.eigvalsh(jnp.diag(diag) + jnp.diag(off, 1) + jnp.diag(off, -1))
    return jnp.maximum(ritz[-1], jnp.finfo(b.dtype).tiny)


def _euler_steps(time: Number, dt: Any, largest: Array, max_steps: int) -> tuple[Array, Array]:
    """Step size and number of steps that make up exactly `time`, if these are not too many."""
    longest = 0.9 / largest if isinstance(dt, str) else jnp.asarray(dt, largest.dtype)
    # Without the guard a time of 3 dt would take four steps because of rounding.
    steps = jnp.ceil(time / longest * (1 - 4 * jnp.finfo(largest.dtype).eps))
    # An optimisation that diverges has no finite curvature any more, and must still end.
    steps = jnp.where(jnp.isfinite(steps), jnp.clip(steps, 1, max_steps), 1)
    return jnp.minimum(time / steps, longest).astype(largest.dtype), steps.astype(jnp.int32)


def _noiseless(beta: Any) -> bool:
    return isinstance(beta, int | float) and math.isinf(beta)


def _needed(key: PRNGKeyArray | None) -> PRNGKeyArray:
    if key is None:
        raise ValueError("a finite beta needs a key for the noise, got None")
    return key


def _check_time(time: Any, beta: Any) -> None:
    if isinstance(time, int | float) and not time >= 0:
        raise ValueError(f"time = {time}: expected a number >= 0")
    if isinstance(beta, int | float) and not beta > 0:
        raise ValueError(f"beta = {beta}: expected a positive number, or inf for no noise")
