"""Hyperparameters for another batch size, so that the run stays the same but for its noise.

    SGD       lr' = κ lr
    RMSprop   lr' = κ^½ lr,  1 − b2' = κ (1 − b2),  ε' = ε / κ^½
    Adam      the same, and 1 − b1' = κ (1 − b1)
    EMA       ρ' = ρ^κ

for a batch κ times as large and 1/κ of the steps (Malladi et al., arXiv:2205.10287, for the second
and third rule; Busbridge et al., arXiv:2307.13813, for the last). A decay of the weights outside
the gradient takes lr λ per step, so λ' = κ lr λ / lr'.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

Rule: TypeAlias = Literal["sgd-linear", "rmsprop-sqrt", "adam-sqrt"]
EmaRule: TypeAlias = Literal["power", "linear", "none"]

# A momentum is written down rounded: 1 − 0.9 is a little below 0.1.
_SLACK = 1e-9


class HyperScale(eqx.Module):
    """The hyperparameters that depend on the batch size.

    **Arguments:**

    - `lr`: the learning rate, or a schedule of the step.
    - `b1`, `b2`, `eps`: as for Adam (`b2`, `eps` as for RMSprop); SGD does not use them.
    - `ema`: decay ρ of an average of the weights, in [0, 1); `None` for no average.
    - `weight_decay`: decoupled, as in AdamW.
    - `batch`: samples per step; `None` if it is of no interest.

    **Raises:** `ValueError` for a momentum or `ema` outside [0, 1), `eps` or `weight_decay` < 0, a
    rate that is not positive, `batch` < 1.
    """

    lr: Any
    b1: Any = 0.9
    b2: Any = 0.999
    eps: Any = 1e-8
    ema: Any = None
    weight_decay: Any = 0.0
    batch: int | None = eqx.field(default=None, static=True)

    def __check_init__(self):
        if _number(self.lr) and not self.lr > 0:
            raise ValueError(f"lr = {self.lr}: expected a positive number or a schedule")
        for name in ("b1", "b2", "ema"):
            value = getattr(self, name)
            if _number(value) and not 0 <= value < 1:
                raise ValueError(f"{name} = {value}: expected a number in [0, 1)")
        for name in ("eps", "weight_decay"):
            value = getattr(self, name)
            if _number(value) and not value >= 0:
                raise ValueError(f"{name} = {value}: expected a number >= 0")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch = {self.batch}: expected an integer >= 1")

    def to_batch(
        self, kappa: Any, rule: Rule = "adam-sqrt", ema: EmaRule = "power"
    ) -> "HyperScale":
        """The hyperparameters for a batch κ times as large; divide the number of steps by κ.

        **Arguments:**

        - `kappa`: κ > 0, a fraction for a smaller batch. A schedule `lr` is read at κ times the
            step, the same number of samples.
        - `rule`: that of the optimiser: `"sgd-linear"` (momentum stays), `"adam-sqrt"` or
            `"rmsprop-sqrt"`. A `b1` of 0 stays 0: there is no momentum to rescale.
        - `ema`: `"power"`: ρ^κ. `"linear"`: 1 − κ (1 − ρ), which is the power's first order.
            `"none"`: ρ stays, for comparison.

        **Returns:** a new `HyperScale`.

        **Raises:** `ValueError` for κ <= 0, an unknown rule, κ (1 − b) >= 1 (no momentum follows
        the rule there) and a batch that is not a whole number.
        """
        if _number(kappa) and not kappa > 0:
            raise ValueError(f"kappa = {kappa}: expected a positive number")
        if rule not in ("sgd-linear", "rmsprop-sqrt", "adam-sqrt"):
            raise ValueError(
                f"rule = {rule!r}: expected 'sgd-linear', 'rmsprop-sqrt' or 'adam-sqrt'"
            )
        factor = kappa if rule == "sgd-linear" else kappa**0.5
        b1, b2, eps = self.b1, self.b2, self.eps
        if rule == "adam-sqrt" and not (_number(b1) and b1 == 0):
            b1 = _slower("b1", b1, kappa)
        if rule != "sgd-linear":
            b2, eps = _slower("b2", b2, kappa), eps / factor
        return HyperScale(
            lr=_Rescaled(self.lr, factor, kappa) if callable(self.lr) else factor * self.lr,
            b1=b1,
            b2=b2,
            eps=eps,
            ema=None if self.ema is None else _scaled_ema(self.ema, kappa, ema),
            weight_decay=self.weight_decay * kappa / factor,
            batch=None if self.batch is None else _whole(self.batch, kappa),
        )


class _Rescaled(eqx.Module):
    """k ↦ factor · schedule(κ k)."""

    schedule: Any
    factor: Any
    kappa: Any

    def __call__(self, count: Any) -> Array:
        return self.factor * self.schedule(self.kappa * count)


class Progressive(eqx.Module):
    """A run whose batch grows (or shrinks) on the way, with all hyperparameters following.

    `lr`, `b1`, `b2`, `eps`, `ema`, `weight_decay` are schedules of the step, as
    `optax.inject_hyperparams` and `param_ema` take them:

        p = progressive(HyperScale(1e-3, ema=0.999, batch=64), [(0, 1), (1000, 4)])
        tx = optax.inject_hyperparams(optax.adam)(p.lr, b1=p.b1, b2=p.b2, eps=p.eps)

    - `starts`: the first step of each phase. `kappas`: its κ. `phases`: its `HyperScale`, with the
        rate in units of the base's where that is a schedule.
    """

    base: HyperScale
    starts: tuple[int, ...] = eqx.field(static=True)
    kappas: tuple[float, ...] = eqx.field(static=True)
    phases: tuple[HyperScale, ...]

    def at(self, step: int) -> HyperScale:
        """The hyperparameters of the phase that a (Python) step is in: for its `batch`."""
        return self.phases[max(i for i, start in enumerate(self.starts) if start <= step)]

    def samples(self, count: Any) -> Array:
        """Steps of the base's batch size that have seen as many samples as `count` steps here."""
        total, spans = jnp.zeros(()), [*self.starts[1:], None]
        for start, end, kappa in zip(self.starts, spans, self.kappas, strict=True):
            inside = jnp.maximum(jnp.asarray(count) - start, 0)
            total = total + kappa * (inside if end is None else jnp.minimum(inside, end - start))
        return total

    def lr(self, count: Any) -> Array:
        """The learning rate at a step."""
        factor, base = self._pick("lr", count), self.base.lr
        return factor * jnp.asarray(base(self.samples(count))) if callable(base) else factor

    def b1(self, count: Any) -> Array:
        """The first moment's decay at a step."""
        return self._pick("b1", count)

    def b2(self, count: Any) -> Array:
        """The second moment's decay at a step."""
        return self._pick("b2", count)

    def eps(self, count: Any) -> Array:
        """Adam's ε at a step."""
        return self._pick("eps", count)

    def ema(self, count: Any) -> Array:
        """The average's decay ρ at a step."""
        return self._pick("ema", count)

    def weight_decay(self, count: Any) -> Array:
        """The decoupled decay at a step."""
        return self._pick("weight_decay", count)

    def _pick(self, name: str, count: Any) -> Array:
        values = jnp.stack([jnp.asarray(getattr(phase, name), float) for phase in self.phases])
        starts = jnp.asarray(self.starts)
        return values[jnp.searchsorted(starts, jnp.asarray(count), side="right") - 1]


