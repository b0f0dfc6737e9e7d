"""An operator preconditioning perspective on training in physics-informed machine learning

De Ryck and others, arXiv:2310.05801.

**Claim.** Gradient descent on a physics-informed loss is governed by the operator D*D seen through
the model; its condition number grows like the fourth power of the largest wavenumber for Poisson's
equation and like the square of the speed for advection. A preconditioner made from the operator's
symbol removes both, and training then takes a few steps.

**What is compared with what.**

1. *Poisson's equation* on (−π, π) in a Fourier basis with |k| ≤ K: κ(A), with the best weight λ of
   the boundary for every K, against κ(PAP); steps of gradient descent until the error has fallen by
   10⁸.
2. *Advection* u_t + β u_x = 0: the least κ over λ as β grows.
3. *Training* for advection at a high speed, on the same points with the same number of steps: a
   perceptron with Adam (the best of three learning rates), a Fourier model with gradient descent
   (the step 1/λ_max), and the preconditioned one with gradient descent.
4. *The matrix of a perceptron* at its random start: the spread of its eigenvalues.

**Found** (quick, seeds 1 to 3). Adam, with the best of the three rates, also solves the Fourier
model, to 9·10⁻⁴: its matrix is nearly diagonal, and Adam is itself a diagonal preconditioner. It is
reported, without a claim.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax
from jaxtyping import Float, PRNGKeyArray
from matplotlib.figure import Figure

from jaxsci import experiment
from jaxsci.autodiff import derivatives
from jaxsci.experiment import Between, Claim, Logger, Result
from jaxsci.pde import Box
from jaxsci.pinn import (
    Fixed,
    FourierModel,
    Problem,
    Solver,
    Term,
    condition_number,
    diag_precondition,
    fourier_matrix,
    fourier_symbol,
    gram,
    precondition,
    spectrum,
)


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    """Sizes."""

    float64: bool = True
    wavenumbers: tuple[int, ...] = (4, 8, 16, 32)
    """K of Poisson's equation"""
    speeds: tuple[int, ...] = (5, 10, 20, 40)
    """β whose condition numbers are computed"""
    speed: Annotated[int, Between(1)] = 30
    """β of the training"""
    points: Annotated[int, Between(10)] = 1500
    """collocation points of the training"""
    steps: Annotated[int, Between(1)] = 300
    """updates"""
    width: Annotated[int, Between(2)] = 32
    """width of the perceptron's three hidden layers"""
    modes: Annotated[int, Between(1)] = 2
    """largest wavenumber in space of the trained Fourier models"""


PRESETS = {
    "smoke": Config(
        wavenumbers=(2, 4), speeds=(3, 6), speed=3, points=40, steps=3, width=4, modes=1
    ),
    "quick": Config(),
    "full": Config(points=3000, steps=2000, width=64),
    "paper": Config(points=10_000, steps=20_000, width=128, modes=4),
}
LAMBDAS = np.logspace(-4, 5, 181)
PI = np.array([[np.pi]])


def laplace(w: np.ndarray) -> np.ndarray:
    return np.sum(w**2, -1)


def advection_symbol(w: np.ndarray, beta: float) -> np.ndarray:
    return np.abs(w[:, 1] + beta * w[:, 0])


def poisson(config: Config) -> dict[str, np.ndarray]:
    """κ of A (least over λ) and of PAP, and steps until the error has fallen by 10⁸."""
    small, gamma = 1e-3, math.sqrt(2 * math.pi / 1e-3)
    plain, conditioned, steps = [], [], []
    for K in config.wavenumbers:
        matrices = [fourier_matrix(K, laplace, PI, lam) for lam in LAMBDAS]
        kappas = [float(np.linalg.cond(A)) for A in matrices]
        A = matrices[int(np.argmin(kappas))]
        P = diag_precondition(K, laplace, gamma)
        B = P[:, None] * fourier_matrix(K, laplace, PI, small) * P
        plain.append(min(kappas))
        conditioned.append(float(condition_number(jnp.asarray(B))))
        steps.append((descent_steps(A), descent_steps(B)))
    counts = np.array(steps)
    return {
        "plain": np.array(plain),
        "conditioned": np.array(conditioned),
        "steps_plain": counts[:, 0],
        "steps_conditioned": counts[:, 1],
    }


def descent_steps(A: Float[np.ndarray, "n n"], reduction: float = 1e-8) -> int:
    """Steps of gradient descent with the size 1/λ_max until ‖error‖ falls by `reduction`.

    The error is (I − A/λ_max)ᵏ e with e equal in all eigenvectors, so that k is found by bisection.
    """
    values = np.linalg.eigvalsh(A)
    factors = 1 - values / values[-1]

    def remaining(k: int) -> float:
        return float(np.linalg.norm(factors**k) / math.sqrt(len(values)))

    high = 1
    while remaining(high) > reduction:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if remaining(middle) <= reduction else (middle, high)
    return high


