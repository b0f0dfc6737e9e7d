from typing import Any

import equinox as eqx
import exponax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.pde import AbstractStepper, ExponaxStepper, FunctionStepper, Grid, rollout


class Decay(AbstractStepper):
    """One implicit Euler step of u' = −args u."""

    dt: Any

    def step(self, state, args=None, *, key=None):
        del key
        return state / (1 + self.dt * args)


class Noise(AbstractStepper):
    def step(self, state, args=None, *, key=None):
        return jax.random.normal(key, state.shape)


class Pair(AbstractStepper):
    """A stepper with a hidden state: Fibonacci numbers."""

    def init(self, u0, args=None):
        return {"now": u0, "before": jnp.zeros_like(u0)}

    def step(self, state, args=None, *, key=None):
        return {"now": state["now"] + state["before"], "before": state["now"]}

    def output(self, state):
        return state["now"]


U0 = jnp.ones((1, 3))


def test_values_frames_and_initial():
    decay = Decay(0.1)
    expected = 1.1 ** -np.arange(1, 7)
    frames = rollout(decay, U0, 6, 1.0)
    assert frames.shape == (6, 1, 3)
    # Six float32 divisions: 6 units of 6e-8.
    np.testing.assert_allclose(frames[:, 0, 0], expected, rtol=4e-7)
    np.testing.assert_array_equal(rollout(decay, U0, 6, 1.0, every=3), frames[2::3])
    full = rollout(decay, U0, 6, 1.0, every=2, include_initial=True)
    np.testing.assert_array_equal(full, jnp.concatenate([U0[None], frames[1::2]]))


def test_hidden_state_and_output():
    frames = rollout(Pair(), jnp.ones((1, 1), jnp.int32), 8)
    assert frames.ravel().tolist() == [1, 2, 3, 5, 8, 13, 21, 34]


def test_one_scan_and_no_recompilation():
    decay = Decay(0.1)
    jaxpr = jax.make_jaxpr(lambda u: rollout(decay, u, 6, 1.0))(U0)
    assert [e.primitive.name for e in jaxpr.eqns].count("scan") == 1
    traces = []

    @jax.jit
    def run(u0, rate):
        traces.append(None)
        return rollout(decay, u0, 6, rate)

    run(U0, 1.0), run(2 * U0, 2.0)
    assert len(traces) == 1


def test_keys_differ_by_step_and_not_by_grouping(key):
    frames = rollout(Noise(), U0, 8, key=key)
    assert len(np.unique(np.asarray(frames))) == 24
    np.testing.assert_array_equal(rollout(Noise(), U0, 8, key=key, every=4), frames[3::4])
    np.testing.assert_array_equal(rollout(Noise(), U0, 4, key=key), frames[:4])


def test_ensemble_by_vmap(key):
    keys = jax.random.split(key, 5)
    frames = jax.vmap(lambda k: rollout(Noise(), U0, 3, key=k))(keys)
    assert frames.shape == (5, 3, 1, 3)
    np.testing.assert_array_equal(frames[2], rollout(Noise(), U0, 3, key=keys[2]))


@pytest.mark.parametrize("options", [{}, {"remat": True}, {"remat": True, "every": 3}])
def test_gradient_is_the_derivative_of_the_closed_form(x64, options):
    del x64
    u0 = jnp.ones((1, 1))

    def last(dt):
        return rollout(Decay(dt), u0, 6, 2.0, **options)[-1, 0, 0]

    # d/dt (1 + 2 dt)^-6 = −12 (1 + 2 dt)^-7; a dozen roundings of 1e-16.
    assert np.isclose(jax.grad(last)(0.1), -12 * 1.2**-7, rtol=1e-14)


def test_remat_stores_less():
    def loss(u0, remat):
        step = FunctionStepper(lambda u: jnp.sin(jnp.sin(jnp.sin(u))))
        return rollout(step, u0, 64, every=8, remat=remat)[-1].sum()

    def temporaries(remat):
        compiled = jax.jit(jax.grad(loss), static_argnums=1).lower(jnp.ones((1, 4096)), remat)
        analysis = compiled.compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    # 64 steps with residuals against 8 stretches of 8: at least a factor of two.
    assert temporaries(True) < 0.5 * temporaries(False)


