"""Reinforcement Learning for Adaptive Time-Stepping in the Chaotic Gravitational Three-Body Problem

Saz Ulibarrena and Portegies Zwart, arXiv:2502.12809.

**Claim.** A deep Q-network that chooses the parameter μ of the step size now and then is
competitive with existing ways to choose steps, and better than commonly used constants.

**What is compared with what.** Three equal bodies, starts as in the published code, ten years.
Hermite's method of order four with steps of μ times the time scale of the nearest encounter; the
network is asked every tenth of a year. Its reward is one of two: the published code's, or minus the
growth of log₁₀ |ΔE/E| and the steps taken. Each network is the best of its training by the return
from validation starts.

An episode is played by the environment itself, whose steps are those of a `PolicyController`, but
that none is cut short at the end. Against it stand on the test starts: constant values of μ (0.03
is the common one), and PI controllers on the error estimate, for the same method and for Dopri8,
over many tolerances and three pairs of gains. An evaluation is one of all accelerations; a jerk
counts as one more, a rejected step as any other, the network as none. A ratio is that of the
evaluations of a policy to those of a baseline that is tuned, on the test starts themselves, to the
error of the policy: the median over starts, or the 90th percentile of both.

**Found** (quick, seeds 5 and 31). False for both rewards: at a policy's error a constant μ needs
fewer evaluations. Ratios with the published reward 3.9 and 1.8, with the reward of work 1.6 and
1.7; to PI controllers 2.9 and 1.4, 1.3 and 1.3; with Dopri8, the best below errors of 1e-6 to 1e-7,
1.6 to 3.7 (seed 7201: 1.4 and 1.7 to a constant μ). No policy earns as much as the best constant,
by the median of trainings. Four times the training (50 rounds, seed 11) brings the published return
to 164 against 169, and the ratios to 3.4 and 1.5. Trainings differ much (returns of 5 to 178).
These are of 48 starts and validation after every 500 updates; with 32 starts and 750 updates, as
`quick` is now, seed 5 has ratios of 4.0 and 1.8, 3.2 and 1.4, 4.1 and 1.6, and seed 8104 of 2.2 and
1.9, 1.7 and 1.4, 3.2 and 1.8.

Why: the published reward divides what an error costs by the number of the check, so small steps
first and large ones at the end pay, and those spoil the error that the small ones paid for. And the
time scale leaves little to learn: of the powers τ^(1 + p) that were tried beside it, p = −0.1,
0.05, 0.15, 0.3 and 0.5, none did better at the median start. A constant μ also beats the PI
controllers on the same method, in accuracy for work.

Not done: other integrators in place of Hermite's (the paper's transfer), as there is no gain that
could be lost on the way.
"""

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxsci import experiment
from jaxsci.dynamics import DQN, AbstractEnv, Hermite4, NBody, greedy_episode
from jaxsci.experiment import Between, Claim, Logger, Result


@dataclass(frozen=True, kw_only=True)
class Config(experiment.Config):
    float64: bool = True
    seeds: Annotated[int, Between(1, 100)] = 3
    """trainings"""
    rounds: Annotated[int, Between(1)] = 8
    """parts of a training, after each of which the network is validated"""
    updates: Annotated[int, Between(1)] = 750
    """updates in each part"""
    every: Annotated[int, Between(1)] = 4
    """checks (transitions) from one update to the next"""
    width: Annotated[int, Between(1)] = 64
    """neurons in a hidden layer"""
    depth: Annotated[int, Between(1)] = 2
    """hidden layers"""
    actions: Annotated[int, Between(2)] = 7
    """values of μ, from `least` to 0.1"""
    least: float = 3e-3
    rate: float = 1e-3
    """learning rate"""
    batch: Annotated[int, Between(1)] = 64
    """transitions in an update"""
    gamma: float = 0.99
    """discount"""
    tau: float = 0.02
    """share of the network that enters its target at an update"""
    tolerances: tuple[float, float, int] = (-9.0, -4.0, 6)
    """of the PI controllers: first and last exponent, number; 0 leaves them out"""
    starts: Annotated[int, Between(1)] = 32
    """of validation, as many of the test"""


