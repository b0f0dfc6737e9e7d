"""Policy evaluation in continuous time: the value function makes a process a martingale.

    M_t = e^{−βt} J(t, X_t) + ∫₀ᵗ e^{−βs} r_s ds

is a martingale exactly for the right J. The martingale loss asks it of M as a whole; temporal
difference methods ask E ∫ ξ_t dM_t = 0 for adapted test processes ξ: ∂J/∂θ for TD(0), its
discounted past for TD(λ). The mean square of the TD error asks for something else, and is here to
show it (arXiv:2108.06655).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

Value = Callable[[Any, Float[Array, ""], Float[Array, "..."]], Float[Array, ""]]
Features = Callable[[Float[Array, ""], Float[Array, "..."]], Float[Array, " p"]]


class Path(NamedTuple):
    """Many trajectories at the same times.

    - `ts`: increasing times t₀, …, t_n. `xs`: states there.
    - `rewards`: running rewards at t₀, …, t_{n−1}, per unit of time.
    - `terminal`: reward h(X_T) at the end.
    """

    ts: Float[Array, " n+1"]
    xs: Float[Array, "paths n+1 ..."]
    rewards: Float[Array, "paths n"]
    terminal: Float[Array, " paths"]


class PolicyEvaluation(eqx.Module):
    """A model of the value, J(θ, t, x), with J(θ, T, x) = h(x) not asked of it.

    - `value`: (θ, t, x) -> number. `discount`: β ≥ 0.

    **Raises:** `ValueError` for a negative discount.
    """

    value: Value
    discount: float = 0.0

    def __check_init__(self):
        _check_discount(self.discount)


def _check_discount(discount: float) -> None:
    if discount < 0:
        raise ValueError(f"discount = {discount}: expected a number >= 0")


def _check(paths: Path) -> tuple[int, int]:
    """Numbers of paths and of steps."""
    n = jnp.shape(paths.ts)[0] - 1
    if paths.terminal is None or jnp.ndim(paths.terminal) != 1:
        raise ValueError("paths.terminal: expected one reward a path (zeros if there is none)")
    count = jnp.shape(paths.terminal)[0]
    if jnp.ndim(paths.ts) != 1 or n < 1:
        raise ValueError(f"paths.ts: expected n + 1 times, got the shape {jnp.shape(paths.ts)}")
    if jnp.shape(paths.rewards) != (count, n):
        raise ValueError(
            f"paths.rewards: expected shape {(count, n)}, got {jnp.shape(paths.rewards)}"
        )
    if jnp.shape(paths.xs)[:2] != (count, n + 1):
        raise ValueError(
            f"paths.xs: expected shape {(count, n + 1)} and more, got {jnp.shape(paths.xs)}"
        )
    return count, n


def _values(model: PolicyEvaluation, theta: Any, paths: Path) -> Float[Array, "paths n+1"]:
    """J at the times before the end, and the terminal reward at the end."""
    at = jax.vmap(model.value, (None, 0, 0))
    inner = jax.vmap(at, (None, None, 0))(theta, paths.ts[:-1], paths.xs[:, :-1])
    return jnp.concatenate([inner, paths.terminal[:, None]], 1)


def martingale_loss(model: PolicyEvaluation, theta: Any, paths: Path) -> Float[Array, ""]:
    """½ E ∫ |M_T − M_t|² dt: its minimiser is the best approximation of J in mean square.

    Discretised, Σ_i (e^{−β(T−t_i)} h + Σ_{j≥i} e^{−β(t_j−t_i)} r_j dt_j − J(t_i, x_i))² dt_i.

    **Arguments:** `model`, its parameters `theta`, and many `paths`.

    **Raises:** `ValueError` if the shapes of the paths do not fit.
    """
    _check(paths)
    dt = jnp.diff(paths.ts)
    decay = jnp.exp(-model.discount * dt)

    def back(gain: Array, step: Any) -> tuple[Array, Array]:
        reward, dt, decay = step
        gain = reward * dt + decay * gain
        return gain, gain

    steps = (paths.rewards.T, dt, decay)
    _, gains = jax.lax.scan(back, paths.terminal, steps, reverse=True)
    error = gains.T - _values(model, theta, paths)[:, :-1]
    return jnp.mean(jnp.sum(error**2 * dt, 1)) / 2


def mean_square_td(model: PolicyEvaluation, theta: Any, paths: Path) -> Float[Array, ""]:
    """½ E Σ (J_{i+1} − J_i + (r_i − β J_i) dt)²/dt: the wrong objective in continuous time.

    As dt → 0 its minimiser has the least quadratic variation, whatever the rewards are.

    **Arguments:** as for `martingale_loss`.
    """
    error, dt = _td_errors(model, theta, paths)
    return jnp.mean(jnp.sum(error**2 / dt, 1)) / 2


def _td_errors(model: PolicyEvaluation, theta: Any, paths: Path) -> tuple[Array, Array]:
    _check(paths)
    values, dt = _values(model, theta, paths), jnp.diff(paths.ts)
    drift = (paths.rewards - model.discount * values[:, :-1]) * dt
    return values[:, 1:] - values[:, :-1] + drift, dt


def ctd_lambda(
    model: PolicyEvaluation,
    theta: PyTree[Array],
    paths: Path,
    learning_rate: Any,
    lam: float = 0.0,
) -> PyTree[Array]:
    """Online TD(λ): at every step of every path, in turn, θ ← θ + α z (dJ + (r − β J) dt).

        z ← λ^{dt} z + ∂J/∂θ(t_i, x_i) dt    (λ = 0: z = ∂J/∂θ)

    **Arguments:**

    - `model`, `theta`, `paths`: as for `martingale_loss`; the paths are used one after another.
    - `learning_rate`: α, a number, or a function of the number of paths so far.
    - `lam`: 0 ≤ λ < 1, per unit of time.

    **Returns:** the parameters after the last path.

    **Raises:** `ValueError` for λ out of range or paths whose shapes do not fit.
    """
    count, n = _check(paths)
    if not 0 <= lam < 1:
        raise ValueError(f"lam = {lam}: expected a number with 0 <= lam < 1")
    dt = jnp.diff(paths.ts)

    def one_path(theta: Any, item: Any) -> tuple[Any, None]:
        number, xs, rewards, terminal = item
        rate = learning_rate(number) if callable(learning_rate) else learning_rate

        def step(carry: Any, item: Any) -> tuple[Any, None]:
            theta, trace = carry
            i, x, following, reward = item
            here, slope = jax.value_and_grad(model.value)(theta, paths.ts[i], x)
            ahead = jnp.where(i == n - 1, terminal, model.value(theta, paths.ts[i + 1], following))
            if lam == 0:
                trace = slope
            else:
                trace = jax.tree.map(lambda z, g: lam ** dt[i] * z + g * dt[i], trace, slope)
            error = ahead - here + (reward - model.discount * here) * dt[i]
            theta = jax.tree.map(lambda p, z: p + rate * error * z, theta, trace)
            return (theta, trace), None

        zero = jax.tree.map(jnp.zeros_like, theta)
        (theta, _), _ = jax.lax.scan(step, (theta, zero), (jnp.arange(n), xs[:-1], xs[1:], rewards))
        return theta, None

    items = (jnp.arange(count), paths.xs, paths.rewards, paths.terminal)
    return jax.lax.scan(one_path, theta, items)[0]


def ctd0(
    model: PolicyEvaluation, theta: PyTree[Array], paths: Path, learning_rate: Any
) -> PyTree[Array]:
    """Online TD(0): `ctd_lambda` with λ = 0."""
    return ctd_lambda(model, theta, paths, learning_rate)


def clstd(
    features: Features, paths: Path, *, discount: float = 0.0, lam: float = 0.0, ridge: float = 0.0
) -> Float[Array, " p"]:
    """Least squares TD(λ) for J = θᵀφ(t, x): solves E Σ z (dJ + (r − β J) dt) = 0 for θ.

    **Arguments:**

    - `features`: φ(t, x). At the end the terminal reward stands in place of J.
    - `paths`: many. `discount`: β. `lam`: 0 ≤ λ < 1, per unit of time.
    - `ridge`: is added to the matrix's diagonal, relative to its mean.

    **Returns:** θ.

    **Raises:** `ValueError` for values out of range or shapes that do not fit; at run time if the
    features are linearly dependent on the data and there is no ridge.
    """
    matrix, right = _moments(features, paths, discount, lam)
    p = right.shape[0]
    matrix = matrix + ridge * jnp.mean(jnp.abs(jnp.diag(matrix))) * jnp.eye(p, dtype=matrix.dtype)
    condition = jnp.linalg.cond(matrix)
    matrix = eqx.error_if(
        matrix,
        ~(condition < 1 / (10 * jnp.finfo(matrix.dtype).eps)),
        "clstd: the features are linearly dependent on these paths; a small ridge helps",
    )
    return jnp.linalg.solve(matrix, right)


def _moments(
    features: Features, paths: Path, discount: float, lam: float
) -> tuple[Float[Array, "p p"], Float[Array, " p"]]:
    """A and b with E Σ z dM = b − A θ."""
    _check(paths)
    _check_discount(discount)
    if not 0 <= lam < 1:
        raise ValueError(f"lam = {lam}: expected a number with 0 <= lam < 1")
    ts, dt = paths.ts, jnp.diff(paths.ts)

    def one(xs: Array, rewards: Array, terminal: Array) -> tuple[Array, Array]:
        phi = jax.vmap(features)(ts, xs)
        after = phi[1:].at[-1].set(0)
        constant = (rewards * dt).at[-1].add(terminal)

        def accumulate(z: Array, item: Any) -> tuple[Array, Array]:
            step, feature = item
            z = feature if lam == 0 else lam**step * z + feature * step
            return z, z

        _, z = jax.lax.scan(accumulate, jnp.zeros_like(phi[0]), (dt, phi[:-1]))
        change = phi[:-1] * (1 + discount * dt[:, None]) - after
        return z.T @ change, z.T @ constant

    matrix, right = jax.vmap(one)(paths.xs, paths.rewards, paths.terminal)
    return jnp.mean(matrix, 0), jnp.mean(right, 0)


def cgtd2(
    features: Features,
    paths: Path,
    theta: Float[Array, " p"],
    *,
    discount: float = 0.0,
    learning_rate: float = 0.1,
    fast: float = 1.0,
    steps: int = 1000,
) -> Float[Array, " p"]:
    """GTD2: descends |E Σ φ dM|² in the norm of (E Σ φφᵀ dt)⁻¹, kept track of by a second vector.

        w ← w + α_f (δ − G w),    θ ← θ + α Aᵀ w,    δ = b − A θ,  G = E Σ φφᵀ dt

    **Arguments:**

    - `features`, `paths`, `discount`: as for `clstd`. `theta`: the start.
    - `learning_rate`, `fast`: α and α_f, good: 0.1 and 1 over the largest eigenvalue of G.
    - `steps`: how often all paths are used.

    **Returns:** θ.

    **Raises:** `ValueError` for rates or steps that are not positive.
    """
    if not (learning_rate > 0 and fast > 0 and steps >= 1):
        raise ValueError("learning_rate, fast, steps: expected positive numbers")
    matrix, right = _moments(features, paths, discount, 0.0)
    phi = jax.vmap(jax.vmap(features), (None, 0))(paths.ts[:-1], paths.xs[:, :-1])
    gram = jnp.mean(jnp.einsum("knp,knq,n->kpq", phi, phi, jnp.diff(paths.ts)), 0)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        theta, w = carry
        w_next = w + fast * (right - matrix @ theta - gram @ w)
        return (theta + learning_rate * matrix.T @ w, w_next), None

    (theta, _), _ = jax.lax.scan(step, (theta, jnp.zeros_like(theta)), None, length=steps)
    return theta
