"""PowerSGD against PyTorch's hook, NumPy's singular values, and itself on eight devices."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci.optim import (
    Workers,
    bytes_per_step,
    data_parallel,
    ef_sgd,
    mean_gradients,
    powersgd,
)

DATA = np.load(Path(__file__).parents[1] / "oracles" / "data" / "optim_distributed.npz")
SHAPES = {"first": (12, 10), "second": (12, 10), "kernel": (8, 3, 3, 3), "bias": (12,)}


def on_workers(tx, grads, state):
    """One update with the gradients stacked along a leading axis of workers."""
    workers = Workers(jax.tree.leaves(grads)[0].shape[0])
    specs = jax.tree.map(lambda _: workers.shared, state._replace(error=0))
    specs = specs._replace(error=workers.own)
    mapped = workers.map(tx.update, (workers.own, specs), (workers.shared, specs))
    return jax.jit(mapped)(grads, state)


def start_state(tx, params, workers):
    state = tx.init(params)
    return state._replace(error=Workers(workers).repeat(state.error))


def steps_of_the_hook(rank, **options):
    """Weights and the first worker's ‖E‖ after each step: two plain ones, then from the same Q."""
    tx = powersgd(rank, min_compression=1.0, start_step=2, **options)
    params = {name: jnp.ones(shape) for name, shape in SHAPES.items()}
    draws = (np.random.default_rng(worker) for worker in range(2))
    targets = [{n: rng.normal(size=s) for n, s in SHAPES.items()} for rng in draws]
    targets = jax.tree.map(lambda *t: jnp.stack(t), *targets)
    curvature = {n: jnp.linspace(0.2, 1.5, int(np.prod(s))).reshape(s) for n, s in SHAPES.items()}
    state = start_state(tx, params, 2)

    def first_q(q):
        m = q.shape[0]
        return jnp.asarray(np.cos(np.arange(m * rank) ** 1.3).reshape(m, rank))

    state = state._replace(q=jax.tree.map(first_q, state.q))
    assert state.q["bias"] is None and state.q["kernel"].shape == (27, rank)

    def body(carry, _):
        params, state = carry
        grads = jax.tree.map(lambda c, p, t: c * (p - t), curvature, params, targets)
        updates, state = on_workers(tx, grads, state)
        params = jax.tree.map(lambda p, u: p - 0.3 * u, params, updates)
        squares = [jnp.sum(e[0] ** 2) for e in jax.tree.leaves(state.error)]
        point = jnp.concatenate([params[n].ravel() for n in SHAPES])
        return (params, state), (point, jnp.sqrt(sum(squares)))

    return jax.jit(
        lambda: jax.lax.scan(body, (params, state), length=len(DATA["rank1_errors"]))[1]
    )()


@pytest.mark.parametrize(
    "case, options",
    [("rank1", {}), ("rank3", {}), ("rank2_no_feedback", dict(error_feedback=False))],
)
def test_steps_of_pytorchs_hook(x64, case, options):
    points, errors = steps_of_the_hook(int(case[4]), **options)
    # Rounding, through many power iterations of matrices that are far from low rank.
    np.testing.assert_allclose(points[1::2], DATA[case], atol=1e-10)
    if case == "rank3":
        # The hook's errors are M_w − M̂. They gather what is different between the workers at
        # every step; ours do not, and the updates are the same.
        theirs = DATA["rank3_errors"]
        half = len(theirs) // 2
        assert theirs[-1] > 1.9 * theirs[half]
        assert errors[-1] < 1.35 * errors[half] < 0.6 * theirs[half]


