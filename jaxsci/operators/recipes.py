"""Training recipes: what a time stepper is asked to get right, as a loss.

    recipe(stepper, window "t c *grid", cond, *, key, progress) -> (loss, aux)

    one_step         ‖ F(u⁰) - u¹ ‖²
    unrolled         Σ_m ‖ F^m(u⁰) - u^m ‖²                            gradient through the steps
    pushforward      ‖ F( stop[F^m(u⁰)] ) - u^{m+1} ‖²                 m random, grows with progress
    curriculum       unrolled for the first T_ar steps, one_step after; T_ar grows with progress
    denoise          ‖ F(u⁰ + noise) - u¹ ‖²
    diverted_chain   Σ_m ‖ F(û^m) - S(û^m) ‖²,  û^{m+1} = F(û^m)        S a solver; no data
    physics_residual Σ_m ‖ R(û^m, û^{m+1}) ‖²                          R an equation; no data

The stepper is any `jaxsci.pde.AbstractStepper`; with a history of k frames and bundles of b (see
`jaxsci.operators.stepping`) every F above is one step of b frames. A window longer than what a
recipe needs is cut at a random place (with a key; without one, at its beginning). `progress` in
[0, 1] is the share of training done: a traced number, so a curriculum never recompiles. A batch is
a `jax.vmap` over windows and keys and a mean over losses. `aux` holds numbers worth logging.

Distances between predicted and true bundles `"b c *grid"` are `mean_square`, or any function of
two arrays, such as `jaxsci.operators.relative_l2`.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from jaxsci.pde import AbstractStepper

from .stepping import AbstractHistoryStepper, check_count, predicted, start, window_sizes

Distance = Callable[[Float[Array, "b c *grid"], Float[Array, "b c *grid"]], Float[Array, ""]]
Aux = dict[str, Array]


# recipe(stepper, window, cond=None, *, key=None, progress=1.0) -> (loss, aux)
Recipe = Callable[..., tuple[Float[Array, ""], Aux]]

# What a recipe may add to its loss at each step: (stepper, state before, true frames, cond).
Auxiliary = Callable[[Any, PyTree, Float[Array, "b c *grid"], Any], Float[Array, ""]]


def mean_square(
    prediction: Float[Array, "b c *grid"], target: Float[Array, "b c *grid"]
) -> Float[Array, ""]:
    """The mean of (p - u)² over frames, channels and points.

    **Raises:** `ValueError` if the shapes differ.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction and target: expected equal shapes, got {prediction.shape} and "
            f"{target.shape}"
        )
    return jnp.mean((prediction - target) ** 2)


def one_step(distance: Distance = mean_square) -> Recipe:
    """One step from true frames, ‖F(uⁿ⁻ᵏ⁺¹, …, uⁿ) - (uⁿ⁺¹, …, uⁿ⁺ᵇ)‖: teacher forcing.

    Needs k + b frames.

    **Arguments:** `distance`: between bundles.
    """

    def recipe(stepper, window, cond=None, *, key=None, progress=1.0):
        del progress
        k, b = window_sizes(stepper)
        window, key = cut_window(window, k + b, key, "one_step")
        state = stepper.step(start(stepper, window[:k], cond), cond, key=key)
        return distance(predicted(stepper, state), window[k:]), {}

    return recipe


