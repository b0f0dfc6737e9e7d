"""PSGD: a preconditioner P = QᵀQ that is fitted as the training goes, with Q in a Lie group.

    c(P) = E[hᵀ P h + vᵀ P⁻¹ v],  v ~ N(0, I),    least at  P = (E h hᵀ)^(−½)

    newton   h = H v   gives P → |H|⁻¹, for any symmetric H
    whiten   h = g     gives P → (E g gᵀ)^(−½), as Adam's and Shampoo's roots

Each step takes one pair (v, h) and multiplies Q by I − μ·(an element of the group's Lie algebra),
so that Q stays invertible and P positive definite with no damping and no line search. The groups:

    `Diag`    Q = diag d                   `LRA`     Q = (I + U Vᵀ) diag d,  U, V: n × r
    `XMat`    Q = diag a + antidiag b      `Dense`   Q upper triangular

(Pooladzandi, Li, arXiv:2402.04553; the criterion: Li, arXiv:1512.04202.)
"""

import abc
from typing import Any, Literal, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from jaxsci.autodiff import Hessian

from ..flat import flat_extra, ravel, unraveller, work_dtype
from .lazy_newton import check_dimension

Vector = Float[Array, " n"]
Normaliser = Literal["2nd", "1st"]


class AbstractLieGroup(eqx.Module):
    """A group of matrices Q of which a member is kept, moved, and used as P = QᵀQ."""

    @abc.abstractmethod
    def init(self, n: int, dtype: Any, key: PRNGKeyArray) -> Any:
        """A member near I, for n weights."""

    @abc.abstractmethod
    def scale(self, member: Any, factor: Float[Array, ""]) -> Any:
        """Q times a number."""

    @abc.abstractmethod
    def fit(
        self,
        member: Any,
        v: Vector,
        h: Vector,
        rate: float | Float[Array, ""],
        normaliser: Normaliser,
        coin: Bool[Array, ""],
    ) -> Any:
        """Q after a step down the criterion hᵀPh + vᵀP⁻¹v of one pair.

        **Arguments:**

        - `v`, `h`: the pair.
        - `rate`: how far, in (0, 1]. The step is divided by a bound of the criterion's second
            derivative (`normaliser` `"2nd"`) or by the size of its gradient (`"1st"`).
        - `coin`: a fair coin, for groups that move one part or the other.
        """

    @abc.abstractmethod
    def precondition(self, member: Any, g: Vector) -> Vector:
        """P g = QᵀQ g."""


class Diag(AbstractLieGroup):
    """Q = diag d. Memory: n."""

    def init(self, n: int, dtype: Any, key: PRNGKeyArray) -> Vector:
        return jnp.ones(n, dtype)

    def scale(self, member: Vector, factor: Float[Array, ""]) -> Vector:
        return factor * member

    def fit(self, member, v, h, rate, normaliser, coin) -> Vector:
        d = member
        return _fit_diagonal(d, v, h, d * d * h, v / (d * d), rate, normaliser)

    def precondition(self, member: Vector, g: Vector) -> Vector:
        return member * member * g


