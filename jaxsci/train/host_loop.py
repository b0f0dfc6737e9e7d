"""The host's side of training: keeps the device busy, reads metrics, evaluates, saves."""

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np

from jaxsci.experiment import (
    Logger,
    LostProcess,
    Terminated,
    interruptible_together,
    process_count,
    terminable,
    uninterrupted,
)

from .checkpoint import Checkpointer, CheckpointError, Checkpoints, Snapshot
from .data.host import HostData
from .data.sources import AbstractSource
from .history import History
from .loop import Loop
from .sharding import Sharding, home
from .state import TrainState, own_arrays
from .step import Step

_SECONDS_PER_DISPATCH = 0.25
"""Long against the host's work between two dispatches, short for one who watches the bar."""

_SHOWN = 5
"""The most metrics beside the bar: the loss, and what else the step returns."""

_STEPS_TOGETHER = 8
"""Steps in a dispatch where several processes work together."""

Evaluate = Callable[[Any], Mapping[str, Any]]


class FitResult(NamedTuple):
    """What a training run ends with.

    - `model`: the trained model, with the averaged weights if an average was kept.
    - `state`: the whole training state (`state.model` has the raw weights).
    - `history`: training metrics by name, with `step`, as arrays.
    - `evaluations`: what `evaluate` returned, likewise.
    """

    model: Any
    state: TrainState
    history: dict[str, np.ndarray]
    evaluations: dict[str, np.ndarray]


class NonFiniteLoss(ArithmeticError):
    """Training stopped because a loss or a weight was not finite.

    **Attributes:** `step`, the number of the bad update; `loss`, its loss; `checkpoint`, the step
    of the last checkpoint, or None.
    """

    def __init__(self, step: int, loss: float, checkpoint: int | None, folder: Path | None):
        self.step = step
        self.loss = loss
        self.checkpoint = checkpoint
        what = f"the loss is {loss}" if not np.isfinite(loss) else "a weight became NaN or infinite"
        if checkpoint is None:
            kept = "no checkpoint was kept"
        else:
            kept = (
                f"the last good checkpoint, of step {checkpoint}, is in {folder}: resume from it "
                "(--resume, or Checkpoints(resume=True)) with a smaller learning rate"
            )
        super().__init__(f"training stopped in step {step}: {what}; {kept}")


class _Sent(NamedTuple):
    """A dispatch whose metrics have not been read yet; `step` is the count before it."""

    step: int
    n: int
    metrics: dict[str, jax.Array]
    tried: jax.Array
    finite: jax.Array
    time: float