def unrolled(
    n: int,
    cut_every: int | None = None,
    *,
    distance: Distance = mean_square,
    remat: bool = False,
    in_line: bool = False,
) -> Recipe:
    """The mean over n autoregressive steps of the distance to the truth, differentiated through.

        1/n Σ_{m=1..n} ‖ F^m(u⁰) - u^m ‖

    Needs k + n b frames.

    **Arguments:**

    - `n`: steps. Good values: 2 to 10; memory grows with n.
    - `cut_every`: cut the gradient through the state after each so many steps (truncated
      backpropagation through time); `None`: never.
    - `distance`: between bundles.
    - `remat`: recompute each step in the backward pass instead of storing its inside.
    - `in_line`: lay the steps out one after the other instead of compiling one as a loop's body.
        The numbers are the same; on CPUs, where XLA's convolutions are slow inside loops, a step is
        several times faster.

    **Raises:** `ValueError` for counts that are not positive.
    """
    check_count("unrolled: n", n)
    if cut_every is not None:
        check_count("unrolled: cut_every", cut_every)

    def recipe(stepper, window, cond=None, *, key=None, progress=1.0):
        del progress
        k, b = window_sizes(stepper)
        window, key = cut_window(window, k + n * b, key, "unrolled")
        targets = window[k:].reshape(n, b, *window.shape[1:])

        def body(state, step):
            index, target = step
            state = stepper.step(state, cond, key=_fold(key, index))
            error = distance(predicted(stepper, state), target)
            return _cut_gradient(state, index + 1, cut_every), error

        body = jax.checkpoint(body) if remat else body
        state = start(stepper, window[:k], cond)
        _, errors = jax.lax.scan(body, state, (jnp.arange(n), targets), unroll=in_line)
        return jnp.mean(errors), {"last_step_error": errors[-1]}

    return recipe


def pushforward(
    max_unroll: int = 1, *, ramp: float = 0.05, distance: Distance = mean_square
) -> Recipe:
    """One differentiated step from the model's own, undifferentiated prediction.

        ‖ F( stop_gradient[ F^m(u⁰) ] ) - u^{m+1} ‖,    m uniform in {0, …, M(progress)}

    The model so learns to undo its own errors: the input's error is noise of exactly the kind met
    in a rollout. M = min(max_unroll, ⌊progress / ramp⌋). Needs k + (max_unroll + 1) b frames, and
    a key. `aux["unroll"]` is m.

    **Arguments:**

    - `max_unroll`: the most steps before the differentiated one. The paper's value is 1.
    - `ramp`: the share of training after which M grows by one; 0: M = max_unroll at once. 0.05 is
      the paper's first of 20 epochs.
    - `distance`: between bundles.

    **Raises:** `ValueError` for `max_unroll` < 1, `ramp` < 0, or a missing key.

    Reference: Brandstetter, Worrall & Welling, arXiv:2202.03376.
    """
    check_count("pushforward: max_unroll", max_unroll)
    if not ramp >= 0:
        raise ValueError(f"pushforward: ramp must be 0 or more, got {ramp}")

    def recipe(stepper, window, cond=None, *, key=None, progress=1.0):
        k, b = window_sizes(stepper)
        if key is None:
            raise ValueError("pushforward: needs a key, the number of steps is random")
        key, count_key = jr.split(key)
        window, key = cut_window(window, k + (max_unroll + 1) * b, key, "pushforward")
        most: Any = max_unroll
        if ramp > 0:
            most = jnp.floor(jnp.asarray(progress) / ramp).astype(jnp.int32)
        m = jr.randint(count_key, (), 0, jnp.clip(most, 0, max_unroll) + 1)

        # Neither weights nor states of the unrolled steps are differentiated.
        frozen, frozen_cond = _stop((stepper, cond))

        def body(state, index):
            new = frozen.step(state, frozen_cond, key=_fold(key, index))
            return jax.tree.map(lambda a, b: jnp.where(index < m, a, b), new, state), None

        first = _stop(start(frozen, window[:k], frozen_cond))
        state, _ = jax.lax.scan(body, first, jnp.arange(max_unroll))
        state = stepper.step(_stop(state), cond, key=_fold(key, max_unroll))
        target = jax.lax.dynamic_slice_in_dim(window, k + m * b, b)
        return distance(predicted(stepper, state), target), {"unroll": m}

    return recipe


def autoregressive_steps(
    progress: float | Float[Array, ""], n: int, width: float = 0.2
) -> Int[Array, ""]:
    """T_ar = clip(⌊T (1 + tanh((progress - ½) / width)) / 2⌋, 1, T) with T = n.

    **Raises:** `ValueError` for n < 1 or a width that is not positive.
    """
    check_count("autoregressive_steps: n", n)
    if not width > 0:
        raise ValueError(f"width must be positive, got {width}")
    share = (1 + jnp.tanh((jnp.asarray(progress) - 0.5) / width)) / 2
    return jnp.clip(jnp.floor(n * share).astype(jnp.int32), 1, n)


