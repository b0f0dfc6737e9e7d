"""Taylor mode against nested forward mode, which shares no code with it."""

import warnings

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.autodiff import JetPlan, OneHot, faa_di_bruno, jet, mixed_jet, partitions

X = np.array([0.3, -0.7, 1.1])
V = np.array([0.5, 1.0, -0.3])


def nested(f, x, v, order):
    """A function and its directional derivatives, one jvp inside another."""

    def along(f):
        return lambda x: jax.jvp(f, (x,), (v,))[1]

    out = [f(x)]
    for _ in range(order):
        f = along(f)
        out.append(f(x))
    return out


FUNCTIONS = {
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
    "gelu exact": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "mish": jax.nn.mish,
    "log_sigmoid": jax.nn.log_sigmoid,
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "celu": jax.nn.celu,
    "selu": jax.nn.selu,
    "hard_tanh": jax.nn.hard_tanh,
    "squareplus": jax.nn.squareplus,
    "soft_sign": jax.nn.soft_sign,
    "sin": lambda x: jnp.sin(30 * x) / 30,
    "cos": jnp.cos,
    "tan": jnp.tan,
    "sinh cosh": lambda x: jnp.sinh(x) * jnp.cosh(2 * x),
    "sinc": jnp.sinc,
    "gauss": lambda x: jnp.exp(-(x**2)),
    "exp2": jnp.exp2,
    "expm1": jnp.expm1,
    "log": lambda x: jnp.log(x + 2) * jnp.log1p(x * x),
    "arctan": jnp.arctan,
    "arcsinh": jnp.arcsinh,
    "sqrt": lambda x: jnp.sqrt(1 + x**2) + jax.lax.rsqrt(x + 2.0),
    "power": lambda x: (x + 3) ** 2.5 + x**3 + (x + 2) ** -2,
    "divide": lambda x: x[1:] / (1 + x[:-1] ** 2),
    "softmax": jax.nn.softmax,
    "logsumexp": jax.nn.logsumexp,
    "norm": jnp.linalg.norm,
    "maximum": lambda x: jnp.maximum(jnp.sin(x), x**2) + jnp.min(x**3),
    "wavelet": lambda x: jnp.real(jnp.exp(3j * x - jnp.abs(2 * x + 0j) ** 2)),
    "cumprod": lambda x: jnp.cumprod(x + 2),
    "prod": jnp.prod,
    "fft": lambda x: jnp.abs(jnp.fft.rfft(x)) ** 2,
    "solve": lambda x: jnp.linalg.solve(jnp.outer(x, x) + 4 * jnp.eye(3), x),
    "sort": lambda x: jnp.sort(x**2),
    "where": lambda x: jnp.where(x > 0, jnp.sin(x), x**2),
    "lgamma": lambda x: jax.lax.lgamma(x + 2.0),
    "rounded": lambda x: x**2 * jnp.round(10 * x) + jax.lax.stop_gradient(x) * x,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_activation(name, x64):
    f = FUNCTIONS[name]
    # Nested jvp compiles slowly: 2⁶ passes through the function.
    orders = {"tanh": 6, "sin": 6, "silu": 6, "softplus": 5, "solve": 2, "lgamma": 3}.get(name, 4)

    @jax.jit
    def both(x, v):
        y, derivatives = jet(f, x, [v] + [None] * (orders - 1))
        return [y, *derivatives], nested(f, x, v, orders)

    for ours, theirs in zip(*both(X, V), strict=True):
        # Rounding, which the sixth derivative of sin(30 x) and the fourth of sinc multiply.
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11)


def looped(x):
    w = jnp.arange(9.0).reshape(3, 3) / 5

    def body(c, a):
        return jnp.tanh(c @ w) + a, jnp.sum(c * x)

    c, sums = jax.lax.scan(body, x, jnp.ones((4, 3)))
    c = jax.lax.fori_loop(0, 3, lambda i, c: jnp.sin(c) + i, c)
    c = jax.lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, s[1] * x), (0, c))[1]
    c = jax.lax.cond(c[0] > 100, lambda c: c, lambda c: c**2, c)
    c = jax.checkpoint(lambda c: jnp.tanh(c) * c)(c)
    return jnp.sum(c) + jnp.sum(sums)


def test_control_flow_and_checkpoints(x64):
    y, derivatives = jax.jit(lambda x: jet(looped, x, [V, None, None]))(X)
    wanted = jax.jit(lambda x: nested(looped, x, V, 3))(X)
    np.testing.assert_allclose([y, *derivatives], wanted, rtol=1e-12)


