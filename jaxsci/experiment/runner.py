"""Runs an experiment and writes down what came out."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console

from jaxsci.experiment.config import Config
from jaxsci.experiment.discovery import Experiment, find
from jaxsci.experiment.errors import UsageError
from jaxsci.experiment.float64 import float64_types, refuse_float64_on_tpu
from jaxsci.experiment.loading import LoadedExperiment, load
from jaxsci.experiment.logger import LOG_FILE, JsonLines, Logger, Sink
from jaxsci.experiment.processes import from_first, is_first
from jaxsci.experiment.record import RESULT_FILE, RunRecord, read_record
from jaxsci.experiment.result import Result
from jaxsci.experiment.run_folder import State, run_folder
from jaxsci.experiment.writing import identity_of, write_result


def run_experiment(
    target: LoadedExperiment | Experiment | str | Path,
    *,
    preset: str = "quick",
    config: Config | None = None,
    seed: int = 0,
    out: Path | str | None = None,
    resume: bool = False,
    quiet: bool = False,
    console: Console | None = None,
    trackers: Sequence[Callable[[Path], Sink]] = (),
) -> RunRecord:
    """Runs an experiment and writes `result.json`, figures, arrays and a log to a folder.

    64-bit floats are on while it runs if the configuration says so, and off if not; afterwards the
    flag is what it was.

    **Arguments:**

    - `target`: a slug, a file, or what `find` or `load` makes of one.
    - `preset`: a name in the file's `PRESETS`.
    - `config`: what to run instead of the preset's configuration, as a change of it, such as
      `dataclasses.replace(loaded.preset("quick"), width=64)`.
    - `seed`: of the key that `run` gets, `jax.random.key(seed)`; from 0 to 2³² − 1.
    - `out`: the run's folder, by default `runs/SLUG` under the current directory. A folder that
      holds an earlier run keeps it as `previous/`; one that holds anything else is refused.
    - `resume`: go on with the run in `out`. If it is complete, its record is returned.
    - `quiet`: print nothing.
    - `console`: where to print.
    - `trackers`: called with the run's folder to make further sinks, for instance `TensorBoard`.

    **Returns:** the record, as it stands in `result.json`.

    **Raises:**

    - `UsageError` for a mistake in the arguments or a file that is no experiment; what `run` itself
      raises passes through, with the log kept.
    """
    check_seed(seed)
    begin = time.perf_counter()
    if isinstance(target, str | Path):
        target = find(target)
    loaded = load(target) if isinstance(target, Experiment) else target
    experiment = loaded.experiment
    standard = loaded.preset(preset)
    config = standard if config is None else config
    if type(config) is not type(standard):
        raise UsageError(
            f"config: expected a {type(standard).__name__} of {experiment.path.name}, "
            f"got {type(config).__name__}"
        )
    refuse_float64_on_tpu(config)
    folder = Path(out) if out is not None else Path("runs") / experiment.slug
    identity = identity_of(loaded, preset, seed, config)
    with _agreed_folder(folder, identity, resume) as state:
        if state == "complete":
            if not quiet:
                (console or Console()).print(f"{folder}: this run is complete; nothing to do.")
            return from_first(lambda: read_record(folder / RESULT_FILE))
        resumed = state == "resumed"
        first = is_first()
        sinks: list[Sink] = []
        if first:
            sinks = [JsonLines(folder / LOG_FILE, append=resumed)]
            sinks += [make(folder) for make in trackers]
        # Absolute, as orbax wants the folders of its checkpoints.
        log = Logger(
            folder.absolute(),
            resume=resumed,
            identity=identity,
            sinks=sinks,
            console=console,
            quiet=quiet or not first,
        )
        with log, float64_types(config.float64), CompileClock() as clock:
            result = _call(experiment, loaded.run, config, seed, log)
        return write_result(
            loaded,
            result,
            preset=preset,
            config=config,
            seed=seed,
            folder=folder,
            begin=begin,
            compiling=clock.seconds,
            resumed=resumed,
            write=first,
        )


@contextlib.contextmanager
def _agreed_folder(folder: Path, identity: dict[str, Any], resume: bool) -> Iterator[State]:
    """The run's folder, held by process 0 for all processes of a job."""
    with contextlib.ExitStack() as stack:
        yield from_first(lambda: stack.enter_context(run_folder(folder, identity, resume=resume)))


def check_seed(seed: int) -> None:
    """Refuses a seed that would not give a key of its own.

    Without 64-bit types JAX takes the lower 32 bits of a seed, so that 2³² and 0 are one key.

    **Raises:**

    - `UsageError` if `seed` is not an integer from 0 to 2³² − 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise UsageError(f"--seed {seed!r}: expected an integer from 0 to {2**32 - 1}")


class CompileClock:
    """Seconds that JAX spends on tracing, lowering and compiling: `with CompileClock() as clock:`.

    JAX reports each of these as a span of time. Spans may lie inside each other (a function traced
    while another is) or overlap (compilation in several threads), so the length of their union is
    taken.
    """

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []
        self._lock = threading.Lock()

    @property
    def seconds(self) -> float:
        """The seconds so far."""
        with self._lock:
            spans = sorted(self._spans)
        total, end = 0.0, float("-inf")
        for left, right in spans:
            total += max(right - max(left, end), 0.0)
            end = max(end, right)
        return total

    def __enter__(self) -> Self:
        import jax.monitoring

        jax.monitoring.register_event_time_span_listener(self._listen)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        import jax.monitoring

        jax.monitoring.unregister_event_time_span_listener(self._listen)

    def _listen(self, event: str, start_time: float, end_time: float, **_: Any) -> None:
        if event.startswith("/jax/core/compile/"):
            with self._lock:
                self._spans.append((start_time, end_time))


def _call(
    experiment: Experiment, run: Callable[..., Result], config: Config, seed: int, log: Logger
) -> Result:
    import jax

    try:
        result = run(config, key=jax.random.key(seed), log=log)
    except BaseException as error:
        log.note(f"stopped by {type(error).__name__}: {error}")
        raise
    if not isinstance(result, Result):
        raise UsageError(
            f"{experiment.path}: run returned a {type(result).__name__}, "
            "expected a jaxsci.experiment.Result"
        )
    return result
