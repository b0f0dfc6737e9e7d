"""Modified Singly-Runge-Kutta-TASE methods for the numerical solution of stiff differential equations

Conte, Martin-Vaquero, Pagano and others, arXiv:2407.01785.

**Claim.** Explicit Runge-Kutta methods whose slopes are multiplied by rational operators Tᵢ of an
approximate Jacobian W are stable on stiff problems with one factorisation a step, and keep their
order for any W. Operators that differ from stage to stage (modified methods) have smaller errors
than the same operator on all of them (singly methods) at fewer solves.

**What is compared with what.**

1. *Order* of `MSRKTASE2` and `MSRKTASE3` on a nonlinear problem known in closed form, with the
   exact Jacobian and with a matrix of random numbers in its place.
2. *Error at equal constant steps*: modified against singly methods of the same order, on Burgers'
   equation, the Allen-Cahn equation and the van der Pol oscillator, from random initial values.
3. *Order reduction* (Prothero and Robinson, λ = −1e6): methods lose order there; with f_t in the
   operator the loss is smaller.
4. *Adaptive*: attempted steps of `MSRKTASE3` and of diffrax's `Kvaerno3`, with its Newton
   iteration, under the same controller at a relative tolerance of 1e-4, and the errors they reach.

**Found.** Modified methods are 10 to 300 times as accurate on the two partial differential
equations. On the van der Pol oscillator (μ = 50, on the slow branch with steps 30 times the stiff
time scale) the methods of order 3 lose order, and there SinglyRKTASE3 is the more accurate at large
steps: that claim fails. With equal tolerances MSRKTASE3 takes fewer steps than Kvaerno3, and its
errors are 2 to 15 times as large; `scripts/bench/stiff.py` compares errors against time.

The coefficients of the modified methods are this project's (see `jaxsci.dynamics`), from the order
conditions and R(∞) = 0; those of the paper were not compared.
"""  # noqa: E501

from dataclasses import dataclass, replace
from typing import Annotated, Any

import diffrax as dfx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import PRNGKeyArray

from jaxsci import experiment
from jaxsci.dynamics import (
    MSRKTASE2,
    MSRKTASE3,
    Rodas5P,
    SinglyRKTASE,
    allen_cahn,
    w_order_conditions,
)
from jaxsci.experiment import Above, Between, Claim, Logger, Result

PAIRS = {2: ("MSRKTASE2", "SinglyRKTASE2"), 3: ("MSRKTASE3", "SinglyRKTASE3")}
SOLVERS: dict[str, Any] = {
    "MSRKTASE2": MSRKTASE2(),
    "SinglyRKTASE2": SinglyRKTASE(2),
    "MSRKTASE3": MSRKTASE3(),
    "SinglyRKTASE3": SinglyRKTASE(3),
}


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    float64: bool = True
    points: Annotated[int, Between(8, 4096)] = 64
    """grid points of the two partial differential equations"""
    steps: tuple[int, ...] = (60, 120, 240)
    """numbers of equal steps that are compared"""
    order_steps: tuple[int, ...] = (40, 80, 160, 320)
    """numbers of equal steps the orders are fitted to"""
    viscosity: Annotated[float, Above(0)] = 0.01
    """of Burgers' equation"""
    tolerance: Annotated[float, Above(0)] = 1e-4
    """relative tolerance of the adaptive comparison"""
    problems: tuple[str, ...] = ("Burgers", "Allen-Cahn", "van der Pol")
    """what the solvers are compared on"""


PRESETS = {
    "smoke": Config(points=8, steps=(20, 40), order_steps=(20, 40), problems=("van der Pol",)),
    "quick": Config(),
    "full": Config(points=128, steps=(100, 200, 400, 800)),
    "paper": Config(points=512, steps=(100, 200, 400, 800, 1600)),
}


def nonlinear(t, y, args):
    """Not autonomous, with the solution x = sin(2t)/2, v = cos(2t)."""
    x, v = y
    dx = v - jnp.sin(v - jnp.cos(2 * t))
    dv = -2 * jnp.sin(2 * t) + jnp.sin(jnp.sin(2 * t) / 2 - x) * v
    return jnp.stack([dx, dv])


