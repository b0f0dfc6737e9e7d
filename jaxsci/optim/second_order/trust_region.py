"""Bounded nonlinear systems F(x) = 0, l ≤ x ≤ u, by an interior scaled trust-region method.

    g = Jᵀ F,    D = diag d(x, g, l, u),    region ‖D^{−1/2} p‖ ≤ Δ
    Cauchy step     p_C = −τ D g,  τ = min(gᵀDg / ‖J D g‖², Δ / ‖D^{1/2} g‖),  kept inside [l, u]
    Newton steps    p_P = α (P(x − J⁻¹F) − x),  P the projection to [l, u], α = max(θ, 1 − ‖·‖)
                    p_N = −t J⁻¹F,  t ≤ 1 as large as θ times the way to the bounds allows
    step            the p with the least ‖F + J p‖ on the lines from p_C to p_P and p_N inside the
                    region

The scaling d is what such methods differ in: it bends the step away from bounds, and vanishes only
at a bound that the step is pushed into. Four known ones are here, and their convex combinations,
which arXiv:1904.09209 proposes. (The constants are those of constrained-dogleg codes, which know
p_P alone. A projection turns the step, a cut does not: in a narrow valley near a bound, p_N brings
`HMZ` from half of the starts to nine of ten, as many as SciPy's reflective method, and helps the
others little.)
"""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..flat import ravel, unraveller, work_dtype

Vector = Float[Array, " n"]


class AbstractScaling(eqx.Module):
    """A rule for the positive diagonal d of the scaling matrix at an interior point."""

    @abc.abstractmethod
    def __call__(self, x: Vector, g: Vector, lower: Vector, upper: Vector) -> Vector:
        """d, from the point, the gradient Jᵀ F, and the bounds (which may be infinite)."""


class CL(AbstractScaling):
    """Coleman and Li: the distance to the bound that −g points to; 1 if there is none."""

    def __call__(self, x: Vector, g: Vector, lower: Vector, upper: Vector) -> Vector:
        d = jnp.where((g < 0) & jnp.isfinite(upper), upper - x, 1)
        d = jnp.where((g > 0) & jnp.isfinite(lower), x - lower, d)
        nearest = jnp.minimum(x - lower, upper - x)
        return jnp.where((g == 0) & jnp.isfinite(nearest), nearest, d)


class HUU(AbstractScaling):
    """Heinkenschloss, Ulbrich, Ulbrich: that of `CL` near a bound or where g is small, else 1.

    With r the distance to the nearest bound: `CL` if |g| < rᵖ or r < |g|ᵖ.

    - `p`: > 1.
    """

    p: float = 2.0

    def __check_init__(self):
        if not self.p > 1:
            raise ValueError(f"p = {self.p}: expected a number > 1")

    def __call__(self, x: Vector, g: Vector, lower: Vector, upper: Vector) -> Vector:
        nearest, size = jnp.minimum(x - lower, upper - x), jnp.abs(g)
        near = (size < nearest**self.p) | (nearest < size**self.p)
        return jnp.where(near, CL()(x, g, lower, upper), 1)


class KK(AbstractScaling):
    """Kanzow and Klug: min(x − l + γ max(0, −g), u − x + γ max(0, g)); 1 without bounds.

    - `gamma`: > 0.
    """

    gamma: float = 1.0

    def __check_init__(self):
        if not self.gamma > 0:
            raise ValueError(f"gamma = {self.gamma}: expected a positive number")

    def __call__(self, x: Vector, g: Vector, lower: Vector, upper: Vector) -> Vector:
        d = jnp.minimum(
            x - lower + self.gamma * jnp.maximum(0, -g), upper - x + self.gamma * jnp.maximum(0, g)
        )
        return jnp.where(jnp.isfinite(d), d, 1)


class HMZ(AbstractScaling):
    """Hager, Mair, Zhang: X/(α X + |g|) with X that of `CL`; 1/α where X has no bound to measure.

    - `alpha`: > 0.
    """

    alpha: float = 1.0

    def __check_init__(self):
        if not self.alpha > 0:
            raise ValueError(f"alpha = {self.alpha}: expected a positive number")

    def __call__(self, x: Vector, g: Vector, lower: Vector, upper: Vector) -> Vector:
        X = CL()(x, g, lower, upper)
        towards = jnp.where(g < 0, jnp.isfinite(upper), jnp.isfinite(lower))
        bounded = jnp.where(g == 0, jnp.isfinite(lower) | jnp.isfinite(upper), towards)
        return jnp.where(bounded, X / (self.alpha * X + jnp.abs(g)), 1 / self.alpha)


