"""How linear equations change with the coordinates: the same form, other coefficients.

For a smooth invertible map ξ ↦ x(ξ) with Jacobian matrix ∂xⁱ/∂ξᵃ, its inverse Gᵃᵢ and its
determinant J > 0, a function that solves an equation in x solves, as a function of ξ, one of the
same form, whose coefficients and data a law here gives. A law is called with the fields already
taken at x(ξ).
"""

import abc
from collections.abc import Mapping
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float


def _inverse(jacobian: Float[Array, "d d *grid"]) -> tuple[Array, Array]:
    """G "d d *grid" (new index first) and J "*grid"."""
    matrices = jnp.moveaxis(jacobian, (0, 1), (-2, -1))
    return jnp.moveaxis(jnp.linalg.inv(matrices), (-2, -1), (0, 1)), jnp.linalg.det(matrices)


class AbstractCovariantLaw(eqx.Module):
    """An equation that keeps its form under smooth changes of coordinates.

    `ranks` names its fields and says how many axes of length d each has before the grid: 0 for a
    scalar "*grid", 1 for a vector "d *grid", 2 for a tensor "d d *grid".
    """

    ranks: ClassVar[Mapping[str, int]]

    def __call__(
        self,
        fields: Mapping[str, Array],
        jacobian: Float[Array, "d d *grid"],
        hessian: Float[Array, "d d d *grid"],
    ) -> dict[str, Array]:
        """The fields of the equation in the new coordinates.

        **Arguments:**

        - `fields`: the old fields at the points x(ξ).
        - `jacobian`: ∂xⁱ/∂ξᵃ, indices (i, a).
        - `hessian`: ∂²xⁱ/∂ξᵃ∂ξᵇ, indices (i, a, b).

        **Raises:** `ValueError` for missing or unknown fields, or a field of another shape.
        """
        d, shape = jacobian.shape[0], jacobian.shape[2:]
        if set(fields) != set(self.ranks):
            raise ValueError(
                f"{type(self).__name__}: fields must be {sorted(self.ranks)}, got {sorted(fields)}"
            )
        for name, rank in self.ranks.items():
            expected = (d,) * rank + shape
            if fields[name].shape != expected:
                raise ValueError(
                    f"{type(self).__name__}: field {name!r} must have shape {expected}, "
                    f"got {fields[name].shape}"
                )
        return self._change(dict(fields), jacobian, hessian)

    @abc.abstractmethod
    def _change(self, fields: dict[str, Array], jacobian: Array, hessian: Array) -> dict: ...


class Elliptic(AbstractCovariantLaw):
    """−∂ᵢ(aⁱʲ ∂ⱼu) = f:  a′ = J G a Gᵀ,  f′ = J f,  u′ = u.

    Fields: `a` "d d *grid", `f` and `u` "*grid". In one dimension a′ = a/x′ and f′ = x′ f.

    Reference: arXiv 2301.12730.
    """

    ranks: ClassVar[Mapping[str, int]] = {"a": 2, "f": 0, "u": 0}

    def _change(self, fields: dict[str, Array], jacobian: Array, hessian: Array) -> dict:
        del hessian
        inverse, det = _inverse(jacobian)
        a = det * jnp.einsum("ai...,ij...,bj...->ab...", inverse, fields["a"], inverse)
        return {"a": a, "f": det * fields["f"], "u": fields["u"]}


class ConvectionDiffusion(AbstractCovariantLaw):
    """∂ₜφ + ∂ᵢ(vⁱφ) = ∂ᵢ(aⁱʲ ∂ⱼφ):  φ′ = J φ,  a′ = G a Gᵀ,  v′ = G v + a′ ∂ log J.

    A density: its integral over any part of space is kept. Fields: `a` "d d *grid", `v`
    "d *grid", `initial` and `final` (φ at two times) "*grid". In one dimension
    v′ = (v + a′ x″)/x′.

    Reference: arXiv 2301.12730.
    """

    ranks: ClassVar[Mapping[str, int]] = {"a": 2, "v": 1, "initial": 0, "final": 0}

    def _change(self, fields: dict[str, Array], jacobian: Array, hessian: Array) -> dict:
        inverse, det = _inverse(jacobian)
        a = jnp.einsum("ai...,ij...,bj...->ab...", inverse, fields["a"], inverse)
        slope = jnp.einsum("ai...,iab...->b...", inverse, hessian)  # ∂ log J
        v = jnp.einsum("ai...,i...->a...", inverse, fields["v"])
        v = v + jnp.einsum("ab...,b...->a...", a, slope)
        return {"a": a, "v": v, "initial": det * fields["initial"], "final": det * fields["final"]}


class Wave(AbstractCovariantLaw):
    """∂ₜₜu = cⁱʲ ∂ᵢⱼu + dⁱ ∂ᵢu + e u:  c′ = G c Gᵀ,  d′ᵃ = Gᵃᵢ (dⁱ − c′ᵇᵍ ∂ᵇᵍxⁱ).

    `e` and the values of u are only taken at the new points. Fields: `c` "d d *grid", `d`
    "d *grid", `e`, `initial` and `final` "*grid". In one dimension c′ = c/x′² and
    d′ = d/x′ − c′ x″/x′.

    Reference: arXiv 2301.12730.
    """

    ranks: ClassVar[Mapping[str, int]] = {"c": 2, "d": 1, "e": 0, "initial": 0, "final": 0}

    def _change(self, fields: dict[str, Array], jacobian: Array, hessian: Array) -> dict:
        inverse, _ = _inverse(jacobian)
        c = jnp.einsum("ai...,ij...,bj...->ab...", inverse, fields["c"], inverse)
        d = fields["d"] - jnp.einsum("bg...,ibg...->i...", c, hessian)
        return {**fields, "c": c, "d": jnp.einsum("ai...,i...->a...", inverse, d)}
