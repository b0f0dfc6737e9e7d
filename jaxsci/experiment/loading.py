"""From a file to a module that keeps the shape of an experiment."""

import importlib.util
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Protocol, cast

from jaxsci.experiment.config import Config
from jaxsci.experiment.discovery import Experiment
from jaxsci.experiment.errors import UsageError, nearest
from jaxsci.experiment.logger import Logger
from jaxsci.experiment.result import Result


class ExperimentModule(Protocol):
    """What the module of an experiment file offers."""

    PRESETS: Mapping[str, Config]

    def run(self, config: Any, *, key: Any, log: Logger) -> Result:
        """Does the experiment."""
        ...


def load(experiment: Experiment) -> ExperimentModule:
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
    _check(experiment, module)
    return cast(ExperimentModule, module)


def preset_of(experiment: Experiment, module: ExperimentModule, preset: str) -> Config:
    """The configuration of a preset.

    **Raises:**

    - `UsageError` for an unknown preset.
    """
    if preset not in module.PRESETS:
        raise UsageError(
            f"{experiment.slug} has no preset {preset!r}" + nearest(preset, module.PRESETS)
        )
    return module.PRESETS[preset]


def _check(experiment: Experiment, module: ModuleType) -> None:
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
    if not callable(getattr(module, "run", None)):
        raise UsageError(f"{path}: no experiment, run is not a function")
