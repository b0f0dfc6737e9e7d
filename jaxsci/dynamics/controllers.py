"""Step sizes by a policy: a network looks at the solution now and then and chooses a parameter.

h = μ_k τ(y),    k = argmax of the policy's scores at the last check
"""

from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree


class PolicyController(dfx.AbstractStepSizeController):
    """A step size controller whose parameter a policy chooses at regular times.

    - `policy`: from an observation to one score an action; the action of the greatest is taken.
    - `actions`: the values of μ, increasing and positive.
    - `every`: the time between two checks. A check is at the first step end at or after its time,
        so that no step is cut short for it.
    - `time_scale`: τ, from the state to a time, such as `NBody.time_scale`.
    - `observe`: from the state and the state at the start to the observation.

    No step is rejected, so any solver will do, and its error estimate, if there is one, is not
    looked at. A constant policy gives the usual steps with a constant μ. `diffeqsolve` should be
    given `dt0=None`.

    **Raises:** `ValueError` for actions that do not increase or are not positive, `every` ≤ 0, and,
    at the first solve, a policy that does not give one score an action.
    """

    policy: Callable[[Array], Array]
    actions: Float[Array, " a"] = eqx.field(converter=jnp.asarray)
    every: float
    time_scale: Callable[[Any], Array]
    observe: Callable[[Any, Any], Array]

    def __check_init__(self):
        if self.actions.ndim != 1:
            raise ValueError(f"actions: expected a vector, got shape {self.actions.shape}")
        if not isinstance(self.actions, Tracer):
            values = np.asarray(self.actions)
            if not (np.all(np.diff(values) > 0) and np.all(values > 0)):
                raise ValueError(f"actions = {values}: expected positive, increasing numbers")
        if isinstance(self.every, int | float) and not self.every > 0:
            raise ValueError(f"every = {self.every}: expected a positive number")

    def wrap(self, direction: Any) -> "PolicyController":
        """Itself: time scales are positive, and diffrax makes time run forwards."""
        return self

    def init(
        self,
        terms: Any,
        t0: Any,
        t1: Any,
        y0: PyTree[Array],
        dt0: Any,
        args: Any,
        func: Any,
        error_order: Any,
    ) -> tuple[Any, Any]:
        """The end of the first step, and (start, parameter, time of the next check)."""
        if dt0 is not None:
            raise ValueError(f"dt0 = {dt0}: expected None, as the policy chooses every step")
        parameter = self._choose(y0, y0)
        return t0 + parameter * self.time_scale(y0), (y0, parameter, t0 + self.every)

    def adapt_step_size(
        self,
        t0: Any,
        t1: Any,
        y0: PyTree[Array],
        y1_candidate: PyTree[Array],
        args: Any,
        y_error: Any,
        error_order: Any,
        controller_state: Any,
    ) -> tuple[Any, Any, Any, Any, Any, dfx.RESULTS]:
        """Accepts, asks the policy if it is time, and proposes the next step."""
        start, parameter, check = controller_state
        due = t1 >= check
        parameter = jax.lax.cond(due, lambda: self._choose(y1_candidate, start), lambda: parameter)
        missed = jnp.floor((t1 - check) / self.every) + 1
        check = jnp.where(due, check + missed * self.every, check)
        stop = t1 + parameter * self.time_scale(y1_candidate)
        state = (start, parameter, check)
        return True, t1, stop, False, state, dfx.RESULTS.successful

    def _choose(self, y: PyTree[Array], start: PyTree[Array]) -> Float[Array, ""]:
        scores = self.policy(self.observe(y, start))
        if jnp.shape(scores) != self.actions.shape:
            raise ValueError(
                f"policy: expected {self.actions.shape[0]} scores, one an action, "
                f"got shape {jnp.shape(scores)}"
            )
        return self.actions[jnp.argmax(scores)]
