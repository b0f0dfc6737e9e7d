"""The vorticity equation with a constant forcing as an exponax stepper (exponax has none)."""

import jax.numpy as jnp
from exponax import BaseStepper
from exponax.nonlin_fun import BaseNonlinearFun, VorticityConvection2d
from jaxtyping import Array, Complex, Float


class _ConvectionAndForcing(BaseNonlinearFun):
    """ŵ ↦ −(v·∇w)^ + f̂, the part of the equation that ETDRK treats explicitly."""

    convection: VorticityConvection2d
    forcing_hat: Complex[Array, "1 k l"]

    def __init__(
        self,
        num_points: int,
        derivative_operator: Complex[Array, "2 k l"],
        forcing: Float[Array, "1 x y"],
    ):
        super().__init__(2, num_points)
        self.convection = VorticityConvection2d(
            2,
            num_points,
            # Exponax takes v = (ψ_y, −ψ_x) with +Δψ = w, the opposite of the usual velocity.
            convection_scale=-1.0,
            derivative_operator=derivative_operator,
            dealiasing_fraction=2 / 3,
        )
        self.forcing_hat = jnp.fft.rfftn(forcing, axes=(1, 2))

    def __call__(self, u_hat: Complex[Array, "1 k l"]) -> Complex[Array, "1 k l"]:
        return self.convection(u_hat) + self.forcing_hat


class ForcedVorticity(BaseStepper):
    """wₜ + v·∇w = ν Δw + f on the unit torus, f constant in time, by ETDRK4.

    The velocity is v = (ψ_y, −ψ_x) with −Δψ = w. A constant f is integrated exactly where the flow
    does not convect.
    """

    viscosity: float
    forcing: Float[Array, "1 x y"]

    def __init__(
        self, num_points: int, dt: float, viscosity: float, forcing: Float[Array, "1 x y"]
    ):
        self.viscosity = viscosity
        self.forcing = forcing
        super().__init__(2, 1.0, num_points, dt, num_channels=1, order=4)

    def _build_linear_operator(self, derivative_operator):
        return self.viscosity * jnp.sum(derivative_operator**2, axis=0, keepdims=True)

    def _build_nonlinear_fun(self, derivative_operator):
        return _ConvectionAndForcing(self.num_points, derivative_operator, self.forcing)
