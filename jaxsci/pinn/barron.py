"""Nonlinear elliptic equations by preconditioned descent, and the Barron norm of its iterates.

On the torus [0, 2π)^d, for an energy that is convex,

    E(u) = ∫ L(u, ∇u) − f u dx,   DE(u) = −div ∂_p L + ∂_u L − f,   u ← u − η (I − Δ)⁻¹ DE(u).

The iterates converge exponentially, and each is a sum of few waves if f is one: products of waves
are waves. What grows is the spectral Barron norm, ‖u‖ = Σ |c_k| (1 + |k|), and with it the width of
a two-layer network, ‖u‖²/ε² for an error ε, in which the dimension does not appear.

Marwah, Lipton, Lu and Risteski, arXiv:2210.12101; Barron, IEEE Trans. Inf. Theory 39 (1993).
"""

import functools
from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Complex, Float, Int, PRNGKeyArray


class SpectralFunction(eqx.Module):
    """A real trigonometric sum in any number of dimensions,

        u(x) = Σ_j Re(c_j exp(i k_j·x)) = Σ_j |c_j| cos(k_j·x + arg c_j).

    Norms count on distinct k_j, none of them another one's negative; `merge` makes them so. Unused
    places have c_j = 0.
    """

    freqs: Int[Array, "m d"]
    coefs: Complex[Array, " m"]

    def __check_init__(self):
        if self.freqs.ndim != 2 or self.coefs.shape != self.freqs.shape[:1]:
            raise ValueError(
                f"SpectralFunction: freqs have shape {self.freqs.shape}, coefs {self.coefs.shape}; "
                "expected (m, d) and (m,)"
            )
        if not jnp.issubdtype(self.freqs.dtype, jnp.integer):
            raise ValueError(f"SpectralFunction: freqs are {self.freqs.dtype}, expected integers")

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        phase = self.freqs.astype(x.dtype) @ x
        return jnp.sum(self.coefs.real * jnp.cos(phase) - self.coefs.imag * jnp.sin(phase))

    @property
    def squared(self) -> Float[Array, " m"]:
        """|k|²: the symbol of −Δ."""
        return jnp.sum(self.freqs**2, -1).astype(self.coefs.real.dtype)

    def filtered(self, symbol: Callable[[Array], Array]) -> "SpectralFunction":
        """The operator with a symbol of |k|²: `lambda k2: 1 / (1 + k2)` is (I − Δ)⁻¹."""
        return SpectralFunction(self.freqs, self.coefs * symbol(self.squared))

    def barron_norm(self) -> Float[Array, ""]:
        """Σ |c_k| (1 + |k|). The norm of a product is at most the product of the norms."""
        return jnp.sum(_mass(self.freqs, self.coefs))

    def sobolev_norm(self, order: float = 1.0) -> Float[Array, ""]:
        """(mean of u (I − Δ)^s u)^½: 0 is L², 1 is H¹, −1 its dual."""
        k2 = self.squared
        half = jnp.where(k2 == 0, 1.0, 0.5)
        return jnp.sqrt(jnp.sum(half * jnp.abs(self.coefs) ** 2 * (1 + k2) ** order))

    def terms(self, tol: float = 0.0) -> Int[Array, ""]:
        """How many waves have |c_k| (1 + |k|) above `tol`."""
        return jnp.sum(_mass(self.freqs, self.coefs) > tol)

    def compose_poly(
        self, coeffs: tuple[float, ...], capacity: int, prune: float = 0.0
    ) -> tuple["SpectralFunction", Float[Array, ""]]:
        """a_0 + a_1 u + a_2 u² + …, by Horner's rule.

        **Returns:** it and what pruning can have cost, as `multiply`.
        """
        total, lost = self._horner(coeffs, capacity, prune)
        total, more = merge(total, capacity, prune)
        return total, lost + more

    def _horner(
        self, coeffs: tuple[float, ...], capacity: int, prune: float
    ) -> tuple["SpectralFunction", Float[Array, ""]]:
        if len(coeffs) < 1:
            raise ValueError("compose_poly: no coefficients, expected at least one")

        def plus(u: SpectralFunction, a: float) -> SpectralFunction:
            zero = jnp.zeros((1, u.freqs.shape[1]), u.freqs.dtype)
            return concatenate(u, SpectralFunction(zero, jnp.full(1, a, u.coefs.dtype)))

        scale = coeffs[-1] if len(coeffs) > 1 else 0.0
        total, norm = SpectralFunction(self.freqs, scale * self.coefs), self.barron_norm()
        lost = jnp.zeros_like(norm)
        for a in coeffs[-2:0:-1]:
            total, more = multiply(plus(total, a) if a else total, self, capacity, prune)
            lost = lost * norm + more
        return plus(total, coeffs[0]), lost


