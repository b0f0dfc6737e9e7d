"""Symplectic splitting methods of high order for p' = f(q), q' = g(p).

    p ← p + aᵢ h f(q),    q ← q + bᵢ h g(p),    i = 1, …, s

They keep a nearby energy for very long times at a fixed step. The terms are as for diffrax's
`SemiImplicitEuler`: a pair, y = (p, q), the first term a function of q and the second of p.
"""

from typing import Any, ClassVar

import diffrax as dfx
import jax
import numpy as np
from jaxtyping import Float

from ._abstract import AbstractVar


def _composed(weights: list[float]) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"]]:
    """The coefficients of leapfrog steps of the sizes w_k, …, w_1, 1 − 2 Σ w, w_1, …, w_k."""
    w = np.array([*weights[::-1], 1 - 2 * sum(weights), *weights])
    a = np.concatenate([w[:1] / 2, (w[1:] + w[:-1]) / 2, w[-1:] / 2])
    return a, np.append(w, 0.0)


def _symmetric(
    a: list[float], b: list[float]
) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"]]:
    """A palindrome from its first halves; the entries in the middle make both sums one."""
    middle = 1 - 2 * sum(a)
    inner = 0.5 - sum(b)
    kicks = np.array([*a, middle, *a[::-1]])
    drifts = np.array([*b, inner, inner, *b[::-1]])
    return kicks, np.append(drifts, 0.0)


class AbstractSymplectic(dfx.AbstractSolver):
    """Symplectic methods, as solvers for diffrax with constant steps.

    `terms` is a pair (f(t, q, args), g(t, p, args)) and y = (p, q): for a Hamiltonian T(p) + V(q),
    f = −∇V and g = ∇T. Time is carried along, so the terms may depend on it. Dense output is cubic.

    **Raises:** what diffrax raises for an adaptive controller: there is no error estimate, and
    varying the step would spoil the energy.
    """

    kicks: AbstractVar[np.ndarray]
    drifts: AbstractVar[np.ndarray]
    p: AbstractVar[int]
    term_structure: ClassVar = (dfx.AbstractTerm, dfx.AbstractTerm)
    interpolation_cls: ClassVar = dfx.ThirdOrderHermitePolynomialInterpolation

    def order(self, terms: Any) -> int:
        """Order of convergence."""
        return self.p

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        """The pair f(q), g(p)."""
        p, q = y0
        return terms[0].vf(t0, q, args), terms[1].vf(t0, p, args)

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> None:
        """Nothing."""
        return None

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: Any, made_jump: Any
    ) -> tuple[Any, None, dict[str, Any], None, dfx.RESULTS]:
        """One step of all stages."""
        force, motion = terms
        h = t1 - t0
        (p, q), kicked, drifted = y0, 0.0, 0.0
        for a, b in zip(self.kicks.tolist(), self.drifts.tolist(), strict=True):
            # The time of q has gone as far as q, that of p as far as p.
            if a != 0:
                control = force.contr(t0 + kicked * h, t0 + (kicked + a) * h)
                p = _add(p, force.vf_prod(t0 + drifted * h, q, args, control))
                kicked += a
            if b != 0:
                control = motion.contr(t0 + drifted * h, t0 + (drifted + b) * h)
                q = _add(q, motion.vf_prod(t0 + kicked * h, p, args, control))
                drifted += b
        y1 = (p, q)
        dense = {"y0": y0, "y1": y1}
        for name, t, (at_p, at_q) in (("k0", t0, y0), ("k1", t1, y1)):
            dense[name] = (
                force.vf_prod(t, at_q, args, force.contr(t0, t1)),
                motion.vf_prod(t, at_p, args, motion.contr(t0, t1)),
            )
        return y1, None, dense, None, dfx.RESULTS.successful


def _add(y: Any, dy: Any) -> Any:
    return jax.tree.map(lambda a, b: a + b, y, dy)


class Leapfrog(AbstractSymplectic):
    """Order 2, one evaluation of f and g a step (two of f, one shared): Störmer and Verlet."""

    p: ClassVar[int] = 2
    kicks: ClassVar[np.ndarray] = np.array([0.5, 0.5])
    drifts: ClassVar[np.ndarray] = np.array([1.0, 0.0])


class Yoshida4(AbstractSymplectic):
    """Order 4, three leapfrog steps. doi:10.1016/0375-9601(90)90092-3."""

    p: ClassVar[int] = 4
    kicks, drifts = _composed([1 / (2 - 2 ** (1 / 3))])


class Yoshida6(AbstractSymplectic):
    """Order 6, seven leapfrog steps (Yoshida's solution A). doi:10.1016/0375-9601(90)90092-3."""

    p: ClassVar[int] = 6
    kicks, drifts = _composed([-1.17767998417887, 0.235573213359357, 0.784513610477560])


class Yoshida8(AbstractSymplectic):
    """Order 8, fifteen leapfrog steps (Yoshida's solution D). doi:10.1016/0375-9601(90)90092-3."""

    p: ClassVar[int] = 8
    kicks, drifts = _composed(
        [
            0.102799849391985,
            -1.96061023297549,
            1.93813913762276,
            -0.158240635368243,
            -1.44485223686048,
            0.253693336566229,
            0.914844246229740,
        ]
    )


class BlanesMoan4(AbstractSymplectic):
    """Order 4, six stages with very small errors: usually better than `Yoshida4` at equal work.

    S6 of Blanes and Moan, doi:10.1016/S0377-0427(01)00492-7.
    """

    p: ClassVar[int] = 4
    kicks, drifts = _symmetric(
        [0.0792036964311957, 0.353172906049774, -0.0420650803577195],
        [0.209515106613362, -0.143851773179818],
    )


class BlanesMoan6(AbstractSymplectic):
    """Order 6, ten stages with very small errors.

    S10 of Blanes and Moan, doi:10.1016/S0377-0427(01)00492-7.
    """

    p: ClassVar[int] = 6
    kicks, drifts = _symmetric(
        [
            0.0502627644003922,
            0.413514300428344,
            0.0450798897943977,
            -0.188054853819569,
            0.541960678450780,
        ],
        [0.148816447901042, -0.132385865767784, 0.067307604692185, 0.432666402578175],
    )
