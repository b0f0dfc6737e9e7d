"""TASE methods: explicit Runge-Kutta methods made stable by rational operators of a matrix W ≈ J.

    kᵢ = Tᵢ h f(t + cᵢ h, y + Σ aᵢⱼ kⱼ),    Tᵢ = Σⱼ βᵢⱼ Lʲ,    L = (I − γ h W)⁻¹

They keep their order for any W, so that the Jacobian may be rough, frozen or left incomplete; a
Rosenbrock method may not.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import comb
from typing import ClassVar

import numpy as np

from .stepper import AbstractWMethod
from .tableau import WTableau

# Explicit methods by order: lower triangle, weights, and the weights of an error estimate.
_EXPLICIT = {
    2: ([[], [0.5]], [0.0, 1.0], [-1.0, 1.0]),
    3: ([[], [0.5], [0.0, 0.75]], [2 / 9, 1 / 3, 4 / 9], [0.075, -0.225, 0.15]),
    4: (
        [[], [0.5], [0.0, 0.5], [0.0, 0.0, 1.0]],
        [1 / 6, 1 / 3, 1 / 3, 1 / 6],
        [1 / 6, -1 / 6, -1 / 6, 1 / 6],
    ),
}


def tase_tableau(
    a: Sequence[Sequence[float]],
    b: Sequence[float],
    beta: Sequence[Sequence[float]],
    gamma: float | Sequence[float],
    error: Sequence[float],
    order: int,
    beta_hat: Sequence[Sequence[float]] | None = None,
) -> WTableau:
    """The tableau of a TASE method, kᵢ = Σⱼ βᵢⱼ (Lʲ or, for several γ, Lⱼ) h f.

    **Arguments:**

    - `a`, `b`: the explicit method: row i of `a` has i entries.
    - `beta`: one row a stage.
    - `gamma`: a number: βᵢⱼ belongs to the power Lʲ; a list: to Lⱼ = (I − γⱼ h W)⁻¹.
    - `error`: weights eᵢ; the error estimate is L Σ eᵢ kᵢ, plus Σ bᵢ (Tᵢ − T̂ᵢ) h fᵢ with
    - `beta_hat`: the rows of T̂; `None` leaves that term out.
    - `order`: the order it should have with any W.

    **Returns:** a `WTableau`, whose last stage is the error estimate.

    **Raises:** `ValueError` if the method does not have the order.
    """
    powers = np.isscalar(gamma)
    size = sum(len(row) for row in beta) + 1
    gammas = np.full(size, gamma if powers else np.asarray(gamma)[0], float)
    evaluate = np.zeros(size, bool)
    points, coupling = np.zeros((size, size)), np.zeros((size, size))
    stage = np.zeros((len(b), size))  # kᵢ in terms of the solves
    s = 0
    for i, row in enumerate(beta):
        for j, weight in enumerate(row):
            if powers and j > 0:
                coupling[s, s - 1] = 1
            else:
                evaluate[s] = True
                points[s] = np.asarray(a[i]) @ stage[:i] if i > 0 else 0
                gammas[s] = gamma if powers else np.asarray(gamma)[j]
            stage[i, s] = weight
            s += 1
    coupling[s] = np.asarray(error) @ stage
    b_error = np.zeros(size)
    if beta_hat is not None:
        s_of = 0
        for i, row in enumerate(beta):
            span = slice(s_of, s_of + len(row))
            b_error[span] = b[i] * (np.asarray(row) - np.asarray(beta_hat[i]))
            s_of += len(row)
    b_error[s] = 1
    return WTableau(points, coupling, np.asarray(b) @ stage, b_error, gammas, order, "w", evaluate)


@lru_cache
def _rktase(order: int) -> WTableau:
    a, b, error = _EXPLICIT[order]
    alpha = np.array(
        {
            2: [3.0, 1.5],
            3: [2.31469, 1.87961, 1.58222],
            4: [3.939556, 2.450558, 2.227083, 2.061235],
        }[order]
    )

    # T = Σ βⱼ (I − αⱼ h W)⁻¹ = I + O((h W)^p).
    def operator(inverse: np.ndarray) -> list[float]:
        p = len(inverse)
        return [
            float(x ** (p - 1) / np.prod(x - np.delete(inverse, j))) for j, x in enumerate(inverse)
        ]

    rows = [operator(1 / alpha)] * len(b)
    lower = [[*operator(1 / alpha[:-1]), 0.0]] * len(b)
    return tase_tableau(a, b, rows, alpha.tolist(), error, order, lower)


@lru_cache
def _singly(order: int, gamma: float) -> WTableau:
    a, b, error = _EXPLICIT[order]

    # T = I − (I − L)^p.
    def operator(p: int) -> list[float]:
        return [(-1.0) ** (j - 1) * comb(p, j) for j in range(1, order + 1)]

    rows, lower = [operator(order)] * len(b), [operator(order - 1)] * len(b)
    return tase_tableau(a, b, rows, gamma, error, order, lower)


@lru_cache
def _modified2(b2: float) -> WTableau:
    t = (b2 - 1) / b2
    return tase_tableau(
        [[], [1 / (2 * b2)]],
        [1 - b2, b2],
        [[1.0], [2 - t, t - 1]],
        1 - np.sqrt((1 - 1 / b2) / 2),
        [-b2, b2],
        2,
    )


def _modified3() -> WTableau:
    c2, c3 = 0.9, 0.95
    return tase_tableau(
        [[], [c2], [323 / 315, -19 / 252]],
        [158 / 513, 85 / 27, -140 / 57],
        [[2.0, -1.0], [2.0, -1.0], [223 / 140, -13 / 70, -57 / 140]],
        0.3600229062909472,
        [0.3 * (c3 - c2), -0.3 * c3, 0.3 * c2],
        3,
    )


class RKTASE(AbstractWMethod):
    """T = Σⱼ βⱼ (I − αⱼ h W)⁻¹ on every stage, p factorisations a step: the first TASE methods.

    - `p`: order 2, 3 or 4 (midpoint rule, a third-order method, the classical one).

    Bassenne, Fu and Mani, doi:10.1016/j.jcp.2020.109847; α of Calvo, Montijano and Rández,
    doi:10.1016/j.jcp.2021.110567.
    """

    p: int = 2

    def __check_init__(self):
        _check_order(self.p)

    @property
    def tableau(self) -> WTableau:
        return _rktase(self.p)


class SinglyRKTASE(AbstractWMethod):
    """T = I − (I − L)^p on every stage: one factorisation a step, p solves a stage.

    - `p`: order 2, 3 or 4, of the methods of `RKTASE`.
    - `gamma`: > 0; by default 1, 1.8796 and 2.5061: with the second, R(∞) = 0; with the third,
        |R(∞)| is least. A(θ)-stable with θ = 90°, 88.5° and 87°.

    doi:10.1007/s10915-023-02232-3.
    """

    p: int = 2
    gamma: float | None = None

    def __check_init__(self):
        _check_order(self.p)
        if self.gamma is not None and not self.gamma > 0:
            raise ValueError(f"gamma = {self.gamma}: expected a positive number")

    @property
    def tableau(self) -> WTableau:
        default = {2: 1.0, 3: 1.8796148798123993, 4: 2.5061531730831991}[self.p]
        return _singly(self.p, default if self.gamma is None else self.gamma)


class MSRKTASE2(AbstractWMethod):
    """Order 2 with any W, L-stable, one factorisation and three solves a step.

        b = (1 − b₂, b₂),  a₂₁ = 1/(2 b₂),  T₁ = L,  T₂ = (2 − t) L + (t − 1) L²,
        t = (b₂ − 1)/b₂,  γ = 1 − ((1 − 1/b₂)/2)^½

    - `b2`: > 1.

    The idea, Tᵢ that differ from stage to stage, is of arXiv:2407.01785; the coefficients are
    this project's, from the order conditions and R(∞) = 0.
    """

    b2: float = 2.0

    def __check_init__(self):
        if not self.b2 > 1:
            raise ValueError(f"b2 = {self.b2}: expected a number > 1")

    @property
    def tableau(self) -> WTableau:
        return _modified2(self.b2)


class MSRKTASE3(AbstractWMethod):
    """Order 3 with any W, L-stable, one factorisation and eight solves a step (one of them for the
    error estimate).

        c = (0, 9/10, 19/20),  γ = 0.36002…,  T₁ = T₂ = 2 L − L²,
        T₃ = (223 L − 26 L² − 57 L³)/140

    γ is the least that gives R(∞) = 0. The idea is of arXiv:2407.01785; the coefficients are this
    project's.
    """

    tableau: ClassVar[WTableau] = _modified3()


def _check_order(p: int) -> None:
    if p not in (2, 3, 4):
        raise ValueError(f"p = {p!r}: expected the order 2, 3 or 4")