class XMat(AbstractLieGroup):
    """Q = diag a + antidiag b: weight i is paired with weight n − 1 − i. Memory: 2 n.

    The middle of an odd number of weights has a alone. A step costs a few sums over the weights.
    """

    def init(self, n: int, dtype: Any, key: PRNGKeyArray) -> tuple[Vector, Vector]:
        return jnp.ones(n, dtype), jnp.zeros(n, dtype)

    def scale(self, member, factor):
        a, b = member
        return factor * a, factor * b

    def fit(self, member, v, h, rate, normaliser, coin) -> tuple[Vector, Vector]:
        a, b = member
        a_, b_ = jnp.flip(a), jnp.flip(b)
        Qh = a * h + b * jnp.flip(h)
        w = (a_ * v - b_ * jnp.flip(v)) / (a * a_ - b * b_)  # Q⁻ᵀ v
        along = Qh**2 - w**2
        across = Qh * jnp.flip(Qh) - w * jnp.flip(w)
        if a.size % 2:
            across = across.at[a.size // 2].set(0)
        if normaliser == "2nd":
            size = jnp.max(Qh**2 + w**2)
        else:
            size = jnp.maximum(jnp.max(jnp.abs(along)), jnp.max(jnp.abs(across)))
        mu = rate / (size + _tiny(a))
        return a - mu * (along * a + across * b_), b - mu * (along * b + across * a_)

    def precondition(self, member, g: Vector) -> Vector:
        a, b = member
        ab = a * b
        return (a * a + jnp.flip(b * b)) * g + (ab + jnp.flip(ab)) * jnp.flip(g)


class LRA(AbstractLieGroup):
    """Q = (I + U Vᵀ) diag d with U and V of shape (n, r). Memory: (2 r + 1) n; a step O(n r).

    - `rank`: r ≥ 1.
    """

    rank: int = 10

    def __check_init__(self):
        if not (isinstance(self.rank, int) and self.rank >= 1):
            raise ValueError(f"rank = {self.rank!r}: expected an integer >= 1 (0 is Diag)")

    def init(self, n: int, dtype: Any, key: PRNGKeyArray) -> tuple[Array, Array, Vector]:
        if n and self.rank > n:
            raise ValueError(f"rank = {self.rank}: expected at most the number of weights, {n}")
        # So small that U Vᵀ ≪ I, for r = 1 too.
        small = (max(n, 1) * (self.rank + 10)) ** -0.5
        U, V = small * jax.random.normal(key, (2, n, self.rank), dtype)
        return U, V, jnp.ones(n, dtype)

    def scale(self, member, factor):
        U, V, d = member
        return U, V, factor * d

    def fit(self, member, v, h, rate, normaliser, coin):
        U, V, d = member
        tiny = _tiny(d)
        # U and V get equal norms: Q and its next step do not depend on it, rounding does.
        u, w = jnp.sum(U * U), jnp.sum(V * V)
        ratio = jnp.where((u > 0) & (w > 0), (w + tiny) / (u + tiny), 1) ** 0.25
        U, V = U * ratio, V / ratio
        a = _low_rank(U, V, d * h)  # Q h
        Ph = d * _low_rank(V, U, a)
        K = jnp.eye(self.rank, dtype=d.dtype) + V.T @ U
        lu = jax.scipy.linalg.lu_factor(K)
        b = v / d  # becomes Q⁻ᵀ v, by Woodbury's identity
        b = b - V @ jax.scipy.linalg.lu_solve(lu, U.T @ b, trans=1)
        Pinv_v = (b - U @ jax.scipy.linalg.lu_solve(lu, V.T @ b)) / d
        d_new = _fit_diagonal(d, v, h, Ph, Pinv_v, rate, normaliser)

        def size(x: Vector, y: Vector) -> Array:
            """‖a xᵀ − b yᵀ‖ or the bound ‖a‖ ‖x‖ + ‖b‖ ‖y‖."""
            norms = jnp.linalg.norm(a) * jnp.linalg.norm(x), jnp.linalg.norm(b) * jnp.linalg.norm(y)
            if normaliser == "2nd":
                return norms[0] + norms[1]
            square = norms[0] ** 2 + norms[1] ** 2 - 2 * (a @ b) * (x @ y)
            return jnp.sqrt(jnp.maximum(square, 0))

        def move_U(_):
            x, y = a @ V, b @ V
            mu = rate / (size(V @ x, V @ y) + tiny)
            return U - mu * (jnp.outer(a, x @ K) - jnp.outer(b, y @ K)), V

        def move_V(_):
            x, y = a @ U, b @ U
            mu = rate / (size(U @ x, U @ y) + tiny)
            return U, V - mu * (jnp.outer(a + V @ x, x) - jnp.outer(b + V @ y, y))

        U, V = jax.lax.cond(coin, move_U, move_V, None)
        return U, V, d_new

    def precondition(self, member, g: Vector) -> Vector:
        U, V, d = member
        return d * _low_rank(V, U, _low_rank(U, V, d * g))


class Dense(AbstractLieGroup):
    """Q upper triangular: any P. Memory n², a step O(n²); for small problems, n ≤ 4096."""

    def init(self, n: int, dtype: Any, key: PRNGKeyArray) -> Float[Array, "n n"]:
        check_dimension(n, "eigh", None)
        return jnp.eye(n, dtype=dtype)

    def scale(self, member, factor):
        return factor * member

    def fit(self, member, v, h, rate, normaliser, coin) -> Float[Array, "n n"]:
        Q = member
        a = Q @ h
        b = jax.scipy.linalg.solve_triangular(Q, v, trans=1)
        gradient = jnp.triu(jnp.outer(a, a) - jnp.outer(b, b))
        size = a @ a + b @ b if normaliser == "2nd" else jnp.linalg.norm(gradient)
        return Q - rate / (size + _tiny(Q)) * (gradient @ Q)

    def precondition(self, member, g: Vector) -> Vector:
        return member.T @ (member @ g)


class PSGDState(NamedTuple):
    """State of `scale_by_psgd`.

    - `count`: steps so far. `member`: Q, as its group keeps it. `momentum`: average of gradients.
    - `metrics`: `step_rms`, the root mean square of the step before the learning rate and clipping.
    """

    count: Int[Array, ""]
    member: Any
    momentum: Vector | None
    metrics: dict[str, Array]


def scale_by_psgd(
    group: AbstractLieGroup = XMat(),
    *,
    precond_lr: float = 0.1,
    update_prob: float = 1.0,
    mode: Literal["newton", "whiten"] = "newton",
    b1: float = 0.9,
    nesterov: bool = False,
    clip_rms: float | None = None,
    step_normaliser: Normaliser = "2nd",
    damp: float = 2.0**-13,
    init_scale: float | None = None,
    key: PRNGKeyArray | None = None,
) -> optax.GradientTransformationExtraArgs:
    """P m in place of the gradient, m its average; `psgd` is the same with −1, and explains all."""
    if not isinstance(group, AbstractLieGroup):
        raise TypeError(f"group: expected XMat(), LRA(), Diag() or Dense(), got {group!r}")
    if mode not in ("newton", "whiten"):
        raise ValueError(f"mode = {mode!r}: expected 'newton' or 'whiten'")
    if step_normaliser not in ("2nd", "1st"):
        raise ValueError(f"step_normaliser = {step_normaliser!r}: expected '2nd' or '1st'")
    if isinstance(precond_lr, int | float) and not 0 < precond_lr <= 1:
        raise ValueError(f"precond_lr = {precond_lr}: expected a number in (0, 1]")
    if isinstance(update_prob, int | float) and not 0 < update_prob <= 1:
        raise ValueError(f"update_prob = {update_prob}: expected a number in (0, 1]")
    if isinstance(b1, int | float) and not 0 <= b1 < 1:
        raise ValueError(f"b1 = {b1}: expected a number in [0, 1)")
    if isinstance(damp, int | float) and not damp >= 0:
        raise ValueError(f"damp = {damp}: expected a number >= 0")
    for name, number in (("clip_rms", clip_rms), ("init_scale", init_scale)):
        if isinstance(number, int | float) and not number > 0:
            raise ValueError(f"{name} = {number}: expected None or a positive number")
    always = isinstance(update_prob, int | float) and update_prob == 1
    averages = not isinstance(b1, int | float) or b1 != 0
    root_key = jax.random.key(0) if key is None else key

    def init(params: PyTree) -> PSGDState:
        dtype = work_dtype(params, "psgd")
        n = sum(jnp.size(leaf) for leaf in jax.tree.leaves(params))
        return PSGDState(
            jnp.zeros((), jnp.int32),
            group.init(n, dtype, jax.random.fold_in(root_key, 2**31 - 1)),
            jnp.zeros(n, dtype) if averages else None,
            {"step_rms": jnp.zeros((), dtype)},
        )

    def update(
        updates: PyTree, state: PSGDState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, PSGDState]:
        if mode == "newton" and params is None:
            raise ValueError("psgd: update needs params in mode 'newton', got None")
        count = jnp.asarray(optax.safe_increment(state.count))
        if not jax.tree.leaves(updates):
            return updates, state._replace(count=count)
        dtype = work_dtype(updates, "psgd")
        g = ravel(updates, dtype)
        given = extra.get("key")
        step_key = jax.random.fold_in(root_key, state.count) if given is None else given
        probe_key, coin_key, skip_key = jax.random.split(step_key, 3)
        if mode == "newton":
            back = unraveller(params, dtype)
            # Built here, so that a missing argument is named here.
            curvature = Hessian().at(ravel(params, dtype), **flat_extra(extra, back, dtype))

        def fit(member):
            v = jax.random.normal(probe_key, g.shape, dtype)
            h = curvature.mv(v) if mode == "newton" else g + damp * jnp.mean(jnp.abs(g)) * v
            h = h.astype(dtype)
            if init_scale is None:
                # What makes hᵀPh and vᵀP⁻¹v equal.
                first = (jnp.sum(v * v) / (jnp.sum(h * h) + _tiny(h))) ** 0.25
            else:
                first = jnp.asarray(init_scale, dtype)
            start = group.scale(member, jnp.where(state.count == 0, first, 1).astype(dtype))
            coin = jax.random.bernoulli(coin_key)
            new = group.fit(start, v, h, precond_lr, step_normaliser, coin)
            # A pair with h = 0 says nothing of P, one that is not finite would spoil it for good.
            finite = jax.tree.reduce(
                jnp.logical_and, jax.tree.map(lambda x: jnp.all(jnp.isfinite(x)), new)
            )
            usable = finite & jnp.any(h != 0)
            return jax.tree.map(lambda a, b: jnp.where(usable, a, b).astype(b.dtype), new, member)

        if always:
            member = fit(state.member)
        else:
            due = (state.count == 0) | (jax.random.uniform(skip_key) < update_prob)
            member = jax.lax.cond(due, fit, lambda member: member, state.member)
        momentum, direction = None, g
        if averages:
            assert state.momentum is not None
            momentum = (b1 * state.momentum + (1 - b1) * g).astype(dtype)
            direction = b1 * momentum + (1 - b1) * g if nesterov else momentum
        step = group.precondition(member, direction)
        rms = jnp.sqrt(jnp.mean(step * step))
        if clip_rms is not None:
            step = step * jnp.minimum(1, clip_rms / (rms + _tiny(step)))
        new = unraveller(updates, dtype)(step.astype(dtype))
        return new, PSGDState(count, member, momentum, {"step_rms": rms.astype(dtype)})

    return optax.GradientTransformationExtraArgs(cast(Any, init), cast(Any, update))


def psgd(
    learning_rate: optax.ScalarOrSchedule = 0.01,
    group: AbstractLieGroup = XMat(),
    *,
    precond_lr: float = 0.1,
    update_prob: float = 1.0,
    mode: Literal["newton", "whiten"] = "newton",
    b1: float = 0.9,
    nesterov: bool = False,
    clip_rms: float | None = None,
    step_normaliser: Normaliser = "2nd",
    damp: float = 2.0**-13,
    init_scale: float | None = None,
    key: PRNGKeyArray | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Preconditioned SGD with a preconditioner on a Lie group, fitted from one pair a step.

    With `mode="newton"`, for which `update` needs `value_fn` (or `hvp_fn`), it is Newton's method
    with |H| and a learning rate that has no units: two or three gradients a step, and at a saddle
    it goes away. With `mode="whiten"` a step costs one gradient and needs nothing but it. Not where
    gradients vanish exactly for many weights, as there P can only grow.

    **Arguments:**

    - `learning_rate`: 1 would be a full Newton step; 0.01 with mini-batches, more without noise.
    - `group`: `XMat()` costs least; `LRA(rank)` knows of some directions in which many weights act
        together; `Dense()` of all, for small problems; `Diag()` of none.
    - `precond_lr`: how fast P follows, in (0, 1]. 0.1 with `"2nd"`, 0.01 with `"1st"`; with noise
        or late in a training less.
    - `update_prob`: P is fitted in this part of the steps, and in the first; between fits, mode
        `"newton"` costs no more than SGD.
    - `b1`, `nesterov`: the average of gradients that is preconditioned, and one more look ahead.
    - `clip_rms`: the root mean square of a step (before the learning rate) is at most this; 1 or so
        for networks whose first steps are too long.
    - `step_normaliser`: `"2nd"` or `"1st"`, see `AbstractLieGroup.fit`.
    - `damp`: in mode `"whiten"`, h = g + damp · mean|g| · v, which bounds P.
    - `init_scale`: Q = init_scale · I at first; by default (‖v‖²/‖h‖²)^¼ of the first pair.
    - `key`: for v and the coins; step t uses `fold_in(key, t)`.

    **Returns:** an optax transformation; `state[0]` is a `PSGDState`.

    **Raises:** `ValueError` for options out of range or a missing `value_fn` or `params`;
    `TypeError` for complex parameters or another group.
    """
    return optax.chain(
        scale_by_psgd(
            group,
            precond_lr=precond_lr,
            update_prob=update_prob,
            mode=mode,
            b1=b1,
            nesterov=nesterov,
            clip_rms=clip_rms,
            step_normaliser=step_normaliser,
            damp=damp,
            init_scale=init_scale,
            key=key,
        ),
        optax.scale_by_learning_rate(learning_rate),
    )


def _fit_diagonal(
    d: Vector, v: Vector, h: Vector, Ph: Vector, Pinv_v: Vector, rate: Any, normaliser: str
) -> Vector:
    """The step d − μ d ∇ with ∇ = Ph ⊙ h − v ⊙ P⁻¹v."""
    tiny = _tiny(d)
    gradient = Ph * h - v * Pinv_v
    if normaliser == "2nd":
        # Two roots, as their product might underflow.
        mu = rate * jnp.min(
            jax.lax.rsqrt(Ph**2 + v**2 + tiny) * jax.lax.rsqrt(h**2 + Pinv_v**2 + tiny)
        )
    else:
        mu = rate / (jnp.max(jnp.abs(gradient)) + tiny)
    return d - mu * d * gradient


def _low_rank(U: Array, V: Array, x: Vector) -> Vector:
    """(I + U Vᵀ) x."""
    return x + U @ (x @ V)


def _tiny(x: Array) -> Any:
    return jnp.finfo(x.dtype).tiny