def prothero_robinson(t, y, args):
    return -1e6 * (y - jnp.cos(t)) - jnp.sin(t)


def burgers(n: int, viscosity: float):
    dx = 1 / n

    def field(t, u, args):
        left, right = jnp.roll(u, 1), jnp.roll(u, -1)
        return viscosity * (left - 2 * u + right) / dx**2 - (right**2 - left**2) / (4 * dx)

    return field


def oscillator(t, y, args):
    return jnp.stack([y[1], 50 * (1 - y[0] ** 2) * y[1] - y[0]])


def problems(key: PRNGKeyArray, config: Config) -> dict:
    """The field, the start and the end of each problem."""
    wave_key, front_key, start_key = jr.split(key, 3)
    n = config.points
    x = jnp.arange(n) / n
    amplitude, phase = jr.uniform(wave_key, (2, 3, 1), minval=0.3)
    modes = jnp.arange(1, 4)[:, None]
    wave = jnp.sum(amplitude / modes * jnp.sin(2 * jnp.pi * (modes * x + phase)), 0)
    front = allen_cahn(n)
    u0 = front.y0 + 0.2 * jr.uniform(front_key) * jnp.sin(jnp.pi * jnp.arange(1, n + 1) / (n + 1))
    start = jnp.array([jr.uniform(start_key, minval=1.6, maxval=2.0), -0.01])
    return {
        "Burgers": (burgers(n, config.viscosity), wave, 0.5),
        "Allen-Cahn": (front.field, u0, 4.0),
        "van der Pol": (oscillator, start, 10.0),
    }


def final(sol):
    assert sol.ys is not None
    return sol.ys[0]


def end_of(field, solver, t1, y0):
    """A compiled function from the number of equal steps to y(t1)."""

    @jax.jit
    def end(step):
        sol = dfx.diffeqsolve(dfx.ODETerm(field), solver, 0.0, t1, step, y0, max_steps=None)
        return final(sol)

    return lambda count: np.asarray(end(t1 / count))


def adaptive(field, solver, t1, y0, tolerance, max_steps=100_000):
    controller = dfx.PIDController(rtol=tolerance, atol=tolerance / 100)

    @jax.jit
    def run():
        sol = dfx.diffeqsolve(
            dfx.ODETerm(field),
            solver,
            0.0,
            t1,
            1e-4,
            y0,
            stepsize_controller=controller,
            max_steps=max_steps,
        )
        return final(sol), sol.stats["num_steps"]

    end, steps = run()
    return np.asarray(end), int(steps)


