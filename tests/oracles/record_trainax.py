"""Records trainax's losses of rollout training, and their gradients.

    python tests/oracles/record_trainax.py

needs jax, equinox and trainax; writes data/trainax.npz. The stepper is u + 0.3 tanh(W u) on eight
points, the solver u ↦ A u, the residual u' - A u - u'²/10; float64.
"""

from importlib.metadata import version
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import trainax

jax.config.update("jax_enable_x64", True)

POINTS, FRAMES, BATCH = 8, 6, 3


class Stepper(eqx.Module):
    weight: jax.Array

    def __call__(self, u):
        return u + 0.3 * jnp.tanh(u @ self.weight.T)


def main():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(POINTS, POINTS)) / np.sqrt(POINTS)
    solver = np.eye(POINTS) + 0.1 * rng.normal(size=(POINTS, POINTS))
    data = rng.normal(size=(BATCH, FRAMES, 1, POINTS))

    def reference(u):
        return u @ solver.T

    def residual(following, previous):
        return following - previous @ solver.T - following**2 / 10

    configuration = trainax.configuration
    cases = {
        "one_step": configuration.Supervised(1),
        "supervised_4": configuration.Supervised(4),
        "supervised_4_cut_1": configuration.Supervised(4, cut_bptt=True, cut_bptt_every=1),
        "supervised_5_cut_2": configuration.Supervised(5, cut_bptt=True, cut_bptt_every=2),
        "diverted_4": configuration.DivertedChain(4, 1),
        "diverted_4_branch_2": configuration.DivertedChain(4, 2),
        "diverted_4_branch_3_cut": configuration.DivertedChain(4, 3, cut_div_chain=True),
        "residuum_3": configuration.Residuum(3),
        "residuum_4_cut_2": configuration.Residuum(4, cut_bptt=True, cut_bptt_every=2),
    }
    arrays = {"weight": weight, "solver": solver, "data": data}
    for name, case in cases.items():
        loss, gradient = eqx.filter_value_and_grad(
            lambda stepper, case=case: case(
                stepper, jnp.asarray(data), ref_stepper=reference, residuum_fn=residual
            )
        )(Stepper(jnp.asarray(weight)))
        arrays[f"{name}_loss"], arrays[f"{name}_gradient"] = loss, gradient.weight
    np.savez(
        Path(__file__).parent / "data" / "trainax.npz",
        versions=[f"trainax {version('trainax')}", f"jax {version('jax')}"],
        **{name: np.asarray(value) for name, value in arrays.items()},
    )


if __name__ == "__main__":
    main()
