"""What every optimiser of the room must pass: the checks that optax keeps for contributed ones.

Extra arguments are accepted, the second update compiles nothing, four targets are reached (a
parabola, Rosenbrock's function, a parabola of a matrix and one of two tensors, all real, in
float32, to 3e-2 as in optax's own suite), `inject_hyperparams`, `MultiSteps`, `tree.map_params`,
subsets and empty trees, formats (bfloat16, complex), and resuming to the bit.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci import optim
from jaxsci.autodiff import Hessian


def averaged_adam(learning_rate, rho):
    return optax.chain(optax.adam(learning_rate), optim.param_ema(rho))


def scaled_gravity(learning_rate, scale):
    """Gradients below 1, as it needs them, and no random first velocity, to go downhill."""
    return optax.chain(optax.scale(scale), optim.gravity(learning_rate, alpha=0.0))


def restarted_adam(learning_rate):
    schedule = optim.sgdr(learning_rate, T0=1000, T_mult=2)
    return optax.chain(optax.adam(schedule), optim.snapshots(1000, 2, k=2))


def sam_sgd(learning_rate, rho):
    return optim.sam(optax.sgd(learning_rate), rho)


def usam_adam(learning_rate, rho):
    return optim.usam(optax.adam(learning_rate), rho)


def amp_sgd(learning_rate, epsilon, inner_steps):
    return optim.amp(optax.sgd(learning_rate), epsilon, inner_steps=inner_steps)


def regularised_sgd(learning_rate, gamma, eps, kind):
    return optim.gradient_regularisation(optax.sgd(learning_rate), gamma, eps, kind)


@dataclasses.dataclass(frozen=True)
class Case:
    """An optimiser under test; `steps` is what it is given to reach a target."""

    make: Callable[..., Any]
    options: dict[str, Any]
    steps: int = 30_000
    static: tuple[str, ...] = ()
    complex: bool = True


def fading(v):
    """A curvature matrix for any tree: B = diag(4, 1, 1, …) in each leaf."""
    return jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].multiply(4), v)


CASES = {
    "lazy_newton": Case(
        optim.lazy_newton, dict(m=2, M=500.0), 3000, ("m", "rank", "batch_size"), False
    ),
    "lazy_newton_adaptive": Case(
        optim.lazy_newton,
        dict(m=2, M="adaptive", M0=0.1),
        100,
        ("m", "rank", "batch_size", "learning_rate"),
        False,
    ),
    "lazy_newton_ritz": Case(
        optim.lazy_newton,
        dict(m=2, factor="ritz", rank=2, regulariser="quadratic", M=100.0),
        3000,
        ("m", "rank", "batch_size"),
        False,
    ),
    "lazy_lbfgs": Case(
        optim.lazy_lbfgs, {}, 100, ("m", "memory_size", "rank", "batch_size", "linesearch"), False
    ),
    "levenberg_marquardt": Case(
        optim.levenberg_marquardt, dict(damping=0.1), 100, ("max_tries",), False
    ),
    "damped_newton": Case(
        optim.damped_newton,
        dict(step=optim.RootNewton(M=0.01), convexify="abs"),
        3000,
        ("step", "refresh", "batch_size"),
        False,
    ),
    "adabound": Case(optim.adabound, dict(learning_rate=1e-2, final_lr=1e-3)),
    "param_ema": Case(averaged_adam, dict(learning_rate=1e-2, rho=0.99)),
    "sam": Case(sam_sgd, dict(learning_rate=1e-3, rho=1e-3)),
    "usam": Case(usam_adam, dict(learning_rate=1e-2, rho=1e-4)),
    "amp": Case(
        amp_sgd, dict(learning_rate=1e-3, epsilon=1e-3, inner_steps=2), static=("inner_steps",)
    ),
    "gradient_regularisation": Case(
        regularised_sgd,
        dict(learning_rate=1e-3, gamma=1e-4, eps=1e-3, kind="forward"),
        static=("kind",),
    ),
    "gradient_regularisation_double": Case(
        regularised_sgd,
        dict(learning_rate=1e-3, gamma=1e-4, eps=1e-3, kind="double"),
        static=("kind",),
    ),
    "innaprop": Case(optim.innaprop, dict(learning_rate=1e-3, weight_decay=0.0)),
    "paper_adafactor": Case(
        optim.paper_adafactor,
        dict(cap=0.999),
        static=("min_dim_size_to_factor", "warmup_init"),
        complex=False,
    ),
    "multiadam": Case(
        optim.multiadam, dict(learning_rate=1e-2, groups=1), static=("groups", "amsgrad")
    ),
    "riemannian_adam": Case(
        optim.riemannian_adam,
        dict(learning_rate=1e-2, manifolds=None),
        static=("manifolds", "variant", "retraction", "bias_correction", "sparse", "as_additive"),
        complex=False,
    ),
    "riemannian_amsgrad": Case(
        optim.riemannian_amsgrad,
        dict(learning_rate=1e-2, manifolds=None),
        static=("manifolds", "retraction", "bias_correction", "sparse", "as_additive"),
        complex=False,
    ),
    "riemannian_sgd": Case(
        optim.riemannian_sgd,
        dict(learning_rate=1e-3, momentum=0.5),
        static=("manifolds", "nesterov", "retraction", "as_additive"),
        complex=False,
    ),
    "sgdr_snapshots": Case(restarted_adam, dict(learning_rate=3e-2)),
    "gravity": Case(scaled_gravity, dict(learning_rate=0.05, scale=0.02)),
    "amsbound": Case(optim.adabound, dict(learning_rate=1e-2, final_lr=1e-3, amsbound=True)),
    "diffgrad": Case(optim.diffgrad, dict(learning_rate=1e-2)),
    "adamp": Case(optim.adamp, dict(learning_rate=1e-2), static=("channel_axis",), complex=False),
    "sgdp": Case(optim.sgdp, dict(learning_rate=1e-3), static=("channel_axis",), complex=False),
    "accelerated": Case(optim.accelerated, dict(eta=1e-3, mu=1.0), static=("variant",)),
    "adam_schedule": Case(optim.adam_schedule, dict(T=30_000, c=0.3), static=("T",)),
    "ef_sgd": Case(
        optim.ef_sgd,
        dict(learning_rate=1e-4, rank=1, min_compression=0.0, axis_name=None),
        static=("rank", "iters", "error_feedback", "warm_start", "min_compression", "start_step"),
        complex=False,
    ),
    "tngd": Case(
        optim.tngd,
        dict(learning_rate=0.1, damping=1.0, time=2.0, rank=2, curvature=Hessian()),
        1000,
        ("rank", "max_steps", "refresh", "delay", "beta", "curvature"),
        False,
    ),
    "tngd_euler": Case(
        optim.tngd,
        dict(
            learning_rate=0.1,
            damping=1.0,
            time=0.05,
            solver="euler",
            init="gradient",
            refresh=1,
            curvature=Hessian(),
        ),
        1000,
        ("rank", "max_steps", "refresh", "delay", "beta", "curvature"),
        False,
    ),
    "mfac": Case(
        optim.mfac,
        dict(learning_rate=0.1, window=4, damp=100.0, b1=0.5),
        static=("window", "storage"),
        complex=False,
    ),
    "smb": Case(optim.smb, dict(learning_rate=0.01), 10_000, ("groups",)),
    "smb_independent": Case(
        optim.smb,
        dict(
            learning_rate=0.01,
            independent_batch=True,
            autoschedule=optim.AutoSchedule(window=50, lr_max=0.1),
        ),
        20_000,
        ("groups", "independent_batch", "autoschedule"),
    ),
    "poly_gradient": Case(
        optim.poly_gradient,
        dict(op=fading, tau=1, L=300.0),
        30_000,
        ("op", "tau", "n_probes", "key"),
        False,
    ),
    "poly_fast_gradient": Case(
        optim.poly_fast_gradient,
        dict(op=fading, tau=1, L=1500.0),
        5000,
        ("op", "tau", "n_probes", "key"),
        False,
    ),
    "krylov_gradient": Case(
        optim.krylov_gradient, dict(tau=1), 100, ("op", "tau", "inner", "max_halvings"), False
    ),
    "oasis": Case(
        optim.oasis, dict(alpha=0.1), 3000, ("n_probes", "warm_probes", "b1", "key"), False
    ),
    "oasis_full_batch": Case(
        optim.oasis,
        dict(alpha=0.1, full_batch=True, b1=0.5),
        3000,
        ("n_probes", "warm_probes", "full_batch", "key"),
        False,
    ),
    "psgd": Case(
        optim.psgd,
        dict(learning_rate=0.05, clip_rms=1.0),
        5000,
        ("group", "mode", "nesterov", "step_normaliser", "key"),
        False,
    ),
    "psgd_low_rank": Case(
        optim.psgd,
        dict(learning_rate=0.05, group=optim.LRA(1), update_prob=0.5, clip_rms=1.0),
        5000,
        ("group", "mode", "nesterov", "step_normaliser", "key"),
        False,
    ),
    "sania": Case(optim.sania, dict(precond="adam-sqr", b2=0.9), 3000, ("precond",)),
    "sania_hutchinson": Case(
        optim.sania, dict(precond="hutchinson", b2=0.9), 3000, ("precond",), False
    ),
    "sania_newton": Case(optim.sania, dict(precond="newton"), 3000, ("precond",), False),
}


@dataclasses.dataclass(frozen=True)
class SumOfSquares:
    """A target Σ|r|², with the residuals r(x) for methods that want them."""

    residuals: Callable[[Any], Any]

    def __call__(self, x):
        squares = jax.tree.map(lambda r: jnp.sum(jnp.abs(r) ** 2), self.residuals(x))
        return jax.tree.reduce(jnp.add, squares)


rosenbrock = SumOfSquares(lambda x: (1 - x[0], 10 * (x[1] - x[0] ** 2)))


def distance_to(target):
    return SumOfSquares(lambda x: jax.tree.map(jnp.subtract, x, target))


VECTOR = jnp.array([1.0, -1.0, 1.0])
MATRIX = jnp.array([[3.0, -2.0], [1.0, 4.0]])
TENSORS = (jnp.array([1.0, -1.0, 2.0]), jnp.array([[1.0, 0.0], [-1.0, 1.0]]))
TARGETS = {
    "parabola": (jnp.array([-1.0, 10.0, 1.0]), VECTOR, distance_to(VECTOR)),
    "rosenbrock": (jnp.zeros(2), jnp.ones(2), rosenbrock),
    "matrix": (jnp.zeros((2, 2)), MATRIX, distance_to(MATRIX)),
    "tensors": (jax.tree.map(jnp.zeros_like, TENSORS), TENSORS, distance_to(TENSORS)),
}


def make(case):
    return CASES[case].make(**CASES[case].options)


def stepper(optimizer, value_fn, traced=None):
    @jax.jit
    def step(params, state):
        if traced is not None:
            traced.append(params)  # once for each compilation
        value, grads = jax.value_and_grad(value_fn)(params)
        grads = jax.tree.map(jnp.conj, grads)
        updates, state = optimizer.update(
            grads,
            state,
            params,
            value=value,
            grad=grads,
            value_fn=value_fn,
            model_fn=value_fn.residuals,
            nobody_knows_this=1,
        )
        return optax.apply_updates(params, updates), state

    return step


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("case", CASES)
def test_extra_arguments_one_compilation_and_resuming_to_the_bit(case):
    optimizer = make(case)
    traced = []
    step = stepper(optimizer, rosenbrock, traced)
    params = jnp.zeros(2)
    state = jax.jit(optimizer.init)(params)
    history = []
    for _ in range(5):
        params, state = step(params, state)
        history.append((params, state))
    assert len(traced) == 1
    # What a checkpoint keeps is numbers: NumPy copies of the leaves.
    params, state = jax.tree.map(lambda leaf: jnp.asarray(np.array(leaf)), history[2])
    for _ in range(2):
        params, state = step(params, state)
    equal((params, state), history[-1])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("target", TARGETS)
def test_convergence(case, target):
    optimizer = make(case)
    start, optimum, value_fn = TARGETS[target]
    step = stepper(optimizer, value_fn)
    state = optimizer.init(start)
    state = optax.tree.map_params(optimizer, lambda leaf: leaf, state)

    @jax.jit
    def run(params, state):
        def body(carry, _):
            return step(*carry), None

        return jax.lax.scan(body, (params, state), length=CASES[case].steps)[0][0]

    found = run(start, state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 3e-2, 3e-2), found, optimum)


@pytest.mark.parametrize("case", CASES)
def test_a_state_can_be_donated(case):
    """No two leaves of a fresh state share a buffer."""
    leaves = jax.tree.leaves(make(case).init(jnp.ones((2, 3))))
    pointers = [leaf.unsafe_buffer_pointer() for leaf in leaves]
    assert len(set(pointers)) == len(pointers)


PARAMS = {"a": -jnp.ones((2, 3)), "b": jnp.ones((2, 5, 2))}
SMOOTH = distance_to(jax.tree.map(jnp.zeros_like, PARAMS))
ONE = {"a": -jnp.ones((2, 3))}
SMOOTH_ONE = distance_to({"a": jnp.zeros((2, 3))})


def one_update(optimizer, params=None, value_fn=SMOOTH, repeats=1):
    params = PARAMS if params is None else params

    @jax.jit
    def go():
        value, grads = jax.value_and_grad(value_fn)(params)

        def update(state, _):
            updates, state = optimizer.update(
                grads,
                state,
                params,
                value=value,
                grad=grads,
                value_fn=value_fn,
                model_fn=value_fn.residuals,
            )
            return state, updates

        state, updates = jax.lax.scan(update, optimizer.init(params), length=repeats)
        return jax.tree.map(lambda leaf: leaf[-1], updates), state

    return go()


@pytest.mark.parametrize("case", CASES)
def test_inject_hyperparams_and_multi_steps(case):
    entry = CASES[case]
    updates, state = one_update(make(case), ONE, SMOOTH_ONE)
    injected = optax.inject_hyperparams(entry.make, static_args=entry.static)(**entry.options)
    injected_updates, injected_state = one_update(injected, ONE, SMOOTH_ONE)
    # A hyperparameter in float32 instead of a Python number: its rounding.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5), injected_updates, updates)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-4),
        injected_state.inner_state,
        state,
    )
    # Two micro-batches with equal gradients are one step.
    twice = optax.MultiSteps(make(case), 2).gradient_transformation()
    both, _ = one_update(twice, ONE, SMOOTH_ONE, repeats=2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5), both, updates)


@pytest.mark.parametrize("case", CASES)
def test_subset_and_empty_trees(case):
    optimizer = optim.on_subset(make(case), {"a": False, "b": True})
    updates, _ = one_update(optimizer)
    equal(updates["a"], 2 * PARAMS["a"])  # the gradient itself passes
    alone, _ = one_update(make(case), {"b": PARAMS["b"]}, distance_to({"b": 0 * PARAMS["b"]}))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5), updates["b"], alone["b"])
    optimizer = make(case)
    state = optimizer.init({})
    updates, state = optimizer.update({}, state, {}, value=jnp.ones(()), value_fn=lambda p: 1.0)
    assert updates == {}


@pytest.mark.parametrize("case", CASES)
def test_bfloat16(case):
    """Updates have the parameters' format, and a state's does not change from step to step."""
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    optimizer = make(case)
    before = jax.eval_shape(optimizer.init, params)
    updates, after = one_update(optimizer, params)
    jax.tree.map(lambda u, p: np.testing.assert_equal(u.dtype, p.dtype), updates, params)
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.dtype, b.dtype), before, after)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(updates))
    # Downhill.
    products = jax.tree.map(lambda u, p: jnp.sum(u * p), updates, params)
    assert all(float(leaf) < 0 for leaf in jax.tree.leaves(products))


@pytest.mark.parametrize("case", CASES)
def test_complex_parameters_work_or_raise(case):
    target = jnp.array([1.0 - 2j, 0.5j])
    params = jnp.array([1.5 - 2.5j, -0.5])
    optimizer = make(case)
    if not CASES[case].complex:
        with pytest.raises(TypeError, match="complex64"):
            optimizer.init(params)
        return
    step = stepper(optimizer, distance_to(target))
    state = optimizer.init(params)

    @jax.jit
    def run(params, state):
        return jax.lax.fori_loop(0, 5000, lambda _, carry: step(*carry), (params, state))

    np.testing.assert_allclose(run(params, state)[0], target, atol=3e-2)
