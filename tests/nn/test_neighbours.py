"""Neighbour search against scipy's k-d tree, in open and periodic boxes."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsci.nn import Box, Coo, Graph, Table, VerletList, knn, radius, with_capacity

N = 150
BOXES = {
    "open": (2, 0.17, None),
    "torus": (2, 0.17, Box((1.0, 0.8))),
    "tube": (3, 0.26, Box((1.0, 0.8, 1.0), periodic=(True, False, True))),
    "line": (1, 0.02, Box((1.0,))),
    "narrow": (2, 0.2, Box((1.0, 0.5))),  # two cells across: one, then
}


def points(seed, case):
    d, _, box = BOXES[case]
    lengths = np.ones(d) if box is None else np.asarray(box.lengths)
    rng = np.random.default_rng(seed)
    x = rng.random((N, d)) * lengths
    x[: N // 4] = x[0] + 0.03 * rng.normal(size=(N // 4, d))  # a cluster
    return x + rng.integers(-2, 3, (N, d)) * (0 if box is None else lengths * box.periodic)


def tree_pairs(src, dst, r, box):
    """Sets of (receiver, sender) by scipy."""
    sizes = None if box is None else np.where(box.periodic, box.lengths, 0)

    def wrap(x):
        return x if box is None else np.where(box.periodic, np.mod(x, box.lengths), x)

    tree = scipy.spatial.cKDTree(wrap(src), boxsize=sizes)
    found = tree.query_ball_point(wrap(dst), r)
    return {(i, j) for i, row in enumerate(found) for j in row}


def pairs(layout):
    mask = np.asarray(layout.edge_mask())
    senders, receivers = np.asarray(layout.senders)[mask], np.asarray(layout.receivers)[mask]
    found = set(zip(receivers.tolist(), senders.tolist(), strict=True))
    assert len(found) == mask.sum()  # no pair twice
    return found


@functools.cache
def search(case, engine, storage):
    _, r, box = BOXES[case]
    capacity = N if storage == "table" else N * N

    def find(x):
        options = dict(r=r, capacity=capacity, box=box, storage=storage, cell_capacity=N)
        return radius(x, engine=engine, **options)

    return find if engine == "host" else jax.jit(find)


@pytest.mark.parametrize("storage", ["table", "coo"])
@pytest.mark.parametrize("engine", ["cell", "brute", "host"])
@pytest.mark.parametrize("case", BOXES)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_every_engine_finds_the_trees_pairs(case, engine, storage, seed):
    with jax.enable_x64(True):
        x = points(seed, case)
        _, r, box = BOXES[case]
        layout, overflow = search(case, engine, storage)(jnp.asarray(x))
        assert not bool(overflow)
        assert pairs(layout) == {(i, j) for i, j in tree_pairs(x, x, r, box) if i != j}
        receivers = np.asarray(layout.to_coo().receivers)
        assert (np.diff(receivers) >= 0).all()
        assert isinstance(layout, Table if storage == "table" else Coo)


def compiled(engine):
    """`radius`, in jit where the engine is for that."""
    return radius if engine == "host" else eqx.filter_jit(radius)


@pytest.mark.parametrize("engine", ["cell", "brute", "host"])
def test_two_sets_masks_and_loops(engine, x64):
    rng = np.random.default_rng(0)
    src, dst = rng.random((40, 2)), rng.random((25, 2)) * 1.4 - 0.2
    box, r = Box((1.0, 1.0), (True, False)), 0.2
    src_mask, dst_mask = np.arange(40) % 3 > 0, np.arange(25) % 5 > 0
    src[0] = np.nan  # what is masked out may be anything
    layout, overflow = compiled(engine)(
        src, dst, r=r, capacity=25, box=box, engine=engine, src_mask=src_mask, dst_mask=dst_mask,
        cell_capacity=40,
    )  # fmt: skip
    expected = tree_pairs(np.nan_to_num(src, nan=9.0), dst, r, box)
    assert pairs(layout) == {(i, j) for i, j in expected if src_mask[j] and dst_mask[i]}
    assert not bool(overflow)
    dst = jnp.asarray(dst)
    alone, _ = radius(dst, r=1e-9, capacity=1, engine=engine, loops=True)
    np.testing.assert_array_equal(alone.senders[:, 0], np.arange(25))


@pytest.mark.parametrize("engine", ["cell", "brute", "host"])
def test_overflow_is_reported_and_capacity_grows(engine):
    x = jnp.asarray(np.random.default_rng(1).random((100, 2)))
    exact, _ = radius(x, r=0.2, engine="host")
    most, find = int(exact.degree().max()), compiled(engine)
    for storage, enough in (("table", most), ("coo", int(exact.degree().sum()))):
        options = dict(r=0.2, engine=engine, storage=storage, cell_capacity=100)
        assert not bool(find(x, capacity=enough, **options)[1])
        assert bool(find(x, capacity=enough - 1, **options)[1])
    if engine == "host":
        return

    def of_capacity(x, capacity):
        return radius(x, r=0.2, capacity=capacity, engine=engine)

    found = with_capacity(of_capacity, start=4)
    layout, capacity = found(x)
    assert pairs(layout) == pairs(exact) and capacity in (4, 8, 16, 32, 64)
    assert found(x, capacity=capacity)[1] == capacity
    with pytest.raises(RuntimeError, match="limit of 4"):
        with_capacity(of_capacity, start=1, limit=4)(x)
    crowded = jnp.zeros((30, 2))  # more in one cell than fit
    assert bool(find(crowded, r=0.1, capacity=40, engine="cell", cell_capacity=8)[1])


def test_a_traced_radius_and_single_precision():
    """The radius may be traced; and positions whose cells are decided by rounding lose no pair."""
    spacing = 0.1
    x = jnp.stack(jnp.meshgrid(jnp.arange(10), jnp.arange(10)), -1).reshape(-1, 2) * spacing
    box = Box((1.0, 1.0))

    @jax.jit
    def degrees(x, r):
        layout, overflow = radius(x, r=r, capacity=12, box=box, engine="cell", cell_capacity=100)
        return layout.degree(), overflow

    find = compiled("cell")
    for r, expected in ((0.1001, 4), (0.142, 8)):
        degree, overflow = degrees(x, jnp.asarray(r))
        np.testing.assert_array_equal(degree, expected)
        assert not bool(overflow)
        for shift in (0.0, 0.05, 0.1):
            layout, _ = find(x + shift, r=r, capacity=12, box=box, engine="cell")
            np.testing.assert_array_equal(layout.degree(), expected)


@pytest.mark.parametrize("case", ["open", "tube"])
def test_knn_is_the_trees(case, x64):
    x = points(5, case)[:60]
    _, _, box = BOXES[case]
    found = {e: np.asarray(knn(jnp.asarray(x), k=4, box=box, engine=e).senders)
             for e in ("brute", "host")}  # fmt: skip
    np.testing.assert_array_equal(found["brute"], found["host"])
    sizes = None if box is None else np.where(box.periodic, box.lengths, 0)
    wrapped = x if box is None else np.where(box.periodic, np.mod(x, box.lengths), x)
    expected = scipy.spatial.cKDTree(wrapped, boxsize=sizes).query(wrapped, 5)[1][:, 1:]
    np.testing.assert_array_equal(found["brute"], expected)
    mask = np.arange(60) < 3
    for engine in ("brute", "host"):
        layout = knn(x, k=4, engine=engine, src_mask=mask)
        np.testing.assert_array_equal(layout.degree(), np.where(mask, 2, 0))


def test_verlet_list_keeps_every_pair_of_a_moving_cloud(x64):
    _, r, box = BOXES["torus"]
    x0 = jnp.asarray(points(7, "torus"))
    v = jax.random.normal(jax.random.key(1), x0.shape) * 0.004

    @eqx.filter_jit
    def simulate(x0):
        start = VerletList.init(x0, r=r, skin=0.05, capacity=100, box=box, engine="cell")

        def step(carry, _):
            neighbours, x = carry
            x = x + v
            neighbours = neighbours.update(x)
            return (neighbours, x), (neighbours.within(x), x)

        (last, _), frames = jax.lax.scan(step, (start, x0), None, length=12)
        return last, frames

    last, (layouts, xs) = simulate(x0)
    assert not bool(last.overflow)
    for k in (0, 5, 11):
        layout = jax.tree.map(lambda leaf, k=k: leaf[k], layouts)
        x = np.asarray(xs[k])
        assert pairs(layout) == {(i, j) for i, j in tree_pairs(x, x, r, box) if i != j}
    assert 2 <= int(last.n_searches) < 12  # a search now and then, not each step


def test_gradients_flow_through_displacements_alone(x64):
    """The search has no gradient; that of an energy of its edges is the all-pairs one."""
    box, r = Box((1.0, 1.0)), 0.3
    x = jnp.asarray(np.random.default_rng(3).random((20, 2)))

    def energy(x):
        layout, _ = radius(x, r=r, capacity=19, box=box, engine="cell", cell_capacity=20)
        gap = Graph(x, layout, pos=x, box=box).edge_vectors()
        well = (r**2 - jnp.sum(gap**2, -1))[..., None] ** 2
        return jnp.sum(layout.reduce(well))

    def all_pairs(x):
        squared = jnp.sum(box.displacement(x[:, None], x[None]) ** 2, -1)
        near = (squared <= r**2) & ~jnp.eye(20, dtype=bool)
        return jnp.sum(jnp.where(near, (r**2 - squared) ** 2, 0))

    for value, expected in (
        (energy(x), all_pairs(x)),
        (jax.grad(energy)(x), jax.grad(all_pairs)(x)),
    ):
        np.testing.assert_allclose(value, expected, rtol=1e-10, atol=1e-14)  # rounding


def test_bad_input_is_named():
    x = jnp.zeros((5, 2))
    box = Box((1.0, 1.0))
    for error, words, call in [
        (ValueError, "engine must", lambda: radius(x, r=0.1, capacity=4, engine="tree")),
        (ValueError, "storage must", lambda: radius(x, r=0.1, capacity=4, storage="csr")),
        (ValueError, "r must be positive", lambda: radius(x, r=0.0, capacity=4)),
        (ValueError, "half of the shortest", lambda: radius(x, r=0.6, capacity=4, box=box)),
        (ValueError, "capacity must be", lambda: radius(x, r=0.1, capacity=0)),
        (ValueError, "needs a capacity", lambda: radius(x, r=0.1)),
        (TypeError, "real numbers", lambda: radius(jnp.zeros((5, 2), int), r=0.1, capacity=4)),
        (ValueError, r"shape \(n, d\)", lambda: radius(jnp.zeros(5), r=0.1, capacity=4)),
        (ValueError, "same number", lambda: radius(x, jnp.zeros((3, 1)), r=0.1, capacity=4)),
        (ValueError, "src_mask", lambda: radius(x, r=0.1, capacity=4, src_mask=np.ones(3, bool))),
        (TypeError, "outside jit", lambda: jax.jit(lambda x: radius(x, r=0.1, engine="host"))(x)),
        (ValueError, r"1\.\.4", lambda: knn(x, k=5)),
        (ValueError, "engine must", lambda: knn(x, k=1, engine="cell")),
        (ValueError, "start must", lambda: with_capacity(lambda capacity: None, start=0)),
        (ValueError, "skin", lambda: VerletList.init(x, r=0.1, skin=-1.0, capacity=4)),
        (ValueError, "engine must",
         lambda: VerletList.init(x, r=0.1, skin=0.0, capacity=4, engine="host")),
        (ValueError, "expected positions",
         lambda: VerletList.init(x, r=0.1, skin=0.0, capacity=4).update(x[1:])),
    ]:  # fmt: skip
        with pytest.raises(error, match=words):
            call()