class Mix(AbstractScaling):
    """A convex combination Σ w_j d_j of scalings (of d itself, not of D^{−1/2}).

    - `scalings`: by default `CL()`, `HUU()`, `KK()`, `HMZ()`.
    - `weights`: w_j ≥ 0 with sum 1; equal ones by default.
    """

    scalings: tuple[AbstractScaling, ...] = (CL(), HUU(), KK(), HMZ())
    weights: tuple[float, ...] = (0.25, 0.25, 0.25, 0.25)

    def __check_init__(self):
        if len(self.scalings) != len(self.weights) or not self.scalings:
            raise ValueError(
                f"weights = {self.weights}: expected one for each of {len(self.scalings)} scalings"
            )
        if min(self.weights) < 0 or abs(sum(self.weights) - 1) > 1e-6:
            raise ValueError(f"weights = {self.weights}: expected numbers >= 0 with sum 1")

    def __call__(self, x: Vector, g: Vector, lower: Vector, upper: Vector) -> Vector:
        parts = zip(self.weights, self.scalings, strict=True)
        return sum((w * s(x, g, lower, upper) for w, s in parts), jnp.zeros_like(x))


class _State(NamedTuple):
    residual: Vector
    aux: Any
    radius: Float[Array, ""]
    target: Float[Array, ""]
    stuck: Bool[Array, ""]
    n_fn: Int[Array, ""]