def test_inside_scan_remat_vmap_and_grad(x64):
    w = jax.random.normal(jax.random.key(1), (4, 3), jnp.float64)

    def curvature(w, x, take):
        second = take(lambda x: jnp.sum(jax.nn.silu(w @ x)), x)
        return second

    def ours(f, x):
        return jet(f, x, [V, None])[1][1]

    def theirs(f, x):
        return nested(f, x, jnp.asarray(V), 2)[2]

    def loss(w, take):
        points = jnp.stack([X, 2 * X, -X])

        def body(total, x):
            return total + jax.checkpoint(lambda w: curvature(w, x, take))(w), None

        in_loop = jax.lax.scan(body, 0.0, points)[0]
        return in_loop + jnp.sum(jax.vmap(lambda x: curvature(w, x, take) ** 2)(points))

    found = jax.jit(jax.value_and_grad(lambda w: loss(w, ours)))(w)
    wanted = jax.jit(jax.value_and_grad(lambda w: loss(w, theirs)))(w)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, wanted)


def test_curves_with_several_derivatives(x64):
    """Against the composition, differentiated as a function of t."""
    a, b = jnp.asarray(V), jnp.asarray([0.2, -1.0, 0.4])

    def f(tree):
        return jnp.sin(jnp.sum(tree["x"])) * tree["y"]

    def curve(t):
        return f({"x": X + a * t + b * t**3 / 6, "y": 2.0 + t**2 / 2 * 5.0})

    zero = {"x": jnp.zeros(3), "y": jnp.zeros(())}
    series = [
        {"x": a, "y": jnp.zeros(())},
        {"x": jnp.zeros(3), "y": jnp.asarray(5.0)},
        {"x": b, "y": jnp.zeros(())},
        zero,
    ]
    y, derivatives = jax.jit(lambda x, y: jet(f, {"x": x, "y": y}, series))(X, 2.0)
    wanted = jax.jit(lambda t: nested(curve, t, jnp.ones(()), 4))(jnp.zeros(()))
    np.testing.assert_allclose([y, *derivatives], wanted, rtol=1e-12)


def boxed(w):
    return lambda x: jnp.sum(jnp.tanh(w @ x + 1)) * (1 - jnp.sum(x**2)) + jnp.sum(jnp.sin(x) / x)


def test_one_hot_is_the_dense_direction(x64):
    w = jax.random.normal(jax.random.key(0), (5, 3), jnp.float64)
    for f in (boxed(w), lambda x: jnp.sum(x[1:] * x[:-1]) ** 3, jax.checkpoint(boxed(w))):
        sparse = jax.vmap(lambda i, f=f: jet(f, X, [OneHot(i, 2.0), None, None])[1])
        dense = jax.vmap(lambda v, f=f: jet(f, X, [v, None, None])[1])
        found, wanted = jax.jit(sparse)(jnp.arange(3)), jax.jit(dense)(2.0 * jnp.eye(3))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), found, wanted)


def test_one_hot_needs_no_vector_of_the_dimension():
    """Nothing but f itself has the size of x; a dense direction doubles it."""
    d = 4096

    def sizes(direction):
        w = jnp.ones((4, d))
        jaxpr = jax.make_jaxpr(lambda x, w: jet(boxed_linear(w), x, [direction, None])[1][1])(
            jnp.ones(d), w
        ).jaxpr
        return sum(out.aval.size >= d for eqn in jaxpr.eqns for out in eqn.outvars)

    def boxed_linear(w):
        return lambda x: jnp.sum(jnp.tanh(w @ x)) * (1 - jnp.sum(x**2))

    plain = jax.make_jaxpr(boxed_linear(jnp.ones((4, d))))(jnp.ones(d)).jaxpr
    base = sum(out.aval.size >= d for eqn in plain.eqns for out in eqn.outvars)
    assert sizes(OneHot(jnp.asarray(7))) <= base + 2  # and the iota of no direction
    assert sizes(jnp.zeros(d).at[7].set(1)) > base + 2


def test_mixed_derivatives(x64):
    f = boxed(jax.random.normal(jax.random.key(0), (5, 3), jnp.float64))
    found = jax.jit(lambda x: mixed_jet(f, x, (0, 2), (2, 1)))(X)
    third = jax.jit(jax.jacfwd(jax.jacfwd(jax.jacfwd(f))))(X)
    np.testing.assert_allclose(found[2, 1], third[0, 0, 2], rtol=1e-11)
    np.testing.assert_allclose(found[1, 1], jax.hessian(f)(jnp.asarray(X))[0, 2], rtol=1e-11)
    np.testing.assert_allclose(found[0, 0], f(X), rtol=1e-14)


def exponential(rates):
    """∂^α exp(r·x) = r^α exp(r·x)."""
    return lambda x: jnp.exp(jnp.dot(jnp.asarray(rates), x))


def index_of_order(most):
    """All plans with up to three axes and up to six derivatives."""
    for total in range(1, most + 1):
        for a in range(1, total + 1):
            if a == total:
                yield (a,)
            for b in range(1, total - a + 1):
                if a + b == total:
                    yield (a, b)
                c = total - a - b
                if c > 0:
                    yield (a, b, c)