def slope(errors, steps) -> float:
    return float(-np.polyfit(np.log(steps), np.log(errors), 1)[0])


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    matrix_key, problem_key = jr.split(key)
    claims, metrics, curves = [], {}, {}
    all_of = problems(problem_key, config)
    if unknown := set(config.problems) - set(all_of):
        raise ValueError(f"problems: {sorted(unknown)}, expected some of {sorted(all_of)}")

    random = lx.MatrixLinearOperator(jr.normal(matrix_key, (2, 2)))
    true = np.array([np.sin(3.0) / 2, np.cos(3.0)])
    for name in ("MSRKTASE2", "MSRKTASE3"):
        order = SOLVERS[name].tableau.order
        for label, jacobian in (("exact", "exact"), ("random", lambda t, y, args: random)):
            solver = replace(SOLVERS[name], jacobian=jacobian)
            end = end_of(nonlinear, solver, 1.5, jnp.array([0.0, 1.0]))
            errors = [np.abs(end(n) - true).max() for n in config.order_steps]
            found = slope(errors, config.order_steps)
            metrics[f"order of {name}, {label} W"] = found
            claims.append(
                Claim(
                    f"{name} has order {order} with {label} W",
                    abs(found - order),
                    "<=",
                    0.15,
                    f"fitted order {found:.3f}",
                )
            )
            curves[f"{name}, {label} W"] = errors
    residual = max(
        max(w_order_conditions(SOLVERS[n].tableau, p).values()) for p, (n, _) in PAIRS.items()
    )
    claims.append(Claim("order conditions for any W hold", residual, "<", 1e-12))

    tested = {name: all_of[name] for name in config.problems}
    work = {}
    for problem, (field, y0, t1) in tested.items():
        reference, _ = adaptive(field, Rodas5P(), t1, y0, 1e-10)
        size = np.abs(reference).max()
        for name, solver in SOLVERS.items():
            end = end_of(field, solver, t1, y0)
            errors = [np.abs(end(n) - reference).max() / size for n in config.steps]
            work[problem, name] = errors
            metrics[f"{problem}: error of {name}"] = errors[-1]
            log.say(f"{problem}, {name}: " + "  ".join(f"{e:.1e}" for e in errors))
        for modified, singly in PAIRS.values():
            gain = np.exp(
                np.mean(np.log(np.divide(work[problem, singly], work[problem, modified])))
            )
            claims.append(
                Claim(
                    f"{problem}: {modified} is at least twice as accurate as {singly}",
                    gain,
                    ">=",
                    2.0,
                    "errors at equal steps, geometric mean of the ratio",
                )
            )
        end, steps = adaptive(field, MSRKTASE3(), t1, y0, config.tolerance)
        other_end, other_steps = adaptive(field, dfx.Kvaerno3(), t1, y0, config.tolerance)
        metrics[f"{problem}: error of adaptive MSRKTASE3"] = np.abs(end - reference).max() / size
        metrics[f"{problem}: error of Kvaerno3"] = np.abs(other_end - reference).max() / size
        claims.append(
            Claim(
                f"{problem}: MSRKTASE3 takes no more steps than Kvaerno3",
                steps,
                "<=",
                other_steps,
                f"attempted steps at rtol {config.tolerance:g}; one factorisation each, and "
                "Kvaerno3 iterates besides",
            )
        )

    for label, with_time in (("without", False), ("with", True)):
        solver = replace(MSRKTASE3(), time_derivative=with_time)
        end = end_of(prothero_robinson, solver, 1.0, jnp.ones(1))
        errors = [np.abs(end(n) - np.cos(1.0)).max() for n in config.order_steps]
        metrics[f"Prothero-Robinson {label} f_t: error"] = errors[-1]
        metrics[f"Prothero-Robinson {label} f_t: order"] = slope(errors, config.order_steps)
    claims.append(
        Claim(
            "f_t in the operator helps on Prothero and Robinson's problem",
            metrics["Prothero-Robinson with f_t: error"],
            "<",
            0.2 * metrics["Prothero-Robinson without f_t: error"],
            "error of MSRKTASE3; target: a fifth of that without",
        )
    )
    arrays = {"steps": np.array(config.steps)}
    arrays |= {f"{p}-{n}".replace(" ", "-"): np.array(e) for (p, n), e in work.items()}
    return Result(claims, metrics, arrays, {"errors": plot(config, curves, work, tested)})


def plot(config, curves, work, tested):
    n = 1 + len(tested)
    figure, axes = plt.subplots(1, n, figsize=(3.5 * n, 3.6), layout="constrained")
    for name, errors in curves.items():
        axes[0].loglog(config.order_steps, errors, "o-" if "exact" in name else "x--", label=name)
    axes[0].set(title="Known solution: any W keeps the order", xlabel="steps", ylabel="error")
    axes[0].legend(fontsize=7)
    for axis, problem in zip(axes[1:], tested, strict=True):
        for order, names in PAIRS.items():
            for name, style in zip(names, ("o-", "x--"), strict=True):
                axis.loglog(
                    config.steps, work[problem, name], style, color=f"C{order - 2}", label=name
                )
        axis.set(title=problem, xlabel="steps", ylabel="relative error")
    axes[1].legend(fontsize=7)
    for axis, steps in zip(axes, [config.order_steps, *[config.steps] * len(tested)], strict=True):
        axis.set_xticks(steps, [str(n) for n in steps])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    return figure