def test_power_iteration_finds_the_singular_vectors(x64):
    rng = np.random.default_rng(0)
    grads = jnp.asarray(rng.normal(size=(4, 9, 6)))
    mean = np.mean(grads, 0)
    u, s, vt = np.linalg.svd(mean)
    best = u[:, :2] * s[:2] @ vt[:2]
    for options, steps, tolerance in (
        # The error shrinks by (s₃/s₂)² in a step; half as fast by half steps.
        (dict(), 200, 1e-9),
        (dict(mode="alternating"), 400, 1e-9),
        (dict(iters=200, warm_start=False), 1, 1e-9),
    ):
        tx = powersgd(2, error_feedback=False, min_compression=0.0, **options)
        state = start_state(tx, grads[0], 4)

        def body(state, _, tx=tx):
            update, state = on_workers(tx, grads, state)
            return state, update

        found = jax.jit(lambda s, n=steps, b=body: jax.lax.scan(b, s, length=n)[1])(state)
        np.testing.assert_allclose(found[-1], best, atol=tolerance)
    # One step is one power iteration of the mean, whatever the workers' own gradients are.
    tx = powersgd(2, min_compression=0.0)
    state = start_state(tx, grads[0], 4)
    update, after = on_workers(tx, grads, state)
    p1 = np.linalg.qr(mean @ np.asarray(state.q))[0]
    np.testing.assert_allclose(update, p1 @ (mean.T @ p1).T, atol=1e-14)
    lost = np.eye(9) - p1 @ p1.T
    np.testing.assert_allclose(after.error.value, lost @ np.asarray(grads), atol=1e-14)
    # Nothing is lost: what was sent and what is kept add up to all gradients so far.
    second, after = on_workers(tx, grads, after)
    np.testing.assert_allclose(
        update + second + np.mean(after.error.value, 0), 2 * mean, atol=1e-13
    )


def test_full_rank_is_exact_and_zero_gradients_do_no_harm(x64):
    grads = jnp.asarray(np.random.default_rng(1).normal(size=(3, 4, 5)))
    tx = powersgd(7, min_compression=0.0)
    state = start_state(tx, grads[0], 3)
    assert state.q.shape == (5, 4)
    update, after = on_workers(tx, grads, state)
    np.testing.assert_allclose(update, np.mean(grads, 0), atol=1e-14)
    np.testing.assert_allclose(after.error.value, 0, atol=1e-14)
    scales = jnp.array([0.0] * 3 + [1.0] * 12)
    for mode in ("pq", "alternating"):
        tx = powersgd(2, min_compression=0.0, mode=mode)
        state = start_state(tx, grads[0], 3)

        def body(state, scale, tx=tx):
            update, state = on_workers(tx, scale * grads, state)
            norm = jnp.linalg.norm(state.error.value)
            return state, (jnp.linalg.norm(update), norm)

        updates, norms = jax.jit(lambda s, b=body: jax.lax.scan(b, s, scales)[1])(state)
        np.testing.assert_array_equal(updates[:3], 0)
        # It recovers: the errors stop growing, as all directions have their turn.
        assert np.isfinite(norms).all() and updates[-1] > 0.5
        assert max(norms[11:]) < 1.3 * max(norms[:11])


def test_rounding_goes_into_the_error():
    grads = jax.random.normal(jax.random.key(3), (2, 6, 8)).astype(jnp.bfloat16)
    tx = powersgd(1, min_compression=0.0)
    update, after = on_workers(tx, grads, start_state(tx, grads[0], 2))
    assert update.dtype == jnp.bfloat16 and after.error.value.dtype == jnp.float32
    total = update.astype(jnp.float32) + jnp.mean(after.error.value, 0)
    # All of it in float32: no rounding of bfloat16, 4e-3, is lost.
    np.testing.assert_allclose(total, jnp.mean(grads.astype(jnp.float32), 0), atol=1e-6)


def test_momentum_comes_after_decompression():
    """μ ← β μ + M̂, x ← x − lr (M̂ + μ), with no compression of a vector."""
    tx = ef_sgd(0.1, momentum=0.5, axis_name=None)
    g, x = jnp.array([1.0, -2.0]), jnp.zeros(2)
    state = tx.init(x)
    for mu in (1.0, 1.5, 1.75):
        updates, state = tx.update(g, state, x)
        np.testing.assert_allclose(updates, -0.1 * (1 + mu) * g, rtol=1e-6)