def test_every_plan_to_order_six_holds_its_derivative_alone(x64):
    rates, planned = np.array([0.7, -1.3, 0.9]), 0
    f, x = exponential(rates), jnp.zeros(3)
    compiled = {}
    for index in index_of_order(6):
        try:
            plan = JetPlan.for_index(index)
        except ValueError as error:
            assert "mixed_jet" in str(error) and sum(index) >= 4
            continue
        planned += 1
        series = [None] * plan.order
        for axis, place in enumerate(plan.placements):
            series[place - 1] = jnp.eye(3)[axis]
        value = compiled.setdefault((plan.order, plan.placements), jet(f, x, series)[1][-1])
        wanted = np.prod(rates[: len(index)] ** np.array(index))
        # Sums of a few hundred products, whose parts are of the size of the coefficient.
        np.testing.assert_allclose(value / plan.coefficient, wanted, rtol=1e-10)
    assert planned == 24


def test_numbers_of_the_paper(x64):
    """The jets of arXiv:2412.00088, with everything that is in them."""
    assert JetPlan.contents((2, 3), 7) == {(2, 1): 105}
    assert JetPlan.contents((2, 3), 9) == {(3, 1): 1260, (0, 3): 280}
    assert JetPlan.contents((3, 4, 7), 13) == {(3, 1, 0): 200200, (2, 0, 1): 17160}
    assert faa_di_bruno(4, {1: 4}) == 1 and faa_di_bruno(4, {1: 2, 2: 1}) == 6
    rates = np.array([0.7, -1.3, 0.9])
    e = jnp.eye(3)
    series = [None, None, e[0], e[1], None, None, e[2], *[None] * 6]
    last = jet(exponential(rates), jnp.zeros(3), series)[1][-1]
    r = rates
    np.testing.assert_allclose(last, 200200 * r[0] ** 3 * r[1] + 17160 * r[0] ** 2 * r[2])


def test_bell_numbers():
    """Σ over all partitions of Faà di Bruno's numbers counts the partitions of a set."""
    for order, bell in enumerate([1, 1, 2, 5, 15, 52, 203, 877]):
        parts = list(range(1, order + 1))
        found = sum(
            faa_di_bruno(order, dict(zip(parts, counts, strict=True)))
            for counts in partitions(order, parts)
        )
        assert found == bell


def test_a_primitive_without_a_rule_warns_and_is_right(x64):
    from jax.extend.core import Primitive
    from jax.interpreters import ad, mlir

    cube = Primitive("cube_of_the_test")
    cube.def_abstract_eval(lambda x: x)
    cube.def_impl(lambda x: x**3)
    mlir.register_lowering(cube, mlir.lower_fun(lambda x: x**3, multiple_results=False))
    ad.defjvp(cube, lambda t, x: 3 * x**2 * t)
    with pytest.warns(UserWarning, match="'cube_of_the_test' has no rule for power series"):
        _, derivatives = jet(lambda x: jnp.sum(cube.bind(x)), jnp.asarray(X), [V, None, None])
    wanted = [3 * X**2 @ V, 6 * X @ V**2, 6 * np.sum(V**3)]
    np.testing.assert_allclose(derivatives, wanted, rtol=1e-13)


def test_bad_input():
    x = jnp.zeros(3)
    with pytest.raises(ValueError, match="from 1 to 24 derivatives, got 0"):
        jet(jnp.sin, x, [])
    with pytest.raises(ValueError, match="from 1 to 24 derivatives, got 25"):
        jet(jnp.sin, x, [x] * 25)
    with pytest.raises(TypeError, match="real and floating, got an array of int32"):
        jet(lambda x: 2 * x, jnp.arange(3), [None])
    with pytest.raises(ValueError, match=r"series\[1\]: expected shape \(3,\), got \(2,\)"):
        jet(jnp.sin, x, [x, jnp.zeros(2)])
    with pytest.raises(ValueError, match=r"series\[0\]: expected a tree like x"):
        jet(jnp.sin, x, [{"a": x}])
    with pytest.raises(ValueError, match="OneHot needs x to be one vector"):
        jet(jnp.sin, jnp.zeros((2, 2)), [OneHot(jnp.asarray(0))])
    with pytest.raises(ValueError, match="share one index"):
        jet(jnp.sin, x, [OneHot(jnp.asarray(0)), x])
    with pytest.raises(ValueError, match="clip with bounds that depend on the input"):
        jet(lambda x: jax.lax.clamp(x - 1, x, x + 1), x, [x])
    with pytest.raises(ValueError, match="expected axes from 0 to 2"):
        mixed_jet(jnp.sum, x, (0, 3), (1, 1))
    with pytest.raises(ValueError, match="expected as many orders"):
        mixed_jet(jnp.sum, x, (0, 0), (1, 1))
    with pytest.raises(ValueError, match="expected a partition of order = 3"):
        faa_di_bruno(3, {1: 1})
    with pytest.raises(ValueError, match="different positive integers"):
        list(partitions(3, (1, 1)))
    with pytest.raises(ValueError, match="order = -1"):
        list(partitions(-1, (1,)))
    with pytest.raises(ValueError, match="expected a positive order for each axis"):
        JetPlan.for_index((0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jet(jax.nn.softplus, x, [x, None])
