"""Nesterov's acceleration of a stochastic step, for noise that vanishes with the gradient.

    α_k² = η γ_{k+1},   γ_{k+1} = (1 − α_k) γ_k + α_k μ
    y_k = (α_k γ_k v_k + γ_{k+1} w_k) / (γ_k + α_k μ)
    w_{k+1} = y_k + inner(g_k),   v_{k+1} = ((1 − α_k) γ_k v_k + α_k μ y_k − α_k ĝ_k) / γ_{k+1}

g_k is the gradient at y_k, and η the progress of the inner step:
E f(w_{k+1}) ≤ f(y_k) − η/2 ‖∇f(y_k)‖², which for SGD under strong growth, E ‖g‖² ≤ ρ ‖∇f‖², is
η = 1/(ρ L). The error then falls by 1 − (μ/(ρ L))^½ a step (Mishkin et al., arXiv:2404.02378).
"""

from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree


class AcceleratedState(NamedTuple):
    """v, γ, the c of w = y + c (y − v), and the inner optimiser's state; the parameters are y."""

    # w is not stored: a buffer that is written and never read would be a quarter of the traffic.
    v: PyTree
    gamma: Float[Array, ""]
    lead: Float[Array, ""]
    inner: optax.OptState


def accelerated_eval_params(state: AcceleratedState, params: PyTree) -> PyTree:
    """The weights w to evaluate, from `accelerated`'s state and the parameters y that it moves.

    y lies between w and v, so that w = y + c (y − v).

    **Arguments:** `state` and `params` after the same update.

    **Returns:** w, like `params`.
    """
    return jax.tree.map(lambda y, v: (y + state.lead * (y - v)).astype(y.dtype), params, state.v)


def accelerated(
    eta: Any,
    mu: Any = 0.0,
    inner: optax.GradientTransformation | None = None,
    rho: Any = None,
    variant: Literal["sqrt_rho", "rho"] = "sqrt_rho",
    momentum_gradient: Literal["batch", "full"] = "batch",
    gamma0: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Accelerates a stochastic step that makes progress in expectation.

    The parameters that it moves are y, where gradients are taken; those to evaluate are
    `accelerated_eval_params(state, params)`.

    **Arguments:**

    - `eta`: η; 1/(ρ L) for SGD.
    - `mu`: strong convexity μ; 0 for convex functions, where the momentum grows with k.
    - `inner`: the step w − y; `optax.sgd(eta)` by default. Any preconditioned step will do, with η
        the progress in its norm; v then moves along its direction.
    - `rho`: ρ, for `variant="rho"`.
    - `variant`: "sqrt_rho" as above; "rho": α² = (η/ρ) γ, the slower choice of earlier works, which
        is stable where the first is not.
    - `momentum_gradient`: ĝ, "batch": the g of the inner step. "full": the gradient of the whole
        loss, the keyword `full_grad` of `update`. For least squares with one Gaussian sample a step
        the rate above holds with "full", and fails with "batch" at η = 1/(ρ L).
    - `gamma0`: γ₀; μ by default (α is then constant), or 1/η for μ = 0.

    **Returns:** an optax transformation with one buffer like the parameters.

    **Raises:** `ValueError` for η ≤ 0, μ < 0, η μ > 1, ρ < 1, an unknown or incomplete variant,
    and in `update` without params or `full_grad`.
    """
    for name, value, least in (("mu", mu, 0.0), ("rho", rho, 1.0)):
        if isinstance(value, int | float) and not value >= least:
            raise ValueError(f"{name} = {value}: expected a number >= {least:g}")
    for name, value in (("eta", eta), ("gamma0", gamma0)):
        if isinstance(value, int | float) and not value > 0:
            raise ValueError(f"{name} = {value}: expected a positive number")
    if isinstance(eta, int | float) and isinstance(mu, int | float) and eta * mu > 1:
        raise ValueError(f"eta = {eta}, mu = {mu}: expected eta * mu <= 1, as mu <= L")
    if variant not in ("sqrt_rho", "rho"):
        raise ValueError(f"variant = {variant!r}: expected 'sqrt_rho' or 'rho'")
    if variant == "rho" and rho is None:
        raise ValueError("variant = 'rho': expected a rho, got None")
    if momentum_gradient not in ("batch", "full"):
        raise ValueError(f"momentum_gradient = {momentum_gradient!r}: expected 'batch' or 'full'")
    step = optax.with_extra_args_support(optax.sgd(eta) if inner is None else inner)
    rate = eta / rho if variant == "rho" else eta

    def init(params: PyTree) -> AcceleratedState:
        dtype = jnp.result_type(float, *(jnp.real(p).dtype for p in jax.tree.leaves(params)))
        if gamma0 is None:
            first = jnp.where(jnp.asarray(mu) > 0, mu, 1 / jnp.asarray(eta))
        else:
            first = gamma0
        # A copy, so that the state can be donated.
        v = jax.tree.map(lambda p: jnp.array(p, copy=True), params)
        return AcceleratedState(
            v, jnp.asarray(first, dtype), jnp.zeros((), dtype), step.init(params)
        )

    def next_alpha(gamma: Array) -> Array:
        """The positive root of α² + η (γ − μ) α − η γ = 0."""
        b = rate * (gamma - mu)
        return 2 * rate * gamma / (b + jnp.sqrt(b**2 + 4 * rate * gamma))

    def update(
        updates: PyTree, state: AcceleratedState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, AcceleratedState]:
        if params is None:
            raise ValueError("accelerated: update needs params, got None")
        moves, inner_state = step.update(updates, state.inner, params, **extra)
        if momentum_gradient == "full":
            full = extra.get("full_grad")
            if full is None:
                raise ValueError("accelerated: momentum_gradient = 'full' needs full_grad")
            directions, _ = step.update(full, state.inner, params, **extra)
        else:
            directions = moves
        gamma = state.gamma
        alpha = next_alpha(gamma)
        after = (1 - alpha) * gamma + alpha * mu
        following = next_alpha(after)
        last = (1 - following) * after + following * mu

        def one(y: Array, v: Array, move: Array, direction: Array) -> tuple[Array, Array]:
            w = y + move
            # ĝ = −direction / η, and α/γ' = η_α / α with the η_α that α is made of.
            v = ((1 - alpha) * gamma * v + alpha * mu * y + alpha / eta * direction) / after
            new = (following * after * v + last * w) / (after + following * mu)
            return v.astype(y.dtype), (new - y).astype(y.dtype)

        leaves, treedef = jax.tree.flatten(params)
        others = (treedef.flatten_up_to(tree) for tree in (state.v, moves, directions))
        found = [one(*parts) for parts in zip(leaves, *others, strict=True)]
        v, change = (treedef.unflatten([parts[i] for parts in found]) for i in range(2))
        return change, AcceleratedState(v, after, following * after / last, inner_state)

    return optax.GradientTransformationExtraArgs(cast(Any, init), cast(Any, update))
