"""What an experiment hands back: claims, metrics, arrays and figures."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jaxsci.experiment.claim import Claim, scalar

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclasses.dataclass(frozen=True)
class Result:
    """The outcome of an experiment.

    **Arguments:**

    - `claims`: the paper's claims with what was measured, in the order of the table.
    - `metrics`: further scalars worth keeping, by name.
    - `arrays`: NumPy or JAX arrays by name; the runner writes them to `arrays.npz`.
    - `figures`: matplotlib figures by name; the runner writes each to `NAME.png`.

    **Raises:**

    - `TypeError` for an entry of the wrong kind, `ValueError` for two claims of one name or for a
      name that cannot be a file's.
    """

    claims: Sequence[Claim] = ()
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    arrays: "Mapping[str, np.ndarray]" = dataclasses.field(default_factory=dict)
    figures: "Mapping[str, Figure]" = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        import numpy as np  # Here, so that `jaxsci list` answers at once.

        claims = tuple(self.claims)
        for claim in claims:
            if not isinstance(claim, Claim):
                raise TypeError(f"claims: expected Claim objects, got {type(claim).__name__}")
        names = [claim.name for claim in claims]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"claims: two claims are called {name!r}")
        metrics = {name: scalar(f"metrics[{name!r}]", x) for name, x in self.metrics.items()}
        arrays = {name: np.asarray(array) for name, array in self.arrays.items()}
        for kind, names in (("arrays", arrays), ("figures", self.figures)):
            for name in names:
                # `file` and `allow_pickle` are what numpy.savez calls its own arguments.
                taken = kind == "arrays" and name in ("file", "allow_pickle")
                if not isinstance(name, str) or taken or not _FILE_NAME.fullmatch(name):
                    raise ValueError(
                        f"{kind}: the name {name!r} cannot be a file's; "
                        "expected letters, digits, '_', '-' and '.'"
                    )
        for name, figure in self.figures.items():
            if not hasattr(figure, "savefig"):
                raise TypeError(
                    f"figures[{name!r}]: expected a matplotlib figure, got {type(figure).__name__}"
                )
        object.__setattr__(self, "claims", claims)
        object.__setattr__(self, "metrics", metrics)
        object.__setattr__(self, "arrays", arrays)
        object.__setattr__(self, "figures", dict(self.figures))

    @property
    def holds(self) -> bool:
        """Whether every claim holds; true where there is no claim."""
        return all(claim.holds for claim in self.claims)