def test_stop_gradient_cuts_the_path_and_keeps_the_values(x64):
    del x64
    u0 = jnp.ones((1, 1))

    def last(dt, cut):
        return rollout(Decay(dt), u0, 6, 2.0, stop_gradient_every=cut)[-1, 0, 0]

    assert last(0.1, 2) == last(0.1, None)
    # Cut before the steps 2 and 4: only the last two steps see dt. d/dt of c (1+2dt)^-2 with
    # c = 1.2^-4 held fixed is −4 c (1.2)^-3.
    assert np.isclose(jax.grad(last)(0.1, 2), -4 * 1.2**-7, rtol=1e-14)
    # The cut never falls before step 0: one as long as the rollout changes nothing, and the path
    # to u0 is open.
    assert np.isclose(jax.grad(last)(0.1, 6), -12 * 1.2**-7, rtol=1e-14)
    slope = jax.grad(lambda u: rollout(Decay(0.1), u, 6, 2.0, stop_gradient_every=6)[-1, 0, 0])(u0)
    assert np.isclose(slope[0, 0], 1.2**-6, rtol=1e-14)


@pytest.fixture(scope="module")
def heat():
    with jax.enable_x64(True):
        return exponax.stepper.Diffusion(1, 2.0, 32, dt=0.05, diffusivity=0.3)


@pytest.mark.parametrize("fourier", [False, True])
def test_exponax_stepper_solves_the_heat_equation(x64, heat, fourier):
    del x64
    (x,) = Grid(0, 2, 32, periodic=True).coords()
    u0 = (1 + jnp.sin(3 * jnp.pi * x))[None]
    frames = rollout(ExponaxStepper(heat, fourier=fourier), u0, 4)
    decay = jnp.exp(-0.3 * (3 * jnp.pi) ** 2 * 0.05 * jnp.arange(1, 5))
    exact = 1 + decay[:, None, None] * jnp.sin(3 * jnp.pi * x)
    # The exponential integrator is exact for a linear equation: rounding only.
    np.testing.assert_allclose(frames, exact, atol=1e-13)


def test_exponax_stepper_repeated_and_as_in_its_own_rollout(x64, heat):
    del x64
    u0 = jax.random.normal(jax.random.key(1), (1, 32))
    theirs = exponax.rollout(heat, 6)(u0)
    np.testing.assert_allclose(rollout(ExponaxStepper(heat), u0, 6), theirs, atol=1e-14)
    for fourier in (False, True):
        repeated = ExponaxStepper(exponax.RepeatedStepper(heat, 3), fourier=fourier)
        np.testing.assert_allclose(rollout(repeated, u0, 2), theirs[2::3], atol=1e-14)


def test_function_stepper_trains_its_parameters():
    linear = eqx.nn.Linear(3, 3, use_bias=False, key=jax.random.key(0))
    stepper = FunctionStepper(lambda u: u)
    assert rollout(stepper, U0, 2).shape == (2, 1, 3)
    model = FunctionStepper(jax.tree_util.Partial(lambda layer, u: jax.vmap(layer)(u), linear))
    grads = eqx.filter_grad(lambda m: rollout(m, U0, 2)[-1].sum())(model)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_steps": 0}, "n_steps must be a positive integer"),
        ({"n_steps": 2.0}, "n_steps must be a positive integer"),
        ({"n_steps": True}, "n_steps must be a positive integer"),
        ({"n_steps": 4, "every": 0}, "every must be a positive integer"),
        ({"n_steps": 4, "every": 3}, "does not divide"),
        ({"n_steps": 4, "stop_gradient_every": 0}, "stop_gradient_every must be"),
    ],
)
def test_bad_counts(options, message):
    with pytest.raises(ValueError, match=message):
        rollout(Decay(0.1), U0, args=1.0, **options)


def test_bad_steppers(heat):
    bad: Any = lambda u: u  # noqa: E731
    with pytest.raises(TypeError, match="FunctionStepper"):
        rollout(bad, U0, 3)
    for changed in (lambda u: u[:, :2], lambda u: u.astype(jnp.bfloat16), lambda u: (u, u)):
        with pytest.raises(ValueError, match="same structure"):
            rollout(FunctionStepper(changed), U0, 3)
    with pytest.raises(TypeError, match="callable"):
        FunctionStepper(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="callable"):
        ExponaxStepper(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="step_fourier"):
        ExponaxStepper(jnp.sin, fourier=True)
    with pytest.raises(ValueError, match="expected \\(1, 32\\)"):
        rollout(ExponaxStepper(heat, fourier=True), U0, 2)
