"""SPON: traces bit by bit, dofs in another order, a V-cycle by hand, weights and nothing else."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from jaxsci.operators import SPON, MeshProcessor, MultigridProcessor
from jaxsci.pde import fem

WEIGHTS = dict(width=4, key=jr.key(0))
apply = eqx.filter_jit(lambda model, *args, **kwargs: model(*args, **kwargs))


@pytest.fixture(scope="module")
def spaces():
    return [fem.FunctionSpace(fem.l_shape(n)) for n in (2, 4)]


@pytest.fixture(scope="module")
def operator(spaces):
    """Two levels, c_in = 1 and boundary values of one component; compiled once."""
    net = MultigridProcessor(spaces, 2, 1, rounds=1, norm=True, **WEIGHTS)
    return SPON(spaces[1], spaces[1], net, bc="all")


def test_boundary_values_are_exact_at_any_weights(spaces, operator):
    """Of the function, hence between the dofs as well; parts of the boundary can stay free."""
    space = spaces[1]
    u, g = jr.normal(jr.key(1), (2, space.n_dofs, 1))
    rim = space.boundary_dofs()
    wild = jax.tree.map(lambda w: 100 * w if eqx.is_inexact_array(w) else w, operator)
    values = apply(wild, u, boundary=g)
    np.testing.assert_array_equal(values[rim], g[rim])
    free = np.setdiff1d(np.arange(space.n_dofs), rim)
    assert np.abs(values - g)[free].min() > 0
    mesh = space.basis.mesh
    middles = mesh.p[:, mesh.facets[:, mesh.boundary_facets()]].mean(1).T
    there = space.evaluation(middles)
    np.testing.assert_array_equal(there @ values, there @ g)

    part = SPON(space, space, lambda rows: rows[:, :1] + 5, bc=["left", "top"])
    values = part(u)
    fixed = space.boundary_dofs(["left", "top"])
    np.testing.assert_array_equal(values[fixed], 0)
    np.testing.assert_array_equal(np.delete(values, fixed), np.delete(u + 5, fixed))


def test_another_order_of_dofs_permutes_the_result(spaces, operator):
    """Also with the triangles' corners in another order, which changes no edge of the graph."""
    meshes = [space.basis.mesh for space in spaces]
    shuffled, orders = [], []
    for mesh in meshes:
        order = np.random.default_rng(0).permutation(mesh.p.shape[1])  # new i is old order[i]
        orders.append(order)
        cells = np.argsort(order)[mesh.t.T]
        (ax, ay), (bx, by), (cx, cy) = np.moveaxis(mesh.p.T[mesh.t.T], 1, 0).transpose(0, 2, 1)
        clockwise = (bx - ax) * (cy - ay) < (by - ay) * (cx - ax)
        cells[clockwise] = cells[clockwise][:, [0, 2, 1]]
        middles = {
            name: mesh.p[:, mesh.facets[:, facets]].mean(1).T.tolist()
            for name, facets in mesh.boundaries.items()
        }
        sides = {
            name: lambda x, known=known: [point in known for point in x.T.tolist()]
            for name, known in middles.items()
        }
        sides = {name: lambda x, f=f: np.asarray(f(x)) for name, f in sides.items()}
        shuffled.append(fem.FunctionSpace(fem.triangulation(mesh.p.T[order], cells, sides)))
    assert shuffled[1].tags == spaces[1].tags
    net = MultigridProcessor(shuffled, 2, 1, rounds=1, norm=True, **WEIGHTS)
    another = SPON(shuffled[1], shuffled[1], net, bc="all")
    u, g = jr.normal(jr.key(1), (2, spaces[1].n_dofs, 1))
    expected = apply(operator, u, boundary=g)[orders[1]]
    found = apply(another, u[orders[1]], boundary=g[orders[1]])
    np.testing.assert_allclose(found, expected, atol=1e-5)  # sums in another order


def dense(fixed):
    a = np.zeros(fixed.shape)
    np.add.at(a, tuple(np.asarray(fixed.indices).T), np.asarray(fixed.data.value))
    return a


def by_hand(mlp, h):
    for k, layer in enumerate(mlp.layers):
        if k:  # GELU, in the form with the hyperbolic tangent
            h = h / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        h = h @ np.asarray(layer.weight).T + np.asarray(layer.bias)
    return h


