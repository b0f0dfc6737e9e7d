"""M-FAC: products with the inverse of the empirical Fisher matrix of the last m gradients.

    F = λ I + (1/m) Gᵀ G,    rows of G (m × d): gradients,    K = G Gᵀ (m × m)
    F⁻¹ x   = (x − Gᵀ (m λ I + K)⁻¹ G x) / λ                 (any x: Woodbury)
    F⁻¹ g_j = m Gᵀ (m λ I + K)⁻¹ e_j                         (a row of G: push-through)

No matrix of size d × d is ever formed. The optimiser replaces the oldest row and one row and
column of K in each step; the pruner keeps G fixed and removes the weights whose loss costs least.
(Frantar, Kurtic, Alistarh, arXiv:2107.03356. The paper gets the same products from recursions of
the same cost O(m d + m³); a Cholesky factorisation is the stabler way.)
"""

import warnings
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..factor import AbstractFactor
from ..flat import ravel, unraveller, work_dtype


class Gram(AbstractFactor):
    """F = λ I + (1/m) Gᵀ G, kept as G, K = G Gᵀ and the Cholesky factor of m λ I + K.

    **Arguments:**

    - `rows`: G, m gradients of length d; rows of zeros are allowed.
    - `damp`: λ > 0, well above the rounding of ‖g‖².
    - `products`: K, if it is known already.

    Where gradients in the window are dependent up to rounding (a pivot falls below 256 m ε times
    its diagonal entry), as with full batches, the small eigenvalues of K are noise. Its diagonal is
    raised by that much then, as if λ were at least 256 ε ‖g‖².
    """

    rows: Float[Array, "m d"]
    damp: Float[Array, ""]
    lower: Float[Array, "m m"]

    def __init__(
        self,
        rows: Float[Array, "m d"],
        damp: float | Float[Array, ""],
        products: Float[Array, "m m"] | None = None,
    ):
        if jnp.ndim(rows) != 2 or not jnp.issubdtype(jnp.result_type(rows), jnp.floating):
            raise ValueError(
                f"rows: expected a real matrix (m, d), got shape {jnp.shape(rows)} and dtype "
                f"{jnp.result_type(rows)}"
            )
        _check_damp(damp)
        dtype = jnp.promote_types(rows.dtype, jnp.float32)
        if products is None:
            products = jnp.matmul(rows, rows.T, preferred_element_type=dtype)
        self.rows = rows
        self.damp = jnp.asarray(damp, dtype)
        self.lower = _cholesky(products, self.damp)

    def solve(self, g: Float[Array, " d"]) -> Float[Array, " d"]:
        """F⁻¹ g for any g, with a rounding error of about ε ‖g‖/λ: for rows of G that is most of
        the result, and `solve_member` the way."""
        return (g - self._combine(self._solve_small(self._project(g)))) / self.damp

    def solve_combination(self, c: Float[Array, " m"]) -> Float[Array, " d"]:
        """F⁻¹ Gᵀ c, without the cancellation that `solve(Gᵀ c)` suffers."""
        return self.rows.shape[0] * self._combine(self._solve_small(c))

    def solve_member(self, j: int | Int[Array, ""]) -> Float[Array, " d"]:
        """F⁻¹ g_j for the row j of G."""
        c = jnp.zeros(self.rows.shape[0], self.lower.dtype).at[j].set(1)
        return self.solve_combination(c)

    def diagonal(self) -> Float[Array, " d"]:
        """The diagonal of F⁻¹; O(d m²)."""
        half = jax.scipy.linalg.solve_triangular(
            self.lower, self.rows.astype(self.lower.dtype), lower=True
        )
        # Never below zero by rounding: F⁻¹ is positive definite.
        return jnp.maximum(1 - jnp.sum(half**2, 0), jnp.finfo(half.dtype).eps) / self.damp

    def entry(self, i: int | Int[Array, ""], j: int | Int[Array, ""]) -> Float[Array, ""]:
        """[F⁻¹]_ij."""
        column = self.rows.astype(self.lower.dtype)
        inner = column[:, i] @ self._solve_small(column[:, j])
        return (jnp.asarray(i == j, inner.dtype) - inner) / self.damp

    def _solve_small(self, c: Float[Array, " m"]) -> Float[Array, " m"]:
        return jax.scipy.linalg.cho_solve((self.lower, True), c)

    def _project(self, x: Float[Array, " d"]) -> Float[Array, " m"]:
        return jnp.matmul(self.rows, x, preferred_element_type=self.lower.dtype)

    def _combine(self, c: Float[Array, " m"]) -> Float[Array, " d"]:
        return jnp.matmul(c, self.rows, preferred_element_type=self.lower.dtype)


