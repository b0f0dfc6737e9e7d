"""Curvature matrices as linear operators: Hessian, Gauss-Newton, empirical Fisher.

    Hessian        H v = d/dε ∇L(θ + ε v)|₀
    Gauss-Newton   G v = Jᵀ (∇²ℓ) J v,     L = ℓ ∘ F, J = F'(θ)
    Fisher         F v = (1/n) Σᵢ gᵢ (gᵢᵀ v)

Everything that an optimiser knows of a loss comes in the keyword arguments that all optimisers of
`jaxsci.optim` share: `value_fn`, `hvp_fn`, `model_fn`, `outer_fn`, `loss_grads`.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PyTree, Scalar

ValueFn = Callable[[PyTree], Scalar]


class AbstractCurvature(eqx.Module):
    """A rule that gives a symmetric curvature matrix at given weights."""

    @abc.abstractmethod
    def at(self, params: PyTree, **extra: Any) -> lx.FunctionLinearOperator:
        """The matrix at `params`.

        **Arguments:**

        - `params`: the weights θ, a pytree of real floating arrays.
        - `extra`: what is known of the loss there; each curvature says what it needs and ignores
            the rest.

        **Returns:** a symmetric `lineax.FunctionLinearOperator` on pytrees like `params`. A product
        costs a few gradients; the loss itself is not computed again for each.

        **Raises:** `ValueError` for an argument that is missing or a loss that is not a real
        scalar, `TypeError` for weights that are not real floating arrays.
        """


class Hessian(AbstractCurvature):
    """The Hessian H = ∇²L(θ), by forward over reverse differentiation.

    Needs `value_fn` (θ ↦ L(θ)), or `hvp_fn` (θ, v ↦ H v), which takes precedence.
    """

    def at(self, params: PyTree, **extra: Any) -> lx.FunctionLinearOperator:
        hvp_fn = extra.get("hvp_fn")
        if hvp_fn is not None:
            _check_params(params)
            return _operator(lambda v: hvp_fn(params, v), params, lx.symmetric_tag)
        value_fn = _needed(extra, "value_fn", "Hessian", "θ ↦ L(θ), or hvp_fn")
        return value_gradient_hessian(value_fn, params)[2]


class GaussNewton(AbstractCurvature):
    """The generalised Gauss-Newton matrix G = Jᵀ (∇²ℓ) J of L = ℓ ∘ F; J = F'(θ).

    Positive semidefinite where the outer loss ℓ is convex; equal to the Hessian where F is linear.
    Needs `model_fn` (F: θ ↦ outputs, any pytree) and `outer_fn` (ℓ: outputs ↦ scalar).
    """

    def at(self, params: PyTree, **extra: Any) -> lx.FunctionLinearOperator:
        model_fn = _needed(extra, "model_fn", "GaussNewton", "θ ↦ outputs")
        outer_fn = _needed(extra, "outer_fn", "GaussNewton", "outputs ↦ scalar")
        _check_params(params)
        outputs, jvp = jax.linearize(model_fn, params)
        _check_scalar(outer_fn, outputs, "outer_fn")
        _, outer_hvp = jax.linearize(jax.grad(outer_fn), outputs)
        vjp = jax.linear_transpose(jvp, params)

        def product(v: PyTree) -> PyTree:
            return vjp(outer_hvp(jvp(v)))[0]

        return _operator(product, params, lx.symmetric_tag)


class EmpiricalFisher(AbstractCurvature):
    """The second moment of per-sample (or per-term) gradients, F = (1/n) Σᵢ gᵢ gᵢᵀ.

    Needs `loss_grads`: the gᵢ stacked, a pytree like the weights with a leading axis of length n.
    It is *not* the Fisher matrix of a model, which averages over the model's own labels.
    """

    def at(self, params: PyTree, **extra: Any) -> lx.FunctionLinearOperator:
        grads = _needed(extra, "loss_grads", "EmpiricalFisher", "the gradients gᵢ, stacked")
        _check_params(params)
        shapes = jax.tree.map(lambda g: jnp.shape(g)[1:], grads)
        if shapes != jax.tree.map(jnp.shape, params):
            raise ValueError(
                "loss_grads: expected leaves of shape (n, *weight.shape), got "
                f"{jax.tree.map(jnp.shape, grads)} for weights {jax.tree.map(jnp.shape, params)}"
            )
        n = jax.tree.leaves(grads)[0].shape[0]

        def product(v: PyTree) -> PyTree:
            dots = jax.tree.map(lambda g, x: g.reshape(n, -1) @ x.reshape(-1), grads, v)
            inner = jax.tree.reduce(jnp.add, dots)
            return jax.tree.map(lambda g: jnp.tensordot(inner / n, g, 1).astype(g.dtype), grads)

        return _operator(product, params, lx.positive_semidefinite_tag)


def value_gradient_hessian(
    value_fn: ValueFn, params: PyTree
) -> tuple[Float[Array, ""], PyTree, lx.FunctionLinearOperator]:
    """L(θ), ∇L(θ) and the operator v ↦ ∇²L(θ) v from one linearisation of the gradient.

    **Arguments:**

    - `value_fn`: θ ↦ L(θ), a real scalar.
    - `params`: the weights θ, a pytree of real floating arrays.

    **Returns:** the value, the gradient and the operator; a product with it costs about two
    gradients, since nothing that depends on θ alone is done again.

    **Raises:** `ValueError` if `value_fn` gives no real scalar, `TypeError` for other weights.
    """
    _check_params(params)
    _check_scalar(value_fn, params, "value_fn")

    def gradient(theta: PyTree) -> tuple[PyTree, Array]:
        value, grads = jax.value_and_grad(value_fn)(theta)
        return grads, value

    grads, hvp, value = jax.linearize(gradient, params, has_aux=True)
    return value, grads, _operator(hvp, params, lx.symmetric_tag)


def _operator(product: Callable[[PyTree], PyTree], params: PyTree, tag: object):
    return lx.FunctionLinearOperator(product, jax.eval_shape(lambda: params), tag)


def _needed(extra: dict[str, Any], name: str, owner: str, meaning: str) -> Any:
    if extra.get(name) is None:
        raise ValueError(f"{owner} needs the keyword argument {name} ({meaning}); it is missing")
    return extra[name]


def _check_params(params: PyTree) -> None:
    for leaf in jax.tree.leaves(params):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"params: expected real floating arrays, got a leaf of dtype {dtype}")


def _check_scalar(function: Callable[[Any], Any], argument: Any, name: str) -> None:
    out = jax.eval_shape(function, argument)
    shape, dtype = getattr(out, "shape", None), getattr(out, "dtype", None)
    if shape != () or dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{name}: expected a real scalar, got shape {shape} and dtype {dtype}")
