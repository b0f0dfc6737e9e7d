"""Records JAX-CFD's stencil constraints, projection, steps and learned interpolation.

    python tests/oracles/record_jax_cfd.py

needs jax-cfd with what its `ml.layers` import (dm-haiku, einops, gin-config); writes
data/jax_cfd.npz. float64.
"""

from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax_cfd import base
from jax_cfd.base import time_stepping
from jax_cfd.ml import layers, layers_util

SHAPE = (6, 8)
SIZE = (1.5, 2.0)  # a spacing of 1/4 along both axes: the constraints allow no other
DT, VISCOSITY, DRAG = 0.02, 0.05, 0.1
# stencil, offset of the value in cells, order of the derivative, order of accuracy
STENCILS = {
    "value_1d": ((6,), (0.5,), (0,), 1),
    "value_1d_second": ((6,), (0.5,), (0,), 2),
    "value_1d_third": ((6,), (0.5,), (0,), 3),
    "slope_1d": ((6,), (0.5,), (1,), 1),
    "value_2d": ((4, 4), (0.5, 0.0), (0, 0), 1),
    "value_2d_second": ((4, 4), (0.0, 0.5), (0, 0), 2),
}


def main():
    jax.config.update("jax_enable_x64", True)
    jax.tree_map = jax.tree.map  # jax-cfd 0.2.1 is older than its removal
    saved = {}
    for name, (sizes, shift, derivative, order) in STENCILS.items():
        steps = (1.0,) * len(sizes)
        constraint = layers.PolynomialConstraint(
            layers_util.get_stencils(sizes, shift, steps),
            derivative,
            layers_util.Method.FINITE_VOLUME,
            steps,
            accuracy_order=order,
            bias_accuracy_order=order,
        )
        saved[f"{name}_bias"] = constraint.bias
        saved[f"{name}_nullspace"] = constraint.nullspace

    grid = base.grids.Grid(SHAPE, domain=[(0.0, s) for s in SIZE])
    periodic = base.boundaries.periodic_boundary_conditions(2)
    rng = np.random.default_rng(0)

    def field(values):
        return tuple(
            base.grids.GridVariable(base.grids.GridArray(jnp.asarray(u), offset, grid), periodic)
            for u, offset in zip(values, grid.cell_faces, strict=True)
        )

    def data(v):
        return np.stack([np.asarray(u.data) for u in v])

    raw = rng.normal(size=(2, *SHAPE))
    start = base.pressure.projection(field(raw))
    saved |= {"raw": raw, "projected": data(start)}

    # The wave has one period along y, so that it fits the box: JAX-CFD's k is in radians.
    force = base.forcings.simple_turbulence_forcing(
        grid,
        constant_magnitude=1.5,
        constant_wavenumber=2 * np.pi / SIZE[1],
        linear_coefficient=-DRAG,
    )

    def step(convect, stepper):
        advance = base.equations.semi_implicit_navier_stokes(
            1.0, VISCOSITY, DT, grid, convect=convect, forcing=force, time_stepper=stepper
        )
        return data(advance(start))

    convect = base.advection.convect_linear
    saved["convection"] = data(convect(start))
    saved["euler"] = step(convect, time_stepping.forward_euler)
    saved["heun"] = step(convect, time_stepping.heun_rk2)

    # Learned interpolation: the same logits, whatever the state.
    parts, logits, spaces = {}, [], []
    for u in start:
        for target in base.grids.control_volume_offsets(u):
            for tag in ("c", "u"):
                layer = layers.SpatialDerivativeFromLogits(
                    (4, 4), u.offset, target, (0, 0), grid.step
                )
                each = 0.1 * rng.normal(size=(*SHAPE, layer.subspace_size))
                parts[u.offset, target, tag] = layer, each
                logits.append(np.moveaxis(each, -1, 0))
                spaces.append(layer.constraint.nullspace)
    saved |= {"logits": np.stack(logits), "nullspaces": np.stack(spaces)}

    def interpolation(tag):
        def interpolate(c, offset, v, dt):
            layer, each = parts[c.offset, offset, tag]
            values = layer(c.data[..., None], each)[..., 0]
            return base.grids.GridVariable(base.grids.GridArray(values, offset, grid), periodic)

        return interpolate

    def learned(v):
        return tuple(
            base.advection.advect_general(u, v, interpolation("u"), interpolation("c"), DT)
            for u in v
        )

    saved["learned"] = step(learned, time_stepping.forward_euler)
    np.savez(
        Path(__file__).parent / "data" / "jax_cfd.npz",
        versions=[f"jax-cfd {version('jax-cfd')}", f"jax {version('jax')}"],
        **saved,
    )


if __name__ == "__main__":
    main()
