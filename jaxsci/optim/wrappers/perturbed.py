"""Gradients at perturbed weights: SAM and its kin, gradient regularisation, AMP as one function.

    g' = a g(θ) + b g(θ + δ),   g = ∇L on the current batch

| method | a | b | δ |
|---|---|---|---|
| SAM (arXiv:2010.01412) | 0 | 1 | ρ g / ‖g‖ |
| USAM | 0 | 1 | ρ g |
| DNSAM (arXiv:2301.08203) | 0 | 1 | ρ g / ‖∇f‖, f the loss on all data |
| gradient regularisation, forward (arXiv:2210.02720) | 1 − γ/ε | γ/ε | ε g |
| gradient regularisation, backward | 1 + γ/ε | −γ/ε | −ε g |
| AMP (arXiv:2010.04925) | 0 | 1 | projected gradient ascent on L(θ + δ), ‖δ‖ ≤ ε |

An inner optimiser is then given g' in the place of g. It, and its state, live at θ; all gradients
of a step are of the same batch and key, those of `value_fn`. Statistics that a model keeps itself
(batch norm) are to be taken from the pass at θ, which is what a training step does.
"""

import abc
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

GradientFn = Callable[[PyTree], PyTree]


class AbstractPerturbation(eqx.Module):
    """A rule that gives the perturbation δ of the weights."""

    @abc.abstractmethod
    def __call__(
        self, gradient_fn: GradientFn, params: PyTree, grads: PyTree, extra: Mapping[str, Any]
    ) -> PyTree:
        """δ, a tree like the weights.

        **Arguments:**

        - `gradient_fn`: θ ↦ g(θ). `params`: θ. `grads`: g(θ), already known.
        - `extra`: the optimiser's keyword arguments.
        """


class Ascent(AbstractPerturbation):
    """δ = ρ g."""

    rho: Any

    def __call__(
        self, gradient_fn: GradientFn, params: PyTree, grads: PyTree, extra: Mapping[str, Any]
    ) -> PyTree:
        return _scaled(self.rho, grads)


class NormalisedAscent(AbstractPerturbation):
    """δ = ρ g / ‖g‖ over all weights together, and 0 where g = 0."""

    rho: Any

    def __call__(
        self, gradient_fn: GradientFn, params: PyTree, grads: PyTree, extra: Mapping[str, Any]
    ) -> PyTree:
        return _scaled(_ratio(self.rho, _norm(grads)), grads)


class FullyNormalisedAscent(AbstractPerturbation):
    """δ = ρ g / ‖∇f‖ with the gradient of the loss on all data, the keyword `full_grad`."""

    rho: Any

    def __call__(
        self, gradient_fn: GradientFn, params: PyTree, grads: PyTree, extra: Mapping[str, Any]
    ) -> PyTree:
        full = extra.get("full_grad")
        if full is None:
            raise ValueError(
                "dnsam: update needs the keyword argument full_grad (the gradient of the loss on "
                "all data at params); it is missing"
            )
        return _scaled(_ratio(self.rho, _norm(full)), grads)


class ProjectedAscent(AbstractPerturbation):
    """N times δ ← P(δ + r g(θ + δ)) from δ = 0, P the projection on a ball of radius ε.

    The ball is one for all weights (`"global"`) or one for each array (`"per_leaf"`).
    """

    epsilon: Any
    inner_lr: Any
    inner_steps: int = eqx.field(static=True, default=1)
    ball: Literal["global", "per_leaf"] = eqx.field(static=True, default="global")

    def __call__(
        self, gradient_fn: GradientFn, params: PyTree, grads: PyTree, extra: Mapping[str, Any]
    ) -> PyTree:
        def project(delta: PyTree) -> PyTree:
            if self.ball == "per_leaf":
                return jax.tree.map(
                    lambda leaf: _scaled(jnp.minimum(1, _ratio(self.epsilon, _norm(leaf))), leaf),
                    delta,
                )
            return _scaled(jnp.minimum(1, _ratio(self.epsilon, _norm(delta))), delta)

        def ascend(delta: PyTree) -> PyTree:
            slope = gradient_fn(_moved(params, delta))
            return project(jax.tree.map(jnp.add, delta, _scaled(self.inner_lr, slope)))

        first = project(_scaled(self.inner_lr, grads))
        return jax.lax.fori_loop(1, self.inner_steps, lambda _, delta: ascend(delta), first)