class ScaledTrustRegion(optx.AbstractRootFinder):
    """Finds a root inside bounds; a solver for `optimistix.root_find`:

        optimistix.root_find(fn, ScaledTrustRegion(rtol=0, atol=1e-8), x0,
                             options={"lower": 0.0, "upper": 1.0})

    F must have as many entries as x; both may be pytrees. The bounds are pytrees like x or
    numbers, infinite if not given. x0 must lie strictly between them (`strictly_inside` makes it).
    All iterates do. An iteration costs one Jacobian, one factorisation, and a value of F for each
    trial.

    - `rtol`, `atol`: ends when `norm`(F) ≤ max(atol, rtol · norm(F(x0))).
    - `scaling`: `Mix()`, `CL()`, `HUU()`, `KK()`, `HMZ()`, or an `AbstractScaling` of your own.
        `HMZ()` solves the most of badly scaled systems, and takes more iterations on others.
    - `theta`: how far towards a bound a step may go, below 1.
    - `radius0`: the first Δ.
    - `max_trials`: reductions of Δ in one iteration. If none gives enough decrease, the point is
        most likely a local minimum of ‖F‖, and the solve ends without success.

    Like all such methods it may come to a minimum of ‖F‖ in the box that is no root, often one on
    a bound. It comes near only slowly then, and the solve mostly ends at `max_steps`, without
    success. Another start is the cure. Which of several roots is found depends on `radius0` too.

    `stats` has the number of values of F, `num_fn`.
    """

    rtol: float
    atol: float
    norm: Callable[[PyTree], Float[Array, ""]] = optx.max_norm
    scaling: AbstractScaling = Mix()
    theta: float = 0.99995
    radius0: float = 1.0
    max_trials: int = 40

    def __check_init__(self):
        if self.rtol < 0 or self.atol < 0:
            raise ValueError(f"rtol = {self.rtol}, atol = {self.atol}: expected numbers >= 0")
        if not 0 < self.theta < 1:
            raise ValueError(f"theta = {self.theta}: expected a number in (0, 1)")
        if not self.radius0 > 0:
            raise ValueError(f"radius0 = {self.radius0}: expected a positive number")
        if self.max_trials < 1:
            raise ValueError(f"max_trials = {self.max_trials}: expected an integer >= 1")

    def init(self, fn, y, args, options, f_struct, aux_struct, tags) -> _State:
        dtype = work_dtype(y, "ScaledTrustRegion")
        x = ravel(y, dtype)
        lower, upper = _bounds(y, options, dtype)
        size = sum(leaf.size for leaf in jax.tree.leaves(f_struct))
        if size != x.size:
            raise ValueError(f"fn: expected {x.size} values, as many as unknowns, got {size}")
        x = eqx.error_if(x, jnp.any(lower >= upper), "ScaledTrustRegion: expected lower < upper")
        x = eqx.error_if(
            x,
            jnp.any((x <= lower) | (x >= upper)),
            "ScaledTrustRegion: x0 is not strictly inside the bounds; strictly_inside(x0, lower, "
            "upper) moves it",
        )
        residual, aux = _flat_fn(fn, y, args, dtype)(x)
        residual = eqx.error_if(
            residual,
            ~jnp.all(jnp.isfinite(residual)),
            "ScaledTrustRegion: fn is not finite at x0",
        )
        target = jnp.maximum(self.atol, self.rtol * self.norm(residual))
        return _State(
            residual,
            aux,
            jnp.asarray(self.radius0, dtype),
            jnp.asarray(target, dtype),
            jnp.zeros((), bool),
            jnp.ones((), jnp.int32),
        )

    def step(self, fn, y, args, options, state, tags):
        dtype = work_dtype(y, "ScaledTrustRegion")
        unravel = unraveller(y, dtype)
        x = ravel(y, dtype)
        lower, upper = _bounds(y, options, dtype)
        function = _flat_fn(fn, y, args, dtype)
        F = state.residual
        J = jax.jacfwd(lambda x: function(x)[0])(x)
        g = J.T @ F
        d = self.scaling(x, g, lower, upper)
        # Never exactly zero: a bound that is reached to rounding must not give 0/0 below.
        d = jnp.maximum(d, jnp.finfo(dtype).tiny ** 0.5)
        newtons = self._newton(J, F, x, lower, upper)
        descent = d * g
        steepness = jnp.sqrt(g @ descent)
        curved = J @ descent
        unbounded = _ratio(steepness**2, curved @ curved)
        f = F @ F / 2

        def trial(carry):
            i, radius, *_ = carry
            tau = jnp.minimum(unbounded, _ratio(radius, steepness))
            cauchy = -tau * descent
            cauchy = cauchy * jnp.minimum(1, self.theta * _room(x, cauchy, lower, upper))
            projected, cut = (_dogleg(cauchy, newton, F, J, d, radius) for newton in newtons)
            better = jnp.sum((F + J @ cut) ** 2) < jnp.sum((F + J @ projected) ** 2)
            p = jnp.where(better, cut, projected)
            # Rounding must not put it on a bound.
            x_new = jnp.clip(x + p, jnp.nextafter(lower, upper), jnp.nextafter(upper, lower))
            F_new, aux = function(x_new)
            model = F + J @ p
            predicted, actual = f - model @ model / 2, f - F_new @ F_new / 2
            accepted = (actual >= 0.25 * predicted) & jnp.all(jnp.isfinite(F_new)) & (actual > 0)
            length = jnp.linalg.norm(p / jnp.sqrt(d))
            larger = jnp.where(actual >= 0.75 * predicted, jnp.maximum(radius, 2 * length), radius)
            smaller = jnp.minimum(radius / 4, length / 2)
            radius = jnp.where(accepted, larger, smaller).astype(dtype)
            return i + 1, radius, x_new, F_new, aux, accepted

        def rejected(carry):
            return ~carry[-1] & (carry[0] < self.max_trials)

        start = (jnp.zeros((), jnp.int32), state.radius, x, F, state.aux, jnp.zeros((), bool))
        trials, radius, x_new, F_new, aux, accepted = jax.lax.while_loop(rejected, trial, start)
        x_new, F_new, aux = jax.tree.map(
            lambda a, b: jnp.where(accepted, a, b), (x_new, F_new, aux), (x, F, state.aux)
        )
        n_fn = state.n_fn + trials
        new = _State(F_new, aux, radius, state.target, ~accepted, n_fn)
        return unravel(x_new), new, aux

    def terminate(self, fn, y, args, options, state, tags):
        done = self.norm(state.residual) <= state.target
        failed = state.stuck & ~done
        result = optx.RESULTS.where(
            failed, optx.RESULTS.nonlinear_divergence, optx.RESULTS.successful
        )
        return done | state.stuck, result

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {"num_fn": state.n_fn}

    def _newton(
        self, J: Array, F: Vector, x: Vector, lower: Vector, upper: Vector
    ) -> tuple[Vector, Vector]:
        """Newton's step, projected and cut; with the least-squares solution for a singular J."""
        direct = jnp.linalg.solve(J, -F)
        usable = jnp.all(jnp.isfinite(direct))
        # By slightly damped normal equations, as singular values are dear where lanes of a vmap
        # take both branches.
        normal, small = J.T @ J, jnp.finfo(x.dtype).eps ** 0.5
        damped = normal + small * jnp.trace(normal) / x.size * jnp.eye(x.size, dtype=x.dtype)
        full = jnp.where(usable, direct, jnp.nan_to_num(jnp.linalg.solve(damped, -J.T @ F)))
        inside = jnp.clip(x + full, lower, upper) - x
        projected = jnp.maximum(self.theta, 1 - jnp.linalg.norm(inside)) * inside
        return projected, jnp.minimum(1, self.theta * _room(x, full, lower, upper)) * full


