"""SVAG: an optimiser's SDE limit by the optimiser itself, with smaller and noisier steps.

    ĝ = r₁ g(batch 1) + r₂ g(batch 2),    r_{1,2} = (1 ± (2 ℓ² − 1)^½) / 2

has the mean of g and ℓ² times its covariance, which is the gradient of a batch ℓ² times smaller.
With the hyperparameters scaled to such a batch and ℓ² times as many steps, all ℓ have the same SDE,
and ℓ → ∞ is its solution: where the curves for different ℓ agree, the SDE describes the optimiser
(Li et al., arXiv:2102.12470; for RMSprop and Adam: Malladi et al., arXiv:2205.10287).
"""

import jax
from jaxtyping import PyTree

from ..schedules.scaling import HyperScale, Rule


def svag_gradient(first: PyTree, second: PyTree, ell: float) -> PyTree:
    """ĝ from the gradients of two independent batches; for ℓ = 1 it is the first.

    **Raises:** `ValueError` for ℓ < 1.
    """
    _check(ell)
    if ell == 1:
        return first
    root = (2 * ell**2 - 1) ** 0.5
    return jax.tree.map(lambda a, b: (1 + root) / 2 * a + (1 - root) / 2 * b, first, second)


def svag(hyper: HyperScale, ell: float, rule: Rule = "adam-sqrt") -> HyperScale:
    """The hyperparameters that go with `svag_gradient`, for ℓ² times as many steps.

    Adam and RMSprop: lr/ℓ, (1 − b)/ℓ², ε ℓ; SGD: lr/ℓ². They are those of a batch 1/ℓ² as large.

    **Arguments:** `hyper`: the optimiser's own; `ell`: ℓ ≥ 1; `rule`: as `HyperScale.to_batch`.

    **Raises:** `ValueError` for ℓ < 1.
    """
    _check(ell)
    return hyper if ell == 1 else hyper.to_batch(1 / ell**2, rule)


def _check(ell: float) -> None:
    if not ell >= 1:
        raise ValueError(f"ell = {ell}: expected a number >= 1")
