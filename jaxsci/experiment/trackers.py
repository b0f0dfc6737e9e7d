"""Trackers: sinks that show a run's metrics in TensorBoard or Weights & Biases.

Both packages are optional: `pip install "jaxsci[trackers]"`.
"""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class TensorBoard:
    """A sink that writes event files for `tensorboard --logdir FOLDER`, through tensorboardX.

    **Arguments:**

    - `folder`: the run's folder; the event files go to `tensorboard/` in it.

    **Raises:**

    - `ModuleNotFoundError` that says what to install if tensorboardX is not there.
    """

    def __init__(self, folder: Path):
        try:
            from tensorboardX import SummaryWriter
        except ModuleNotFoundError as error:
            raise _missing("tensorboardX", error) from error
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))
        self._lines = 0

    def metrics(self, scope: str, step: int, values: Mapping[str, float], seconds: float) -> None:
        """Adds one scalar for each value, grouped by scope."""
        for name, value in values.items():
            self._writer.add_scalar(f"{scope}/{name}" if scope else name, value, step)

    def say(self, scope: str, text: str, seconds: float) -> None:
        """Adds the line to the text tab."""
        self._writer.add_text(scope or "log", text, self._lines)
        self._lines += 1

    def close(self) -> None:
        """Writes what is still held back."""
        self._writer.close()


class WeightsAndBiases:
    """A sink that sends metrics to Weights & Biases.

    A resumed run goes on with the run it was there: its id is kept in `wandb-id.txt`.

    **Arguments:**

    - `folder`: the run's folder.
    - `project`: the project's name there.
    - `config`: shown with the run.

    **Raises:**

    - `ModuleNotFoundError` that says what to install if wandb is not there.
    """

    def __init__(
        self, folder: Path, *, project: str = "jaxsci", config: Mapping[str, Any] | None = None
    ):
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError as error:
            raise _missing("wandb", error) from error
        id_file = folder / "wandb-id.txt"
        if not id_file.exists():
            id_file.write_text(uuid.uuid4().hex[:12])
        self._run: Any = wandb.init(
            project=project,
            name=folder.name,
            id=id_file.read_text().strip(),
            resume="allow",
            dir=str(folder),
            config=dict(config or {}),
        )
        self._scopes: set[str] = set()

    def metrics(self, scope: str, step: int, values: Mapping[str, float], seconds: float) -> None:
        """Logs the values against a step that each scope counts for itself."""
        prefix = f"{scope}/" if scope else ""
        if scope not in self._scopes:
            self._scopes.add(scope)
            self._run.define_metric(f"{prefix}*", step_metric=f"{prefix}step")
        named = {f"{prefix}{name}": value for name, value in values.items()}
        self._run.log({f"{prefix}step": step, **named})

    def say(self, scope: str, text: str, seconds: float) -> None:
        """Leaves text to the run's own log: it is no metric."""

    def close(self) -> None:
        """Ends the run there."""
        self._run.finish()


def _missing(package: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"{package} is not installed: pip install 'jaxsci[trackers]'", name=error.name
    )
