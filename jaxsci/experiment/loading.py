"""From a file to a module that keeps the shape of an experiment."""

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import cast

from jaxsci.experiment.config import Config
from jaxsci.experiment.discovery import Experiment
from jaxsci.experiment.errors import UsageError, nearest
from jaxsci.experiment.result import Result


@dataclasses.dataclass(frozen=True)
class LoadedExperiment:
    """An experiment whose file has been imported: its description, presets and functions.

    `run_seeds`, which few have, computes several seeds at once; see `docs/experiments.md`.
    """

    experiment: Experiment
    presets: Mapping[str, Config]
    run: Callable[..., Result]
    run_seeds: Callable[..., Sequence[Result]] | None = None

    def preset(self, name: str) -> Config:
        """The configuration of a preset.

        **Raises:**

        - `UsageError` for an unknown preset, with the nearest ones.
        """
        if name not in self.presets:
            raise UsageError(
                f"{self.experiment.slug} has no preset {name!r}" + nearest(name, self.presets)
            )
        return self.presets[name]


def load(experiment: Experiment) -> LoadedExperiment:
    """Imports an experiment's file.

    A file beside a user's own one can be imported by it, as when Python runs the file itself.

    **Raises:**

    - `UsageError` if `PRESETS` or `run` are not what an experiment has. What the file itself
      raises while it is imported passes through.
    """
    path = experiment.path
    name = f"jaxsci_experiment_{experiment.room}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path}: not a Python file, so no experiment")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and type hints look their module up by name.
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        # Last, so that a file named like a library does not hide it.
        sys.path.append(str(path.parent))
    spec.loader.exec_module(module)
    return _check(experiment, module)


def _check(experiment: Experiment, module: ModuleType) -> LoadedExperiment:
    path = experiment.path
    presets = getattr(module, "PRESETS", None)
    if not isinstance(presets, Mapping) or not presets:
        raise UsageError(f"{path}: no experiment, PRESETS is not a dictionary of configurations")
    for name, config in presets.items():
        if not isinstance(config, Config) or not isinstance(name, str):
            raise UsageError(
                f"{path}: no experiment, PRESETS[{name!r}] is a {type(config).__name__}, "
                "not a jaxsci.experiment.Config"
            )
    run = getattr(module, "run", None)
    if not callable(run):
        raise UsageError(f"{path}: no experiment, run is not a function")
    run_seeds = getattr(module, "run_seeds", None)
    if run_seeds is not None and not callable(run_seeds):
        raise UsageError(f"{path}: no experiment, run_seeds is not a function")
    return LoadedExperiment(
        experiment,
        presets,
        cast(Callable[..., Result], run),
        cast(Callable[..., Sequence[Result]] | None, run_seeds),
    )
