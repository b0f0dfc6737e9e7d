"""Symbolic regression: fields that are known, and what evolution may make."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from jaxsci.dynamics import (
    Expression,
    Front,
    SymbolicField,
    discover,
    refit,
    regularised_evolution,
)
from jaxsci.dynamics import symbolic as module

OPERATORS = ("+", "-", "*", "/")
# 1.5 (x − 0.5 y): "*" over a constant and "−" over x and "*" over a constant and y.
CODES = [5, 0, 4, 1, 1, 1, 5, 1, 1, 1, 1, 1, 1, 0, 2]
CONSTANTS = [0, 1.5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.5, 0]


def expression(codes=CODES, constants=CONSTANTS):
    return Expression(jnp.array(codes), jnp.array(constants, float), 2, OPERATORS)


def test_a_formula_is_what_its_tree_says():
    e, point = expression(), jnp.array([2.0, 3.0])

    @jax.jit
    def everything(e, point):
        slopes = jax.grad(lambda e: e(point), allow_int=True)(e).constants
        return e(point), jax.grad(e)(point), slopes, e.complexity()

    value, gradient, slopes, nodes = everything(e, point)
    np.testing.assert_allclose(value, 0.75, rtol=1e-6)
    np.testing.assert_allclose(gradient, [1.5, -0.75], rtol=1e-6)
    np.testing.assert_allclose(slopes[jnp.array([1, 13])], [0.5, -4.5], rtol=1e-6)
    assert np.count_nonzero(slopes) == 2 and nodes == 7
    assert e.text("xy") == "(1.5 * (x - (0.5 * y)))"
    field = SymbolicField(jax.tree.map(lambda a: jnp.stack([a, a]), e))
    assert field(0.0, point).shape == (2,) and field.text("xy")[1] == e.text("xy")


def test_the_front_chooses_the_knee():
    nodes = jnp.arange(6)
    many = Expression(jnp.zeros((6, 3), int), jnp.tile(nodes[:, None], 3), 1, ("+",))
    losses = jnp.array([1.0, jnp.inf, 1e-4, 9.9e-5, 9.8e-5, jnp.inf])
    assert Front(many, losses).best().constants[0] == 2
    # Within a hundredth of the least loss there is the fifth alone.
    assert Front(many, losses).best(slack=1.001).constants[0] == 4


def test_breeding_keeps_formulas_whole():
    """The last level holds leaves only, and every kind of change happens."""
    breeder = module._Breeder(2, OPERATORS, 4)

    @jax.jit
    def run():
        dice = module._Dice.roll(jr.key(0, impl="rbg"), 600, 15)
        grown = jax.vmap(breeder.grown)(dice)
        other = jax.tree.map(lambda a: jnp.roll(a, 1, axis=0), grown)
        more = module._Dice.roll(jr.key(1, impl="rbg"), 600, 15)
        child = jax.vmap(breeder)(more, grown, other)
        return grown, child, jax.vmap(Expression.complexity)(child)

    grown, child, nodes = run()
    for e in (grown, child):
        assert e.codes.min() >= 0 and e.codes.max() == 6 and e.codes[:, 7:].max() <= 2
    changed = jnp.any(grown.codes != child.codes, 1)
    assert 0.5 < jnp.mean(changed) < 1
    # Binary operators only: odd numbers, all of which occur.
    assert set(np.unique(nodes)) == {1, 3, 5, 7, 9, 11, 13, 15}


def test_a_field_is_recovered():
    """From 32 slopes of x' = y/(1 + y), y' = −x/(1 + x) with errors."""
    keys = jr.split(jr.key(7, impl="rbg"), 3)
    xs = jr.uniform(keys[0], (32, 2), minval=-0.5, maxval=2.0)
    truth = lambda xs: (xs / (1 + xs))[:, ::-1] * jnp.array([1.0, -1.0])  # noqa: E731
    slopes = truth(xs) + 0.003 * jr.normal(keys[1], (32, 2))
    field, fronts = discover(keys[2], xs, slopes, levels=3, generations=80, searches=2)
    line = jnp.linspace(-0.4, 1.9, 12)
    grid = jnp.stack(jnp.meshgrid(line, line), -1).reshape(-1, 2)
    found = jax.jit(jax.vmap(lambda y: field(0.0, y)))(grid)
    # Two constants from 32 errors of 0.003, which y/(1 + y) magnifies by up to 3 near −0.5.
    np.testing.assert_allclose(found, truth(grid), atol=0.01)
    assert fronts.losses.shape == (2, 7)
    assert jnp.all(jnp.min(fronts.losses, 1) < 1.5 * 0.003**2)


def test_constants_from_a_series(x64):
    """For x' = a y, y' = b x, whose solution is known."""
    start = SymbolicField(
        Expression(
            jnp.array([[5, 0, 2], [5, 0, 1]]),
            jnp.array([[0, 1.3, 0], [0, -1.2, 0]]),
            2,
            OPERATORS,
        )
    )
    ts = jnp.linspace(0, 2, 9)
    w = np.sqrt(1.5 * 0.8)
    ys = jnp.stack([jnp.cos(w * ts), -jnp.sin(w * ts) * w / 1.5], 1)[None]
    found = jax.jit(lambda: refit(start, ts, ys, rtol=1e-7))().expressions.constants[:, 1]
    np.testing.assert_allclose(found, [1.5, -0.8], rtol=1e-4)


def test_what_is_refused(key):
    xs, ys = jnp.ones((4, 2)), jnp.ones(4)
    for run, message in [
        (lambda: regularised_evolution(key, xs, xs), r"xs, targets: expected shapes"),
        (lambda: regularised_evolution(key, xs, ys, operators=("+", "^")), "operators = "),
        (lambda: regularised_evolution(key, xs, ys, levels=1), "levels = 1"),
        (lambda: regularised_evolution(key, xs, ys, starts=0), "starts = 0"),
        (lambda: regularised_evolution(key, xs, ys, population=100), "population = 100"),
        (lambda: discover(key, xs, xs, searches=0), "searches = 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            run()