PRESETS = {
    "smoke": Config(
        seeds=1, rounds=1, updates=2, width=2, depth=1, actions=2, least=5e-2, starts=2,
        tolerances=(0.0, 0.0, 0),
    ),
    "quick": Config(),
    "full": Config(rounds=40, updates=500, least=1e-3, tolerances=(-10.0, -4.0, 7), starts=64),
    "paper": Config(
        seeds=10, rounds=400, updates=500, every=1, width=200, depth=9, actions=10, least=1e-4,
        batch=128, tau=0.005, starts=256, tolerances=(-12.0, -4.0, 17),
    ),
}  # fmt: skip
CHECK, CHECKS = 0.1, 100
GAINS = ((0.0, 1.0), (0.4, 0.3), (0.2, 0.4))  # of PI controllers: diffrax's, and two it recommends
LIMIT = 5000  # steps between two checks; more is a collision
# Of a controller, steps a check on average. At a tolerance of 1e-9 nine starts of ten take 90 or
# fewer; at 1e-4 and 1e-5 one to three in a hundred collapse at an encounter, and hardly move on.
COLLAPSED = 500
KM_PER_S = 0.210945  # in AU a year
EARLIER = np.tri(3, k=-1, dtype=bool)
SYSTEM = NBody(np.ones(3), G=4 * np.pi**2)
TERM = dfx.ODETerm(SYSTEM)


def start(key: PRNGKeyArray) -> Any:
    """Positions in AU and velocities in AU a year."""
    x1, y1, x2, y2 = jr.uniform(
        key, (4,), minval=jnp.array([5.0, 0, -10, 5]), maxval=jnp.array([20.0, 10, 0, 20])
    )
    r = jnp.stack([jnp.zeros(2), jnp.stack([x1, y1]), jnp.stack([x2, y2])])
    v = KM_PER_S * jnp.array([[0.0, 10], [-10, 0], [0, 0]])
    return SYSTEM.centred((r, v))


def energy_error(y: Any, y0: Any) -> Float[Array, ""]:
    """log₁₀ |ΔE/E|, from −16 on."""
    before = SYSTEM.energy(y0)
    return jnp.log10(jnp.maximum(jnp.abs((SYSTEM.energy(y) - before) / before), 1e-16))


def observe(y: Any, y0: Any) -> Float[Array, "10"]:
    """Of the three pairs, from the nearest on, distance, speed and approach; the energy error."""
    first, second = np.triu_indices(3, 1)
    r, v = y[0][second] - y[0][first], y[1][second] - y[1][first]
    distance, speed = jnp.linalg.norm(r, axis=1), jnp.linalg.norm(v, axis=1)
    approach = jnp.sum(r * v, axis=1) / (distance * speed)
    rows = jnp.stack([jnp.log10(distance), jnp.log10(speed), approach], 1)
    # Compiled faster than a sort: the place of each among the three.
    place = jnp.sum((distance < distance[:, None]) | ((distance == distance[:, None]) & EARLIER), 1)
    rows = jnp.zeros_like(rows).at[place].set(rows)
    return jnp.append(rows.ravel(), -energy_error(y, y0) / 10).astype(jnp.float32)


class Reward(NamedTuple):
    """Weights of what a check is worth, with e = |ΔE/E| after it and i its number.

    −level (10 + log₁₀ e)/(|log₁₀ e|³ i) + coarse/|log₁₀ μ| − growth Δlog₁₀ max(e, 1e-10) − work n

    The first two are the published code's; n is the number of steps since the last check.
    """

    level: float
    coarse: float
    growth: float
    work: float


REWARDS = {"published": Reward(3000.0, 4.0, 0.0, 0.0), "work": Reward(0.0, 0.0, 1.0, 1 / 400)}


class State(NamedTuple):
    """Of an episode: where it is, what Hermite's method keeps, and what has been done."""

    t: Float[Array, ""]
    y: Any
    derivatives: Any
    y0: Any
    checks: Int[Array, ""]
    steps: Int[Array, ""]