def strictly_inside(x: PyTree, lower: PyTree, upper: PyTree, fraction: float = 1e-3) -> PyTree:
    """x, moved into the bounds by `fraction` of their distance (of 1, if one is infinite).

    **Arguments:** `x`: real floating, any pytree. `lower`, `upper`: pytrees like x, or numbers.

    **Raises:** `ValueError` for a fraction outside (0, 1/2).
    """
    if not 0 < fraction < 0.5:
        raise ValueError(f"fraction = {fraction}: expected a number in (0, 1/2)")
    dtype = work_dtype(x, "strictly_inside")
    low, high = _bounds(x, {"lower": lower, "upper": upper}, dtype)
    width = jnp.where(jnp.isfinite(high - low), high - low, 1)
    return unraveller(x, dtype)(
        jnp.clip(ravel(x, dtype), low + fraction * width, high - fraction * width)
    )


def _dogleg(cauchy: Vector, newton: Vector, F: Vector, J: Array, d: Vector, radius: Array):
    """The best point for ‖F + J p‖ on the segment from `cauchy` to `newton` inside the region.

    It is at least as good as `cauchy`, whose decrease is what the convergence theory needs.
    """
    along = newton - cauchy
    change = J @ along
    best = _ratio(-((F + J @ cauchy) @ change), change @ change)
    # ‖a + t b‖ = Δ for the scaled start a and direction b, in the form that does not cancel.
    a, b = cauchy / jnp.sqrt(d), along / jnp.sqrt(d)
    bb, ab, room = b @ b, a @ b, jnp.maximum(radius**2 - a @ a, 0)
    root = jnp.sqrt(ab**2 + bb * room)
    last = jnp.where(ab > 0, _ratio(room, root + ab), _ratio(root - ab, bb))
    return cauchy + jnp.clip(best, 0, jnp.minimum(last, 1)) * along


def _room(x: Vector, p: Vector, lower: Vector, upper: Vector) -> Array:
    """The largest t with l ≤ x + t p ≤ u."""
    distance = jnp.where(p > 0, upper - x, x - lower)
    return jnp.min(jnp.where(p == 0, jnp.inf, distance / jnp.where(p == 0, 1, jnp.abs(p))))


def _ratio(a: Array, b: Array) -> Array:
    """a/b, and 0 for b = 0."""
    return jnp.where(b == 0, 0, a / jnp.where(b == 0, 1, b))


def _bounds(y: PyTree, options: dict[str, Any], dtype) -> tuple[Vector, Vector]:
    def flat(name: str, default: float) -> Vector:
        bound = options.get(name)
        bound = default if bound is None else bound
        if jax.tree.structure(bound) != jax.tree.structure(y):
            bound = jax.tree.map(lambda leaf: bound, y)
        full = []
        for leaf, one in zip(jax.tree.leaves(y), jax.tree.leaves(bound), strict=True):
            if jnp.shape(one) not in ((), jnp.shape(leaf)):
                raise ValueError(f"{name}: expected shape {jnp.shape(leaf)}, got {jnp.shape(one)}")
            full.append(jnp.broadcast_to(jnp.asarray(one, dtype), jnp.shape(leaf)).ravel())
        return jnp.concatenate(full)

    return flat("lower", -jnp.inf), flat("upper", jnp.inf)


def _flat_fn(fn, y: PyTree, args: PyTree, dtype):
    unravel = unraveller(y, dtype)

    def function(x: Vector) -> tuple[Vector, Any]:
        out, aux = fn(unravel(x), args)
        return ravel(out, dtype), aux

    return function
