"""Training recipes: trainax's losses and gradients; what each curriculum does as it goes on."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from jaxsci.operators import (
    Bundled,
    LearnedStepper,
    add_noise,
    autoregressive_steps,
    curriculum,
    denoise,
    diverted_chain,
    mean_square,
    one_step,
    physics_residual,
    pushforward,
    unrolled,
)
from jaxsci.pde import FunctionStepper

RECORDED = np.load(Path(__file__).parents[1] / "oracles" / "data" / "trainax.npz")


class Tanh(eqx.Module):
    weight: jax.Array

    def __call__(self, u):
        return jnp.tanh(u @ self.weight.T)


def stepper():
    return LearnedStepper(Tanh(jnp.asarray(RECORDED["weight"])), residual=0.3)


class Solver(eqx.Module):
    """A linear step that keeps its matrix."""

    matrix: jax.Array

    def __call__(self, u):
        return u @ self.matrix.T


def solver():
    return FunctionStepper(Solver(jnp.asarray(RECORDED["solver"])))


def residual(previous, following, cond):
    del cond
    return following - previous @ jnp.asarray(RECORDED["solver"]).T - following**2 / 10


# trainax adds up time levels and branches, the recipes take the mean over time levels: the factor.
TRAINAX = {
    "one_step": (lambda: one_step(), 1),
    "supervised_4": (lambda: unrolled(4), 4),
    "supervised_4_cut_1": (lambda: unrolled(4, 1), 4),
    "supervised_5_cut_2": (lambda: unrolled(5, 2), 5),
    "diverted_4": (lambda: diverted_chain(4, solver()), 4),
    "diverted_4_branch_2": (lambda: diverted_chain(4, solver(), 2), 3),
    "diverted_4_branch_3_cut": (lambda: diverted_chain(4, solver(), 3, cut_reference=True), 2),
    "residuum_3": (lambda: physics_residual(residual, 3), 3),
    "residuum_4_cut_2": (lambda: physics_residual(residual, 4, cut_every=2), 4),
}
ONE_FRAME = [name for name in TRAINAX if name.startswith(("diverted", "residuum"))]


@pytest.mark.parametrize("name", TRAINAX)
def test_losses_and_gradients_of_trainax(x64, name):
    del x64
    make, factor = TRAINAX[name]
    recipe = make()
    data = jnp.asarray(RECORDED["data"])
    data = data[:, :1] if name in ONE_FRAME else data

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def loss(model):
        return factor * jnp.mean(jax.vmap(lambda window: recipe(model, window)[0])(data))

    value, gradient = loss(stepper())
    # The same float64 operations in another order: rounding.
    np.testing.assert_allclose(value, RECORDED[f"{name}_loss"], rtol=1e-13)
    np.testing.assert_allclose(
        gradient.operator.weight, RECORDED[f"{name}_gradient"], rtol=1e-11, atol=1e-14
    )


DOUBLING = FunctionStepper(lambda u: 2 * u)
ONES = jnp.ones((6, 1, 4))


def test_one_step_takes_every_place_of_a_longer_window(key):
    window = jnp.arange(5.0)[:, None, None] * jnp.ones((5, 1, 4))
    # From frame i the doubling predicts 2i instead of i + 1: an error of (i - 1)².
    keys = jr.split(key, 200)
    losses = jax.vmap(lambda k: one_step()(DOUBLING, window, key=k)[0])(keys)
    assert set(np.asarray(losses).tolist()) == {0.0, 1.0, 4.0}
    assert one_step()(DOUBLING, window)[0] == 1.0  # without a key: the beginning


def test_remat_changes_nothing(key):
    window = jr.normal(key, (4, 1, 8))
    plain, remat = (
        eqx.filter_value_and_grad(lambda m, r=r: unrolled(3, remat=r)(m, window)[0])(stepper())
        for r in (False, True)
    )
    np.testing.assert_allclose(plain[0], remat[0], rtol=1e-6)  # float32 rounding
    np.testing.assert_allclose(
        plain[1].operator.weight, remat[1].operator.weight, rtol=1e-5, atol=1e-7
    )


class Power(eqx.Module):
    """U ↦ a u: after m frozen steps from 1 the input is a₀ᵐ, and the derivative in a is that."""

    a: jax.Array

    def __call__(self, u, cond=1.0):
        return self.a * u * cond


@pytest.mark.parametrize(("progress", "most"), [(0.0, 0), (0.3, 1), (0.5, 2), (1.0, 2)])
def test_pushforward_counts_and_gradients(key, progress, most):
    model = LearnedStepper(Power(jnp.array(3.0)))
    recipe = pushforward(2, ramp=0.25, distance=lambda p, u: jnp.mean(p - u))

    @jax.jit
    def step(key, progress):
        def loss(m):
            return recipe(m, ONES[:4], 1.0, key=key, progress=progress)

        (value, aux), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(model)
        return value, aux["unroll"], gradient.operator.a

    values, counts, gradients = jax.vmap(step, (0, None))(jr.split(key, 64), progress)
    assert set(counts.tolist()) == set(range(most + 1))
    # a·a₀ᵐ·1 - 1, and its derivative with a₀ held: exact in small integers.
    np.testing.assert_array_equal(values, 3.0 ** (counts + 1) - 1)
    np.testing.assert_array_equal(gradients, 3.0**counts)


def test_pushforward_meets_the_frame_after_its_unrolled_steps(key):
    window = 2.0 ** jnp.arange(5)[:, None, None] * jnp.ones((5, 1, 4))
    recipe = pushforward(3, ramp=0)
    losses = jax.vmap(lambda k: recipe(DOUBLING, window, key=k)[0])(jr.split(key, 16))
    np.testing.assert_array_equal(losses, 0.0)


def test_the_schedule_of_the_curriculum():
    # tanh(±2.5) = ±0.98661: 0.67 % and 99.33 % of T, and half of it in the middle.
    found = [int(autoregressive_steps(e, 100)) for e in (0.0, 0.5, 1.0)]
    assert found == [1, 50, 99]
    assert [int(autoregressive_steps(e, 1000)) for e in (0.0, 1.0)] == [6, 993]


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_curriculum_feeds_predictions_then_truth(progress):
    """Doubling against all ones: own inputs give errors 2ᵐ - 1, true inputs give 1."""
    steps = 5
    recipe = curriculum(distance=lambda p, u: jnp.mean(p - u))
    loss, aux = jax.jit(lambda e: recipe(DOUBLING, ONES, progress=e))(progress)
    most = int(aux["autoregressive_steps"])
    assert most == {0.0: 1, 0.5: 2, 1.0: 4}[progress]
    expected = [2.0 ** (m + 1) - 1 if m < most else 1.0 for m in range(steps)]
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-6)  # float32 rounding


def test_curriculum_adds_noise_and_an_auxiliary_term(key):
    quiet = curriculum()(DOUBLING, ONES, progress=0.0)[0]
    noisy = curriculum(noise=0.1)(DOUBLING, ONES, key=key, progress=0.0)[0]
    assert noisy != quiet
    added = curriculum(auxiliary=lambda m, state, frames, cond: cond * jnp.mean(state + frames))(
        FunctionStepper(lambda u: 2 * u), ONES, 3.0, progress=0.0
    )[0]
    np.testing.assert_allclose(added, quiet + 6.0, rtol=1e-6)  # float32 rounding


def test_noise_is_measured_by_the_channel(key):
    n_frames, n = 4, 64
    history = jnp.concatenate(
        [jnp.full((n_frames, 1, n, n), 3.0), jnp.full((n_frames, 1, n, n), -0.1)], 1
    )
    for options in ({"relative": 0.2}, {"eps": 0.2 / (n * np.sqrt(n_frames))}):
        noise = add_noise(history, key, **options) - history
        rms = jnp.sqrt(jnp.mean(noise**2, (0, 2, 3))) / jnp.array([3.0, 0.1])
        # The rms of 16384 standard normals has a relative deviation of 0.55 %; 2 % is over 3 of it.
        np.testing.assert_allclose(rms, 0.2, rtol=0.02)


def test_denoise_disturbs_inputs_alone(key):
    keep = FunctionStepper(lambda u: u)
    window = jnp.ones((2, 1, 4096))
    loss, _ = denoise(relative=0.3)(keep, window, key=key)
    np.testing.assert_allclose(loss, 0.09, rtol=0.1)  # 4096 samples of a χ²: 2.2 %, four of them
    exact, _ = denoise(relative=0.0)(keep, window, key=key)
    assert exact == 0.0


class Last(eqx.Module):
    """Two frames of c channels in, three of them out: the last one times 1, 2, 3."""

    def __call__(self, u, cond=None):
        last = u[u.shape[0] // 2 :]
        return jnp.concatenate([last * 1, last * 2, last * 3])


@pytest.mark.parametrize("recipe", [unrolled(2), pushforward(1, ramp=0), curriculum()])
def test_recipes_of_bundles(key, recipe):
    """With the truth made by the stepper itself every loss is zero, and shapes fit."""
    bundle = Bundled(Last(), n_history=2, n_bundle=3)
    frames = [5.0, 1.0, 1.0, 2.0, 3.0, 3.0, 6.0, 9.0]
    window = jnp.asarray(frames)[:, None, None] * jnp.ones((1, 2, 4))
    loss, _ = recipe(bundle, window, key=key, progress=1.0)
    assert loss == 0.0
    wrong, _ = recipe(bundle, window.at[4].add(1.0), key=key, progress=0.0)
    assert wrong > 0


def test_residuals_within_a_bundle():
    bundle = Bundled(Last(), n_history=2, n_bundle=3)
    window = jnp.ones((2, 1, 4))
    loss, _ = physics_residual(lambda a, b, _: b - a, 2)(bundle, window)
    # Frames 1 | 1 2 3 | 3 6 9: differences 0 1 1 | 0 3 3.
    np.testing.assert_allclose(loss, np.mean([0, 1, 1, 0, 9, 9]), rtol=1e-6)
    weighted, _ = physics_residual(lambda a, b, _: b - a, norm=lambda r: jnp.sum(r))(bundle, window)
    np.testing.assert_allclose(weighted, np.mean([0, 4, 4]), rtol=1e-6)


def test_no_recipe_compiles_twice(key):
    recipe = curriculum(noise=1e-3)
    count = 0

    @eqx.filter_jit
    def step(model, window, key, progress):
        nonlocal count
        count += 1
        return eqx.filter_grad(
            lambda m: (
                recipe(m, window, 1.0, key=key, progress=progress)[0]
                + pushforward(2)(m, window, 1.0, key=key, progress=progress)[0]
            )
        )(model)

    model = LearnedStepper(Power(jnp.array(0.5)))
    for index in range(3):
        step(model, ONES, jr.fold_in(key, index), jnp.asarray(index / 3))
    assert count == 1


WRONG: Any = 3
BAD: list[tuple[Any, type, str]] = [
    (lambda k: unrolled(0), ValueError, "n must be a positive integer"),
    (lambda k: unrolled(2, 0), ValueError, "cut_every must be a positive integer"),
    (lambda k: pushforward(0), ValueError, "max_unroll must be a positive integer"),
    (lambda k: pushforward(1, ramp=-1), ValueError, "ramp must be 0 or more"),
    (lambda k: pushforward()(DOUBLING, ONES), ValueError, "needs a key"),
    (lambda k: curriculum(0.0), ValueError, "width must be positive"),
    (lambda k: curriculum(noise=-1), ValueError, "noise must be 0 or more"),
    (lambda k: curriculum(cut_every=0), ValueError, "cut_every must be a positive integer"),
    (lambda k: curriculum(noise=0.1)(DOUBLING, ONES), ValueError, "noise needs a key"),
    (lambda k: curriculum()(DOUBLING, ONES[:1]), ValueError, "window must have 1 \\+ n x 1"),
    (lambda k: autoregressive_steps(0.5, 0), ValueError, "n must be a positive integer"),
    (lambda k: autoregressive_steps(0.5, 3, 0), ValueError, "width must be positive"),
    (lambda k: denoise(), ValueError, "one of eps and relative"),
    (lambda k: denoise(0.1, relative=0.1), ValueError, "one of eps and relative"),
    (lambda k: denoise(-0.1), ValueError, "0 or more"),
    (lambda k: denoise(0.1)(DOUBLING, ONES), ValueError, "needs a key"),
    (lambda k: add_noise(ONES, k), ValueError, "one of eps and relative"),
    (lambda k: diverted_chain(0, DOUBLING), ValueError, "n must be a positive integer"),
    (lambda k: diverted_chain(1, DOUBLING, 2), ValueError, "branch=2 is longer"),
    (lambda k: diverted_chain(1, WRONG), TypeError, "reference: expected an AbstractStepper"),
    (
        lambda k: diverted_chain(1, DOUBLING)(Bundled(Last(), 2, 3), ONES),
        ValueError,
        "steppers of one frame",
    ),
    (lambda k: physics_residual(residual, 0), ValueError, "n must be a positive integer"),
    (lambda k: physics_residual(residual, cut_every=0), ValueError, "cut_every must be"),
    (lambda k: physics_residual(WRONG), TypeError, "residual must be callable"),
    (lambda k: one_step()(WRONG, ONES), TypeError, "expected an AbstractStepper"),
    (lambda k: one_step()(DOUBLING, ONES[:1]), ValueError, "must have 2 frames, got 1"),
    (lambda k: one_step()(DOUBLING, ONES[0]), ValueError, "shape \\(t, c, \\*grid\\)"),
    (lambda k: mean_square(ONES, ONES[:1]), ValueError, "equal shapes"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input(key, call, error, message):
    with pytest.raises(error, match=message):
        call(key)
