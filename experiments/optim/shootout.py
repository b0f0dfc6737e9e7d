"""Which optimiser should I use? All of the room on six standard problems

No paper of its own: a comparison with an equal tuning budget for every method.

**Problems.** Logistic regression on handwritten digits (65 weights, full batch), an MLP on them
(mini-batches), a physics-informed network for Poisson's equation in 1-D (full batch), a small
Fourier neural operator for Darcy flow in 1-D (mini-batches), a quadratic of condition 10⁵, and
Rosenbrock's chain of 100 variables.

**Rules.** On each problem a method has the same number of trials, values of its main parameter
(mostly the learning rate) on a grid of five decades, on one seed (`choosing`). The value with the
best training score (validation score where there are mini-batches) then runs with other seeds;
reported is their median. A trial ends when its budget is spent, and a step that would exceed it is
not taken. Rates fall to zero as a cosine, for every method that has one. The unit of cost is a
gradient with its value; a value alone counts 1/3, a product with a Hessian or Gauss-Newton matrix
2, and a dense factorisation of d² entries d units on top of its d products. Line searches and
rejected steps are counted as they happen. Vector arithmetic is not counted.

Not here: what needs more than a loss (`multiadam`: separate losses, `poly_gradient`: a known
matrix, `riemannian_adam`: manifolds) and what is for many workers.

**Finding.** No method is the best on all six, and most of the choice is between two cases.

1. *The loss is a fixed function* (logistic regression, PINN, quadratic, Rosenbrock): L-BFGS with
   a line search, which has nothing to tune, is at rounding on three and within a factor of five of
   the best on the PINN. Lazy Newton is as exact on the two convex ones and first on the PINN. Adam,
   with a tuned rate and a cosine, comes close on logistic regression and is a factor of 10⁶ and
   more behind on the quadratic. On Rosenbrock's chain lazy Newton is far behind: its Hessian is out
   of date within a few steps, and with phases of 64 steps a run may leave the floats. Adam reaches
   the minimum there.
2. *Mini-batches* (MLP, FNO): Muon is first on the MLP and ahead of Adam on the FNO; the test losses
   of most first-order methods on the MLP are within a factor of two. L-BFGS and lazy Newton follow
   the noise of each batch and are the last on the MLP.

SAM around Adam, at half as many steps, pays on the MLP's test loss; on fixed functions the wrappers
stop away from the minimum. Methods that set their own step (SANIA, SMB) are in the first third on
the MLP and behind on fixed functions. M-FAC needs the variety of mini-batches and does not work on
full ones.

A method that fails on a problem may have been unlucky: `sgdp` on the PINN and `psgd` on the FNO are
given the largest rate that one seed survived, half a decade too much for the others. SGD with
momentum fails on the PINN at the same rate, which that seed did not survive. Chosen by the worst of
three seeds (`choosing=3`), both work on all: `sgdp` to SGD's error, 1e-3, and `psgd` to 0.30.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax
from jaxtyping import Array, PRNGKeyArray
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from scipy.stats import rankdata

from jaxsci import experiment, optim
from jaxsci.experiment import Above, Between, Claim, Logger, Result
from jaxsci.operators import FNO
from jaxsci.train import digits


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    """Who takes part, and what each may spend."""

    float64: bool = True
    trials: Annotated[int, Between(1, 100)] = 11
    """values of the main parameter that are tried, and seeds that are reported"""
    choosing: Annotated[int, Between(1, 100)] = 1
    """seeds on which a value of the main parameter is tried; its worst score counts"""
    effort: Annotated[float, Above(0)] = 1.0
    """factor of all budgets"""
    optimisers: tuple[str, ...] = ()
    """names of the methods; none means all"""
    problems: tuple[str, ...] = ()
    """names of the problems; none means all"""

    def __post_init__(self):
        super().__post_init__()
        for field, known in (("optimisers", METHODS), ("problems", PROBLEMS)):
            for name in getattr(self, field):
                if name not in known:
                    raise ValueError(f"{field}: unknown {name!r}, expected some of {list(known)}")


class Problem(NamedTuple):
    """A loss outer(model(θ, batch), batch), where to start, and two scores of the weights."""

    label: str
    budget: int
    data: dict[str, Array]
    init: Callable[[PRNGKeyArray], Any]
    model: Callable[[Any, Any], Array]
    outer: Callable[[Array, Any], Array]
    tune: Callable[[Any, dict], Array]
    """the score for choosing a parameter"""
    report: Callable[[Any, dict], Array]
    batch: Callable[[Array, dict], Any] | None = None
    """the mini-batch of these samples; `None`: always all"""
    samples: tuple[int, int] = (0, 0)
    """size of a mini-batch, and how many samples it is drawn from"""
    dense: bool = False
    """whether the budget has room for a few dense Hessians"""


def quadratic(key: PRNGKeyArray) -> Problem:
    d = 100
    basis = jnp.linalg.qr(jr.normal(key, (d, d)))[0]
    root = jnp.sqrt(jnp.logspace(-5, 0, d))[:, None] * basis.T

    def value(x, data):
        return jnp.sum((data["root"] @ x) ** 2) / 2

    return Problem(
        "quadratic,\ncondition $10^5$",
        3000,
        {"root": root},
        lambda key: jr.normal(key, (d,)),
        lambda x, batch: batch["root"] @ x,
        lambda out, batch: jnp.sum(out**2) / 2,
        value,
        value,
        dense=True,
    )


def rosenbrock(key: PRNGKeyArray) -> Problem:
    """From near 0, which is in the basin of the global minimum (there is another one at −1)."""

    def model(x, batch):
        return jnp.concatenate([10 * (x[1:] - x[:-1] ** 2), 1 - x[:-1]])

    def value(x, data):
        return jnp.sum(model(x, data) ** 2)

    return Problem(
        "Rosenbrock,\n100 variables",
        6000,
        {},
        lambda key: 0.1 * jr.normal(key, (100,)),
        model,
        lambda out, batch: jnp.sum(out**2),
        value,
        value,
        dense=True,
    )


def digits_in_parts(key: PRNGKeyArray) -> dict[str, Array]:
    """Images of 64 pixels in [0, 1] and labels in three parts."""
    images, labels = digits(key)
    slices = {"train": slice(1000), "validation": slice(1000, 1400), "test": slice(1400, None)}
    return {f"x_{name}": images[part] for name, part in slices.items()} | {
        f"y_{name}": labels[part] for name, part in slices.items()
    }


def logistic(key: PRNGKeyArray) -> Problem:
    """Is a digit 5 or more? With a ridge, and the distance to the minimum as the score."""
    found = digits_in_parts(key)
    ridge, x = 1e-4, found["x_train"]
    data = {
        "x": jnp.concatenate([x, jnp.ones((len(x), 1))], 1),
        "sign": jnp.where(found["y_train"] >= 5, 1.0, -1.0),
    }
    d = data["x"].shape[1]

    def model(w, batch):
        return jnp.concatenate([batch["sign"] * (batch["x"] @ w), w])

    def outer(out, batch):
        margins, w = out[:-d], out[-d:]
        return jnp.mean(jnp.logaddexp(0, -margins)) + ridge / 2 * jnp.sum(w**2)

    best = optim.minimise_lazy(lambda w: outer(model(w, data), data), jnp.zeros(d), gtol=1e-12)
    data["minimum"] = best.value

    def excess(w, data):
        return outer(model(w, data), data) - data["minimum"]

    return Problem(
        "logistic\nregression, digits",
        1000,
        data,
        lambda key: 0.1 * jr.normal(key, (d,)),
        model,
        outer,
        excess,
        excess,
        dense=True,
    )


def dense_layers(key: PRNGKeyArray, sizes: tuple[int, ...]) -> list[dict[str, Array]]:
    keys = jr.split(key, len(sizes) - 1)
    return [
        {"w": jr.normal(k, (m, n)) / jnp.sqrt(m), "b": jnp.zeros(n)}
        for k, m, n in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def forward(net: Any, x: Array) -> Array:
    for layer in net[:-1]:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return x @ net[-1]["w"] + net[-1]["b"]


def network(key: PRNGKeyArray) -> Problem:
    def cross_entropy(logits, labels):
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    def score(part):
        return lambda net, data: cross_entropy(forward(net, data[f"x_{part}"]), data[f"y_{part}"])

    def batch(pick, data):
        return data["x_train"][pick], data["y_train"][pick]

    return Problem(
        "MLP, digits\n(test loss)",
        1000,
        digits_in_parts(key),
        lambda key: dense_layers(key, (64, 32, 10)),
        lambda net, batch: forward(net, batch[0]),
        lambda logits, batch: cross_entropy(logits, batch[1]),
        score("validation"),
        score("test"),
        batch,
        (64, 1000),
    )


def relative_error(found: Array, exact: Array) -> Array:
    return jnp.linalg.norm(found - exact) / jnp.linalg.norm(exact)


def pinn(key: PRNGKeyArray) -> Problem:
    """−u''/π² = f on (0, 1) with u = 0 at both ends; the score is the relative error of u."""

    def solution(x):
        return jnp.sin(jnp.pi * x) + 0.5 * jnp.sin(3 * jnp.pi * x)

    def source(x):
        return jnp.sin(jnp.pi * x) + 4.5 * jnp.sin(3 * jnp.pi * x)

    def second_derivative(net, x):
        """Values, first and second derivatives go through the layers side by side."""
        value, slope, bend = x, jnp.ones_like(x), jnp.zeros_like(x)
        for layer in net[:-1]:
            h = jnp.tanh(value @ layer["w"] + layer["b"])
            inner, inner_bend = slope @ layer["w"], bend @ layer["w"]
            gain = 1 - h**2
            value, slope = h, gain * inner
            bend = gain * inner_bend - 2 * h * gain * inner**2
        return bend @ net[-1]["w"]

    def model(net, batch):
        x = batch["x"][:, None]
        residual = second_derivative(net, x) / jnp.pi**2 + source(x)
        ends = forward(net, jnp.array([[0.0], [1.0]]))
        return jnp.concatenate([residual[:, 0] / jnp.sqrt(len(x)), 3 * ends[:, 0]])

    def error(net, data):
        x = jnp.linspace(0, 1, 201)[:, None]
        return relative_error(forward(net, x), solution(x))

    return Problem(
        "PINN, Poisson\n(error of u)",
        2000,
        {"x": (jnp.arange(48) + 0.5) / 48},
        lambda key: dense_layers(key, (1, 16, 16, 1)),
        model,
        lambda out, batch: jnp.sum(out**2),
        lambda net, data: jnp.sum(model(net, data) ** 2),
        error,
    )


def darcy(key: PRNGKeyArray, n: int, points: int) -> tuple[Array, Array]:
    """Coefficients exp(a smooth random function) and solutions of −(a u')' = 8, u(0) = u(1) = 0.

    The flux is a u' = 8 (c − x), so u is an integral, with c such that u(1) = 0.
    """
    x = jnp.linspace(0, 1, points)
    k = jnp.arange(1, 6)
    amplitude = jr.normal(key, (n, 5)) / k
    log_a = amplitude @ jnp.cos(jnp.pi * k[:, None] * x)

    def integral(f):
        cells = (f[:, 1:] + f[:, :-1]) / 2 / (points - 1)
        return jnp.concatenate([jnp.zeros((n, 1)), jnp.cumsum(cells, 1)], 1)

    moment, total = integral(x * jnp.exp(-log_a)), integral(jnp.exp(-log_a))
    u = 8 * (moment[:, -1:] / total[:, -1:] * total - moment)
    return log_a[:, None], u[:, None]


def operator(key: PRNGKeyArray) -> Problem:
    a, u = darcy(key, 192, 128)
    a, u = a[..., ::4], u[..., ::4]
    parts = ((0, 96), (96, 128), (128, 192))
    data = {
        f"{name}_{part}": array[lo:hi]
        for part, (lo, hi) in zip(("train", "validation", "test"), parts, strict=True)
        for name, array in (("a", a), ("u", u))
    }

    def make(key):
        return FNO(1, 1, 1, width=8, modes=6, depth=2, padding=4, key=key)

    def model(net, batch):
        return jax.vmap(net)(batch[0])

    def relative(out, batch):
        return jnp.mean(jax.vmap(relative_error)(out, batch[1]))

    def score(part):
        def value(net, data):
            pair = data[f"a_{part}"], data[f"u_{part}"]
            return relative(model(net, pair), pair)

        return value

    def batch(pick, data):
        return data["a_train"][pick], data["u_train"][pick]

    return Problem(
        "FNO, Darcy\n(test error)",
        400,
        data,
        make,
        model,
        lambda out, batch: jnp.mean((out - batch[1]) ** 2),
        score("validation"),
        score("test"),
        batch,
        (8, 96),
    )


PROBLEMS = {
    "logistic": logistic,
    "mlp": network,
    "pinn": pinn,
    "fno": operator,
    "quadratic": quadratic,
    "rosenbrock": rosenbrock,
}


class Method(NamedTuple):
    """How a method is made with a value h of its main parameter, and what its steps cost."""

    make: Callable[[Array, int, Problem], Any]
    """(h, number of steps, problem)"""
    parameter: str = "learning rate"
    decades: tuple[float, float] = (-4.0, 1.0)
    unit: float = 1.0
    """cost of a step, in gradients"""
    extra: Callable[[Any, Any, Problem, int], Array] | None = None
    """(state before, state after, problem, number of weights): what a step cost besides"""
    dense: bool = False
    """whether each step takes a dense Hessian"""


def cosine(h: Array, steps: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(h, steps)  # pyright: ignore[reportArgumentType]


def scheduled(make: Callable[..., Any], *, unit: float = 1.0, **options: Any) -> Method:
    """A method whose main parameter is a learning rate, with a cosine schedule."""
    return Method(lambda h, steps, problem: make(cosine(h, steps), **options), unit=unit)


def around_adam(wrapper: Callable[..., Any], *options: Any) -> Method:
    """A wrapper of Adam, which takes a second gradient in each step."""
    return Method(lambda h, n, problem: wrapper(optax.adam(cosine(h, n)), *options), unit=2.0)


def plain_lbfgs() -> optax.GradientTransformationExtraArgs:
    """L-BFGS without the arguments that its line search would hand to the loss."""
    inner = optax.lbfgs()

    def update(updates, state, params=None, **extra):
        known = {name: extra[name] for name in ("value", "grad", "value_fn")}
        return inner.update(updates, state, params, **known)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def lazy(h: Array, steps: int, problem: Problem) -> Any:
    if problem.dense:
        return optim.lazy_newton(M="adaptive", M0=h, m=DENSE_STEPS)  # pyright: ignore
    return optim.lazy_newton(
        M="adaptive",
        M0=h,  # pyright: ignore[reportArgumentType]
        m=RITZ_STEPS,
        factor="ritz",
        rank=RITZ_RANK,
    )


def lazy_extra(before: Any, after: Any, problem: Problem, d: int) -> Array:
    hessians = after[0].metrics["refreshes"] - before[0].metrics["refreshes"]
    values = 2 / 3 * (before[0].count % (DENSE_STEPS if problem.dense else RITZ_STEPS) == 0)
    return hessians * (3.0 * d if problem.dense else 2.0 * RITZ_RANK) + values


DENSE_STEPS, RITZ_RANK, RITZ_STEPS = 16, 20, 20
KRYLOV = 2.0 * 3 + 2 * (1 + 2.0 * 3 + 2 / 3)
METHODS = {
    "optax.sgd": scheduled(optax.sgd, momentum=0.9),
    "optax.adam": scheduled(optax.adam),
    "optax.adamw": scheduled(optax.adamw),
    "optax.contrib.muon": scheduled(optax.contrib.muon),
    # An estimate of the Hessian's diagonal in every tenth step.
    "optax.contrib.sophia": scheduled(optax.contrib.sophia, unit=1.2),
    "optax.lbfgs": Method(
        lambda h, steps, problem: plain_lbfgs(),
        "none",
        unit=0.0,
        # With a fixed loss, value and gradient are those of the accepted trial.
        extra=lambda before, after, problem, d: (
            after[-1].info.num_linesearch_steps + (0.0 if problem.batch is None else 1.0)
        ),
    ),
    "adabound": scheduled(optim.adabound, base_lr=1e-3),
    "diffgrad": scheduled(optim.diffgrad),
    "adamp": scheduled(optim.adamp),
    "sgdp": scheduled(optim.sgdp),
    "innaprop": scheduled(optim.innaprop, weight_decay=0.0),
    "gravity": Method(lambda h, steps, problem: optim.gravity(cosine(h, steps))),
    "paper_adafactor": scheduled(optim.paper_adafactor),
    "accelerated": Method(lambda h, steps, problem: optim.accelerated(h), "eta"),
    "adam_schedule": Method(
        lambda h, steps, problem: optim.adam_schedule(steps, h),  # pyright: ignore
        "c",
        (-2.5, 2.5),
    ),
    "rmsprop_schedule": Method(
        lambda h, steps, problem: optim.rmsprop_schedule(steps, h),  # pyright: ignore
        "c",
        (-2.5, 2.5),
    ),
    "sam(adam)": around_adam(optim.sam, 0.05),
    "usam(adam)": around_adam(optim.usam, 0.05),
    "amp(adam)": around_adam(optim.amp, 0.1),
    "gradient_regularisation(adam)": around_adam(optim.gradient_regularisation, 0.05),
    "smb": Method(
        lambda h, steps, problem: optim.smb(cosine(h, steps)),
        unit=4 / 3,
        extra=lambda before, after, problem, d: (
            after.metrics["model_steps"] - before.metrics["model_steps"]
        ),
    ),
    "sania": Method(lambda h, steps, problem: optim.sania(cosine(h, steps)), "factor", (-4.0, 1.0)),
    "oasis": Method(
        lambda h, steps, problem: optim.oasis(alpha=h, full_batch=problem.batch is None),
        "alpha",
        unit=3.0,
        extra=lambda before, after, problem, d: (
            (0.0 if problem.batch is None else 1.0) + 20 * (before[0].count == 0)
        ),
    ),
    # Its preconditioner is fitted with a product with the Hessian in each step.
    "psgd": scheduled(optim.psgd, unit=3.0),
    "mfac": Method(
        lambda h, steps, problem: optim.mfac(cosine(h, steps), 32), decades=(-6.0, -1.0)
    ),
    "tngd": Method(
        lambda h, steps, problem: optim.tngd(cosine(h, steps), rank=10),
        unit=1.0,
        extra=lambda before, after, problem, d: (
            2.0 * (after[0].metrics["products"] - before[0].metrics["products"])
        ),
    ),
    "krylov_gradient": Method(
        lambda h, steps, problem: optim.krylov_gradient(), "none", unit=KRYLOV
    ),
    "lazy_newton": Method(lazy, "M0", (-2.0, 3.0), extra=lazy_extra),
    "lazy_lbfgs": Method(
        lambda h, steps, problem: optim.lazy_lbfgs(
            M0=h,  # pyright: ignore[reportArgumentType]
            factor="eigh" if problem.dense else "ritz",
            rank=None if problem.dense else RITZ_RANK,
        ),
        "M0",
        (-3.0, 2.0),
        unit=0.0,
        extra=lambda before, after, problem, d: (
            after[-1].info.num_linesearch_steps
            + (0.0 if problem.batch is None else 1.0)
            + (after[0].refreshes - before[0].refreshes)
            * (3.0 * d if problem.dense else 2.0 * RITZ_RANK)
        ),
    ),
    "damped_newton": Method(
        lambda h, steps, problem: optim.damped_newton(
            step=optim.Backtracking(sigma0=h), convexify="abs"
        ),
        "sigma0",
        (-3.0, 2.0),
        extra=lambda before, after, problem, d: (
            3.0 * d + after[0].metrics["trials"] - before[0].metrics["trials"]
        ),
        dense=True,
    ),
}
QUICK = ("optax.sgd", "optax.adam", "optax.lbfgs", "adabound", "lazy_newton")
PRESETS = {
    "smoke": Config(
        trials=2,
        effort=0.15,
        optimisers=("optax.adam", "lazy_newton"),
        problems=("quadratic",),
    ),
    "quick": Config(optimisers=QUICK),
    "full": Config(),
    "paper": Config(trials=21, effort=10.0),
}


class Found(NamedTuple):
    """The weights at the end of a trial, what was spent, and the steps taken."""

    params: Any
    spent: Array
    steps: Array


def trial(
    method: Method, problem: Problem, budget: float, data: dict, h: Array, params: Any, picks: Array
) -> Found:
    """A run from `params` with the mini-batches `picks` until the budget is spent."""
    d = sum(jnp.size(leaf) for leaf in jax.tree.leaves(params))
    steps = max(1, int(budget / max(method.unit, 1.0)))
    tx = optax.with_extra_args_support(method.make(h, steps, problem))

    def body(carry):
        step, spent, params, state = carry
        batch = data if problem.batch is None else problem.batch(picks[step], data)

        def model_fn(params):
            return problem.model(params, batch)

        def outer_fn(outputs):
            return problem.outer(outputs, batch)

        def loss(params):
            return outer_fn(model_fn(params))

        value, grad = jax.value_and_grad(loss)(params)
        updates, new_state = tx.update(
            grad,
            state,
            params,
            value=value,
            grad=grad,
            value_fn=loss,
            obj_fn=loss,
            model_fn=model_fn,
            outer_fn=outer_fn,
        )
        cost = jnp.asarray(method.unit, float)
        if method.extra is not None:
            cost = cost + method.extra(state, new_state, problem, d)
        fits = spent + cost <= budget
        moved = optax.apply_updates(params, updates)
        params = jax.tree.map(lambda new, old: jnp.where(fits, new, old), moved, params)
        return step + fits, spent + cost, params, new_state

    start = jnp.zeros((), int), jnp.zeros(()), params, tx.init(params)
    step, spent, params, _ = jax.lax.while_loop(lambda carry: carry[1] < budget, body, start)
    return Found(params, spent, step)


class Row(NamedTuple):
    """A method on a problem: every trial's score, the choice, and the scores of all seeds."""

    tried: np.ndarray
    chosen: float
    scores: np.ndarray
    steps: np.ndarray


def compete(method: Method, problem: Problem, config: Config, starts, picks, score) -> Row:
    """Chooses the parameter on the first seeds and reports the others."""
    budget = config.effort * problem.budget
    hs = jnp.logspace(*method.decades, config.trials)

    @jax.jit
    def go(data, hs, starts, picks):
        # One after the other: branches stay branches, and small programs compile faster.
        return jax.lax.map(
            lambda one: trial(method, problem, budget, data, *one), (hs, starts, picks)
        )

    def attempt(seed: int) -> np.ndarray:
        same = jax.tree.map(lambda x: jnp.repeat(x[seed : seed + 1], config.trials, 0), seeds)
        return finite(score(go(problem.data, hs, *same).params, problem.data)[0])

    seeds = (starts, picks)
    rest = jax.tree.map(lambda x: x[config.choosing :], seeds)
    tried = np.max([attempt(seed) for seed in range(config.choosing)], 0)
    best = int(np.argmin(tried))
    found = go(problem.data, jnp.full(config.trials, hs[best]), *rest)
    scores = finite(score(found.params, problem.data)[1])
    return Row(tried, float(hs[best]), scores, np.asarray(found.steps))


def finite(scores: Array) -> np.ndarray:
    """Failed runs have the score ∞; what is below rounding counts as rounding."""
    array = np.asarray(scores, float)
    return np.where(np.isfinite(array), np.maximum(array, FLOOR), np.inf)


FLOOR = 1e-12


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    names = config.optimisers or tuple(METHODS)
    problems = config.problems or tuple(PROBLEMS)
    shape = (len(names), len(problems), config.trials)
    tried, scores = np.full(shape, np.inf), np.full(shape, np.inf)
    chosen, steps = np.full(shape[:2], np.nan), np.zeros(shape[:2])
    labels = []
    with log.progress(len(names) * len(problems), "methods on problems") as bar:
        for j, problem_name in enumerate(problems):
            number = list(PROBLEMS).index(problem_name)
            data_key, start_key, batch_key = jr.split(jr.fold_in(key, number), 3)
            problem = PROBLEMS[problem_name](data_key)
            labels.append(problem.label)
            runs = config.choosing + config.trials
            starts = jax.jit(lambda keys, p=problem: jax.lax.map(p.init, keys))(
                jr.split(start_key, runs)
            )
            size, population = problem.samples
            picks = jr.randint(
                batch_key,
                (runs, int(config.effort * problem.budget) + 1 if size else 1, size),
                0,
                max(population, 1),
            )
            score = jax.jit(
                lambda params, data, p=problem: jax.lax.map(
                    lambda one: (p.tune(one, data), p.report(one, data)), params
                )
            )
            for i, name in enumerate(names):
                if problem.dense or not METHODS[name].dense:
                    row = compete(METHODS[name], problem, config, starts, picks, score)
                    tried[i, j], chosen[i, j], scores[i, j] = row.tried, row.chosen, row.scores
                    steps[i, j] = np.median(row.steps)
                    log.say(
                        f"{problem_name}, {name}, {METHODS[name].parameter} {row.chosen:.2g}: "
                        f"{np.median(row.scores):.3g} in {steps[i, j]:.0f} steps"
                    )
                bar.update(j * len(names) + i + 1)
    medians = np.median(scores, 2)
    ranks = np.stack([rankdata(column) for column in medians.T], 1)
    mean_ranks = ranks.mean(1)
    order = np.argsort(mean_ranks, kind="stable")
    log.say(table([names[i] for i in order], problems, medians[order], mean_ranks[order]))
    metrics = {f"rank_{name}": float(mean_ranks[i]) for i, name in enumerate(names)}
    metrics |= {
        f"{problem}_{name}": float(medians[i, j])
        for i, name in enumerate(names)
        for j, problem in enumerate(problems)
        if np.isfinite(medians[i, j])
    }
    arrays = {
        "optimisers": np.array(names),
        "problems": np.array(problems),
        "scores": scores,
        "tried": tried,
        "chosen": chosen,
        "steps": steps,
        "ranks": ranks,
    }
    figure = draw([names[i] for i in order], labels, medians[order], mean_ranks[order])
    return Result(claims(names, problems, medians), metrics, arrays, {"shootout": figure})


def claims(names: tuple[str, ...], problems: tuple[str, ...], medians: np.ndarray) -> list[Claim]:
    """Those for which the methods and problems took part."""
    at = {
        (name, problem): float(medians[i, j])
        for i, name in enumerate(names)
        for j, problem in enumerate(problems)
    }
    found = []
    for problem, other in (("quadratic", "optax.adam"), ("logistic", "optax.sgd")):
        if ("lazy_newton", problem) in at and (other, problem) in at:
            found.append(
                Claim(
                    f"{problem}: lazy Newton is at the minimum where tuned {other} is not",
                    at["lazy_newton", problem],
                    "<=",
                    1e-3 * at[other, problem],
                    "f − f*, median over seeds; target: a thousandth of the other's",
                )
            )
    for problem in ("mlp", "fno"):
        if ("optax.lbfgs", problem) in at and ("optax.adam", problem) in at:
            found.append(
                Claim(
                    f"{problem}: with mini-batches, Adam is ahead of L-BFGS",
                    at["optax.adam", problem],
                    "<",
                    at["optax.lbfgs", problem],
                    "score on test samples, median over seeds",
                )
            )
    if len(problems) == len(PROBLEMS) and len(names) > 2:
        wins = np.sum(medians <= medians.min(0), 1)
        found.append(
            Claim(
                "no method is the best on all problems",
                int(wins.max()),
                "<",
                len(problems),
                f"most problems on which one method is best: {names[int(np.argmax(wins))]}",
            )
        )
    return found


def table(names, problems, medians, mean_ranks) -> str:
    lines = [f"{'':32}{'rank':>6}" + "".join(f"{problem:>12}" for problem in problems)]
    for name, row, rank in zip(names, medians, mean_ranks, strict=True):
        lines.append(f"{name:32}{rank:6.1f}" + "".join(f"{score:12.2e}" for score in row))
    return "\n".join(lines)


def draw(names, labels, medians, mean_ranks) -> Figure:
    """A heat map of scores relative to the best of each problem."""
    best = np.min(medians, 0)
    with np.errstate(invalid="ignore"):
        decades = np.log10(medians / best)
    figure, axis = plt.subplots(
        figsize=(2.9 + 1.15 * len(labels), 1.4 + 0.27 * len(names)), layout="constrained"
    )
    shown = np.ma.masked_where(~np.isfinite(decades), np.minimum(decades, 6))
    colours = plt.get_cmap("cividis_r").with_extremes(bad="0.85")
    image = axis.imshow(shown, colours, PowerNorm(0.5, 0, 6), aspect="auto")
    for (i, j), value in np.ndenumerate(decades):
        if np.isfinite(value):
            ratio = f"{10**value:.2g}" if value < 2 else f"$10^{{{value:.0f}}}$"
            colour = "white" if value > 1.2 else "black"
            axis.text(j, i, ratio, ha="center", va="center", fontsize=8, color=colour)
        else:
            axis.text(j, i, "–", ha="center", va="center", fontsize=8)
    heads = [
        f"{label}\nbest: {x:.1e}" if x > FLOOR else f"{label}\nbest: rounding"
        for label, x in zip(labels, best, strict=True)
    ]
    axis.set_xticks(range(len(labels)), heads, fontsize=8)
    axis.xaxis.tick_top()
    axis.set_yticks(
        range(len(names)),
        [f"{name}  ({r:.1f})" for name, r in zip(names, mean_ranks, strict=True)],
        fontsize=8,
    )
    axis.tick_params(length=0)
    bar = figure.colorbar(image, ax=axis, shrink=0.7, ticks=[0, 0.3, 1, 2, 4, 6])
    bar.ax.set_yticklabels(["1", "2", "10", "$10^2$", "$10^4$", "$≥10^6$"])
    bar.set_label("score / best score of the column (1 is best)")
    axis.set_title("In brackets: mean rank. –: failed, or too costly a step", fontsize=9)
    return figure
