"""Bodies under their mutual gravity: accelerations, energy, and the time scale of their encounters.

r̈_i = G Σ_{j ≠ i} m_j (r_j − r_i)/(|r_j − r_i|² + ε²)^{3/2}
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

Bodies = tuple[Float[Array, "n d"], Float[Array, "n d"]]


class NBody(eqx.Module):
    """Newton's equation of n bodies; the state is y = (positions, velocities).

    - `masses`: n positive numbers.
    - `G`: gravity; 4π² where lengths, times and masses are AU, years and suns.
    - `softening`: ε, a length; 0 is Newton's law, which is singular at collisions.

    `diffrax.ODETerm(NBody(...))` is the equation for any solver; `Hermite4` is made for it.

    **Raises:** `ValueError` for fewer than two masses or a negative softening.
    """

    masses: Float[Array, " n"] = eqx.field(converter=jnp.asarray)
    G: float = 1.0
    softening: float = 0.0

    def __check_init__(self):
        if self.masses.ndim != 1 or self.masses.shape[0] < 2:
            raise ValueError(
                f"masses: expected a vector of two or more, got shape {self.masses.shape}"
            )
        if self.softening < 0:
            raise ValueError(f"softening = {self.softening}: expected a number >= 0")

    def __call__(self, t: Any, y: Bodies, args: Any = None) -> Bodies:
        """(velocities, accelerations)."""
        return y[1], self.acceleration(y[0])

    def acceleration(self, r: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """The right-hand side of the equation above."""
        apart = r[None, :] - r[:, None]
        inverse = self._off_diagonal(1 / self._distance(apart) ** 3)
        return self.G * jnp.sum((self._masses(r) * inverse)[..., None] * apart, axis=1)

    def energy(self, y: Bodies) -> Float[Array, ""]:
        """Σ m_i |v_i|²/2 − G Σ_{i < j} m_i m_j/√(|r_i − r_j|² + ε²)."""
        r, v = y
        masses = self._masses(r)
        kinetic = jnp.sum(masses * jnp.sum(v**2, axis=1)) / 2
        inverse = self._off_diagonal(1 / self._distance(r[None, :] - r[:, None]))
        potential = -self.G * (masses @ inverse @ masses) / 2
        return kinetic + potential

    def time_scale(self, y: Bodies) -> Float[Array, ""]:
        """The shortest time over all pairs in which something happens.

        τ = min_{i < j} min( r/v, √(r³/(G (m_i + m_j))) )

        with distance r and relative velocity v of the pair: the times to cross r and to fall in.
        Steps of μ τ with a constant μ (0.03 is common) are the usual choice for few bodies.
        """
        r, v = y
        distance = self._distance(r[None, :] - r[:, None])
        speed = jnp.sqrt(jnp.sum((v[None, :] - v[:, None]) ** 2, axis=-1))
        # Of a pair at rest the time to cross is infinite.
        cross = distance / jnp.maximum(speed, jnp.finfo(speed.dtype).tiny)
        masses = self._masses(r)
        fall = jnp.sqrt(distance**3 / (self.G * (masses[None, :] + masses[:, None])))
        pairs = ~jnp.eye(distance.shape[0], dtype=bool)
        return jnp.min(jnp.minimum(cross, fall), where=pairs, initial=jnp.inf)

    def centred(self, y: Bodies) -> Bodies:
        """The state in the frame of its centre of mass."""
        r, v = y
        masses = self._masses(r)
        share = (masses / jnp.sum(masses))[:, None]
        return r - jnp.sum(share * r, axis=0), v - jnp.sum(share * v, axis=0)

    def checked(self, y: Bodies) -> Bodies:
        """The state, if no two bodies share their place.

        **Raises:** at run time, if two of them do, and there is no softening.
        """
        r, v = y
        same = self._off_diagonal(self._distance(r[None, :] - r[:, None]) == 0)
        return eqx.error_if(r, jnp.any(same), "positions: two bodies are in one place"), v

    def _masses(self, r: Float[Array, "n d"]) -> Float[Array, " n"]:
        # Masses of less precision, times G, would round G: energy and force would not match.
        return self.masses.astype(jnp.result_type(self.masses, r))

    def _distance(self, apart: Float[Array, "n n d"]) -> Float[Array, "n n"]:
        # On the diagonal is a one, which is divided by but never seen.
        n = apart.shape[0]
        squares = jnp.sum(apart**2, axis=-1) + self.softening**2
        return jnp.sqrt(jnp.where(jnp.eye(n, dtype=bool), 1.0, squares))

    def _off_diagonal(self, matrix: Any) -> Any:
        return jnp.where(jnp.eye(matrix.shape[0], dtype=bool), 0, matrix)