def advection_kappas(config: Config) -> np.ndarray:
    """The least condition number over λ for every speed, |k|, |m| ≤ 4 and u given at t = −π."""
    modes = (4, 4)
    boundary = np.array([[x, -np.pi] for x in np.linspace(-np.pi, np.pi, 32, endpoint=False)])
    found = []
    for beta in config.speeds:

        def symbol(w, beta=beta):
            return advection_symbol(w, beta)

        kappas = []
        for lam in LAMBDAS[::6]:
            A = fourier_matrix(modes, symbol, boundary, lam * 2 * np.pi / 32)
            kappas.append(float(np.linalg.cond(A)))
        found.append(min(kappas))
    return np.array(found)


def advection(config: Config, lam: float, key: PRNGKeyArray) -> Problem:
    """u_t + β u_x = 0 on (−π, π)², u(x, −π) = sin x; weights such that 2A is the loss's Hessian."""
    domain = Box((-np.pi, -np.pi), (np.pi, np.pi))
    beta = float(config.speed)
    # A shifted lattice: equal weights integrate products of the basis to rounding.
    n_x = 4 * config.modes + 4
    n_t = max(config.points // n_x, 1)
    axes = [-jnp.pi + 2 * jnp.pi * (jnp.arange(n) + 0.5) / n for n in (n_x, n_t)]
    lattice = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    shift = jr.uniform(key, (2,)) * jnp.array([jnp.pi / n_x, jnp.pi / n_t])
    start = jnp.stack([axes[0], jnp.full(n_x, -jnp.pi)], 1)

    def equation(u, x):
        d = derivatives(u, x, [(0,), (1,)])
        return d[1,] + beta * d[0,]

    def initial(u, x):
        return u(x) - jnp.sin(x[0])

    points = lattice + shift - jnp.array([jnp.pi / n_x, jnp.pi / n_t]) / 2
    volume = (2 * np.pi) ** 2
    return Problem(
        Term("advection", equation, domain, len(points), volume, Fixed(points)),
        Term("start", initial, domain, n_x, 2 * np.pi * lam, Fixed(start)),
        exact=lambda x: jnp.sin(x[0] - beta * (x[1] + jnp.pi)),
    )


def train(problem: Problem, field: Any, optimizer, steps: int, key: PRNGKeyArray):
    """The relative error after every step."""
    solver = Solver(problem, optimizer)
    dynamic, static = eqx.partition(solver.init(field, key), eqx.is_array)
    points = problem.init(key)["advection"].x[:: max(1, len(problem.terms)) * 2 + 1]

    @jax.jit
    def run(dynamic):
        def body(dynamic, _):
            state, _ = solver.step(eqx.combine(dynamic, static))
            return eqx.filter(state, eqx.is_array), problem.relative_error(state.field, points)

        return jax.lax.scan(body, dynamic, length=steps)

    dynamic, errors = run(dynamic)
    return np.asarray(errors), eqx.combine(dynamic, static).field


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    net_key, key = jr.split(key)
    found = poisson(config)
    log.say(f"Poisson: κ {found['plain']}, preconditioned {found['conditioned']}")
    growth = float(np.polyfit(np.log(config.wavenumbers), np.log(found["plain"]), 1)[0])
    kappas = advection_kappas(config)
    speed_growth = float(np.polyfit(np.log(config.speeds), np.log(kappas), 1)[0])
    log.say(f"advection: κ {kappas}")

    small = 1e-3
    problem = advection(config, 1.0, key)
    net = eqx.nn.MLP(2, "scalar", config.width, 3, jnp.tanh, key=net_key)
    model = FourierModel(config.modes, config.speed * config.modes + 2)
    errors: dict[str, np.ndarray] = {}
    for name, field in (("perceptron", net), ("Fourier, Adam", model)):
        runs = []
        for rate in (1e-3, 1e-2, 1e-1):
            runs.append(train(problem, field, optax.adam(rate), config.steps, key)[0])
        finite = [r[-1] if np.isfinite(r[-1]) else np.inf for r in runs]
        errors[name] = runs[int(np.argmin(finite))]
    beta = config.speed
    gamma = math.sqrt(2 * math.pi / small)
    largest = float(np.max(fourier_symbol(model.modes, lambda w: advection_symbol(w, beta))) ** 2)
    descent = optax.sgd(0.5 / (largest + 1.0))
    errors["gradient descent"], _ = train(problem, model, descent, config.steps, key)
    P = diag_precondition(model.modes, lambda w: advection_symbol(w, beta), gamma)
    tx = optax.chain(precondition(eqx.tree_at(lambda m: m.theta, model, P)), optax.sgd(0.45))
    scaled = advection(config, small, key)
    errors["preconditioned"], _ = train(scaled, model, tx, config.steps, key)
    last = {name: float(run[-1]) for name, run in errors.items()}
    log.say(f"advection, β = {beta}: relative errors {last}")

    small_net = eqx.nn.MLP(2, "scalar", min(config.width, 16), 2, jnp.tanh, key=net_key)
    operator = gram(problem, small_net, problem.init(key))
    values = np.asarray(jax.jit(lambda: spectrum(operator))())
    spread = float(values[-1] / np.median(np.abs(values)))
    claims = [
        Claim("Poisson: κ grows with K⁴, at least", growth, ">=", 3.8, "fitted exponent"),
        Claim("Poisson: κ grows with K⁴, at most", growth, "<=", 4.2, "fitted exponent"),
        Claim(
            "Poisson: κ after preconditioning", float(found["conditioned"].max()), "<", 2.0, "any K"
        ),
        Claim(
            "Poisson: steps of gradient descent",
            float(found["steps_conditioned"][-2] * 1000),
            "<=",
            float(found["steps_plain"][-2]),
            f"a thousand times the preconditioned steps, K = {config.wavenumbers[-2]}",
        ),
        Claim("advection: κ grows with β², at least", speed_growth, ">=", 1.7, "fitted exponent"),
        Claim("advection: κ grows with β², at most", speed_growth, "<=", 2.3, "fitted exponent"),
        Claim("training: a perceptron fails", last["perceptron"], ">", 0.5, "relative L2 error"),
        Claim(
            "training: a Fourier model by gradient descent fails",
            last["gradient descent"],
            ">",
            0.1,
            "relative L2 error",
        ),
        Claim("training: preconditioned", last["preconditioned"], "<", 1e-3, "relative L2 error"),
    ]
    metrics = {
        f"error_{name.lower().replace(', ', '_').replace(' ', '_')}": value
        for name, value in last.items()
    }
    metrics |= {"poisson_exponent": growth, "advection_exponent": speed_growth}
    metrics |= {"perceptron_largest_over_median_eigenvalue": spread}
    arrays = {f"poisson_{k}": v for k, v in found.items()} | {"advection_kappa": kappas}
    arrays |= {
        f"errors_{k.lower().replace(', ', '_').replace(' ', '_')}": v for k, v in errors.items()
    } | {"perceptron_eigenvalues": values}
    return Result(
        claims, metrics, arrays, {"conditioning": draw(config, found, kappas, errors, values)}
    )


def draw(config: Config, found, kappas, errors, values: np.ndarray) -> Figure:
    """Condition numbers, errors over steps, and the eigenvalues of a perceptron's matrix."""
    figure, axes = plt.subplots(1, 4, figsize=(17, 3.8), layout="constrained")
    axes[0].loglog(config.wavenumbers, found["plain"], "o-", label="κ(A), best λ")
    axes[0].loglog(config.wavenumbers, found["conditioned"], "s-", label="κ(PAP)")
    axes[0].set(title="Poisson", xlabel="largest wavenumber K", ylabel="condition number")
    axes[1].loglog(config.speeds, kappas, "o-", label="κ(A), best λ")
    scale = kappas[0] / config.speeds[0] ** 2
    axes[1].loglog(config.speeds, scale * np.array(config.speeds) ** 2.0, "k:", label="~ β²")
    axes[1].set(title="Advection", xlabel="speed β", ylabel="condition number")
    for axis, values_at in ((axes[0], config.wavenumbers), (axes[1], config.speeds)):
        axis.set_xticks(values_at, [f"{value:g}" for value in values_at])
        axis.minorticks_off()
    # Two of the curves lie on each other.
    styles = dict(zip(errors, ("-", "-", "--", "-"), strict=False))
    for name, run in errors.items():
        axes[2].loglog(np.arange(1, len(run) + 1), run, styles.get(name, "-"), label=name)
    axes[2].set(title=f"Advection, β = {config.speed}", xlabel="step", ylabel="relative error")
    for axis in axes[:3]:
        axis.legend()
    positive = values[values > values[-1] * 1e-16]
    axes[3].hist(np.log10(positive), bins=50)
    axes[3].set(title="Eigenvalues of A, perceptron at its start", xlabel="log₁₀ λ", ylabel="count")
    return figure