def _mass(freqs: Int[Array, "m d"], coefs: Complex[Array, " m"]) -> Float[Array, " m"]:
    size = jnp.abs(coefs)
    return size * (1 + jnp.sqrt(jnp.sum(freqs**2, -1).astype(size.dtype)))


def from_grid(values: Float[Array, "*n"]) -> SpectralFunction:
    """The sum of waves with given values on a grid of [0, 2π)^d."""
    axes = [np.rint(np.fft.fftfreq(n, 1 / n)).astype(np.int32) for n in values.shape]
    freqs = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, values.ndim)
    coefs = jnp.fft.fftn(values).ravel() / values.size
    return merge(SpectralFunction(jnp.asarray(freqs), coefs), values.size)[0]


def concatenate(*terms: SpectralFunction) -> SpectralFunction:
    """A sum, not yet merged."""
    freqs = jnp.concatenate([t.freqs for t in terms])
    return SpectralFunction(freqs, jnp.concatenate([t.coefs for t in terms]))


@functools.partial(jax.jit, static_argnames=("capacity", "prune"))
def merge(
    u: SpectralFunction, capacity: int, prune: float = 0.0
) -> tuple[SpectralFunction, Float[Array, ""]]:
    """One place for each frequency, and at most `capacity` of them.

    Frequencies are brought in order by two hashes, and added up where all their d entries agree:
    two that are different are never taken for one.

    **Arguments:**

    - `capacity`: places of the result. The waves with the largest |c| (1 + |k|) stay.
    - `prune`: waves below this go in any case.

    **Returns:** the sum, and the Barron norm of what went.
    """
    n, d = u.freqs.shape
    # Of ±k the one whose first entry that is not zero is positive.
    first = jnp.take_along_axis(u.freqs, jnp.argmax(u.freqs != 0, -1)[:, None], 1)
    freqs = jnp.where(first < 0, -u.freqs, u.freqs)
    coefs = jnp.where(first[:, 0] < 0, jnp.conj(u.coefs), u.coefs)
    coefs = jnp.where(first[:, 0] == 0, coefs.real, coefs)
    factors = np.random.default_rng(0).integers(1, 2**32, (d, 2), dtype=np.uint32) | 1
    hashes = jnp.sum(freqs.astype(jnp.uint32)[:, :, None] * factors, 1, dtype=jnp.uint32)
    *_, order = jax.lax.sort((hashes[:, 0], hashes[:, 1], jnp.arange(n)), num_keys=2)
    freqs, coefs = freqs[order], coefs[order]
    new = jnp.concatenate([jnp.ones(1, bool), jnp.any(freqs[1:] != freqs[:-1], -1)])
    group = jnp.cumsum(new) - 1
    sums = jnp.zeros_like(coefs).at[group].add(coefs, indices_are_sorted=True)
    member = jnp.zeros(n, group.dtype).at[group].max(jnp.arange(n), indices_are_sorted=True)
    mass = _mass(freqs[member], sums)
    kept, places = jax.lax.top_k(jnp.where(mass >= prune, mass, 0.0), min(capacity, n))
    # Unused places must not keep frequencies, which would double with each product.
    freqs = jnp.where(kept[:, None] > 0, freqs[member[places]], 0)
    result = SpectralFunction(freqs, jnp.where(kept > 0, sums[places], 0))
    return result, jnp.maximum(jnp.sum(mass) - jnp.sum(kept), 0.0)