def perturbed(
    inner: optax.GradientTransformation, rule: AbstractPerturbation, a: Any = 0.0, b: Any = 1.0
) -> optax.GradientTransformationExtraArgs:
    """Gives `inner` the gradient a g(θ) + b g(θ + δ).

    One gradient more than `inner` alone (AMP: as many as it has inner steps), in the same program.
    Put it first: what stands before it in a chain changes δ, but not g(θ + δ).

    **Arguments:**

    - `inner`: any optax transformation.
    - `rule`: that of δ. `a`, `b`: see the table above; g(θ) is left out where `a` is the number 0.

    **Returns:** an optax transformation with the state of `inner`; `update` needs `params` and
    `value_fn`.

    **Raises:** `ValueError` if `update` lacks one of these.
    """

    def combine(
        gradient_fn: GradientFn, params: PyTree, grads: PyTree, extra: Mapping[str, Any]
    ) -> PyTree:
        there = gradient_fn(_moved(params, rule(gradient_fn, params, grads, extra)))
        if isinstance(a, int | float) and a == 0:
            return _scaled(b, there)
        return jax.tree.map(jnp.add, _scaled(a, grads), _scaled(b, there))

    return _regraded("perturbed", inner, combine)


def sam(
    inner: optax.GradientTransformation, rho: Any = 0.05
) -> optax.GradientTransformationExtraArgs:
    """Sharpness-aware minimisation: the gradient at θ + ρ g/‖g‖.

    `optax.contrib.sam` in its opaque mode is the same; here the second gradient is that of the
    `value_fn` which `jaxsci.train.fit` passes.

    **Arguments:** `inner`: any optax transformation. `rho` >= 0: 0.05 is a good value.

    **Returns, Raises:** as `perturbed`, and `ValueError` for `rho` < 0.
    """
    _check_at_least("rho", rho)
    return perturbed(inner, NormalisedAscent(rho))


def usam(
    inner: optax.GradientTransformation, rho: Any = 0.05
) -> optax.GradientTransformationExtraArgs:
    """SAM without its normalisation: the gradient at θ + ρ g. Arguments as for `sam`."""
    _check_at_least("rho", rho)
    return perturbed(inner, Ascent(rho))


def dnsam(
    inner: optax.GradientTransformation, rho: Any = 0.05
) -> optax.GradientTransformationExtraArgs:
    """SAM normalised without the batch: the gradient at θ + ρ g/‖∇f‖.

    `update` also needs `full_grad`, the gradient ∇f(θ) on all data: this is a model of SAM that
    theory can treat, not one to train with.

    **Arguments, Returns, Raises:** as for `sam`, and `ValueError` without `full_grad`.
    """
    _check_at_least("rho", rho)
    return perturbed(inner, FullyNormalisedAscent(rho))


def amp(
    inner: optax.GradientTransformation,
    epsilon: Any = 0.5,
    inner_lr: Any = 1.0,
    inner_steps: int = 1,
    ball: Literal["global", "per_leaf"] = "global",
) -> optax.GradientTransformationExtraArgs:
    """Adversarial model perturbation: minimises max over ‖δ‖ ≤ ε of L(θ + δ) on each batch.

    With one inner step it is SAM where the projection acts (‖g‖ inner_lr > ε) and USAM where it
    does not.

    **Arguments:**

    - `inner`: any optax transformation.
    - `epsilon`: radius ε >= 0, from 0.1 to 1; a smaller one for a larger learning rate.
    - `inner_lr`: rate of the ascent, > 0. `inner_steps`: N >= 1, each for one gradient.
    - `ball`: one ball for all weights as in the paper, or one for each array as in the authors'
        code.

    **Returns, Raises:** as `perturbed`, and `ValueError` for arguments out of range.
    """
    _check_at_least("epsilon", epsilon)
    if isinstance(inner_lr, int | float) and not inner_lr > 0:
        raise ValueError(f"inner_lr = {inner_lr}: expected a positive number")
    if not isinstance(inner_steps, int) or inner_steps < 1:
        raise ValueError(f"inner_steps = {inner_steps}: expected an integer >= 1")
    if ball not in ("global", "per_leaf"):
        raise ValueError(f"ball = {ball!r}: expected 'global' or 'per_leaf'")
    return perturbed(inner, ProjectedAscent(epsilon, inner_lr, inner_steps, ball))


