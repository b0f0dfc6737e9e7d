"""The metrics of a run: recorded at regular steps, logged, and part of every checkpoint."""

from collections.abc import Mapping

import numpy as np

from jaxsci.experiment import Logger


class History:
    """Rows of metrics by step: training metrics every `log_every` steps, and evaluations.

    Which steps are recorded depends on the step numbers alone, so an interrupted run ends with the
    same history as an unbroken one.
    """

    def __init__(self, log: Logger, log_every: int, last_step: int):
        self._log = log
        self._log_every = log_every
        self._last = last_step
        self._train: dict[str, list[float]] = {"step": []}
        self._evaluations: dict[str, list[float]] = {"step": []}

    def add(self, first_step: int, metrics: Mapping[str, np.ndarray], n: int) -> None:
        """Takes the metrics of the n steps that lead to the counts first_step + 1, ... ."""
        every = self._log_every
        for i in range(n):
            step = first_step + i + 1
            if step % every and step != self._last:
                continue
            row = {name: float(values[i]) for name, values in metrics.items()}
            _append(self._train, {"step": step, **row})
            self._log.metrics(step, row)

    def evaluated(self, step: int, values: Mapping[str, float]) -> None:
        """Takes what `evaluate` returned after `step` updates."""
        for name in values:
            if name in self._train:
                raise ValueError(
                    f"evaluate returned a value named {name!r}, which is the name of a training "
                    "metric; call it something else"
                )
        _append(self._evaluations, {"step": step, **values})
        self._log.metrics(step, values)

    def last_evaluation(self, step: int) -> dict[str, float] | None:
        """What `evaluate` returned at this step, if it was called there."""
        steps = self._evaluations["step"]
        if not steps or steps[-1] != step:
            return None
        return {name: values[-1] for name, values in self._evaluations.items() if name != "step"}

    def train(self) -> dict[str, np.ndarray]:
        """The training metrics as arrays; `step` counts the updates made."""
        return _as_arrays(self._train)

    def evaluations(self) -> dict[str, np.ndarray]:
        """The evaluations as arrays."""
        return _as_arrays(self._evaluations)

    def series(self) -> dict[str, np.ndarray]:
        """Both, as a checkpoint stores them."""
        train = {f"train/{name}": array for name, array in self.train().items()}
        return train | {f"eval/{name}": array for name, array in self.evaluations().items()}

    def load(self, series: Mapping[str, np.ndarray]) -> None:
        """Takes over what a checkpoint stored."""
        for prefix, table in (("train/", self._train), ("eval/", self._evaluations)):
            for name, array in series.items():
                if name.startswith(prefix):
                    table[name.removeprefix(prefix)] = array.tolist()


def _append(table: dict[str, list[float]], row: Mapping[str, float]) -> None:
    rows = len(table["step"])
    for name, value in row.items():
        # A value that appears late has no past.
        column = table.setdefault(name, [np.nan] * rows)
        column.append(value)
    for name in table.keys() - row.keys():
        table[name].append(np.nan)


def _as_arrays(table: Mapping[str, list[float]]) -> dict[str, np.ndarray]:
    return {
        name: np.array(values, np.int64 if name == "step" else np.float64)
        for name, values in table.items()
    }
