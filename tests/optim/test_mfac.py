"""M-FAC against 50 recorded steps of its authors' code, dense inverses, and constrained minima."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci.optim import Gram, mfac, obs_prune, obs_scores, scale_by_mfac

RECORD = np.load(Path(__file__).parents[1] / "oracles" / "data" / "optim_second_b_mfac.npz")
RNG = np.random.default_rng(3)
ROWS = RNG.normal(size=(16, 40))


def noisy(x, t):
    i = jnp.arange(x.size)
    return jnp.geomspace(0.1, 10, x.size) * (x - 1) + jnp.sin(1.7 * t + i**2)


def dense(rows, damp):
    return damp * np.eye(rows.shape[1]) + rows.T @ rows / len(rows)


@pytest.mark.parametrize(
    "name, options",
    [
        ("plain", dict(learning_rate=0.05, damp=1e-2)),
        ("all", dict(learning_rate=0.1, damp=0.1, b1=0.9, weight_decay=0.01)),
    ],
)
def test_fifty_steps_of_the_authors_code(x64, name, options):
    tx = mfac(window=8, **options)
    x0 = jnp.asarray(RECORD["x0"])

    def body(carry, t):
        x, state = carry
        updates, state = tx.update(noisy(x, t), state, x)
        x = optax.apply_updates(x, updates)
        return (x, state), x

    points = jax.jit(lambda: jax.lax.scan(body, (x0, tx.init(x0)), jnp.arange(50.0))[1])()
    # Rounding times the condition number of m λ I + K, below 1e5.
    np.testing.assert_allclose(points, RECORD[name], atol=1e-10)


def test_products_with_the_inverse(x64):
    fisher = Gram(jnp.asarray(ROWS), 1e-2)
    inverse = np.linalg.inv(dense(ROWS, 1e-2))
    x, c = RNG.normal(size=40), RNG.normal(size=16)
    # Rounding times the condition number, about 1e3.
    np.testing.assert_allclose(fisher.solve(jnp.asarray(x)), inverse @ x, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(fisher.solve_member(5), inverse @ ROWS[5], atol=1e-11)
    np.testing.assert_allclose(
        fisher.solve_combination(jnp.asarray(c)), inverse @ ROWS.T @ c, atol=1e-10
    )
    np.testing.assert_allclose(fisher.diagonal(), np.diag(inverse), rtol=1e-11)
    np.testing.assert_allclose(fisher.entry(3, 7), inverse[3, 7], rtol=1e-10)
    np.testing.assert_allclose(fisher.entry(3, 3), inverse[3, 3], rtol=1e-10)


@pytest.mark.parametrize("damp", [1e-2, 1e-4, 1e-6])
def test_push_through_does_not_cancel_in_float32(damp):
    exact = np.linalg.solve(dense(ROWS, damp), ROWS[3])
    fisher = Gram(jnp.asarray(ROWS, jnp.float32), damp)

    def error(found):
        return np.linalg.norm(found - exact) / np.linalg.norm(exact)

    # Some rounding errors of float32 times the condition number of K, about 20.
    assert error(fisher.solve_member(3)) < 1e-5
    if damp == 1e-6:  # the general formula loses all digits, which is why the other exists
        assert error(fisher.solve(jnp.asarray(ROWS[3], jnp.float32))) > 1e-2


def test_dependent_gradients():
    """A window of equal gradients has rank one: F⁻¹ g = g / (λ + ‖g‖²)."""
    g = jnp.asarray(ROWS[0], jnp.float32)
    fisher = Gram(jnp.tile(g, (64, 1)), 1e-6)
    # What is added to the diagonal of K is 256 rounding errors of a product: some per cent.
    found = fisher.solve_member(9)
    assert jnp.linalg.norm(found - g / (g @ g)) < 0.05 * jnp.linalg.norm(found)
    # A rank that is full is left alone, however different the lengths. (A dense matrix with a
    # condition number of 1e17 is no oracle here; the small system in float64 is.)
    lengths = jnp.asarray(10.0 ** np.linspace(-3, 3, 16), jnp.float32)
    rows = jnp.asarray(ROWS, jnp.float32) * lengths[:, None]
    wide = np.asarray(rows, np.float64)
    exact = 16 * wide.T @ np.linalg.solve(16e-9 * np.eye(16) + wide @ wide.T, np.eye(16)[7])
    found = Gram(rows, 1e-9).solve_member(7)
    assert np.linalg.norm(found - exact) < 1e-5 * np.linalg.norm(exact)


def test_the_window_in_half_precision():
    full, half = scale_by_mfac(8, 1e-1), scale_by_mfac(8, 1e-1, storage=jnp.bfloat16)
    states = [tx.init(jnp.zeros(40)) for tx in (full, half)]
    assert states[1].rows.dtype == jnp.bfloat16 and states[1].products.dtype == jnp.float32
    for g in jnp.asarray(ROWS[:10], jnp.float32):
        (a, b), states = zip(
            *(tx.update(g, s) for tx, s in zip((full, half), states, strict=True)), strict=True
        )
    # The rounding of the gradients themselves, 2⁻⁹, times a condition number of a few.
    assert jnp.linalg.norm(a - b) < 2e-2 * jnp.linalg.norm(a)


def test_one_removal_is_the_constrained_minimum(x64):
    w = RNG.normal(size=40)
    F = dense(ROWS, 0.1)
    scores = obs_scores(jnp.asarray(w), Gram(jnp.asarray(ROWS), 0.1))
    i = int(np.argmin(scores))
    # The minimum of δᵀFδ/2 with δ_i = −w_i, from its optimality conditions.
    system = np.block([[F, np.eye(40)[:, [i]]], [np.eye(40)[[i]], np.zeros((1, 1))]])
    change = np.linalg.solve(system, np.append(np.zeros(40), -w[i]))[:40]
    np.testing.assert_allclose(scores[i], change @ F @ change / 2, rtol=1e-10)
    tree = {"a": jnp.asarray(w[:30]).reshape(5, 6), "b": jnp.asarray(w[30:])}
    grads = {"a": jnp.asarray(ROWS[:, :30]).reshape(16, 5, 6), "b": jnp.asarray(ROWS[:, 30:])}
    pruned, mask = obs_prune(tree, grads, 1 / 40, damp=0.1)
    found = np.concatenate([np.ravel(pruned["a"]), pruned["b"]])
    np.testing.assert_allclose(found, w + change, atol=1e-10)
    assert sum(int(jnp.sum(~leaf)) for leaf in jax.tree.leaves(mask)) == 1


def test_blocks_and_rounds(x64):
    w = RNG.normal(size=40)
    pruned, mask = obs_prune(jnp.asarray(w), jnp.asarray(ROWS), 0.6, damp=0.1, block=7, rounds=3)
    assert int(jnp.sum(mask)) == 16 and bool(jnp.all((pruned == 0) == ~mask))
    # By hand, block by block with dense inverses.
    v, kept = w.copy(), np.ones(40, bool)
    for n_kept in (round(40 * 0.4 ** (r / 3)) for r in (1, 2, 3)):
        inverse = np.zeros((40, 40))
        for start in range(0, 40, 7):
            part = slice(start, min(start + 7, 40))
            inverse[part, part] = np.linalg.inv(dense(ROWS[:, part] * kept[part], 0.1))
        scores = np.where(kept, v**2 / np.diag(inverse) / 2, np.inf)
        goes = np.argsort(scores)[: kept.sum() - n_kept]
        change = sum(inverse[:, i] * v[i] / inverse[i, i] for i in goes)
        kept[goes] = False
        v = np.where(kept, v - change, 0)
    np.testing.assert_allclose(pruned, v, atol=1e-10)


def test_what_is_refused():
    x = jnp.ones(3)
    for build, message in [
        (lambda: mfac(window=0), "window = 0"),
        (lambda: mfac(damp=0.0), "damp = 0.0"),
        (lambda: mfac(b1=1.0), "b1 = 1.0"),
        (lambda: mfac(weight_decay=-1.0), "weight_decay = -1.0"),
        (lambda: mfac(storage=jnp.int8), "storage"),
        (lambda: Gram(x, 1.0), "rows"),
        (lambda: Gram(jnp.ones((2, 3)), -1.0), "damp = -1.0"),
        (lambda: obs_scores(x, Gram(jnp.ones((2, 4)), 1.0)), "weights"),
        (lambda: obs_prune(x, jnp.ones((2, 3)), 1.0), "sparsity = 1.0"),
        (lambda: obs_prune(x, jnp.ones((2, 3)), 0.5, block=0), "block = 0"),
        (lambda: obs_prune(x, jnp.ones((2, 3)), 0.5, rounds=0), "rounds = 0"),
        (lambda: obs_prune(x, jnp.ones((2, 4)), 0.5), "loss_grads"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
    tx = mfac(window=2, weight_decay=0.1)
    with pytest.raises(ValueError, match="params"):
        tx.update(x, tx.init(x))
    with pytest.raises(TypeError, match="int32"):
        mfac(window=2).init(jnp.arange(2))
    with pytest.warns(UserWarning, match="GiB"):
        jax.eval_shape(mfac(window=10**6).init, jnp.zeros(10**5))


MANY = """
import jax, jax.numpy as jnp, jax.random as jr
from jaxsci.optim import obs_prune

w = jr.normal(jr.key(0), (3, 4000))
rows = jr.normal(jr.key(1), (3, 128, 4000))

def prune(w, rows):
    return obs_prune(w, rows, 0.8, damp=1.0, block=64, rounds=2)[0]

many = jax.jit(jax.vmap(prune))
for _ in range(5):
    found = jax.block_until_ready(many(w, rows))
one = jax.jit(prune)(w[1], rows[1])
# Another order of the sums: a few ε times the length of the weights.
assert jnp.linalg.norm(found[1] - one) < 1e-4 * jnp.linalg.norm(one)
"""


def test_many_networks_at_once():
    """In a process of its own, as a deadlock of XLA's threads would not end."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", MANY], check=True, timeout=120, env=environment)
