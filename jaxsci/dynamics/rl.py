"""Deep Q-learning in one compiled loop, for environments that are pure functions.

Q(s, a) ≈ E[r + γ max_a' Q̄(s', a')],    Q̄ ← τ Q + (1 − τ) Q̄,    no γ-term where an episode ends
"""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

QNetwork = Callable[[Array], Array]


class AbstractEnv(eqx.Module):
    """A Markov decision process with finitely many actions.

    - `actions`: their number.
    """

    actions: eqx.AbstractVar[int]

    @abc.abstractmethod
    def reset(self, key: PRNGKeyArray) -> PyTree[Array]:
        """The state at the start of an episode."""

    @abc.abstractmethod
    def observe(self, state: PyTree[Array]) -> Float[Array, " obs"]:
        """What the network sees of a state."""

    @abc.abstractmethod
    def step(
        self, state: PyTree[Array], action: Int[Array, ""]
    ) -> tuple[PyTree[Array], Float[Array, ""], Bool[Array, ""]]:
        """The next state, the reward, and whether the episode ends there."""


class DQNState(NamedTuple):
    """All that a training knows: networks, optimiser, memory, environment, number of steps."""

    network: Any
    target: Any
    opt_state: Any
    memory: Any
    env_state: Any
    count: Int[Array, ""]