class HostLoop:
    """One training run, seen from the host.

        send dispatch k;   save what was due after k − 1;   read the metrics of k − 1;   ...

    The device has its next work before the host reads, logs and writes, so both work at the same
    time. Dispatches end where an evaluation or a checkpoint is due. See `fit` for the arguments.
    """

    def __init__(
        self,
        *,
        step: Step,
        source: AbstractSource | None,
        host: HostData | None,
        steps: int,
        evaluate: Evaluate | None,
        evaluate_every: int,
        log: Logger,
        history: History,
        plan: Checkpoints | None,
        most: int,
        sharding: Sharding | None = None,
        at_home: bool = True,
    ):
        self._step, self._source, self._host = step, source, host
        self._steps, self._evaluate, self._evaluate_every = steps, evaluate, evaluate_every
        self._log, self._history, self._plan, self._most = log, history, plan, most
        self._sharding, self._at_home = sharding, at_home
        every = None if plan is None else plan.every
        if every is None:
            every = evaluate_every if evaluate_every < steps else max(1, steps // 10)
        self._save_every = every
        self._sent: _Sent | None = None
        self._due: tuple[int, Snapshot] | None = None
        self._last_saved: int | None = None
        self._positions: dict[int, Any] = {}
        # Several processes send the same numbers of steps, whatever their clocks say.
        self._guess = 1 if process_count() == 1 else _STEPS_TOGETHER
        self._last_read = 0.0
        self._recorded: int | None = None
        self._is_first = True
        self._calls = 0

    def go(self, state: TrainState, saver: Checkpointer | None) -> FitResult:
        """Restores if asked to, trains to the last step, saves, and returns the result."""
        self._saver = saver
        if saver is not None and self._host is not None and not self._host.has_state:
            raise TypeError(
                "fit: the data iterator has no get_state and set_state, so it cannot be part of a "
                "checkpoint; use a grain dataset, or checkpoint=False"
            )
        if self._sharding is not None:
            state = self._sharding.place(state)
        state = self._restore(state)
        done = int(state.step)
        if done > self._steps:
            raise ValueError(f"fit: steps={self._steps}, but {done} are already made")
        self._loop = Loop(self._step, state, self._source, self._sharding, capacity=self._most)
        self._recorded = done
        del state  # The loop overwrites its arrays.
        with terminable() as self._check_signals, interruptible_together() as self._interrupted:
            try:
                with self._log.progress(self._steps, "training") as self._bar:
                    self._train(done)
            except (NonFiniteLoss, CheckpointError):
                raise
            except jax.errors.JaxRuntimeError as error:
                if process_count() > 1:
                    raise LostProcess(
                        "another process of this job is gone or has failed, and this one stops; "
                        f"resume from the checkpoint of step {self._last_saved} (--resume): "
                        f"{str(error).splitlines()[0]}"
                    ) from error
                self._save_in_distress()
                raise
            except BaseException:
                self._save_in_distress()
                raise
        if saver is not None:
            saver.wait()
        state = self._bring_home(self._loop.state())
        return FitResult(
            state.averaged(), state, self._history.train(), self._history.evaluations()
        )

    def _train(self, done: int) -> None:
        start = done
        self._bar.update(done)
        if done > 0:  # Interrupted between a checkpoint and its evaluation.
            self._evaluate_if_due(done)
        while done < self._steps:
            self._check_signals()
            self._stop_together(done)
            sent = self._send(done)
            done += sent.n
            self._write_due()
            self._read()
            self._sent = sent
            if sent.step == start:
                self._read()  # Its time is compilation; the next one's is not.
            if self._next_stop(done - 1) == done:
                self._read()  # Nothing is evaluated or saved that is not known to be finite.
                self._evaluate_if_due(done)
                if self._saver is not None and self._is_due(done, self._save_every):
                    self._due = (done, self._snapshot(done))
        self._write_due()

    def _stop_together(self, done: int) -> None:
        """After SIGTERM or SIGINT in any process: all save at the first step that is common."""
        if process_count() == 1:
            return
        from jax.experimental import multihost_utils

        # JAX lets the processes agree on one of the coming calls, which it counts one by one.
        self._calls += 1
        if not multihost_utils.reached_preemption_sync_point(self._calls):
            return
        self._write_due()
        self._read()
        if self._saver is not None and done > (self._last_saved or 0):
            self._due = (done, self._snapshot(done))
            self._write_due()
            self._saver.wait()
        self._say_how_to_go_on()
        by_hand = multihost_utils.process_allgather(np.int32(self._interrupted()))
        raise KeyboardInterrupt if np.any(by_hand) else Terminated

    def _send(self, done: int) -> _Sent:
        """Starts the next dispatch."""
        n, batches = min(self._guess, self._most, self._next_stop(done) - done), None
        if self._host is not None:
            batches, n = self._host.draw(n)
            if self._saver is not None:
                recent = {k: v for k, v in self._positions.items() if k >= done}
                self._positions = {**recent, done + n: self._host.state()}
        now = time.perf_counter()
        # The first dispatch compiles, perhaps for a minute, and before it nothing can be lost.
        first, self._is_first = self._is_first, False
        with contextlib.nullcontext() if first else uninterrupted():
            return _Sent(done, n, *self._loop.dispatch(n, batches), now)

    def _read(self) -> None:
        """Waits for the dispatch that was sent last and records its metrics."""
        if self._sent is None:
            return
        sent, self._sent = self._sent, None
        self._recorded = None  # Until the history is whole again.
        finite, tried = bool(sent.finite), int(sent.tried)
        metrics = {name: np.asarray(values) for name, values in sent.metrics.items()}
        now = time.perf_counter()
        if sent.n == self._guess and process_count() == 1:
            # Only the size of dispatches depends on the clock, and no number depends on the size.
            seconds = (now - max(sent.time, self._last_read)) / sent.n
            self._guess = int(np.clip(_SECONDS_PER_DISPATCH / seconds, 1, 2 * self._guess))
        self._last_read = now
        self._history.add(sent.step, metrics, tried)
        loss = float(metrics["loss"][max(tried - 1, 0)]) if "loss" in metrics else float("nan")
        if not finite:
            self._stop(sent.step + max(tried, 1), loss)
        names = sorted(metrics, key=lambda name: name != "loss")
        shown = [name for name in names if name != "grad_norm"][:_SHOWN]
        last = {name: float(metrics[name][max(tried - 1, 0)]) for name in shown}
        self._bar.update(sent.step + sent.n, **last)
        self._recorded = sent.step + sent.n

    def _stop(self, step: int, loss: float) -> None:
        if self._saver is not None:
            self._saver.wait()
        folder = None if self._saver is None else self._saver.folder
        error = NonFiniteLoss(step, loss, self._last_saved, folder)
        self._log.say(str(error))
        raise error

    def _is_due(self, done: int, every: int) -> bool:
        return done % every == 0 or done == self._steps

    def _next_stop(self, done: int) -> int:
        """The first step count after `done` at which the host has something to do."""
        stops = [self._steps]
        if self._evaluate is not None:
            stops.append((done // self._evaluate_every + 1) * self._evaluate_every)
        if self._saver is not None:
            stops.append((done // self._save_every + 1) * self._save_every)
        return min(stops)

    def _evaluate_if_due(self, done: int) -> None:
        if self._evaluate is None or not self._is_due(done, self._evaluate_every):
            return
        if self._history.last_evaluation(done) is not None:
            return
        # A copy, because the next dispatch overwrites the state's arrays.
        model = self._loop.state().averaged()
        if self._sharding is not None and self._at_home:
            model = self._bring_home(model)
        else:
            model = own_arrays(model)
        values = {name: float(value) for name, value in self._evaluate(model).items()}
        best = None if self._plan is None else self._plan.best
        if best is not None and best not in values:
            raise ValueError(
                f"fit: the best {best!r} is to be kept, but evaluate returned {list(values)}"
            )
        self._history.evaluated(done, values)

    def _bring_home(self, tree: Any) -> Any:
        """A tree on the default device, where the caller's other arrays are."""
        if self._sharding is None or not self._at_home:
            return tree
        return jax.tree.map(lambda leaf: home(leaf) if eqx.is_array(leaf) else leaf, tree)

    def _snapshot(self, done: int) -> Snapshot:
        return Snapshot(
            state=self._loop.copy(),
            series=self._history.series(),
            iterator=self._positions.get(done),
            source={} if self._source is None else self._source.describe(),
        )

    def _write_due(self) -> None:
        """Hands a snapshot to the checkpointer, while the device works on what comes next."""
        if self._saver is None or self._due is None:
            return
        with uninterrupted():
            (step, snapshot), self._due = self._due, None
            self._saver.save(step, snapshot, self._history.last_evaluation(step))
            self._last_saved = step

    def _restore(self, state: TrainState) -> TrainState:
        if self._saver is None or self._plan is None:
            return state
        if not self._plan.resume:
            self._saver.clear()
            return state
        source = {} if self._source is None else self._source.describe()
        found = self._saver.restore(Snapshot(state=state, source=source))
        if found is None:
            self._log.say("no checkpoint yet: starting from the beginning")
            return state
        step, snapshot = found
        self._history.load(snapshot.series)
        if self._host is not None:
            self._host.restore(snapshot.iterator)
        self._last_saved = step
        self._log.say(f"resumed from the checkpoint of step {step}")
        return snapshot.state

    def _save_in_distress(self) -> None:
        """Saves what is known to be good when something outside the loop has failed."""
        # One process cannot save what is spread over several that may be gone.
        if self._saver is None or process_count() > 1:
            return
        try:
            self._write_due()
            self._read()
            step = self._recorded
            known = self._host is None or step in self._positions
            if step is not None and known and step > (self._last_saved or 0):
                self._saver.save(step, self._snapshot(step), self._history.last_evaluation(step))
                self._last_saved = step
            self._saver.wait()
        except Exception as error:
            self._log.say(f"the state could not be saved: {error}")
        self._say_how_to_go_on()

    def _say_how_to_go_on(self) -> None:
        if self._saver is not None and self._last_saved is not None:
            self._log.say(
                f"interrupted; resume from the checkpoint of step {self._last_saved} in "
                f"{self._saver.folder} (--resume, or Checkpoints(resume=True))"
            )