def test_levels_are_joined_by_finite_element_prolongation(spaces, operator):
    """With levels that do nothing, the cycle is what is written down here."""
    net = operator.processor
    coarse, fine = (np.asarray(space.pos) @ [-1.0, 4.0] for space in spaces)
    p, r = dense(net.prolong[0]), dense(net.restrict[0])
    np.testing.assert_allclose(p @ coarse, fine, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(r, p.T / p.sum(0)[:, None], rtol=1e-6)
    silent = eqx.tree_at(lambda n: (n.down, n.up), net, ((lambda h: h,) * 2, (lambda h: h,)))
    rows = np.random.default_rng(2).normal(size=(len(fine), 2)).astype(np.float32)
    x = np.asarray(spaces[1].pos)
    flags = [np.isin(np.arange(len(x)), spaces[1].boundary_dofs(tag)) for tag in spaces[1].tags]
    h = by_hand(net.encode, np.concatenate([rows, x, np.stack(flags, -1)], axis=-1))
    h = by_hand(net.merge[0], np.concatenate([p @ (r @ h), h], axis=-1))
    expected = by_hand(net.decode, h)
    np.testing.assert_allclose(apply(silent, rows), expected, rtol=1e-4, atol=1e-5)


def test_a_round_reaches_the_dofs_of_neighbouring_cells(spaces, operator):
    """A V-cycle reaches farther: which outputs change when one input does."""
    space, start = spaces[1], 0
    single = MeshProcessor(space, 2, 1, rounds=1, norm=True, **WEIGHTS)
    rows = np.random.default_rng(3).normal(size=(space.n_dofs, 2)).astype(np.float32)
    changed = rows.copy()
    changed[start] += 1
    cells = space.basis.mesh.t.T
    neighbours = np.unique(cells[(cells == start).any(1)])
    differs = np.asarray(apply(single, rows)) != np.asarray(apply(single, changed))
    np.testing.assert_array_equal(np.flatnonzero(differs), neighbours)
    free = eqx.tree_at(lambda o: o.boundary, operator, jnp.zeros(space.n_dofs, bool))
    zero = np.zeros((space.n_dofs, 1), np.float32)
    before, after = (np.asarray(apply(free, a[:, :1], boundary=zero)) for a in (rows, changed))
    assert np.sum(before != after) >= 3 * len(neighbours)


def test_only_weights_are_trained(operator):
    """The mesh's matrices and lengths are no parameters, and gradients are finite."""
    net = operator.processor
    trained = [a for a in jax.tree.leaves(eqx.filter(operator, eqx.is_inexact_array))]
    networks = (net.encode, net.decode, net.merge, [level.net for level in (*net.down, *net.up)])
    weights = jax.tree.leaves(eqx.filter(networks, eqx.is_inexact_array))
    assert sum(a.size for a in trained) == sum(a.size for a in weights)


def test_input_and_output_spaces_may_differ(spaces):
    p2, p1 = spaces[1].refined(0, degree=2), spaces[1]
    f = p2.interpolate(lambda x: np.stack([x[0] ** 2, x[0] * x[1]]))
    seen = SPON(p2, p1, lambda rows: rows)(f, cond=jnp.asarray([3.0]))
    x = np.asarray(p1.pos)
    expected = np.stack([x[:, 0] ** 2, x[:, 0] * x[:, 1], np.full(len(x), 3.0)], 1)
    np.testing.assert_allclose(seen, expected, atol=1e-6)


def test_bad_input_is_named(spaces, operator):
    space = spaces[1]
    u = jnp.ones((space.n_dofs, 1))
    with pytest.raises(ValueError, match=r"u: expected 21 dofs as rows.*\(8, 1\)"):
        operator(jnp.ones((8, 1)))
    with pytest.raises(ValueError, match=r"boundary: expected 21 dofs.*\(8, 1\)"):
        operator(u, boundary=jnp.ones((8, 1)))
    with pytest.raises(ValueError, match=r"processor: its output: expected 21 dofs"):
        SPON(space, space, lambda rows: rows[:3])(u)
    with pytest.raises(ValueError, match=r"boundary: expected the output's shape \(21, 2\)"):
        SPON(space, space, lambda rows: rows[:, :2])(jnp.ones((21, 2)), boundary=u)
    with pytest.raises(ValueError, match="no boundary 'wall'"):
        SPON(space, space, lambda rows: rows, bc="wall")
    with pytest.raises(ValueError, match="not nested"):
        three = fem.FunctionSpace(fem.l_shape(6))
        MultigridProcessor([space, three], 2, 1, rounds=1, norm=True, **WEIGHTS)
    with pytest.raises(ValueError, match=r"rounds: expected positive numbers for each of 2 spaces"):
        MultigridProcessor(spaces, 2, 1, rounds=(1, 1, 1), **WEIGHTS)