class MFACState(NamedTuple):
    """State of `scale_by_mfac`.

    - `count`: steps so far. `rows`: the window G, a ring. `products`: K = G Gᵀ.
    - `momentum`: average of the directions. `metrics`: the last `step_norm`.
    """

    count: Int[Array, ""]
    rows: Float[Array, "m d"]
    products: Float[Array, "m m"]
    momentum: Float[Array, " d"]
    metrics: dict[str, Array]


def scale_by_mfac(
    window: int = 512,
    damp: float = 1e-5,
    b1: float = 0.0,
    weight_decay: float = 0.0,
    storage: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """F⁻¹ g in place of the gradient g, which is a row of F's window; `mfac` explains all."""
    if not (isinstance(window, int) and window >= 1):
        raise ValueError(f"window = {window!r}: expected an integer >= 1")
    _check_damp(damp)
    if isinstance(b1, int | float) and not 0 <= b1 < 1:
        raise ValueError(f"b1 = {b1}: expected a number in [0, 1)")
    if isinstance(weight_decay, int | float) and not weight_decay >= 0:
        raise ValueError(f"weight_decay = {weight_decay}: expected a number >= 0")
    if storage is not None and not jnp.issubdtype(storage, jnp.floating):
        raise ValueError(f"storage = {storage!r}: expected None or a real floating format")
    decays = not isinstance(weight_decay, int | float) or weight_decay != 0

    def init(params: PyTree) -> MFACState:
        dtype = work_dtype(params, "mfac")
        d = sum(jnp.size(leaf) for leaf in jax.tree.leaves(params))
        kept = jnp.dtype(dtype if storage is None else storage)
        size = window * d * kept.itemsize
        if size > 8 * 2**30:
            warnings.warn(
                f"mfac: a window of {window} gradients of {d} weights takes {size / 2**30:.1f} GiB",
                stacklevel=2,
            )
        return MFACState(
            jnp.zeros((), jnp.int32),
            jnp.zeros((window, d), kept),
            jnp.zeros((window, window), dtype),
            jnp.zeros(d, dtype),
            {"step_norm": jnp.zeros((), dtype)},
        )

    def update(
        updates: PyTree, state: MFACState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, MFACState]:
        if decays and params is None:
            raise ValueError("mfac: update needs params for the weight decay, got None")
        count = jnp.asarray(optax.safe_increment(state.count))
        if not jax.tree.leaves(updates):
            return updates, state._replace(count=count)
        dtype = state.products.dtype
        g = ravel(updates, dtype)
        if decays:
            g = g + weight_decay * ravel(params, dtype)
        slot = state.count % window
        rows = state.rows.at[slot].set(g.astype(state.rows.dtype))
        row = jnp.matmul(rows, rows[slot], preferred_element_type=dtype)
        products = state.products.at[slot].set(row).at[:, slot].set(row)
        direction = Gram(rows, damp, products).solve_member(slot)
        momentum = (b1 * state.momentum + (1 - b1) * direction).astype(dtype)
        metrics = {"step_norm": jnp.linalg.norm(momentum)}
        new_state = MFACState(count, rows, products, momentum, metrics)
        return unraveller(updates, dtype)(momentum), new_state

    return optax.GradientTransformationExtraArgs(cast(Any, init), cast(Any, update))


def mfac(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    window: int = 512,
    damp: float = 1e-5,
    b1: float = 0.0,
    weight_decay: float = 0.0,
    storage: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Natural gradient steps with the empirical Fisher matrix of a sliding window of gradients.

    Needs gradients alone, of mini-batches (a window of equal gradients has rank one). Cost of a
    step: a gradient and O(m d + m³); memory m d.

    **Arguments:**

    - `learning_rate`: 1e-3 with the default damping. A direction has the length of g/λ outside the
        span of the window, and of g/(λ + ‖g‖²) where it is filled with multiples of g, so a rate
        belongs to a damping.
    - `window`: m; 64 to 1024. Until it is full, the missing gradients count as zeros.
    - `damp`: λ; 1e-6 to 1e-1, in units of the square of a gradient.
    - `b1`: average of the directions (after preconditioning, as in the paper), without a bias
        correction.
    - `weight_decay`: added, times the weights, to the gradient before it enters the window.
    - `storage`: format of the window, such as `jnp.bfloat16`, which halves the memory; `None` is
        that of the weights, at least float32. K is computed in at least float32.

    **Returns:** an optax transformation; `state[0]` is an `MFACState`.

    **Raises:** `ValueError` for arguments out of range, or a weight decay without `params`;
    `TypeError` for parameters that are not real floating arrays. Warns of a window over 8 GiB.
    """
    return optax.chain(
        scale_by_mfac(window, damp, b1, weight_decay, storage),
        optax.scale_by_learning_rate(learning_rate),
    )


def obs_scores(weights: Float[Array, " d"], fisher: Gram) -> Float[Array, " d"]:
    """What removing weight i alone costs, ρ_i = w_i² / (2 [F⁻¹]_ii), the others moving along.

    ("Optimal brain surgeon": the minimum of δᵀ F δ/2 with w_i + δ_i = 0, which is attained at
    δ = −w_i F⁻¹ e_i / [F⁻¹]_ii.)

    **Arguments:** `weights`: d of them, flat. `fisher`: F, as `Gram`.

    **Returns:** the scores. **Raises:** `ValueError` if the lengths differ.
    """
    if jnp.shape(weights) != fisher.rows.shape[1:]:
        raise ValueError(
            f"weights: expected shape {fisher.rows.shape[1:]}, got {jnp.shape(weights)}"
        )
    return weights**2 / (2 * fisher.diagonal())


def obs_prune(
    params: PyTree,
    loss_grads: PyTree,
    sparsity: float,
    *,
    damp: float = 1e-5,
    block: int | None = None,
    rounds: int = 1,
) -> tuple[PyTree, PyTree]:
    """Removes the weights that cost least by the Fisher matrix, and moves the others to make up.

    In each round the lowest scores go, and the weights change by −F⁻¹ (q ⊙ w / diag F⁻¹) with the
    indicator q of what goes: the sum of the updates that would be best for each removal alone.

    **Arguments:**

    - `params`: the weights of a trained model, real floating.
    - `loss_grads`: m gradients there (of samples or small batches), a pytree like the weights with
        a leading axis.
    - `sparsity`: the fraction of weights to remove, in (0, 1).
    - `damp`: λ.
    - `block`: neglect F outside diagonal blocks of this size, in the order of `ravel_pytree`: less
        noise if the gradients are few. `None` is the full matrix.
    - `rounds`: in how many steps, each a fixed factor; more than one corrects for the interplay of
        the removed weights. O(m² d) each.

    **Returns:** the weights with zeros, and a like tree of booleans: what is kept.

    **Raises:** `ValueError` for arguments out of range or gradients of other shapes, `TypeError`
    for weights that are not real floating arrays.
    """
    if not 0 < sparsity < 1:
        raise ValueError(f"sparsity = {sparsity}: expected a number in (0, 1)")
    _check_damp(damp)
    for name, value in (("block", block), ("rounds", rounds)):
        if value is not None and value < 1:
            raise ValueError(f"{name} = {value}: expected an integer >= 1")
    dtype = work_dtype(params, "obs_prune")
    shapes = jax.tree.map(lambda g: jnp.shape(g)[1:], loss_grads)
    if shapes != jax.tree.map(jnp.shape, params):
        raise ValueError(
            "loss_grads: expected leaves of shape (m, *weight.shape), got "
            f"{jax.tree.map(jnp.shape, loss_grads)} for {jax.tree.map(jnp.shape, params)}"
        )
    w = ravel(params, dtype)
    rows = jax.vmap(lambda g: ravel(g, dtype))(loss_grads)
    kept_sizes = [round(w.size * (1 - sparsity) ** (i / rounds)) for i in range(1, rounds + 1)]

    def one(carry, n):
        w, kept = carry
        return _prune_round(w, kept, rows, w.size - n, damp, block), None

    # A loop, so that what one round solves and the next one factorises never run at the same time:
    # see `_cholesky`.
    (w, kept), _ = jax.lax.scan(one, (w, jnp.ones(w.size, bool)), jnp.array(kept_sizes))
    unravel = unraveller(params, dtype)
    mask = jax.tree.map(lambda leaf: leaf > 0.5, unravel(kept.astype(dtype)))
    return unravel(w), mask


def _prune_round(
    w: Float[Array, " d"],
    kept: Bool[Array, " d"],
    rows: Float[Array, "m d"],
    n_pruned: Int[Array, ""],
    damp: float,
    block: int | None,
) -> tuple[Float[Array, " d"], Bool[Array, " d"]]:
    (d,) = w.shape
    size = d if block is None else min(block, d)
    padding = -d % size

    def split(x: Array) -> Array:
        padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, padding)])
        return jnp.moveaxis(padded.reshape(*x.shape[:-1], -1, size), -2, 0)

    # Removed weights have no gradient: they neither move nor count any more.
    fisher = jax.vmap(lambda g: Gram(g, damp))(split(jnp.where(kept, rows, 0)))
    diagonal = jax.vmap(Gram.diagonal)(fisher).reshape(-1)[:d]
    scores = jnp.where(kept, w**2 / (2 * diagonal), -1)
    order = jnp.argsort(scores)
    still = jnp.zeros(d, bool).at[order].set(jnp.arange(d) >= n_pruned)
    change = jax.vmap(Gram.solve)(fisher, split(jnp.where(kept & ~still, w / diagonal, 0)))
    return jnp.where(still, w - change.reshape(-1)[:d], 0), still


def _cholesky(products: Float[Array, "m m"], damp: Float[Array, ""]) -> Float[Array, "m m"]:
    m = products.shape[0]
    shifted = products + m * damp * jnp.eye(m, dtype=products.dtype)
    rounding = 256 * m * jnp.finfo(products.dtype).eps
    lower = jnp.linalg.cholesky(shifted)
    # Also true for a factorisation that broke down, which is NaN.
    dependent = ~jnp.all(jnp.diagonal(lower) ** 2 > rounding * jnp.diagonal(shifted))
    # Zero if not `dependent`: under vmap both branches run, and must do so one after the other. Two
    # batched factorisations at the same time wait for each other's threads forever, on a CPU of
    # two cores with jaxlib 0.10.2.
    raise_by = jnp.where(dependent, rounding * jnp.diagonal(products), 0)

    def raised() -> Float[Array, "m m"]:
        return jnp.linalg.cholesky(shifted + jnp.diag(raise_by))

    return jax.lax.cond(dependent, raised, lambda: lower)


def _check_damp(damp: Any) -> None:
    if isinstance(damp, int | float) and not damp > 0:
        raise ValueError(f"damp = {damp}: expected a positive number")