class DQN(eqx.Module):
    """Q-learning with a network, a replay memory and a slow target network.

    - `env`: an `AbstractEnv`.
    - `optimizer`: of optax.
    - `gamma`: discount.
    - `epsilon`: (start, end, decay); a random action is taken with probability
        end + (start − end) exp(−step/decay).
    - `tau`: share of the network that enters its target at each update.
    - `batch`: transitions in an update. `capacity`: of the memory, a ring.
    - `every`: environment steps between two updates.

    The loss is Huber's with threshold 1. Updates begin when the memory holds a batch.

    Mnih and others, Nature 518 (2015) 529; soft targets: arXiv:1509.02971.

    **Raises:** `ValueError` for γ or τ outside [0, 1], ε outside [0, 1] or a decay ≤ 0, a batch
    < 1 or larger than the memory, `every` < 1; in `init`, for a network that does not give one
    number an action.
    """

    env: AbstractEnv
    optimizer: optax.GradientTransformation = eqx.field(static=True)
    gamma: float = 0.99
    epsilon: tuple[float, float, float] = (0.9, 0.05, 1000.0)
    tau: float = 0.005
    batch: int = eqx.field(default=128, static=True)
    capacity: int = eqx.field(default=10_000, static=True)
    every: int = eqx.field(default=1, static=True)

    def __check_init__(self):
        for name, value in (
            ("gamma", self.gamma),
            ("tau", self.tau),
            ("epsilon[0]", self.epsilon[0]),
            ("epsilon[1]", self.epsilon[1]),
        ):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} = {value}: expected a number in [0, 1]")
        if not self.epsilon[2] > 0:
            raise ValueError(f"epsilon[2] = {self.epsilon[2]}: expected a positive decay")
        if not 1 <= self.batch <= self.capacity:
            raise ValueError(f"batch = {self.batch}: expected between 1 and {self.capacity}")
        if self.every < 1:
            raise ValueError(f"every = {self.every}: expected an integer >= 1")

    def init(self, network: QNetwork, key: PRNGKeyArray) -> DQNState:
        """The start of a training: an empty memory and a first episode."""
        env_state = self.env.reset(key)
        observation = self.env.observe(env_state)
        scores = jax.eval_shape(network, observation)
        if scores.shape != (self.env.actions,):
            raise ValueError(
                f"network: expected {self.env.actions} numbers, one an action, got {scores.shape}"
            )
        empty = jnp.zeros((self.capacity, *observation.shape), observation.dtype)
        memory = {
            "before": empty,
            "action": jnp.zeros(self.capacity, int),
            "reward": jnp.zeros(self.capacity, scores.dtype),
            "after": empty,
            "done": jnp.zeros(self.capacity, bool),
        }
        opt_state = self.optimizer.init(_floats(network))
        return DQNState(network, network, opt_state, memory, env_state, jnp.array(0))

    def run(
        self, state: DQNState, key: PRNGKeyArray, steps: int
    ) -> tuple[DQNState, Float[Array, " steps"], Bool[Array, " steps"]]:
        """Acts and learns for `steps` rounds of `every` environment steps and one update.

        **Returns:** the state, and the rewards and ends of episodes, `every` × `steps` of them.
        """
        moving, static = eqx.partition(state, eqx.is_array)

        def advance(moving: Any, key: PRNGKeyArray) -> tuple[Any, Any]:
            act_key, learn_key = jr.split(key)
            state, seen = jax.lax.scan(
                lambda m, k: self._act(m, static, k), moving, jr.split(act_key, self.every)
            )
            state = jax.lax.cond(
                state.count >= self.batch,
                lambda m: self._learn(m, static, learn_key),
                lambda m: m,
                state,
            )
            return state, seen

        moving, (rewards, done) = jax.lax.scan(advance, moving, jr.split(key, steps))
        return eqx.combine(moving, static), rewards.ravel(), done.ravel()

    def _act(self, moving: DQNState, static: DQNState, key: PRNGKeyArray) -> tuple[Any, Any]:
        state = eqx.combine(moving, static)
        coin_key, action_key, reset_key = jr.split(key, 3)
        start, end, decay = self.epsilon
        epsilon = end + (start - end) * jnp.exp(-state.count / decay)
        before = self.env.observe(state.env_state)
        action = jnp.where(
            jr.uniform(coin_key) < epsilon,
            jr.randint(action_key, (), 0, self.env.actions),
            jnp.argmax(state.network(before)),
        )
        env_state, reward, done = self.env.step(state.env_state, action)
        seen = {
            "before": before,
            "action": action,
            "reward": reward,
            "after": self.env.observe(env_state),
            "done": done,
        }
        place = state.count % self.capacity
        memory = jax.tree.map(lambda a, x: a.at[place].set(x.astype(a.dtype)), state.memory, seen)
        env_state = jax.lax.cond(done, lambda: self.env.reset(reset_key), lambda: env_state)
        state = state._replace(memory=memory, env_state=env_state, count=state.count + 1)
        return eqx.filter(state, eqx.is_array), (reward, done)

    def _learn(self, moving: DQNState, static: DQNState, key: PRNGKeyArray) -> Any:
        state = eqx.combine(moving, static)
        filled = jnp.minimum(state.count, self.capacity)
        rows = jr.randint(key, (self.batch,), 0, filled)
        sample = jax.tree.map(lambda a: a[rows], state.memory)
        ahead = jnp.max(jax.vmap(state.target)(sample["after"]), axis=1)
        aim = sample["reward"] + self.gamma * jnp.where(sample["done"], 0, ahead)

        @eqx.filter_grad
        def gradient(network: QNetwork) -> Float[Array, ""]:
            values = jax.vmap(network)(sample["before"])
            taken = jnp.take_along_axis(values, sample["action"][:, None], axis=1)[:, 0]
            return jnp.mean(optax.losses.huber_loss(taken, aim))

        updates, opt_state = self.optimizer.update(
            gradient(state.network), state.opt_state, _floats(state.network)
        )
        network = eqx.apply_updates(state.network, updates)
        target = jax.tree.map(
            lambda slow, new: slow + self.tau * (new - slow) if eqx.is_inexact_array(new) else slow,
            state.target,
            network,
        )
        state = state._replace(network=network, target=target, opt_state=opt_state)
        return eqx.filter(state, eqx.is_array)


def greedy_episode(
    env: AbstractEnv, network: QNetwork, key: PRNGKeyArray, steps: int
) -> tuple[Float[Array, " steps"], PyTree[Array]]:
    """An episode in which the best action is always taken.

    **Arguments:**

    - `env`, `network`: the environment, and from its observations to one score an action.
    - `key`: for the start. `steps`: after which it is over at the latest.

    **Returns:** the rewards, 0 after the end, and the states along a first axis, without the start
    and with the last one repeated after the end.
    """

    def advance(carry: Any, _: None) -> tuple[Any, Any]:
        state, over = carry
        action = jnp.argmax(network(env.observe(state)))
        following, reward, done = jax.lax.cond(
            over,
            lambda: (state, jnp.zeros((), reward_type), jnp.array(True)),
            lambda: env.step(state, action),
        )
        return (following, over | done), (reward, following)

    start = env.reset(key)
    reward_type = jax.eval_shape(env.step, start, jnp.array(0))[1].dtype
    return jax.lax.scan(advance, (start, jnp.array(False)), length=steps)[1]


def _floats(network: QNetwork) -> Any:
    return eqx.filter(network, eqx.is_inexact_array)
