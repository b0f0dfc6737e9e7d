"""Flux forms against JAX-CFD, Taylor and Green's vortex, and Cole and Hopf's solution."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.pde import BurgersFlux, Forcing, Grid, StaggeredFlow, rollout

RECORDED = np.load(Path(__file__).parents[1] / "oracles" / "data" / "jax_cfd.npz")
BOX = Grid((0.0, 0.0), (1.5, 2.0), (6, 8), periodic=True)


def test_jax_cfds_projection_and_steps(x64):
    del x64

    def flow(stages, **options):
        return StaggeredFlow(BOX, 0.02, stages=stages, wavenumber=1, **options)

    forced = {"viscosity": 0.05, "drag": 0.1, "amplitude": 1.5}
    free = flow(1, viscosity=0.0)

    @jax.jit
    def found(raw, start):
        return {
            "projected": free.project(raw),
            "convection": free.slope(start, free.interpolate(start), jnp.zeros(())),
            "euler": rollout(flow(1, **forced), start, 1)[0],
            "heun": rollout(flow(2, **forced), start, 1)[0],
        }

    for name, value in found(RECORDED["raw"], RECORDED["projected"]).items():
        # Both are float64 with values of order 10; their Poisson solvers round differently.
        np.testing.assert_allclose(value, RECORDED[name], atol=1e-11, err_msg=name)


def test_a_vortex_of_taylor_and_green_decays(x64):
    # u = (cos x sin y, −sin x cos y) exp(−2νt) is exact; the scheme's error is of second order.
    del x64
    errors = []
    for n in (8, 16):
        flow = StaggeredFlow(
            Grid(0.0, 2 * np.pi, (n, n), periodic=True), dt=0.02, viscosity=0.2, stages=3
        )
        middle = (np.arange(n) + 0.5) * 2 * np.pi / n
        face = (np.arange(n) + 1.0) * 2 * np.pi / n
        start = np.stack(
            [np.outer(np.cos(face), np.sin(middle)), -np.outer(np.sin(middle), np.cos(face))]
        )
        (end,) = rollout(flow, jnp.asarray(start), 50, every=50)
        errors.append(np.abs(end - np.exp(-2 * 0.2) * start).max())
    assert 3.5 < errors[0] / errors[1] < 4.5


@pytest.mark.parametrize(("order", "least"), [(1, 1.6), (3, 3.5)])
def test_burgers_against_cole_and_hopf(order, least, x64):
    # u = −2η (log φ)ₓ with φ = a + exp(−ηt) cos x; averages over cells are differences of log φ.
    del x64
    viscosity, time = 0.1, 2.0
    errors = []
    for n in (32, 64):
        solver = BurgersFlux(Grid(0.0, 2 * np.pi, n, periodic=True), 0.02, viscosity, order=order)
        ends = np.arange(n + 1) * 2 * np.pi / n

        def exact(t, ends=ends):
            potential = np.log(1.2 + np.exp(-viscosity * t) * np.cos(ends))
            return -2 * viscosity * np.diff(potential) / np.diff(ends)

        (end,) = rollout(solver, jnp.asarray(exact(0.0))[None], 100, every=100)
        errors.append(np.abs(end[0] - exact(time)).max())
    # Doubled cells: first order halves the error, second order (diffusion's) quarters it.
    assert errors[0] / errors[1] > least


def test_forcing_and_time():
    forcing = Forcing(*(jnp.array(a) for a in ([0.4, -0.3], [0.3, -0.2], [3.0, 5.0], [1.0, 2.0])))
    grid = Grid(0.0, 2 * np.pi, 16, periodic=True)
    solver = BurgersFlux(grid, 0.1, 0.0, order=1, stages=1)

    @jax.jit
    def found(t):
        still = jnp.zeros((1, 16))
        centres = jnp.asarray(grid.axis(0) + grid.spacing[0] / 2)
        wanted = forcing.cell_averages(t, centres, 2 * np.pi, grid.spacing[0])
        later = solver.step(solver.step(solver.init(still), forcing), forcing)
        return solver.slope(still, jnp.zeros((3, 16)), t, forcing)[0], wanted, later[1]

    change, wanted, time = found(0.7)
    np.testing.assert_allclose(change, wanted, atol=1e-6)  # float32 sines
    assert time == pytest.approx(0.2)


def test_coarsening_keeps_what_flows_through_and_bad_input():
    grid = Grid((0.0, 0.0), (1.0, 2.0), (8, 8), periodic=True)
    flow = StaggeredFlow(grid, 0.01, 0.1)
    coarse = StaggeredFlow(Grid((0.0, 0.0), (1.0, 2.0), (4, 4), periodic=True), 0.01, 0.1)
    u = jax.random.normal(jax.random.key(0), (2, 8, 8))
    fine, found = jax.jit(lambda u: (flow.divergence(u), coarse.divergence(flow.coarsen(u, 2))))(u)
    np.testing.assert_allclose(found, fine.reshape(4, 2, 4, 2).mean((1, 3)), atol=1e-4)
    for call, message in (
        (lambda: flow.coarsen(u, 3), "factor: expected a divisor"),
        (lambda: StaggeredFlow(grid, 0.0, 0.1), "dt must be positive"),
        (lambda: StaggeredFlow(grid, 0.1, -0.1), "viscosity must not be negative"),
        (lambda: BurgersFlux(grid, 0.1, 0.1), "periodic with 1 axes"),
        (lambda: BurgersFlux(Grid(0.0, 1.0, 8, periodic=True), 0.1, 0.1, order=2), "order must"),
        (lambda: StaggeredFlow(grid, 0.1, 0.1, stages=4), "stages must"),
        (lambda: rollout(flow, u[:, :4], 1), "u0 has shape"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
