"""Deep Q-learning on a chain, against value iteration."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci.dynamics import DQN, AbstractEnv, greedy_episode

N = 5
GAMMA = 0.8


class Chain(AbstractEnv):
    """Left or right on five places; 1 for leaving on the right, 0.3 on the left, −0.05 a step."""

    actions: int = 2

    def reset(self, key):
        return jax.random.randint(key, (), 0, N)

    def observe(self, state):
        return jax.nn.one_hot(jnp.clip(state, 0, N - 1), N)

    def step(self, state, action):
        after = state + 2 * action - 1
        reward = jnp.where(after == N, 1.0, jnp.where(after == -1, 0.3, -0.05))
        return after, reward, (after < 0) | (after == N)


def value_iteration():
    Q = np.zeros((N, 2))
    for _ in range(200):
        for s in range(N):
            for a in range(2):
                to = s + 2 * a - 1
                Q[s, a] = 0.3 if to < 0 else 1.0 if to == N else -0.05 + GAMMA * Q[to].max()
    return Q


class Table(eqx.Module):
    Q: jax.Array

    def __call__(self, observation):
        return observation @ self.Q


def test_the_chain_against_value_iteration(key):
    dqn = DQN(
        Chain(), optax.adam(optax.cosine_decay_schedule(0.05, 1500)), gamma=GAMMA,
        epsilon=(1.0, 0.5, 1000.0), tau=0.1, batch=32, capacity=512, every=2,
    )  # fmt: skip
    traced = []

    @eqx.filter_jit
    def learn(state, key):
        traced.append(1)
        return dqn.run(state, key, 750)

    state = dqn.init(Table(jnp.zeros((N, 2))), key)
    for number in range(2):
        state, rewards, done = learn(state, jax.random.fold_in(key, number))
    assert len(traced) == 1 and rewards.shape == done.shape == (1500,)
    Q = value_iteration()
    # Transitions are certain, so the fixed point is exact; the rates end at zero.
    np.testing.assert_allclose(state.network.Q, Q, atol=5e-3)
    # The values tell ends from passages: with the target kept on at the end they would not agree.
    assert Q[0, 0] == 0.3 and state.count == 3000

    rewards, states = jax.jit(lambda net: greedy_episode(Chain(), net, key, 8))(state.network)
    place = int(Chain().reset(key))
    path = []
    while 0 <= place < N:
        place += 2 * int(np.argmax(Q[place])) - 1
        path.append(place)
    np.testing.assert_array_equal(states, path + [place] * (8 - len(path)))
    expected = [-0.05] * (len(path) - 1) + [1.0 if place == N else 0.3] + [0] * (8 - len(path))
    np.testing.assert_allclose(rewards, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"gamma": 1.1}, "gamma"),
        ({"tau": -0.1}, "tau"),
        ({"epsilon": (2.0, 0.1, 10.0)}, "epsilon"),
        ({"epsilon": (0.9, 0.1, 0.0)}, "epsilon"),
        ({"batch": 0}, "batch"),
        ({"batch": 11, "capacity": 10}, "batch"),
        ({"every": 0}, "every"),
    ],
)
def test_bad_input(change, name):
    with pytest.raises(ValueError, match=name):
        DQN(Chain(), optax.adam(1e-3), **change)


def test_a_network_of_the_wrong_length(key):
    with pytest.raises(ValueError, match="network"):
        DQN(Chain(), optax.adam(1e-3)).init(Table(jnp.zeros((N, 3))), key)