class ThreeBodies(AbstractEnv):
    """An action is the parameter μ of Hermite's method up to the next check."""

    actions: int = eqx.field(static=True)
    values: Float[Array, " a"]
    weights: Reward

    def reset(self, key: PRNGKeyArray) -> State:
        y0, zero = start(key), jnp.zeros(())
        derivatives = Hermite4().init(TERM, zero, zero, y0, None)
        return State(zero, y0, derivatives, y0, jnp.array(0), jnp.array(0))

    def observe(self, state: State) -> Float[Array, "10"]:
        return observe(state.y, state.y0)

    def step(self, state: State, action: Int[Array, ""]) -> tuple[State, Array, Bool[Array, ""]]:
        mu, weights = self.values[action], self.weights
        checks = state.checks + 1
        stop = CHECK * checks

        def advance(s: State) -> State:
            t1 = s.t + mu * SYSTEM.time_scale(s.y)
            y, _, _, kept, _ = Hermite4().step(TERM, s.t, t1, s.y, None, s.derivatives, False)
            return s._replace(t=t1, y=y, derivatives=kept, steps=s.steps + 1)

        def early(s: State) -> Bool[Array, ""]:
            return (s.t < stop) & (s.steps < state.steps + LIMIT)

        after = jax.lax.while_loop(early, advance, state)._replace(checks=checks)
        before, error = energy_error(state.y, state.y0), energy_error(after.y, state.y0)
        size = jnp.abs(jnp.minimum(error, -1.0))  # the formula has a pole at an error of one
        published = -weights.level * (error + 10) / size**3 / checks
        published += weights.coarse / jnp.abs(jnp.log10(mu))
        growth = jnp.maximum(error, -10.0) - jnp.maximum(before, -10.0)
        # Without an error before there is no published reward.
        reward = jnp.where(checks == 1, 0.0, published)
        reward -= weights.growth * growth + weights.work * (after.steps - state.steps)
        done = (error > -1) | (after.t < stop) | (checks == CHECKS)
        return after, reward.astype(jnp.float32), done


def network(key: PRNGKeyArray, config: Config) -> eqx.nn.MLP:
    mlp = eqx.nn.MLP(10, config.actions, config.width, config.depth, key=key)
    return jax.tree.map(lambda a: a.astype(jnp.float32) if eqx.is_inexact_array(a) else a, mlp)


def constant(k: int, config: Config) -> eqx.nn.MLP:
    """A network that always chooses action k."""
    shapes = eqx.filter_eval_shape(network, jr.key(0), config)
    zero = jax.tree.map(
        lambda a: np.zeros(a.shape, a.dtype) if isinstance(a, jax.ShapeDtypeStruct) else a, shapes
    )
    zero.layers[-1].bias[k] = 1
    return jax.tree.map(lambda a: jnp.asarray(a) if isinstance(a, np.ndarray) else a, zero)


class Played(NamedTuple):
    """The mean return over starts; log₁₀ errors and steps of each; the last one's course."""

    value: Float[Array, ""]
    errors: Float[Array, " starts"]
    steps: Int[Array, " starts"]
    course: dict[str, Float[Array, " checks"]]


@eqx.filter_jit
def play(env: ThreeBodies, policy: Any, keys: Any) -> Played:
    """Episodes one after another: in a batch all would run as long as the longest."""

    def episode(_: Any, key: PRNGKeyArray) -> tuple[Any, Any]:
        rewards, states = greedy_episode(env, policy, key, CHECKS)
        course = {
            "t": states.t,
            "step": CHECK / jnp.diff(states.steps, prepend=0),
            "tau": jax.vmap(SYSTEM.time_scale)(states.y),
        }
        end = jax.tree.map(lambda a: a[-1], states)
        return course, (jnp.sum(rewards), energy_error(end.y, end.y0), end.steps)

    empty = {name: jnp.zeros(CHECKS) for name in ("t", "step", "tau")}
    course, (totals, errors, steps) = jax.lax.scan(episode, empty, keys)
    return Played(jnp.mean(totals), errors, steps, course)


@eqx.filter_jit
def begin(dqn: DQN, config: Config, key: PRNGKeyArray) -> Any:
    make_key, init_key = jr.split(key)
    return dqn.init(network(make_key, config), init_key)


@eqx.filter_jit
def learn(dqn: DQN, state: Any, key: PRNGKeyArray, updates: int) -> Any:
    return dqn.run(state, key, updates)[0]


