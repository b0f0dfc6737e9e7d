"""Times several programs side by side in one run: turn by turn, so that drift hits all alike.

Every contestant is a worker process of its own (its own Python, its own libraries) that prints
`ready {json}` after its warm-up and then, for every line `go` it reads, runs its repetitions and
prints the milliseconds of each; `go train` asks for those of the phase "train". Medians are
compared; ratios are taken within a turn.
"""

import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence


def serve(
    repetition: Callable[[], object] | Mapping[str, Callable[[], object]],
    facts: Mapping[str, object],
    per_turn: int,
    steps: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """The worker's side: `repetition` runs `steps` steps and returns when they are finished.

    A mapping holds one repetition for each phase. `clock`: `time.process_time` does not see what
    else the machine does, and is fair where each contestant has one thread.
    """
    print("ready " + json.dumps(dict(facts)), flush=True)
    for line in sys.stdin:
        word, _, phase = line.strip().partition(" ")
        if word != "go":
            break
        run = repetition[phase] if isinstance(repetition, Mapping) else repetition
        times = []
        for _ in range(per_turn):
            start = clock()
            run()
            times.append(1e3 * (clock() - start) / steps)
        print(json.dumps(times), flush=True)


def compete(
    commands: Mapping[str, Sequence[str]], *, turns: int, env: Mapping[str, str]
) -> dict[str, dict]:
    """Runs the workers in turn; the first name is the one that the ratios are of.

    **Returns:** for each name `{"median_ms", "min_ms", "ratio", "quartiles", "facts"}`, where
    `ratio` is the median over turns of (the first worker's median) / (this worker's median), and
    `quartiles` are its first and third.
    """
    return compete_in_phases(commands, [""], turns=turns, env=env)[""]


def compete_in_phases(
    commands: Mapping[str, Sequence[str]],
    phases: Sequence[str],
    *,
    turns: int,
    env: Mapping[str, str],
) -> dict[str, dict[str, dict]]:
    """As `compete`, for workers that have several phases: the results phase by phase."""
    workers, facts = {}, {}
    for name, command in commands.items():
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(env)
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("ready "):
                facts[name] = json.loads(line[len("ready ") :])
                break
        else:
            raise SystemExit(f"{name}: the worker ended before it was ready: {' '.join(command)}")
        workers[name] = process
    times: dict[str, dict[str, list[list[float]]]] = {p: {n: [] for n in workers} for p in phases}
    for _ in range(turns):
        for phase, (name, process) in itertools.product(phases, workers.items()):
            process.stdin.write(f"go {phase}\n")
            process.stdin.flush()
            times[phase][name].append(json.loads(process.stdout.readline()))
    for process in workers.values():
        process.stdin.close()
        process.wait()
    return {phase: _compared(times[phase], facts) for phase in phases}


def _compared(times: Mapping[str, list[list[float]]], facts: Mapping[str, Mapping]) -> dict:
    first = [statistics.median(t) for t in next(iter(times.values()))]
    results = {}
    for name, turns_ in times.items():
        medians = [statistics.median(t) for t in turns_]
        ratios = [a / b for a, b in zip(first, medians, strict=True)]
        # One turn has no quartiles but itself.
        lower, _, upper = statistics.quantiles([*ratios, *ratios], n=4, method="inclusive")
        results[name] = {
            "median_ms": statistics.median(medians),
            "min_ms": min(min(t) for t in turns_),
            "ratio": statistics.median(ratios),
            "quartiles": (lower, upper),
            "facts": facts[name],
        }
    return results


def table(results: Mapping[str, Mapping], title: str) -> str:
    """The results as lines of text."""
    lines = [title, f"{'':24}{'median ms':>12}{'min ms':>10}{'ours/this':>11}  facts"]
    for name, row in results.items():
        facts = ", ".join(f"{k} {v}" for k, v in row["facts"].items())
        lines.append(
            f"{name:24}{row['median_ms']:12.1f}{row['min_ms']:10.1f}{row['ratio']:11.2f}  {facts}"
        )
    return "\n".join(lines)
