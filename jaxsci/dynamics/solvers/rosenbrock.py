"""Rosenbrock methods: one factorisation a step, no Newton iteration, stiffly stable.

They need the exact Jacobian and the exact f_t; with others they lose their order (the methods of
`tase` do not).
"""

from typing import ClassVar

import numpy as np

from .stepper import AbstractWMethod
from .tableau import WTableau


def _published(
    gamma: float,
    a: list[list[float]],
    c: list[list[float]],
    b: list[float],
    b_error: list[float],
    order: int,
    h: list[list[float]] | None = None,
) -> WTableau:
    """From the form (I/(γh) − J) U = f + Σ C U/h, with rows of lower triangles; u = U/γ.

    `h` are the weights of y₀(1−θ) + θ(y₁ + (1−θ)(h₁U + θ(h₂U + θ h₃U))).
    """
    s = len(b)

    def lower(rows: list[list[float]]) -> np.ndarray:
        matrix = np.zeros((s, s))
        for i, row in enumerate(rows):
            matrix[i + 1, : len(row)] = row
        return matrix

    dense = None
    if h is not None:
        rows = [np.asarray(row + [0.0] * (s - len(row))) for row in h]
        dense = np.zeros((len(h) + 1, s))
        dense[0] = b
        for k, row in enumerate(rows):
            dense[k] += row
            dense[k + 1] -= row
        dense = gamma * dense
    return WTableau(
        a=gamma * lower(a),
        c=gamma * lower(c),
        b=gamma * np.asarray(b),
        b_error=gamma * np.asarray(b_error),
        gamma=gamma,
        order=order,
        kind="rosenbrock",
        dense=dense,
    )


def _ros3p() -> WTableau:
    g = 0.5 + np.sqrt(3) / 6
    c32 = -(2 - 0.5 / g) / g
    b2 = (2 / 3 - 1 / (6 * g)) / g
    b = [(1 + b2) / g, b2, 1 / (3 * g)]
    embedded = [2.113248654051871, 1.0, 0.4226497308103742]
    return _published(
        g,
        [[1 / g], [1 / g, 0.0]],
        [[-1 / g**2], [-(1 - c32) / g, c32]],
        b,
        [m - e for m, e in zip(b, embedded, strict=True)],
        3,
    )


_RODAS4_A = [
    [1.544],
    [0.9466785280815826, 0.2557011698983284],
    [3.314825187068521, 2.896124015972201, 0.9986419139977817],
    [1.221224509226641, 6.019134481288629, 12.53708332932087, -0.687886036105895],
]
_RODAS4_C = [
    [-5.6688],
    [-2.430093356833875, -0.2063599157091915],
    [-0.1073529058151375, -9.594562251023355, -20.47028614809616],
    [7.496443313967647, -10.24680431464352, -33.99990352819905, 11.7089089320616],
    [
        8.083246795921522,
        -7.981132988064893,
        -31.52159432874371,
        16.31930543123136,
        -6.058818238834054,
    ],
]
_RODAS4_H = [
    [
        10.12623508344586,
        -7.487995877610167,
        -34.80091861555747,
        -7.992771707568823,
        1.025137723295662,
    ],
    [
        -0.6762803392801253,
        6.087714651680015,
        16.43084320892478,
        24.76722511418386,
        -6.594389125716872,
    ],
]

_RODAS5P_A = [
    [3.0],
    [2.849394379747939, 0.45842242204463923],
    [-6.954028509809101, 2.489845061869568, -10.358996098473584],
    [2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641],
    [
        -7.502846399306121,
        2.561846144803919,
        -11.627539656261098,
        -0.18268767659942256,
        0.030198172008377946,
    ],
]
_RODAS5P_C = [
    [-14.155112264123755],
    [-17.97296035885952, -2.859693295451294],
    [147.12150275711716, -1.41221402718213, 71.68940251302358],
    [165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306],
    [
        24.854864614690072,
        -3.0009227002832186,
        47.4931110020768,
        5.5814197821558125,
        -0.6610691825249471,
    ],
    [
        30.91273214028599,
        -3.1208243349937974,
        77.79954646070892,
        34.28646028294783,
        -19.097331116725623,
        -28.087943162872662,
    ],
    [
        37.80277123390563,
        -3.2571969029072276,
        112.26918849496327,
        66.9347231244047,
        -40.06618937091002,
        -54.66780262877968,
        -9.48861652309627,
    ],
]
_RODAS5P_H = [
    [
        25.948786856663858,
        -2.5579724845846235,
        10.433815404888879,
        -2.3679251022685204,
        0.524948541321073,
        1.1241088310450404,
        0.4272876194431874,
        -0.17202221070155493,
    ],
    [
        -9.91568850695171,
        -0.9689944594115154,
        3.0438037242978453,
        -24.495224566215796,
        20.176138334709044,
        15.98066361424651,
        -6.789040303419874,
        -6.710236069923372,
    ],
    [
        11.419903575922262,
        2.8879645146136994,
        72.92137995996029,
        80.12511834622643,
        -52.072871366152654,
        -59.78993625266729,
        -0.15582684282751913,
        4.883087185713722,
    ],
]


class ROS3P(AbstractWMethod):
    """Order 3, A-stable, three stages of which two evaluate f: for parabolic equations, where it
    keeps its order, and low accuracy (1e-2 to 1e-4).

    Its error estimate is zero for y' = A y + b: there an adaptive controller takes steps without
    knowing, so use constant ones or `Rodas4`. No other estimate of order 2 has these stages.

    Lang and Verwer, doi:10.1023/A:1021900219772.
    """

    tableau: ClassVar[WTableau] = _ros3p()


class Rodas4(AbstractWMethod):
    """Order 4, L-stable and stiffly accurate, six stages, dense output of order 3: the one to start
    with; also for index-1 differential-algebraic equations.

    Hairer and Wanner, Solving Ordinary Differential Equations II, section IV.7.
    """

    tableau: ClassVar[WTableau] = _published(
        0.25,
        [*_RODAS4_A, [*_RODAS4_A[-1], 1.0]],
        _RODAS4_C,
        [*_RODAS4_A[-1], 1.0, 1.0],
        [0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        4,
        _RODAS4_H,
    )


class Rodas5P(AbstractWMethod):
    """Order 5, L-stable and stiffly accurate, eight stages, dense output of order 4: for accuracy
    (1e-5 and below); also for index-1 differential-algebraic equations.

    Steinebach, doi:10.1007/s10543-023-00967-x.
    """

    tableau: ClassVar[WTableau] = _published(
        0.21193756319429014,
        [*_RODAS5P_A, [*_RODAS5P_A[-1], 1.0], [*_RODAS5P_A[-1], 1.0, 1.0]],
        _RODAS5P_C,
        [*_RODAS5P_A[-1], 1.0, 1.0, 1.0],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        5,
        _RODAS5P_H,
    )
