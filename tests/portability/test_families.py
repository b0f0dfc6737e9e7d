"""Each family's gradient or step lowers for TPUs and GPUs, on a machine that has neither."""

import importlib.util
import sys
from pathlib import Path

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest

from jaxsci.autodiff import laplacian
from jaxsci.dynamics import BlockCyclicReduction, Rodas5P, banded_jacobian, mala, reversible_solve
from jaxsci.fields import FourierField, GaussNet, HashGrid, Siren, Wire
from jaxsci.nn import (
    EncodeProcessDecode,
    InteractionNetwork,
    RowLinear,
    TimeEmbedding,
    UNet,
    radius,
)
from jaxsci.operators import (
    CAPE,
    FNO,
    GNO,
    LNO,
    MGNO,
    MPPDE,
    T1,
    DilatedResNet,
    MPPDEPoints,
    Refiner,
)
from jaxsci.pde import Box, Grid
from jaxsci.pinn import R3, Problem, Solver, Term

_spec = importlib.util.spec_from_file_location(
    "jaxsci_tests_exporting_families", Path(__file__).parent / "exporting.py"
)
exporting = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = exporting
_spec.loader.exec_module(exporting)

KEY = jax.random.key(0, impl="rbg")
LINE = Grid(0.0, 1.0, 8, periodic=True)


@pytest.fixture(autouse=True)
def no_checks_on_the_host(monkeypatch):
    """A value is checked by Python on the host, which an exported program cannot hold."""
    monkeypatch.setattr(eqx, "error_if", lambda x, pred, msg, **_: x)
    monkeypatch.setattr(type(dfx.RESULTS.successful), "error_if", lambda self, x, pred: x)


def gradient(model, *inputs, call=lambda model, *inputs: model(*inputs)):
    """The gradient of a loss of what `call` makes of the model and its inputs, and these."""

    def loss(model, *inputs):
        return sum(jnp.sum(jnp.abs(y) ** 2) for y in jax.tree.leaves(call(model, *inputs)))

    return eqx.filter_grad(loss), model, *inputs


def graph_network():
    pos = jax.random.uniform(KEY, (10, 2))
    layout, _ = radius(pos, r=0.4, engine="host")
    encode, decode, blocks = jax.random.split(KEY, 3)
    net = EncodeProcessDecode(
        RowLinear(3, 4, key=encode),
        lambda k: InteractionNetwork(4, 2, key=k),
        RowLinear(4, 1, key=decode),
        2,
        key=blocks,
    )
    h, edge = jnp.ones((10, 3)), jnp.ones((*layout.senders.shape, 2))
    return gradient(net, layout, h, edge, call=lambda net, *inputs: net(*inputs))


def message_passing_pde():
    points = MPPDEPoints.of_grid(LINE, 2)
    net = MPPDE(points, time_window=3, dt=0.1, hidden=12, layers=2, n_params=2, key=KEY)
    return gradient(net, jnp.ones((3, 1, 8)), jnp.ones(2), call=lambda net, *x: net.predict(*x))


def refiner():
    net = UNet(1, 2, 1, (4, 8), embed=TimeEmbedding(8, key=KEY), key=KEY)
    noise = jnp.ones((4, 1, 8))
    return gradient(Refiner(net, 3), jnp.ones((1, 8)), call=lambda m, u: m.refine(u, noise))


def stiff():
    """A stiff solution, by Rosenbrock steps with a banded Jacobian."""

    def field(t, u, nu):
        return nu * (jnp.roll(u, 1).at[0].set(0) - 2 * u + jnp.roll(u, -1).at[-1].set(0)) - u**3

    def final(nu):
        jacobian = banded_jacobian(field, 1, 1)
        return dfx.diffeqsolve(
            dfx.ODETerm(field),
            Rodas5P(jacobian=jacobian, linear_solver=BlockCyclicReduction()),
            0.0,
            1.0,
            0.1,
            jnp.ones(8),
            nu,
            stepsize_controller=dfx.PIDController(rtol=1e-3, atol=1e-4),
            throw=False,
        ).ys

    return final, jnp.asarray(10.0)


def reversible():
    def final(rate):
        term = dfx.ODETerm(lambda t, y, rate: -rate * y)
        solver, y0 = dfx.Midpoint(), jnp.ones(2)
        return jnp.sum(reversible_solve(term, solver, 0.0, 1.0, 0.1, y0, rate, throw=False).y)

    return jax.grad(final), jnp.asarray(1.0)


def langevin():
    algorithm = mala(lambda x: jnp.sum(x**2), 0.1)
    return lambda x: algorithm.step(KEY, algorithm.init(x)), jnp.ones(3)


def physics_informed():
    field = eqx.nn.MLP(2, "scalar", 8, 2, jnp.tanh, key=KEY)
    term = Term(
        "poisson", lambda u, x: laplacian(u, x) + 1, Box((0.0, 0.0), (1.0, 1.0)), 16, sampler=R3()
    )
    solver = Solver(Problem(term), optax.adam(1e-3))
    return solver.step, solver.init(field, KEY)


SQUARE = jnp.ones((1, 8, 8))
SMALL = {"width": 6, "depth": 2, "kernel_hidden": 8, "key": KEY}
FAMILIES = {
    "cape": lambda: gradient(
        CAPE(FNO(1, 2, 2, width=4, modes=3, depth=1, key=KEY), 1, 2, width=4, modes=2, key=KEY),
        jnp.ones((1, 16)),
        call=lambda m, u: m(u, cond=jnp.ones(2)),
    ),
    "t1": lambda: gradient(T1(2, 1, 1, modes=4, width=5, depth=2, head=7, key=KEY), SQUARE),
    "dilated resnet": lambda: gradient(
        DilatedResNet(2, 1, 1, width=4, blocks=1, dilations=(1, 2), key=KEY), SQUARE
    ),
    "refiner": refiner,
    "gno": lambda: gradient(GNO(LINE, 1, 1, radius=0.15, **SMALL), jnp.ones((1, 8))),
    "lno": lambda: gradient(LNO(LINE, 1, 1, rank=2, **SMALL), jnp.ones((1, 8))),
    "mgno": lambda: gradient(MGNO(LINE, 1, 1, radius=0.1, levels=2, **SMALL), jnp.ones((1, 8))),
    "mp-pde": message_passing_pde,
    "graph network": graph_network,
    "siren": lambda: gradient(Siren(2, 3, width=8, depth=2, key=KEY), jnp.ones(2)),
    "wire": lambda: gradient(Wire(2, 3, width=8, depth=2, key=KEY), jnp.ones(2)),
    "gaussian": lambda: gradient(GaussNet(2, 3, width=8, depth=2, key=KEY), jnp.ones(2)),
    "fourier features": lambda: gradient(
        FourierField(2, 3, width=8, depth=2, key=KEY), jnp.ones(2)
    ),
    "hash grid": lambda: gradient(HashGrid(2, 3, key=KEY), jnp.ones(2)),
    "stiff": stiff,
    "reversible": reversible,
    "langevin": langevin,
    "physics-informed": physics_informed,
}


@pytest.mark.parametrize("name", FAMILIES)
def test_it_lowers(name):
    function, *arguments = FAMILIES[name]()
    for platform in exporting.PLATFORMS:
        program = exporting.export_for(function, *arguments, platform=platform)
        # XLA's own operations alone, and nothing in 64 bits, which a TPU does not have.
        assert not program.custom_calls, platform
        assert not program.has_type("f64") and not program.has_type("complex<f64>")