def test_bytes():
    params = {
        "w": jnp.zeros((64, 3, 3, 3)),
        "h": jnp.zeros((10, 20), jnp.bfloat16),
        "b": jnp.ones(7),
    }
    traffic = bytes_per_step(params, 2)
    # The kernel is 64 × 27, the small matrix would shrink to 60 of 200 numbers.
    assert traffic.compressed == 4 * (64 + 27) * 2 + 4 * 60 + 4 * 7
    assert traffic.plain == 4 * 64 * 27 + 2 * 200 + 4 * 7
    assert traffic.ratio == traffic.plain / traffic.compressed
    assert bytes_per_step(params, 2, iters=2).compressed == 2 * 4 * (91 * 2 + 60) + 28
    assert bytes_per_step(params, 2, mode="alternating").compressed == 4 * (91 + 30) + 28
    assert bytes_per_step(params, 2, min_compression=5.0).compressed == 4 * 91 * 2 + 400 + 28


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """Numbers from a process with eight devices."""
    file = tmp_path_factory.mktemp("eight") / "numbers.json"
    program = Path(__file__).parent / "distributed_run.py"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run(
        [sys.executable, "-P", str(program), "powersgd", str(file)], env=environment, check=True
    )
    return json.loads(file.read_text())


def test_eight_devices_and_one_agree(eight):
    for kind in ("compressed", "alternating", "plain"):
        mesh, one = eight[f"{kind}, mesh"], eight[f"{kind}, one"]
        # Another order of summation in float32, over six steps.
        np.testing.assert_allclose(mesh["params"], one["params"], atol=2e-5)
        np.testing.assert_allclose(mesh["values"], one["values"], rtol=1e-5)
        assert mesh["programs"] == one["programs"] == 1


def test_messages_on_the_wire_are_as_counted(eight):
    """All P with what is not compressed in one message, all Q in a second, the loss in a third."""
    compressed, plain = eight["bytes"]
    sizes = eight["compressed, mesh"]["messages"]["sizes"]
    assert sorted(sizes)[0] == 1 and len(sizes) == 3
    assert 4 * (sum(sizes) - 1) == compressed
    assert sorted(eight["plain, mesh"]["messages"]["sizes"]) == [1, plain // 4]
    # The error buffers, one for each matrix, stay with their workers.
    assert eight["compressed, mesh"]["errors"] == ["P('data',)"] * 3


def test_summed_gradients_are_refused(eight):
    assert "JAX has summed them" in eight["summed"]


def test_what_is_refused():
    for options, message in [
        (dict(rank=0), "rank = 0"),
        (dict(iters=0), "iters = 0"),
        (dict(start_step=-1), "start_step = -1"),
        (dict(min_compression=-1.0), "min_compression = -1.0"),
        (dict(mode="qp"), "mode = 'qp'"),
        (dict(mode="alternating", warm_start=False), "warm_start = False"),
    ]:
        with pytest.raises(ValueError, match=message):
            powersgd(**options)
    with pytest.raises(ValueError, match="momentum = 1"):
        ef_sgd(0.1, momentum=1.0)
    with pytest.raises(ValueError, match="rank = 0"):
        bytes_per_step(jnp.ones((2, 2)), rank=0)
    x = jnp.ones((4, 4))
    with pytest.raises(ValueError, match="axis_name = 'data' is not bound"):
        powersgd().update(x, powersgd().init(x))
    with pytest.raises(TypeError, match="complex64"):
        powersgd(axis_name=None).update(x + 0j, powersgd(axis_name=None).init(x))
    with pytest.raises(ValueError, match="where = 0"):
        Workers(0)
    with pytest.raises(TypeError, match="where = 'all'"):
        Workers("all")
    with pytest.raises(ValueError, match="axis = 'rows'"):
        Workers(jax.make_mesh((1,), ("data",)), "rows")
    parallel = data_parallel(
        lambda p, batch, key: jnp.sum(p * batch),
        optax.chain(mean_gradients(), optax.sgd(0.1)),
        Workers(4),
    )
    with pytest.raises(ValueError, match="split between 4 workers"):
        parallel.step(x, parallel.init(x)[1], jnp.ones((6, 4)), jax.random.key(0))
