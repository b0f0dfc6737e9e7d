"""Experiments: a configuration goes in, claims that hold or fail come out.

What is here: `Config` (a frozen dataclass whose fields check themselves, narrowed by `Between` and
`Above`), `Claim` (measured, comparison, target), `Result` (claims, metrics, arrays, figures),
`Logger` (text, metrics, progress, and the folder of a run), `run_experiment`, which runs a file and
writes `result.json`, and what the `jaxsci` command is made of: `discover`, `find`, `load`,
`write_ledger`; `Sweep` and `run_sweep` run seeds × a grid of configurations. The shortest complete
experiment, run by `jaxsci run sine.py --config.n 100`:

    '''The trapezoidal rule integrates the sine.'''
    import dataclasses
    from typing import Annotated
    import jax.numpy as jnp
    from jaxsci import experiment

    @dataclasses.dataclass(frozen=True)
    class Config(experiment.Config):
        n: Annotated[int, experiment.Between(2, 10_000)] = 50

    PRESETS = {"quick": Config()}

    def run(config, *, key, log):
        x = jnp.linspace(0, jnp.pi, config.n)
        error = abs(jnp.trapezoid(jnp.sin(x), x) - 2)
        return experiment.Result([experiment.Claim("error", error, "<", 1e-2)])
"""

from jaxsci.experiment.claim import Claim as Claim
from jaxsci.experiment.config import Above as Above
from jaxsci.experiment.config import Between as Between
from jaxsci.experiment.config import Config as Config
from jaxsci.experiment.config import field_names as field_names
from jaxsci.experiment.discovery import Experiment as Experiment
from jaxsci.experiment.discovery import Paper as Paper
from jaxsci.experiment.discovery import discover as discover
from jaxsci.experiment.discovery import experiments_folder as experiments_folder
from jaxsci.experiment.discovery import find as find
from jaxsci.experiment.discovery import in_checkout as in_checkout
from jaxsci.experiment.discovery import papers as papers
from jaxsci.experiment.errors import FolderInUse as FolderInUse
from jaxsci.experiment.errors import UsageError as UsageError
from jaxsci.experiment.errors import nearest as nearest
from jaxsci.experiment.ledger import collect as collect
from jaxsci.experiment.ledger import ledger as ledger
from jaxsci.experiment.ledger import listed as listed
from jaxsci.experiment.ledger import write_ledger as write_ledger
from jaxsci.experiment.loading import LoadedExperiment as LoadedExperiment
from jaxsci.experiment.loading import load as load
from jaxsci.experiment.logger import JsonLines as JsonLines
from jaxsci.experiment.logger import Logger as Logger
from jaxsci.experiment.logger import Sink as Sink
from jaxsci.experiment.logger import jsonable as jsonable
from jaxsci.experiment.logger import read_metrics as read_metrics
from jaxsci.experiment.processes import LostProcess as LostProcess
from jaxsci.experiment.processes import from_first as from_first
from jaxsci.experiment.processes import is_first as is_first
from jaxsci.experiment.processes import join_processes as join_processes
from jaxsci.experiment.processes import process_count as process_count
from jaxsci.experiment.progress import ProgressBar as ProgressBar
from jaxsci.experiment.record import RunRecord as RunRecord
from jaxsci.experiment.record import read_record as read_record
from jaxsci.experiment.result import Result as Result
from jaxsci.experiment.runner import CompileClock as CompileClock
from jaxsci.experiment.runner import check_seed as check_seed
from jaxsci.experiment.runner import run_experiment as run_experiment
from jaxsci.experiment.seeds import run_seeds as run_seeds
from jaxsci.experiment.signals import Terminated as Terminated
from jaxsci.experiment.signals import interruptible_together as interruptible_together
from jaxsci.experiment.signals import terminable as terminable
from jaxsci.experiment.signals import uninterrupted as uninterrupted
from jaxsci.experiment.summary import print_summary as print_summary
from jaxsci.experiment.sweep import Point as Point
from jaxsci.experiment.sweep import Progress as Progress
from jaxsci.experiment.sweep import Row as Row
from jaxsci.experiment.sweep import Sweep as Sweep
from jaxsci.experiment.sweep import Work as Work
from jaxsci.experiment.sweep import run_sweep as run_sweep
from jaxsci.experiment.sweep import share as share
from jaxsci.experiment.sweep_table import sweep_table as sweep_table
from jaxsci.experiment.sweep_table import write_sweep as write_sweep
from jaxsci.experiment.trackers import TensorBoard as TensorBoard
from jaxsci.experiment.trackers import WeightsAndBiases as WeightsAndBiases
from jaxsci.experiment.writing import device as device
from jaxsci.experiment.writing import versions as versions
