"""Random coordinates: the equations hold in them, checked by derivatives and by another solver."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg

from jaxsci.operators import RandomCoordinates, SmoothCoordinates
from jaxsci.operators import augment as eager_augment
from jaxsci.pde import ConvectionDiffusion, Elliptic, Grid, Wave

augment = eqx.filter_jit(eager_augment)
STRONG = {1: RandomCoordinates(1), 2: RandomCoordinates(2, modes=3, beta=0.25, power=2)}


# Smooth fields without any symmetry. The equations are made to hold by their right-hand sides.
def tensor(x):
    matrix = jnp.eye(x.size) * (2 + jnp.sin(jnp.sum(x))) + 0.3
    return matrix + 0.2 * jnp.outer(jnp.cos(x), jnp.cos(x + 1))


def vector(x):
    return jnp.sin(2 * x + jnp.arange(x.size)) + x[0]


def scalar(x):
    return jnp.sin(1.3 * jnp.sum(x) + 0.2) * jnp.exp(0.4 * x[0])


def evolving(t, x):
    return jnp.exp(-t) * scalar(x) + t**2 * jnp.cos(jnp.sum(x))


def flux_divergence(a, v, phi, x):
    """∂ᵢ(aⁱʲ ∂ⱼφ − vⁱφ) by nested derivatives."""
    return jnp.trace(jax.jacfwd(lambda y: a(y) @ jax.jacfwd(phi)(y) - v(y) * phi(y))(x))


def pointwise(law, change, fields):
    """The fields of the law as functions of ξ."""

    def at(xi):
        x = change.map(xi)
        return law(
            {name: field(x) for name, field in fields.items()},
            change.jacobian(xi),
            change.hessian(xi),
        )

    return at


def points(dim):
    return jr.uniform(jr.key(7), (5, dim), minval=0.05, maxval=0.95)


@pytest.mark.parametrize("dim", [1, 2])
def test_the_elliptic_equation_holds_in_new_coordinates(x64, dim):
    def none(x):
        return jnp.zeros_like(x)

    def source(x):
        return -flux_divergence(tensor, none, scalar, x)

    change = eqx.filter_jit(STRONG[dim].sample)(jr.key(1))
    new = pointwise(Elliptic(), change, {"a": tensor, "f": source, "u": scalar})

    def residual(xi):
        left = flux_divergence(lambda y: new(y)["a"], none, lambda y: new(y)["u"], xi)
        return -left - new(xi)["f"], new(xi)["f"]

    left, f = jax.jit(jax.vmap(residual))(points(dim))
    # Rounding alone: derivatives of products of up to some 1e3 in size.
    assert jnp.max(jnp.abs(left)) < 1e-9 * jnp.max(jnp.abs(f))


@pytest.mark.parametrize("dim", [1, 2])
def test_convection_and_diffusion_hold_in_new_coordinates(x64, dim):
    change = eqx.filter_jit(STRONG[dim].sample)(jr.key(2))

    def forced(t, x):  # ∂ₜφ minus what the equation says: a source, which is a density as φ is
        rate = jax.jacfwd(lambda s: evolving(s, x))(t)
        return rate - flux_divergence(tensor, vector, lambda y: evolving(t, y), x)

    t = 0.3
    fields = {"a": tensor, "v": vector, "initial": lambda x: evolving(t, x)}
    new = pointwise(
        ConvectionDiffusion(), change, fields | {"final": lambda x: forced(t, x)}
    )  # `final` changes as `initial` does

    def residual(xi):
        rate = jax.jacfwd(
            lambda s: evolving(s, change.map(xi)) * jnp.linalg.det(change.jacobian(xi))
        )(t)
        right = flux_divergence(
            lambda y: new(y)["a"], lambda y: new(y)["v"], lambda y: new(y)["initial"], xi
        )
        return rate - right - new(xi)["final"], new(xi)["final"]

    left, source = jax.jit(jax.vmap(residual))(points(dim))
    assert jnp.max(jnp.abs(left)) < 1e-9 * jnp.max(jnp.abs(source))  # rounding


@pytest.mark.parametrize("dim", [1, 2])
def test_the_wave_equation_holds_in_new_coordinates(x64, dim):
    change = eqx.filter_jit(STRONG[dim].sample)(jr.key(3))

    def right(c, d, e, u, x):
        second, first = jax.hessian(u)(x), jax.jacfwd(u)(x)
        return jnp.sum(c(x) * second) + d(x) @ first + e(x) * u(x)

    fields = {"c": tensor, "d": vector, "e": scalar, "initial": scalar}
    whole = lambda x: right(tensor, vector, scalar, scalar, x)  # noqa: E731
    new = pointwise(Wave(), change, fields | {"final": whole})

    def residual(xi):
        terms = [lambda y, name=name: new(y)[name] for name in ("c", "d", "e", "initial")]
        return right(*terms, xi) - new(xi)["final"], new(xi)["final"]

    left, value = jax.jit(jax.vmap(residual))(points(dim))
    assert jnp.max(jnp.abs(left)) < 1e-9 * jnp.max(jnp.abs(value))  # rounding


def test_another_solver_agrees_and_the_difference_falls_as_h_squared(x64):
    """A finite-difference solution in SciPy of the problem that `augment` made."""
    differences = []
    for n in (101, 201):
        grid = Grid(0.0, 1.0, n)
        x = grid.coords()[0]
        # u is exact for a = 2 + sin 5x and f = −(a u′)′.
        u, slope = jnp.sin(3 * jnp.pi * x), 3 * jnp.pi * jnp.cos(3 * jnp.pi * x)
        a = 2 + jnp.sin(5 * x)
        f = -5 * jnp.cos(5 * x) * slope + a * 9 * jnp.pi**2 * u
        change = RandomCoordinates(1, modes=2, beta=0.3, power=2).sample(jr.key(4))
        new = augment({"a": a[None, None], "f": f, "u": u}, Elliptic(), change, grid)
        a, f, u = (np.asarray(new[name]).reshape(n) for name in ("a", "f", "u"))
        faces = (a[1:] + a[:-1]) / 2 * (n - 1) ** 2
        matrix = scipy.sparse.diags(
            [-faces[1:-1], faces[1:] + faces[:-1], -faces[1:-1]], [-1, 0, 1], format="csc"
        )
        solved = scipy.sparse.linalg.spsolve(matrix, f[1:-1])
        differences.append(np.max(np.abs(solved - u[1:-1])))
    order = np.log2(differences[0] / differences[1])
    assert order > 1.8, differences  # second order on both sides
    assert differences[1] < 4e-3


@pytest.mark.parametrize("dim", [1, 2])
def test_maps_are_invertible_and_keep_the_sides(dim):
    law = RandomCoordinates(dim, modes=5, least=0.05 if dim == 2 else 0.5)
    changes = jax.jit(jax.vmap(law.sample))(jr.split(jr.key(0), 200))
    side = jnp.linspace(0, 1, 47)  # points other than those that `sample` looks at
    xi = jnp.stack(jnp.meshgrid(*[side] * dim, indexing="ij"), axis=-1).reshape(-1, dim)
    determinant = jax.jit(jax.vmap(lambda change: jnp.linalg.det(jax.vmap(change.jacobian)(xi))))(
        changes
    )
    # Between the probes J may dip a little below its bound of 0.05.
    assert jnp.min(determinant) > (0 if dim == 1 else 0.01)
    assert jnp.max(jnp.abs(determinant - 1)) > 0.5  # and they do something
    x = jax.jit(jax.vmap(lambda change: jax.vmap(change.map)(xi)))(changes)
    for value in (0.0, 1.0):
        np.testing.assert_allclose(jnp.where(xi == value, x, value), value, atol=2e-6)  # float32


def test_the_identity_returns_the_input(key):
    grid = Grid(0.0, 1.0, (9, 12))
    keys = jr.split(key, 3)
    fields = {
        "a": jnp.broadcast_to(jnp.eye(2)[:, :, None, None], (2, 2, 9, 12)) * 3,
        "f": jr.normal(keys[1], (9, 12)),
        "u": jr.normal(keys[2], (9, 12)),
    }
    identity = SmoothCoordinates(jnp.zeros((4, 2, 3)), 1.0)
    for method in ("cubic", "linear"):
        for name, field in augment(fields, Elliptic(), identity, grid, method=method).items():
            np.testing.assert_allclose(field, fields[name], atol=2e-6)  # float32 positions


@pytest.mark.parametrize("dim", [1, 2])
def test_the_mass_of_a_density_is_kept(dim):
    grid = Grid(0.0, 1.0, (161,) * dim)
    x = grid.coords()
    phi = jnp.exp(-40 * jnp.sum((x - 0.4) ** 2, axis=0))
    zero = jnp.zeros_like(x)
    fields = {
        "a": jnp.zeros((dim, dim, *grid.shape)) + jnp.eye(dim).reshape(dim, dim, *[1] * dim),
        "v": zero,
        "initial": phi,
        "final": phi,
    }
    law = RandomCoordinates(dim, modes=2, beta=0.25, power=2)
    change = eqx.filter_jit(law.sample)(jr.key(5))
    new = augment(fields, ConvectionDiffusion(), change, grid)
    before, after = (jnp.sum(grid.weights() * f) for f in (phi, new["initial"]))
    assert jnp.abs(jnp.max(new["initial"]) / jnp.max(phi) - 1) > 0.02  # it did change
    np.testing.assert_allclose(after, before, rtol=2e-4)  # trapezoids and interpolation, h² ~ 4e-5


def test_batches_and_no_second_compilation(key):
    grid = Grid(0.0, 1.0, 20)
    law = RandomCoordinates(1)
    fields = {
        "a": jnp.ones((6, 1, 1, 20)),
        "f": jr.normal(key, (6, 20)),
        "u": jr.normal(key, (6, 20)),
    }
    compiled = []

    @jax.jit
    def more(fields, key):
        compiled.append(1)
        changes = jax.vmap(law.sample)(jr.split(key, 6))
        return jax.vmap(lambda f, c: eager_augment(f, Elliptic(), c, grid))(fields, changes)

    first, second = more(fields, jr.key(1)), more(fields, jr.key(2))
    assert len(compiled) == 1
    assert first["a"].shape == (6, 1, 1, 20) and not jnp.allclose(first["u"], second["u"])


def test_what_is_refused():
    for arguments, name in (
        ({"dim": 3}, "dim"),
        ({"dim": 1, "modes": 0}, "modes"),
        ({"dim": 1, "beta": 0.0}, "beta"),
        ({"dim": 1, "power": 0.5}, "power"),
        ({"dim": 2, "least": 1.0}, "least"),
    ):
        with pytest.raises(ValueError, match=f"RandomCoordinates: {name}"):
            RandomCoordinates(**arguments)
    change = SmoothCoordinates(jnp.zeros((1, 2, 3)), 1.0)
    grid = Grid(0.0, 1.0, 8)
    fields = {"a": jnp.ones((1, 1, 8)), "f": jnp.ones(8), "u": jnp.ones(8)}
    for bad in (Grid(0.0, 1.0, 8, periodic=True), Grid(0.0, 2.0, 8)):
        with pytest.raises(ValueError, match="unit box"):
            augment(fields, Elliptic(), change, bad)
    with pytest.raises(ValueError, match="dimension 1, the grid 2"):
        augment(fields, Elliptic(), change, Grid(0.0, 1.0, (8, 8)))
    with pytest.raises(ValueError, match="method"):
        augment(fields, Elliptic(), change, grid, method="nearest")
    with pytest.raises(ValueError, match="field 'u' must end in"):
        augment(fields | {"u": jnp.ones(7)}, Elliptic(), change, grid)
    with pytest.raises(ValueError, match=r"fields must be \['a', 'f', 'u'\], got \['a', 'f'\]"):
        augment({"a": fields["a"], "f": fields["f"]}, Elliptic(), change, grid)
    with pytest.raises(ValueError, match=r"field 'a' must have shape \(1, 1, 8\), got \(8,\)"):
        augment(fields | {"a": jnp.ones(8)}, Elliptic(), change, grid)
