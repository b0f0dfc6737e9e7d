"""Residual branches of unit scale, and how much each of them contributes.

    y = (τ f(x) + x)/√(1 + τ²)

Forward, the factor τ/√(1+τ²) stands behind f; backward, it is delayed to the point where the branch
leaves the stream, so that the gradients inside f have size one. The derivative with respect to x is
the exact one.
"""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float

from .scales import positive, scale_bwd, scale_fwd

Size = float | Float[Array, ""]


def _size(name: str, value: Size) -> Size:
    """A positive number; a traced one, as in a sweep, is taken as it is."""
    return value if isinstance(value, jax.Array) else positive(name, value)


def residual_split(
    x: Float[Array, "*shape"], tau: Size = 1.0
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """The stream's start of a branch, and of the skip around it; `residual_add` joins them.

    **Arguments:** `tau`: size of the branch's contribution relative to the stream's.

    **Raises:** `ValueError` for τ ≤ 0.
    """
    tau = _size("tau", tau)
    norm = (1 + tau**2) ** 0.5
    return scale_bwd(x, tau / norm), scale_bwd(x, 1 / norm)


def residual_add(
    branch: Float[Array, "*shape"], skip: Float[Array, "*shape"], tau: Size = 1.0
) -> Float[Array, "*shape"]:
    """(τ branch + skip)/√(1 + τ²), with gradients of both that are those of a plain sum.

    **Arguments:** `tau`: that of `residual_split`.

    **Raises:** `ValueError` for τ ≤ 0.
    """
    tau = _size("tau", tau)
    norm = (1 + tau**2) ** 0.5
    return scale_fwd(branch, tau / norm) + scale_fwd(skip, 1 / norm)


def residual(
    fn: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]], tau: Size = 1.0
) -> Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]]:
    """The map x ↦ (τ f(x) + x)/√(1 + τ²) with gradients of size one inside f.

    **Arguments:** `fn`: f. `tau`: τ > 0; for a stack of branches those of `residual_taus`.

    **Raises:** `ValueError` for τ ≤ 0.
    """
    tau = _size("tau", tau)

    def wrapped(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        branch, skip = residual_split(x, tau)
        return residual_add(fn(branch), skip, tau)

    return wrapped


def residual_taus(n_branches: int, res: Size = 1.0, attn_ratio: float = 1.0) -> tuple[Size, ...]:
    """τ of each branch of a stack, so that none is drowned by those after it.

        τ_l = a_l / √(L/2 + n_a a_a² + n_f a_f²),   a_f² = 2 r²/(1 + ρ²),   a_a = ρ a_f

    for L branches, attention (l = 0, 2, …) and feed-forward (l = 1, 3, …) in turn, of which n_a and
    n_f lie before l. In the normalised output the embedding, all attention branches together and
    all feed-forward branches together then have variances in the ratio 1 : a_a² : a_f². With equal
    weights (ρ = 1) the branches may be of any kind.

    **Arguments:**

    - `n_branches`: L, two for each block of a transformer.
    - `res`: r, the size of the branches relative to the embedding. 1 is a good value. It may be
      traced, to sweep it in one program.
    - `attn_ratio`: ρ, the size of attention relative to feed-forward branches. 1 is good.

    **Raises:** `ValueError` for L < 1, for r or ρ ≤ 0, or an odd L with ρ ≠ 1.
    """
    if isinstance(n_branches, bool) or not isinstance(n_branches, int) or n_branches < 1:
        raise ValueError(f"n_branches = {n_branches!r}: expected a positive integer")
    res, attn_ratio = _size("res", res), positive("attn_ratio", attn_ratio)
    if n_branches % 2 and attn_ratio != 1:
        raise ValueError(
            f"n_branches = {n_branches}: attn_ratio = {attn_ratio} needs branches in pairs"
        )
    ffn = res * (2 / (1 + attn_ratio**2)) ** 0.5
    sizes = [attn_ratio * ffn if branch % 2 == 0 else ffn for branch in range(n_branches)]
    before = n_branches / 2
    taus = []
    for size in sizes:
        taus.append(size / before**0.5)
        before += size**2
    return tuple(taus)