def multiply(
    f: SpectralFunction,
    g: SpectralFunction,
    capacity: int,
    prune: float = 0.0,
    *,
    gradients: bool = False,
) -> tuple[SpectralFunction, Float[Array, ""]]:
    """F g, or ∇f·∇g.

    Re(a e^{ik·x}) Re(b e^{il·x}) = ½ Re(ab e^{i(k+l)·x} + a b̄ e^{i(k−l)·x}), pair by pair.

    **Arguments:** `capacity` and `prune` as for `merge`.

    **Returns:** the product, and the Barron norm of what was left out of it.
    """
    product = f.coefs[:, None] * jnp.stack([g.coefs, jnp.conj(g.coefs)])[:, None, :] / 2
    if gradients:
        angles = f.freqs @ g.freqs.T
        product = product * jnp.stack([-angles, angles])
    sums = f.freqs[:, None] + jnp.stack([g.freqs, -g.freqs])[:, None]
    pairs = SpectralFunction(sums.reshape(-1, sums.shape[-1]), product.ravel())
    return merge(pairs, capacity, prune)


class Energy(eqx.Module):
    """E(u) = ∫ a |∇u|²/2 + b |∇u|⁴/4 + R(u) − f u dx, so that

        DE(u) = −div((a + b |∇u|²) ∇u) + R'(u) − f.

    - `reaction`: R', as coefficients of a polynomial, lowest first, or as a function (then for
      `descend_on_grid` only: the waves of its composition are not known).
    - `diffusion`, `quartic`: a and b.
    """

    reaction: tuple[float, ...] | Callable[[Array], Array] = eqx.field(static=True, default=(0, 1))
    diffusion: float = eqx.field(static=True, default=1.0)
    quartic: float = eqx.field(static=True, default=0.0)

    def rate(self, u: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """R'(u) of values."""
        if callable(self.reaction):
            return self.reaction(u)
        return sum((a * u**i for i, a in enumerate(self.reaction)), jnp.zeros_like(u))

    def constants(self, bound: float) -> tuple[float, float]:
        """M and M with m ‖v‖² ≤ ⟨D²E(u) v, v⟩ ≤ M ‖v‖² in H¹ wherever |u|, |∇u| ≤ `bound`.

        A Barron norm is such a bound. The least and the largest R'' are taken of a thousand values.
        """
        slopes = jax.vmap(jax.grad(self.rate))(jnp.linspace(-bound, bound, 1001))
        steepest = self.diffusion + 3 * self.quartic * bound**2
        flattest = self.diffusion + 3 * min(self.quartic, 0.0) * bound**2
        return (
            min(flattest, float(jnp.min(slopes))),
            max(self.diffusion, steepest, float(jnp.max(slopes))),
        )

    def step_size(self, bound: float) -> tuple[float, float]:
        """The best constant step, η = 2/(m + M), and its contraction in H¹, (M − m)/(M + m).

        **Raises:** `ValueError` where the energy is not convex, with its constants.
        """
        m, big = self.constants(bound)
        if m <= 0:
            raise ValueError(
                f"Energy is not convex: m = {m:.3g}, M = {big:.3g} where |u|, |∇u| ≤ {bound:.3g}; "
                "expected m > 0"
            )
        return 2 / (m + big), (big - m) / (big + m)

    def variation(
        self, u: SpectralFunction, capacity: int, prune: float = 0.0
    ) -> tuple[SpectralFunction, Float[Array, ""]]:
        """DE(u) + f as waves, not yet merged, and the Barron norm of what was pruned.

        If m is the lower one of `constants`, the error of u in H¹ is at most ‖DE(u)‖/m in H⁻¹.

        **Raises:** `ValueError` if the reaction is not a polynomial.
        """
        if callable(self.reaction):
            raise ValueError(
                "Energy.variation: the reaction is a function, expected coefficients of a "
                "polynomial; descend_on_grid takes any"
            )
        total, lost = u._horner(self.reaction, capacity, prune)
        parts = [total, u.filtered(lambda k2: self.diffusion * k2)]
        if self.quartic:
            slope, first = multiply(u, u, capacity, prune, gradients=True)
            laplacian = u.filtered(lambda k2: k2)
            turned, second = multiply(slope, u, capacity, prune, gradients=True)
            scaled, third = multiply(slope, laplacian, capacity, prune)
            parts += [
                SpectralFunction(turned.freqs, -self.quartic * turned.coefs),
                SpectralFunction(scaled.freqs, self.quartic * scaled.coefs),
            ]
            lost = lost + self.quartic * (second + third + first * laplacian.barron_norm())
        return concatenate(*parts), lost


class Descent(eqx.Module):
    """What `variational_descent` did. Arrays have one entry for each step.

    - `iterates`: u_1, u_2, …, stacked. `barron`: their norms.
    - `lost`: the Barron norm by which u_{t+1} may differ from an exact step from u_t.
    """

    iterates: SpectralFunction
    barron: Float[Array, " steps"]
    lost: Float[Array, " steps"]

    @property
    def u(self) -> SpectralFunction:
        """The last iterate."""
        return jax.tree.map(lambda a: a[-1], self.iterates)


def variational_descent(
    energy: Energy,
    f: SpectralFunction,
    eta: float | Float[Array, ""],
    steps: int,
    *,
    capacity: int,
    prune: float = 0.0,
    most_lost: float = np.inf,
) -> Descent:
    """U ← u − η (I − Δ)⁻¹ DE(u) from u = 0, as sums of waves.

    **Arguments:**

    - `energy`, `f`: what is minimised. `eta`: e.g. `energy.step_size(bound)[0]`.
    - `capacity`, `prune`: waves that an iterate may have, and the Barron norm below which one is
      left out. A step costs `capacity`² d a product.
    - `most_lost`: the Barron norm that pruning may cost in a step.

    **Raises:** `ValueError` for a step that is not positive, no steps or no capacity; where a step
    loses more than `most_lost`, an error when it runs.
    """
    if steps < 1 or capacity < 1:
        raise ValueError(
            f"variational_descent: steps = {steps}, capacity = {capacity}, expected at least 1"
        )
    if isinstance(eta, float | int) and eta <= 0:
        raise ValueError(f"variational_descent: eta = {eta}, expected a positive number")

    def one(u: SpectralFunction, _: None):
        change, lost = energy.variation(u, capacity, prune)
        change = concatenate(change, SpectralFunction(f.freqs, -f.coefs))
        stepped = change.filtered(lambda k2: -eta / (1 + k2))
        new, more = merge(concatenate(u, stepped), capacity, prune)
        lost = eta * lost + more
        lost = eqx.error_if(
            lost,
            lost > most_lost,
            f"variational_descent: pruning to {capacity} waves costs more than {most_lost} "
            "in the Barron norm; give it more capacity",
        )
        return new, (new, new.barron_norm(), lost)

    start = SpectralFunction(
        jnp.zeros((capacity, f.freqs.shape[1]), f.freqs.dtype), jnp.zeros(capacity, f.coefs.dtype)
    )
    return Descent(*jax.lax.scan(one, start, None, length=steps)[1])


def descend_on_grid(
    energy: Energy, f: Float[Array, "*n"], eta: float | Float[Array, ""], steps: int
) -> Float[Array, "steps *n"]:
    """The same descent with values on a grid of [0, 2π)^d and fast Fourier transforms.

    Its cost is exponential in d: for comparison, and for reactions that are no polynomials.
    Products are not dealiased.

    **Returns:** all iterates but u_0 = 0.
    """
    axes = [jnp.fft.fftfreq(n, 1 / n) for n in f.shape]
    k = jnp.stack(jnp.meshgrid(*axes, indexing="ij"))
    # The derivative of the highest wave of an even number of points is not defined: 0.
    odd = jnp.stack([jnp.where(2 * jnp.abs(w) == n, 0, w) for w, n in zip(k, f.shape, strict=True)])
    space = tuple(range(-f.ndim, 0))

    def one(u: Array, _: None) -> tuple[Array, Array]:
        spectrum = jnp.fft.fftn(u)
        slopes = jnp.fft.ifftn(1j * odd * spectrum, axes=space).real
        excess = jnp.fft.fftn(energy.quartic * jnp.sum(slopes**2, 0) * slopes, axes=space)
        k2 = jnp.sum(k**2, 0)
        change = energy.diffusion * k2 * spectrum - jnp.sum(1j * odd * excess, 0)
        change = change + jnp.fft.fftn(energy.rate(u) - f)
        u = u - eta * jnp.fft.ifftn(change / (1 + k2)).real
        return u, u

    return jax.lax.scan(one, jnp.zeros_like(f), None, length=steps)[1]


class TwoLayer(eqx.Module):
    """offset + Σ_j outer_j σ(inner_j·x + bias_j)."""

    inner: Float[Array, "m d"]
    bias: Float[Array, " m"]
    outer: Float[Array, " m"]
    offset: Float[Array, ""]
    activation: str = eqx.field(static=True)

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        z = self.inner @ x + self.bias
        values = jnp.cos(z) if self.activation == "cosine" else (z >= 0).astype(z.dtype)
        return self.offset + self.outer @ values


def to_two_layer(
    u: SpectralFunction,
    width: int,
    key: PRNGKeyArray,
    activation: Literal["cosine", "step"] = "step",
) -> TwoLayer:
    """A two-layer network with random units whose expectation is u on [−π, π]^d (Maurey, Barron).

    With steps, as Barron has it, a wave is an integral of them,

        cos(z + φ) = cos(φ − r) − ∫_{−r}^{r} sin(s + φ) 1[s ≤ z] ds,   |z| ≤ r = π |k|_1,

    and the root mean square error is at most 2 C/√width with C = Σ |c_k| π |k|_1. With cosines,
    whose units are the waves themselves, it is at most Σ |c_k|/√width.

    **Raises:** `ValueError` for no units, or another activation.
    """
    if width < 1:
        raise ValueError(f"to_two_layer: width = {width}, expected at least 1")
    if activation not in ("cosine", "step"):
        raise ValueError(f"to_two_layer: activation = {activation!r}, expected cosine or step")
    size, phase = jnp.abs(u.coefs), jnp.angle(u.coefs)
    waves = jnp.any(u.freqs != 0, -1)
    offset = jnp.sum(jnp.where(waves, 0.0, u.coefs.real))
    size = jnp.where(waves, size, 0.0)
    reach = jnp.pi * jnp.sum(jnp.abs(u.freqs), -1).astype(size.dtype)
    weight = size * reach if activation == "step" else size
    total = jnp.sum(weight)
    pick_key, place_key = jr.split(key)
    j = jr.categorical(pick_key, jnp.log(weight), shape=(width,))
    inner = u.freqs[j].astype(size.dtype)
    if activation == "cosine":
        return TwoLayer(inner, phase[j], jnp.full(width, total / width), offset, activation)
    offset = offset + jnp.sum(size * jnp.cos(phase - reach))
    place = reach[j] * jr.uniform(place_key, (width,), size.dtype, -1.0, 1.0)
    outer = -2 * total / width * jnp.sin(place + phase[j])
    return TwoLayer(inner, -place, outer, offset, activation)
