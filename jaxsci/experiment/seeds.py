"""Several seeds of an experiment at once, where the experiment offers it.

An experiment whose seeds fit into one program defines, beside `run`,

    def run_seeds(config, *, keys, log) -> list[Result]

with `keys` of shape (n,); entry i is what `run(config, key=keys[i], log=log)` returns.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from jaxsci.experiment.config import Config
from jaxsci.experiment.errors import UsageError
from jaxsci.experiment.float64 import float64_types, refuse_float64_on_tpu
from jaxsci.experiment.loading import LoadedExperiment
from jaxsci.experiment.logger import LOG_FILE, JsonLines, Logger
from jaxsci.experiment.record import RESULT_FILE, RunRecord, read_record
from jaxsci.experiment.result import Result
from jaxsci.experiment.run_folder import run_folder
from jaxsci.experiment.runner import CompileClock, check_seed
from jaxsci.experiment.writing import identity_of, write_result


def seed_folder(out: Path, seed: int) -> Path:
    """Where the run of one seed lies in the folder of them all."""
    return out / f"seed-{seed}"


def run_seeds(
    loaded: LoadedExperiment,
    *,
    preset: str,
    config: Config,
    seeds: Sequence[int],
    out: Path,
) -> list[RunRecord]:
    """Runs several seeds by the experiment's own `run_seeds`, and writes each as a run of its own.

    The log and the checkpoints of the common computation are in `out/seeds-FIRST-LAST`; the result
    of each seed is in `out/seed-SEED`, as if it had run alone. A seed that is there already is
    computed again with the others, since what is computed together belongs together to the last
    bit, but not written again. A computation that was stopped is taken up again.

    **Arguments:**

    - `loaded`: an experiment that has `run_seeds`.
    - `preset`, `config`: as for `run_experiment`.
    - `seeds`: consecutive seeds.
    - `out`: the folder.

    **Returns:** the records, in the order of the seeds.

    **Raises:**

    - `UsageError` if the experiment has no `run_seeds`, or it does not return one `Result` a seed;
      `FolderInUse` if another process is at it.
    """
    import jax
    import jax.numpy as jnp

    for seed in seeds:
        check_seed(seed)
    refuse_float64_on_tpu(config)
    path = loaded.experiment.path
    if loaded.run_seeds is None:
        raise UsageError(f"{path}: has no run_seeds, so its seeds run one after another")
    begin = time.perf_counter()
    folder = together_folder(out, seeds)
    identity = identity_of(loaded, preset, list(seeds), config)
    with run_folder(folder, identity, resume=True) as state:
        resumed = state == "resumed"
        log = Logger(
            folder.absolute(),
            resume=resumed,
            identity=identity,
            sinks=[JsonLines(folder / LOG_FILE, append=resumed)],
            quiet=True,
        )
        with log, float64_types(config.float64), CompileClock() as clock:
            keys = jnp.stack([jax.random.key(seed) for seed in seeds])
            try:
                results = list(loaded.run_seeds(config, keys=keys, log=log))
            except BaseException as error:
                log.note(f"stopped by {type(error).__name__}: {error}")
                raise
        kinds = sorted({type(result).__name__ for result in results})
        if len(results) != len(seeds) or any(not isinstance(r, Result) for r in results):
            raise UsageError(
                f"{path}: run_seeds returned {len(results)} of {', '.join(kinds) or 'nothing'}, "
                f"expected {len(seeds)} of Result, one a key"
            )
        records = []
        for seed, result in zip(seeds, results, strict=True):
            one = identity_of(loaded, preset, seed, config)
            with run_folder(seed_folder(out, seed), one, resume=True) as found:
                if found == "complete":
                    _close(result)
                    records.append(read_record(seed_folder(out, seed) / RESULT_FILE))
                    continue
                record = write_result(
                    loaded,
                    result,
                    preset=preset,
                    config=config,
                    seed=seed,
                    folder=seed_folder(out, seed),
                    begin=begin,
                    compiling=clock.seconds,
                    resumed=resumed,
                    together=len(seeds),
                )
                records.append(record)
    return records


def together_folder(out: Path, seeds: Sequence[int]) -> Path:
    """Where the common computation of consecutive seeds lies."""
    return out / f"seeds-{seeds[0]}-{seeds[-1]}"


def groups(out: Path, seeds: Sequence[int]) -> list[list[int]]:
    """The seeds that are still to be computed, as groups of consecutive ones.

    A group that was begun and not finished stays as it was, so that a sweep which was killed ends
    with the numbers of one that was not; the other missing seeds form new groups.
    """

    def is_done(seed: int) -> bool:
        return (seed_folder(out, seed) / RESULT_FILE).is_file()

    missing = [seed for seed in seeds if not is_done(seed)]
    found: list[list[int]] = []
    for begun in sorted(out.glob("seeds-*-*")):
        first, last = (int(part) for part in begun.name.split("-")[1:])
        group = list(range(first, last + 1))
        if not set(missing).isdisjoint(group):
            found.append(group)
            missing = [seed for seed in missing if seed not in group]
    for seed in missing:
        if found and found[-1][-1] == seed - 1 and not together_folder(out, found[-1]).exists():
            found[-1].append(seed)
        else:
            found.append([seed])
    return found


def _close(result: Result) -> None:
    if result.figures:
        import matplotlib.pyplot as plt

        for figure in result.figures.values():
            plt.close(figure)