def progressive(
    base: HyperScale,
    phases: Sequence[tuple[int, float]],
    rule: Rule = "adam-sqrt",
    ema: EmaRule = "power",
) -> Progressive:
    """Batch, rate, momenta and average switched together at given steps (arXiv:2307.13813, §4).

    **Arguments:**

    - `base`: the hyperparameters at κ = 1.
    - `phases`: pairs (first step, κ); the first begins at step 0. Adam's bias corrections use the
        current momentum, so switch after the first 1/(1 − b2) steps.
    - `rule`, `ema`: as for `HyperScale.to_batch`.

    **Returns:** a `Progressive`.

    **Raises:** `ValueError` if the steps do not ascend from 0, or as `to_batch`.
    """
    starts = tuple(int(start) for start, _ in phases)
    ascending = all(a < b for a, b in itertools.pairwise(starts))
    if not starts or starts[0] != 0 or not ascending:
        raise ValueError(f"phases: expected ascending first steps from 0 on, got {starts}")
    unit = eqx.tree_at(lambda h: h.lr, base, 1.0) if callable(base.lr) else base
    kappas = tuple(kappa for _, kappa in phases)
    return Progressive(base, starts, kappas, tuple(unit.to_batch(k, rule, ema) for k in kappas))


def scale_ema(rho: Any, kappa: Any, rule: EmaRule = "power") -> Any:
    """The decay ρ of an average for a batch κ times as large: ρ^κ (`"power"`).

    Also for whatever else is averaged from step to step, such as a batch norm's statistics.

    **Arguments:** `rho` in [0, 1), `kappa` > 0; `rule` as for `HyperScale.to_batch`.

    **Returns:** the new decay.

    **Raises:** `ValueError` for values out of range, or where the linear rule goes below 0.
    """
    if _number(rho) and not 0 <= rho < 1:
        raise ValueError(f"rho = {rho}: expected a number in [0, 1)")
    if _number(kappa) and not kappa > 0:
        raise ValueError(f"kappa = {kappa}: expected a positive number")
    return _scaled_ema(rho, kappa, rule)


def _scaled_ema(rho: Any, kappa: Any, rule: EmaRule) -> Any:
    if rule == "power":
        return rho**kappa
    if rule == "linear":
        scaled = 1 - kappa * (1 - rho)
        if _number(scaled) and scaled < 0:
            raise ValueError(
                f"kappa = {kappa}: the linear rule for ema = {rho} needs kappa <= {1 / (1 - rho)}"
            )
        return scaled
    if rule == "none":
        return rho
    raise ValueError(f"ema = {rule!r}: expected 'power', 'linear' or 'none'")


def _slower(name: str, momentum: Any, kappa: Any) -> Any:
    """1 − κ (1 − b)."""
    scaled = 1 - kappa * (1 - momentum)
    if _number(scaled) and scaled <= _SLACK:
        raise ValueError(
            f"kappa = {kappa}: no {name} follows {momentum}; "
            f"expected kappa < {1 / (1 - momentum):g}"
        )
    return scaled


def _whole(batch: int, kappa: Any) -> int:
    scaled = batch * float(kappa)
    if abs(scaled - round(scaled)) > 1e-6 * scaled or round(scaled) < 1:
        raise ValueError(f"kappa = {kappa}: a batch of {batch} becomes {scaled}, no whole number")
    return round(scaled)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not (isinstance(value, float) and math.isnan(value))