def train(
    dqn: DQN, env: ThreeBodies, config: Config, key: PRNGKeyArray, keys: Any
) -> tuple[Any, float]:
    """The network with the best return from the validation starts, and that return."""
    begin_key, run_key = jr.split(key)
    state = begin(dqn, config, begin_key)
    best, highest = state.network, -np.inf
    for round_key in jr.split(run_key, config.rounds):
        state = learn(dqn, state, round_key, config.updates)
        value = float(play(env, state.network, keys).value)
        if value > highest:
            best, highest = state.network, value
    return best, highest


@eqx.filter_jit
def by_tolerance(solver: Any, tolerances: Any, gains: Any, starts: Any) -> tuple[Array, Array]:
    """Energy errors and steps, "gains tolerances starts", of solves with a PI controller."""

    def solve(tolerance: Array, gains: Array, y0: Any) -> tuple[Array, Array]:
        solution = dfx.diffeqsolve(
            TERM,
            solver,
            0.0,
            CHECK * CHECKS,
            0.01,
            y0,
            stepsize_controller=dfx.PIDController(
                tolerance, tolerance, pcoeff=gains[0], icoeff=gains[1]
            ),
            max_steps=CHECKS * COLLAPSED,
            throw=False,
            adjoint=dfx.ForwardMode(),
        )
        y1 = jax.tree.map(lambda a: a[0], solution.ys)
        return energy_error(y1, y0), solution.stats["num_steps"]

    over_starts = jax.vmap(solve, (None, None, 0))
    pairs = [jnp.repeat(gains, tolerances.size, 0), jnp.tile(tolerances, gains.shape[0])]
    found = jax.lax.map(lambda pair: over_starts(pair[1], pair[0], starts), pairs)
    return jax.tree.map(lambda a: a.reshape(gains.shape[0], tolerances.size, -1), found)


class Curve(NamedTuple):
    """Log₁₀ of errors and of evaluations of several settings, quantiles over starts.

    Rows: the median, and the 90th percentile (of both), which tells of the hard starts.
    """

    errors: Float[np.ndarray, "2 settings"]
    work: Float[np.ndarray, "2 settings"]

    def needed(self, error: float, row: int) -> float:
        """Log₁₀ of the evaluations for an error, linear between the settings."""
        order = np.argsort(self.errors[row])
        return float(np.interp(error, self.errors[row][order], self.work[row][order]))


def quantiles(found: Any, evaluations: int) -> Curve:
    """Of errors and steps, "… settings starts"."""
    errors = np.nan_to_num(np.asarray(found[0]), nan=0.0, posinf=0.0)
    work = np.log10(evaluations * np.asarray(found[1]))
    return Curve(*(np.quantile(a, [0.5, 0.9], axis=-1) for a in (errors, work)))


def judged(played: list[Played]) -> Curve:
    """Of policies with Hermite's method, two evaluations a step."""
    return quantiles([np.stack([p.errors for p in played]), np.stack([p.steps for p in played])], 2)


def ratios(policies: Curve, others: list[Curve]) -> Float[np.ndarray, "2 policies"]:
    """Evaluations over those of the best of the others that has the same error."""
    needed = [
        [min(c.needed(error, row) for c in others) for error in policies.errors[row]]
        for row in (0, 1)
    ]
    return 10 ** (policies.work - np.array(needed))