def curriculum(
    width: float = 0.2,
    *,
    noise: float = 0.0,
    cut_every: int | None = None,
    distance: Distance = mean_square,
    auxiliary: Auxiliary | None = None,
) -> Recipe:
    """From teacher forcing to autoregression as training goes on.

        1/T Σ_{m=1..T} ‖ F(v^{m-1}) - u^m ‖,    v^m = F(v^{m-1}) for m < T_ar, u^m after

    with T_ar = `autoregressive_steps(progress, T, width)` growing from 1 to T. T is what the window
    holds: all of it is used. `aux["autoregressive_steps"]` is T_ar.

    **Arguments:**

    - `width`: of the transition in `progress`; 0.2 is the paper's value.
    - `noise`: standard deviation of Gaussian noise added to true inputs; the paper has 1e-3. Needs
      a key.
    - `cut_every`: cut the gradient through the state after each so many steps; `None`: never.
    - `distance`: between bundles.
    - `auxiliary`: a term added at each step, `auxiliary(stepper, state_before, frames, cond)`.

    **Raises:** `ValueError` for a width that is not positive, negative noise, noise without a key,
    or a window that does not hold k frames and whole bundles.

    Reference: Takamoto, Alesiani & Niepert, arXiv:2304.14118.
    """
    if not width > 0:
        raise ValueError(f"curriculum: width must be positive, got {width}")
    if not noise >= 0:
        raise ValueError(f"curriculum: noise must be 0 or more, got {noise}")
    if cut_every is not None:
        check_count("curriculum: cut_every", cut_every)

    def recipe(stepper, window, cond=None, *, key=None, progress=1.0):
        k, b = window_sizes(stepper)
        n, rest = divmod(window.shape[0] - k, b)
        if n < 1 or rest:
            raise ValueError(
                f"curriculum: window must have {k} + n x {b} frames, got {window.shape[0]}"
            )
        if noise > 0 and key is None:
            raise ValueError("curriculum: noise needs a key")
        noisy = window
        if noise > 0 and key is not None:
            key, noise_key = jr.split(key)
            noisy = window + noise * jr.normal(noise_key, window.shape, window.dtype)
        most = autoregressive_steps(progress, n, width)
        histories = jnp.stack([noisy[m * b : m * b + k] for m in range(n)])
        targets = window[k:].reshape(n, b, *window.shape[1:])

        def body(state, step):
            index, history, target = step
            truth = start(stepper, history, cond)
            own = (index > 0) & (index < most)
            state = jax.tree.map(lambda a, b: jnp.where(own, a, b), state, truth)
            new = stepper.step(state, cond, key=_fold(key, index))
            error = distance(predicted(stepper, new), target)
            if auxiliary is not None:
                error = error + auxiliary(stepper, state, target, cond)
            return _cut_gradient(new, index + 1, cut_every), error

        first = start(stepper, histories[0], cond)
        _, errors = jax.lax.scan(body, first, (jnp.arange(n), histories, targets))
        return jnp.mean(errors), {"autoregressive_steps": most}

    return recipe


def denoise(
    eps: float | None = None, *, relative: float | None = None, distance: Distance = mean_square
) -> Recipe:
    """One step from true frames with noise on them.

        ‖ F(h + noise) - u ‖,    noise = ε ‖h_c‖₂ z    or    ρ rms(h_c) z,    z ~ N(0, I)

    for each channel c, with the norm or root mean square over the k frames and all points. The two
    forms agree for ρ = ε √(k N): the first, the paper's, grows with the resolution, so that its
    5e-4 on ten frames of 128² points is ρ = 0.2. Needs k + b frames and a key.

    **Arguments:**

    - `eps`: ε; the paper's value is 5e-4.
    - `relative`: ρ. One of the two is given.
    - `distance`: between bundles.

    **Raises:** `ValueError` unless exactly one of them is given and not negative, or without a key.

    References: Hao et al., arXiv:2403.03542; Sanchez-Gonzalez et al., arXiv:2002.09405.
    """
    size = relative if eps is None else eps
    if (eps is None) == (relative is None) or size is None or not size >= 0:
        raise ValueError(
            f"denoise: expected one of eps and relative, 0 or more, got {eps} and {relative}"
        )
    forced = one_step(distance)

    def recipe(stepper, window, cond=None, *, key=None, progress=1.0):
        k, b = window_sizes(stepper)
        if key is None:
            raise ValueError("denoise: needs a key for the noise")
        key, noise_key = jr.split(key)
        window, key = cut_window(window, k + b, key, "denoise")
        noisy = add_noise(window[:k], noise_key, eps=eps, relative=relative)
        return forced(
            stepper, jnp.concatenate([noisy, window[k:]]), cond, key=key, progress=progress
        )

    return recipe


