"""Pictures of long rollouts: how errors grow, and which scales a stepper gets wrong.

```python
truth = ...                                     # (n, t, c, *grid), and what each stepper predicts:
predictions = {"FNO": ..., "U-Net": ...}
figure = plot_error_growth(predictions, truth, dt=0.2)
figure = plot_spectrum(predictions, truth, frame=-1)
```

Trajectories come from `jaxsci.operators.forecast` or `jaxsci.pde.rollout`, of any stepper, learned
or classical. matplotlib is imported when a picture is drawn.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float

from .rollout_metrics import correlation, energy_spectrum, error_growth

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_error_growth(
    predictions: Mapping[str, Float[ArrayLike, "n t c *grid"]],
    truth: Float[ArrayLike, "n t c *grid"],
    dt: float = 1.0,
    *,
    threshold: float = 0.8,
) -> "Figure":
    """The relative L2 error and the correlation with the truth over time, one curve a stepper.

    Lines are medians over the n trajectories, bands reach from the 10 % to the 90 % quantile. A
    curve ends where a prediction stops being finite.

    **Arguments:**

    - `predictions`: a name and trajectories for each stepper, frames at dt, 2 dt, …
    - `truth`: the trajectories to compare with.
    - `dt`: time between frames.
    - `threshold`: drawn as a line among the correlations.

    **Raises:** `ValueError` if there are no predictions or shapes differ.
    """
    import matplotlib.pyplot as plt

    truth = _check(predictions, truth)
    growth = jax.jit(jax.vmap(error_growth))
    likeness = jax.jit(jax.vmap(jax.vmap(correlation)))
    time = dt * np.arange(1, truth.shape[1] + 1)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for name, prediction in predictions.items():
        prediction = jnp.asarray(prediction)
        for axis, values in (
            (left, growth(prediction, truth)),
            (right, likeness(prediction, truth)),
        ):
            values = np.where(np.isfinite(values), values, np.nan)
            shown = ~np.isnan(values).any(0)
            low, middle, high = np.quantile(values[:, shown], (0.1, 0.5, 0.9), axis=0)
            (line,) = axis.plot(time[shown], middle, label=name)
            if truth.shape[0] > 1:
                axis.fill_between(time[shown], low, high, color=line.get_color(), alpha=0.15, lw=0)
    left.set(xlabel="time", ylabel="relative $L^2$ error", yscale="log", title="Error growth")
    right.axhline(threshold, color="grey", ls=":", lw=1)
    right.set(
        xlabel="time", ylabel="correlation with the truth", title="Correlation", ylim=(None, 1.02)
    )
    left.legend()
    return figure


def plot_spectrum(
    predictions: Mapping[str, Float[ArrayLike, "n t c *grid"]],
    truth: Float[ArrayLike, "n t c *grid"],
    frame: int = -1,
) -> "Figure":
    """The energy spectra of one frame, and those of the error, averaged over trajectories.

    The left picture shows whether a stepper loses or invents energy at some scale, the right one
    how large its error is there: where it reaches the truth's own spectrum (black) a scale is lost.

    **Arguments:** `predictions`, `truth`: as in `plot_error_growth`. `frame`: which one; -1 is the
    last.

    **Raises:** `ValueError` if there are no predictions, shapes differ or there is no such frame.
    """
    import matplotlib.pyplot as plt

    truth = _check(predictions, truth)
    n_frames = truth.shape[1]
    if not -n_frames <= frame < n_frames:
        raise ValueError(f"frame: expected one of {n_frames} frames, got {frame}")
    spectrum = jax.jit(lambda u: jnp.mean(jax.vmap(energy_spectrum)(u), 0))
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    exact = np.asarray(spectrum(truth[:, frame]))
    k = np.arange(exact.size)
    for axis in (left, right):
        axis.plot(k[1:], _positive(exact[1:]), color="black", lw=2, label="truth")
    for name, prediction in predictions.items():
        here = jnp.asarray(prediction)[:, frame]
        left.plot(k[1:], _positive(spectrum(here)[1:]), label=name)
        right.plot(k[1:], _positive(spectrum(here - truth[:, frame])[1:]), label=f"error of {name}")
    which = frame % n_frames + 1
    left.set(title=f"Energy spectrum of frame {which}", ylabel="$E(k)$")
    right.set(title=f"Spectrum of the error of frame {which}", ylabel="$E(k)$")
    for axis in (left, right):
        axis.set(xlabel="wavenumber $k$ (periods per side)", xscale="log", yscale="log")
        axis.legend()
    return figure


def _positive(values: ArrayLike) -> np.ndarray:
    """Values for a logarithmic axis: what is not positive or not finite is left out."""
    values = np.asarray(values, np.float64)
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def _check(predictions: Mapping[str, ArrayLike], truth: ArrayLike) -> jax.Array:
    truth = jnp.asarray(truth)
    if not predictions or truth.ndim < 4:
        raise ValueError(
            "predictions and truth: expected trajectories (n, t, c, *grid) of one stepper or more, "
            f"got {len(predictions)} steppers and truth of shape {truth.shape}"
        )
    for name, prediction in predictions.items():
        if np.shape(prediction) != truth.shape:
            raise ValueError(
                f"predictions[{name!r}]: expected the truth's shape {truth.shape}, "
                f"got {np.shape(prediction)}"
            )
    return truth