def gradient_regularisation(
    inner: optax.GradientTransformation,
    gamma: Any,
    eps: Any = 0.05,
    kind: Literal["forward", "backward", "double"] = "forward",
) -> optax.GradientTransformationExtraArgs:
    """Minimises L + (γ/2) ‖∇L‖², whose gradient is g + γ H g.

    H g is a finite difference over a step ε that is *not* meant to be small: a forward step makes
    the regularisation's bias stronger, a backward one weaker. `kind="forward"` with γ = ε is USAM.
    In single precision an ε below 1e-3 loses digits, since two gradients are subtracted; and
    stability asks for lr γ λ² ≲ 2 at curvature λ.

    **Arguments:**

    - `inner`: any optax transformation.
    - `gamma`: γ >= 0. `eps`: ε > 0, not used for `"double"`.
    - `kind`: `"forward"` or `"backward"` differences for one more gradient, or the exact product
        `"double"` (a derivative of the gradient), at about half as much again.

    **Returns, Raises:** as `perturbed`, and `ValueError` for arguments out of range.
    """
    _check_at_least("gamma", gamma)
    if kind not in ("forward", "backward", "double"):
        raise ValueError(f"kind = {kind!r}: expected 'forward', 'backward' or 'double'")
    if kind == "double":

        def exact(
            gradient_fn: GradientFn, params: PyTree, grads: PyTree, extra: Mapping[str, Any]
        ) -> PyTree:
            _, product = jax.jvp(gradient_fn, (params,), (grads,))
            return jax.tree.map(jnp.add, grads, _scaled(gamma, product))

        return _regraded("gradient_regularisation", inner, exact)
    if isinstance(eps, int | float) and not eps > 0:
        raise ValueError(f"eps = {eps}: expected a positive number")
    if kind == "forward":
        return perturbed(inner, Ascent(eps), 1 - gamma / eps, gamma / eps)
    return perturbed(inner, Ascent(-eps), 1 + gamma / eps, -gamma / eps)


def flooding(
    inner: optax.GradientTransformation, level: Any
) -> optax.GradientTransformationExtraArgs:
    """Minimises |L − b| + b: the gradient changes its sign where the loss is below b.

    A step up and a step down of rate η are together −η [g(θ + η g) − g(θ)], a forward difference of
    the gradient's norm (arXiv:2210.02720; the method is that of arXiv:2002.08709).

    **Arguments:** `inner`: any optax transformation. `level`: b >= 0.

    **Returns:** an optax transformation with the state of `inner`; `update` needs `value`.

    **Raises:** `ValueError` for `level` < 0 or without `value`.
    """
    _check_at_least("level", level)
    transform = optax.with_extra_args_support(inner)

    def update(
        updates: PyTree, state: optax.OptState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, optax.OptState]:
        value = extra.get("value")
        if value is None:
            raise ValueError("flooding: update needs the keyword argument value; it is missing")
        flipped = _scaled(jnp.where(value < level, -1, 1), updates)
        return transform.update(flipped, state, params, **extra)

    return optax.GradientTransformationExtraArgs(transform.init, cast(Any, update))


def _regraded(
    owner: str, inner: optax.GradientTransformation, combine: Callable[..., PyTree]
) -> optax.GradientTransformationExtraArgs:
    """`inner` with another gradient."""
    transform = optax.with_extra_args_support(inner)

    def update(
        updates: PyTree, state: optax.OptState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, optax.OptState]:
        if params is None:
            raise ValueError(f"{owner}: update needs params, got None")
        value_fn = extra.get("value_fn")
        if value_fn is None:
            raise ValueError(
                f"{owner}: update needs the keyword argument value_fn (θ ↦ L(θ) on the batch of "
                "the gradient); it is missing"
            )

        def gradient_fn(theta: PyTree) -> PyTree:
            # JAX's gradient by complex weights is the conjugate of the direction of ascent.
            return jax.tree.map(jnp.conj, jax.grad(value_fn)(theta))

        grads = updates
        if jax.tree.leaves(params):
            grads = combine(gradient_fn, params, updates, extra)
        return transform.update(grads, state, params, **extra)

    return optax.GradientTransformationExtraArgs(transform.init, cast(Any, update))


def _moved(params: PyTree, delta: PyTree) -> PyTree:
    return jax.tree.map(lambda p, d: (p + d).astype(p.dtype), params, delta)


def _scaled(factor: Any, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: (factor * leaf).astype(leaf.dtype), tree)


def _norm(tree: PyTree) -> Float[Array, ""]:
    """‖·‖ of all leaves together, at least in single precision."""

    def squares(leaf: Array) -> Array:
        real = jnp.real(leaf * jnp.conj(leaf)) if jnp.iscomplexobj(leaf) else leaf**2
        return jnp.sum(real, dtype=jnp.promote_types(real.dtype, jnp.float32))

    return jnp.sqrt(sum((squares(leaf) for leaf in jax.tree.leaves(tree)), jnp.zeros(())))


def _ratio(radius: Any, norm: Float[Array, ""]) -> Float[Array, ""]:
    """The radius over the norm, and 0 where the norm is 0."""
    return jnp.where(norm > 0, radius / jnp.where(norm > 0, norm, 1), 0)


def _check_at_least(name: str, value: Any) -> None:
    if isinstance(value, int | float) and not value >= 0:
        raise ValueError(f"{name} = {value}: expected a number >= 0")