def add_noise(
    history: Float[Array, "k c *grid"],
    key: PRNGKeyArray,
    *,
    eps: float | None = None,
    relative: float | None = None,
) -> Float[Array, "k c *grid"]:
    """H + ε ‖h_c‖₂ z, or h + ρ rms(h_c) z: the noise of `denoise`, a scale for each channel.

    **Raises:** `ValueError` unless exactly one of `eps` and `relative` is given.
    """
    if (eps is None) == (relative is None):
        raise ValueError(f"add_noise: expected one of eps and relative, got {eps} and {relative}")
    axes = (0, *range(2, history.ndim))
    if eps is not None:
        scale = eps * jnp.sqrt(jnp.sum(history**2, axes, keepdims=True))
    else:
        assert relative is not None
        scale = relative * jnp.sqrt(jnp.mean(history**2, axes, keepdims=True))
    # Drawn flat, the same numbers: XLA compiles random bits of several axes much more slowly.
    noise = jr.normal(key, (history.size,), history.dtype).reshape(history.shape)
    return history + scale * noise


def diverted_chain(
    n: int,
    reference: AbstractStepper,
    branch: int = 1,
    *,
    cut_reference: bool = False,
    distance: Distance = mean_square,
) -> Recipe:
    """The model against a solver, both started from the model's own states.

        1/n' Σ_{m=0..n'-1} Σ_{j=1..branch} ‖ F^j(û^m) - S^j(û^m) ‖,   û^m = F^m(u⁰),
        n' = n - branch + 1

    Needs one frame, no trajectory: but a solver that runs in the loss, differentiated unless
    `cut_reference`. For steppers of one frame.

    **Arguments:**

    - `n`: steps in all. `branch`: steps of each branch, at most n.
    - `reference`: the solver S, an `AbstractStepper` on the same frames.
    - `cut_reference`: no gradient through the solver, nor through what it starts from.
    - `distance`: between frames `"1 c *grid"`.

    **Raises:** `ValueError` for counts that are not positive, branch > n, or a stepper of several
    frames; `TypeError` if `reference` is no stepper.

    Reference: Koehler, Niedermayr, Westermann & Thuerey, arXiv:2411.00180.
    """
    check_count("diverted_chain: n", n)
    check_count("diverted_chain: branch", branch)
    if branch > n:
        raise ValueError(f"diverted_chain: branch={branch} is longer than n={n}")
    if not isinstance(reference, AbstractStepper):
        raise TypeError(f"reference: expected an AbstractStepper, got {reference!r}")

    def recipe(stepper, window, cond=None, *, key=None, progress=1.0):
        del progress
        _one_frame(stepper, "diverted_chain")
        window, key = cut_window(window, 1, key, "diverted_chain")

        def one(state, index):
            field = stepper.output(state)
            solved = reference.init(jax.lax.stop_gradient(field) if cut_reference else field, cond)
            here, total = state, jnp.zeros((), field.dtype)
            following = state
            for j in range(branch):
                here = stepper.step(here, cond, key=_fold(key, index + j))
                following = here if j == 0 else following
                solved = reference.step(solved, cond)
                target = reference.output(solved)
                target = jax.lax.stop_gradient(target) if cut_reference else target
                total = total + distance(stepper.output(here)[None], target[None])
            return following, total

        first = start(stepper, window, cond)
        _, errors = jax.lax.scan(one, first, jnp.arange(n - branch + 1))
        return jnp.mean(errors), {}

    return recipe