def run(config: Config, *, key: PRNGKeyArray, log: Logger) -> Result:
    # This generator is compiled in less time.
    train_key, valid_key, test_key = jr.split(jr.key(jr.bits(key), impl="rbg"), 3)
    values = jnp.geomspace(config.least, 0.1, config.actions)
    valid_keys = jr.split(valid_key, config.starts)
    test_keys = jr.split(test_key, config.starts)

    constants = [constant(k, config) for k in range(config.actions)]
    updates = config.rounds * config.updates
    optimizer = optax.adam(optax.cosine_decay_schedule(config.rate, updates, 0.1))
    trained, returned, best_constant, episodes, points = {}, {}, {}, {}, {}
    for number, (name, weights) in enumerate(REWARDS.items()):
        env = ThreeBodies(config.actions, values, jax.tree.map(jnp.asarray, weights))
        dqn = DQN(
            env,
            optimizer,
            gamma=config.gamma,
            epsilon=(0.9, 0.05, 0.1 * updates * config.every),
            tau=config.tau,
            batch=config.batch,
            every=config.every,
        )
        trained[name] = []
        for seed_key in jr.split(jr.fold_in(train_key, number), config.seeds):
            policy, value = train(dqn, env, config, seed_key, valid_keys)
            trained[name].append(policy)
            log.say(f"{name} reward: return {value:.1f} (validation)")
        played = [play(env, p, test_keys) for p in trained[name]]
        returned[name], episodes[name] = [float(p.value) for p in played], played[0].course
        points[name] = judged(played)
        best_constant[name] = max(float(play(env, p, test_keys).value) for p in constants)

    # As a baseline the constants have values of their own.
    env = eqx.tree_at(lambda e: e.values, env, jnp.geomspace(0.01, 0.1, config.actions))
    curves = {"constant μ": [judged([play(env, p, test_keys) for p in constants])]}
    if config.tolerances[2] > 0:
        starts = jax.jit(jax.vmap(start))(test_keys)
        tolerances = jnp.logspace(*config.tolerances)
        for name, solver, evaluations in (("Hermite", Hermite4(), 2), ("Dopri8", dfx.Dopri8(), 13)):
            found = by_tolerance(solver, tolerances, jnp.array(GAINS), starts)
            curves[f"PI controller, {name}"] = [
                quantiles(pair, evaluations) for pair in zip(*found, strict=True)
            ]
    table = {
        (name, other): np.median(ratios(points[name], curves[other]), axis=1)
        for name in points
        for other in curves
    }
    for (name, other), ratio in table.items():
        log.say(f"{name} reward / {other}: {ratio[0]:.2f}, hard starts {ratio[1]:.2f}")
    seeds = f"median of {config.seeds} trainings"
    claims = [
        Claim(f"{name} reward: more than the best constant μ earns",
              float(np.median(returned[name])), ">", best_constant[name],
              f"mean return from the test starts, {seeds}")
        for name in points
    ] + [
        Claim(f"{name} reward: fewer evaluations than {other}", float(table[name, other][0]),
              "<", 1.0, f"ratio at the policy's own median error, {seeds}")
        for name in points
        for other in curves
    ] + [
        Claim(f"{name} reward: fewer than a constant μ on hard starts",
              float(table[name, "constant μ"][1]), "<", 1.0, f"90th percentiles, {seeds}")
        for name in points
    ]  # fmt: skip
    metrics: dict[str, Any] = {}
    for name, point in points.items():
        metrics[f"{name}, log10 error"] = float(np.median(point.errors[0]))
        metrics[f"{name}, evaluations"] = float(10 ** np.median(point.work[0]))
        metrics[f"{name}, return"] = float(np.median(returned[name]))
        metrics[f"{name}, return of the best constant"] = best_constant[name]
        for other in curves:
            metrics[f"{name} / {other}, hard starts"] = float(table[name, other][1])
    return Result(claims, metrics, {}, {"work": plot(points, curves, episodes)})


def plot(
    points: dict[str, Curve], curves: dict[str, list[Curve]], episodes: dict[str, dict[str, Array]]
) -> Any:
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.9), layout="constrained")
    for axis, row, title in ((axes[0], 0, "median start"), (axes[1], 1, "hard starts (90 %)")):
        for color, name in enumerate(curves):
            for number, one in enumerate(curves[name]):
                axis.plot(
                    *(10.0 ** a[row] for a in (one.work, one.errors)),
                    "o-", ms=3, lw=1, color=f"C{color}",
                    label=name if number == 0 else None,
                )  # fmt: skip
        for color, (name, point) in enumerate(points.items(), len(curves)):
            axis.plot(
                *(10.0 ** a[row] for a in (point.work, point.errors)),
                "*", ms=10, color=f"C{color}", label=f"policy, {name} reward",
            )  # fmt: skip
        axis.set(
            xscale="log", yscale="log", xlabel="evaluations", ylabel="|ΔE/E| after 10 years",
            title=title, ylim=(1e-11, 10),
        )  # fmt: skip
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    for color, (name, seen) in enumerate(episodes.items(), len(curves)):
        axes[2].plot(seen["t"], seen["step"], color=f"C{color}", label=f"step, {name} reward")
    axes[2].plot(seen["t"], seen["tau"], "k:", lw=1, label="time scale τ")
    axes[2].set(xlabel="years", yscale="log", ylabel="years", title="one start", ylim=(1e-5, 10))
    axes[2].legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 0))
    axes[2].grid(alpha=0.3)
    return figure
