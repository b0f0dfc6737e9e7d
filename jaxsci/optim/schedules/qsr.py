"""The quadratic synchronisation rule: when local workers average, for a given learning rate.

    H(t) = max(h_base, ⌊(α / lr_t)²⌋)    steps without communication from t on

As the rate decays, workers that drift apart for a time ∝ lr⁻² get the largest push towards flat
minima that local steps can give, while averages become rare (Gu et al., arXiv:2310.14423).
"""

import dataclasses
import math
from collections.abc import Callable, Iterator

import optax


@dataclasses.dataclass(frozen=True)
class SyncSchedule:
    """Rounds of local steps: `lengths[i]` steps from step `starts[i]` on, then one average.

    Iterating gives the pairs (start, length).

    **Raises:** `ValueError` if there is no round or a round is empty.
    """

    lengths: tuple[int, ...]

    def __post_init__(self):
        if not self.lengths or min(self.lengths) < 1:
            raise ValueError(f"SyncSchedule: lengths = {self.lengths}, expected positive integers")

    @property
    def total_steps(self) -> int:
        """Steps of all rounds."""
        return sum(self.lengths)

    @property
    def starts(self) -> tuple[int, ...]:
        """The first step of each round."""
        return tuple(sum(self.lengths[:i]) for i in range(len(self.lengths)))

    @property
    def volume(self) -> float:
        """Messages sent, relative to an average at every step."""
        return len(self.lengths) / self.total_steps

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self.starts, self.lengths, strict=True)


def constant_sync(h: int, total_steps: int) -> SyncSchedule:
    """An average after every `h` steps, and one at the end.

    **Raises:** `ValueError` for `h` or `total_steps` below 1.
    """
    for name, value in (("h", h), ("total_steps", total_steps)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} = {value!r}: expected an integer >= 1")
    rounds, rest = divmod(total_steps, h)
    return SyncSchedule((h,) * rounds + ((rest,) if rest else ()))


def qsr(
    lr_schedule: optax.ScalarOrSchedule | Callable[[int], float],
    alpha: float,
    h_base: int = 1,
    *,
    total_steps: int,
    power: float = 2.0,
    warmup_steps: int = 0,
    warmup_h: int | None = None,
) -> SyncSchedule:
    """All rounds of a training, known before it starts.

    The rate is read at the first step of each round; the last round ends at `total_steps`. (The
    authors' program reads it one step earlier: it sets H right after an average, when its optimiser
    still holds the last step's rate.)

    **Arguments:**

    - `lr_schedule`: the rate at step t (an optax schedule, or a constant).
    - `alpha`: α, in units of the rate: rounds are longer than `h_base` once the rate is below
        α / h_base^½. Good values make that happen in the first half of the training.
    - `h_base`: at least so many local steps. It is the communication at the peak rate; 2 to 8.
    - `total_steps`: length of the training.
    - `power`: 2 is the rule; 1 and 3 for comparison.
    - `warmup_steps`: while t < warmup_steps, H = `warmup_h`, by default `h_base`.

    **Returns:** a `SyncSchedule`.

    **Raises:** `ValueError` for α ≤ 0, h_base < 1, total_steps < max(1, warmup_steps), or a rate
    that is negative or not finite.
    """
    if not alpha > 0:
        raise ValueError(f"alpha = {alpha}: expected a positive number")
    if not power >= 0:
        raise ValueError(f"power = {power}: expected a number >= 0")
    warmup_h = h_base if warmup_h is None else warmup_h
    for name, value, least in (
        ("h_base", h_base, 1),
        ("warmup_h", warmup_h, 1),
        ("warmup_steps", warmup_steps, 0),
        ("total_steps", total_steps, max(1, warmup_steps)),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} = {value!r}: expected an integer >= {least}")
    lengths: list[int] = []
    t = 0
    while t < total_steps:
        left = total_steps - t
        if t < warmup_steps:
            h = warmup_h
        else:
            rate = float(lr_schedule(t) if callable(lr_schedule) else lr_schedule)  # type: ignore
            if not (rate >= 0 and math.isfinite(rate)):
                raise ValueError(f"lr_schedule({t}) = {rate}: expected a finite number >= 0")
            # Logarithms first: a rate of zero wants an endless round, which ends with the training,
            # and the power may be too large for a float.
            size = power * (math.log(alpha) - math.log(rate)) if rate > 0 else math.inf
            h = left
            if size < math.log(left) + 1:
                h = max(h_base, math.floor((alpha / rate) ** power))
        lengths.append(min(h, left))
        t += lengths[-1]
    return SyncSchedule(tuple(lengths))