def physics_residual(
    residual: Callable[[Array, Array, Any], Float[Array, "..."]],
    n: int = 1,
    *,
    norm: Callable[[Float[Array, "..."]], Float[Array, ""]] | None = None,
    cut_every: int | None = None,
) -> Recipe:
    """How far consecutive frames are from satisfying an equation; no data but initial states.

        1/(n b) Σ ‖ R(û^{m}, û^{m+1}; cond) ‖²

    over the n b frames that the model predicts from the window's first k, û⁰ being the last true
    one.

    **Arguments:**

    - `residual`: R, `residual(previous, following, cond)` of two frames `"c *grid"`: the defect of
      a trusted time scheme, on grid points or as coefficients of a basis. Scale it by the time
      step: unscaled, its conditioning grows as 1/Δt.
    - `n`: autoregressive steps.
    - `norm`: of one residual; the mean of squares by default. For coefficients give the one that
      the basis has (Parseval), for non-uniform grids one with quadrature weights.
    - `cut_every`: cut the gradient through the state after each so many steps; `None`: never.

    **Raises:** `ValueError` for counts that are not positive; `TypeError` if `residual` is not
    callable.

    References: Li et al., arXiv:2111.03794; Huang et al., arXiv:2302.10255.
    """
    check_count("physics_residual: n", n)
    if cut_every is not None:
        check_count("physics_residual: cut_every", cut_every)
    if not callable(residual):
        raise TypeError(f"physics_residual: residual must be callable, got {residual!r}")

    def recipe(stepper, window, cond=None, *, key=None, progress=1.0):
        del progress
        k, _ = window_sizes(stepper)
        window, key = cut_window(window, k, key, "physics_residual")

        def defect(previous, following):
            r = residual(previous, following, cond)
            return jnp.mean(jnp.abs(r) ** 2) if norm is None else norm(r)

        def body(carry, index):
            state, last = carry
            state = stepper.step(state, cond, key=_fold(key, index))
            frames = predicted(stepper, state)
            previous = jnp.concatenate([last[None], frames[:-1]])
            error = jnp.mean(jax.vmap(defect)(previous, frames))
            return _cut_gradient((state, frames[-1]), index + 1, cut_every), error

        first = (start(stepper, window, cond), window[-1])
        _, errors = jax.lax.scan(body, first, jnp.arange(n))
        return jnp.mean(errors), {}

    return recipe


def _one_frame(stepper: AbstractStepper, name: str) -> None:
    if isinstance(stepper, AbstractHistoryStepper):
        raise ValueError(f"{name}: works on steppers of one frame, got {type(stepper).__name__}")


def cut_window(
    window: Array, needed: int, key: PRNGKeyArray | None, name: str
) -> tuple[Array, PRNGKeyArray | None]:
    """`needed` frames of the window, from a random place if there are more and there is a key."""
    if window.ndim < 3:
        raise ValueError(f"{name}: window must have shape (t, c, *grid), got {window.shape}")
    spare = window.shape[0] - needed
    if spare < 0:
        raise ValueError(f"{name}: window must have {needed} frames, got {window.shape[0]}")
    if spare == 0 or key is None:
        return window[:needed], key
    key, place_key = jr.split(key)
    first = jr.randint(place_key, (), 0, spare + 1)
    return jax.lax.dynamic_slice_in_dim(window, first, needed), key


def _fold(key: PRNGKeyArray | None, index: Any) -> PRNGKeyArray | None:
    return None if key is None else jr.fold_in(key, index)


def _stop(tree: PyTree) -> PyTree:
    arrays, rest = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.tree.map(jax.lax.stop_gradient, arrays), rest)


def _cut_gradient(state: PyTree, done: Any, every: int | None) -> PyTree:
    """The state, cut off from its past where `every` divides the number of steps done."""
    if every is None:
        return state
    now = done % np.int32(every) == 0
    return jax.tree.map(lambda x: jnp.where(now, jax.lax.stop_gradient(x), x), state)
