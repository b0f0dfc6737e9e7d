"""`fit`: trains a model; `train`: repeats any step."""

import dataclasses
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import optax
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray, PyTree

from jaxsci.experiment import Logger

from .checkpoint import Checkpointer, Checkpoints
from .data.host import HostData
from .data.sources import AbstractSource
from .history import History
from .host_loop import Evaluate, FitResult, HostLoop
from .loop import CAPACITY
from .precision import Precision
from .sharding import Sharding, choose_sharding
from .state import Trainable, TrainState, init_state, own_arrays
from .step import ExtraArgs, Loss, Step, make_step


def fit(
    model: PyTree,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    data: AbstractSource | Iterable[Any],
    *,
    steps: int,
    key: PRNGKeyArray,
    evaluate: Evaluate | None = None,
    evaluate_every: int | None = None,
    log: Logger | None = None,
    log_every: int | None = None,
    checkpoint: Checkpoints | bool | None = None,
    accumulate: int = 1,
    ema_decay: float | None = None,
    precision: Precision | None = None,
    steps_per_dispatch: int | None = None,
    sharding: Sharding | Mesh | bool | None = None,
    extra_args: ExtraArgs | None = None,
) -> FitResult:
    """Trains a model,

        θ ← θ + optimizer( ∇_θ loss(model_θ, batch_t, key_t) ),   t = 0, ..., steps − 1.

    The numbers depend on the arguments alone: neither on timing, nor on how many steps go into a
    dispatch, nor on where a run was interrupted and resumed.

    **Arguments:**

    - `model`: any pytree; its inexact arrays are trained, all else stays as it is. Layers with
        `eqx.nn.State` are not supported.
    - `loss`: `loss(model, batch, key) -> scalar`, or `(scalar, {name: scalar})`.
    - `optimizer`: an optax transformation; line searches and second-order methods work (see
        `make_step`).
    - `data`: `ArraySource`, `OnlineSource` or another pure source; or a host iterable of batches,
        such as a grain dataset.
    - `steps`: the number of updates, counted from the run's beginning also when it is resumed.
    - `key`: the run's key.
    - `evaluate`: `evaluate(model) -> {name: value}`, called on the host every `evaluate_every`
        steps and at the end, with the averaged weights if `ema_decay` is given.
    - `log`: the run's logger. None: a progress bar if there is a terminal, and no files.
    - `log_every`: steps between recorded metrics; None for a thousand records in a run.
    - `checkpoint`: a `Checkpoints`. None: under `log.folder/checkpoints` if the logger has a
        folder; False: none.
    - `accumulate`, `ema_decay`, `precision`, `extra_args`: see `make_step`.
    - `steps_per_dispatch`: at most so many steps are sent to the device at once (and at most 1024,
        or what fits in 64 MiB for batches from the host). None: about a quarter of a second. On a
        CPU, 1 (a program without a loop, whose last digits may differ) is much faster for networks
        with convolutions, which XLA runs ten times slower inside a compiled loop.
    - `sharding`: how the run is spread over devices: a `Sharding`, or a mesh for data parallelism
        on it. None: if there are several devices, every batch is spread over as many as divide it
        evenly, and results come back to the default device; not so if arrays of the model are on
        several devices already, or a default device is set. False: one device.

    **Returns:** a `FitResult`.

    **Raises:** `NonFiniteLoss` when a loss or a weight is not finite (the checkpoint before it is
    kept); `CheckpointMismatch` if the run to resume is another one; `CheckpointError` if
    checkpoints cannot be written; `ValueError` and `TypeError` for bad arguments.
    """
    step = make_step(
        _gathering(loss, sharding) if isinstance(sharding, Sharding) else loss,
        optimizer,
        accumulate=accumulate,
        ema_decay=ema_decay,
        precision=precision,
        extra_args=extra_args,
    )
    state = init_state(
        model,
        optimizer,
        key=key,
        source=data if isinstance(data, AbstractSource) else None,
        ema=ema_decay is not None,
        precision=precision,
        sharding=_asked_for(sharding),
    )
    return train(
        step,
        state,
        data,
        steps=steps,
        evaluate=evaluate,
        evaluate_every=evaluate_every,
        log=log,
        log_every=log_every,
        checkpoint=checkpoint,
        steps_per_dispatch=steps_per_dispatch,
        sharding=sharding,
    )


def train(
    step: Step,
    state: TrainState | Trainable,
    data: AbstractSource | Iterable[Any] | None,
    *,
    steps: int,
    evaluate: Evaluate | None = None,
    evaluate_every: int | None = None,
    log: Logger | None = None,
    log_every: int | None = None,
    checkpoint: Checkpoints | bool | None = None,
    steps_per_dispatch: int | None = None,
    sharding: Sharding | Mesh | bool | None = None,
) -> FitResult:
    """Repeats any pure step: what `fit` does once it has made a step and a state.

    For steps that are not "gradient of one loss" (two players, alternating updates): write
    `step(state, batch) -> (state, metrics)`, where `metrics` is a dictionary of scalars whose
    `loss`, if there is one, must stay finite. A step that draws its own data, such as that of
    `jaxsci.pinn.Solver`, needs none, and its state may be of any type that is `Trainable`.

    **Arguments:**

    - `step`: the step.
    - `state`: a `TrainState`, whose `data` is `source.init(key)` for a pure source; without data,
        any `Trainable`. Its arrays are copied.
    - `data`: as for `fit`; None: every batch is None, and the run stays on one device unless
        `sharding` says otherwise.
    - others: as for `fit`.

    **Returns:** a `FitResult`.

    **Raises:** as `fit`.
    """
    for name, value in (
        ("steps", steps),
        ("evaluate_every", evaluate_every),
        ("log_every", log_every),
        ("steps_per_dispatch", steps_per_dispatch),
    ):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"fit: {name}={value!r}, expected an integer >= 1")
    if evaluate_every is not None and evaluate is None:
        raise ValueError("fit: evaluate_every is given without evaluate")
    log = Logger(None) if log is None else log
    plan = _plan(checkpoint, log, evaluate)
    own: Any = own_arrays(state)
    source = data if isinstance(data, AbstractSource) else None
    host = None if data is None or isinstance(data, AbstractSource) else HostData(data)
    if data is None and sharding is None:
        sharding = False  # There is no batch to spread.
    spread, at_home = choose_sharding(sharding, own, source, host, log.say)
    run = HostLoop(
        step=step,
        source=source,
        host=host,
        steps=steps,
        evaluate=evaluate,
        evaluate_every=evaluate_every or steps,
        log=log,
        history=History(log, log_every or max(1, steps // 1000), steps),
        plan=plan,
        most=min(steps_per_dispatch or CAPACITY, CAPACITY),
        sharding=spread,
        at_home=at_home,
    )
    with ExitStack() as stack:
        saver = None if plan is None else stack.enter_context(Checkpointer(plan, log.say))
        return run.go(own, saver)


def _asked_for(sharding: Sharding | Mesh | bool | None) -> Sharding | None:
    """The split that was asked for in so many words."""
    if isinstance(sharding, Mesh):
        return Sharding(sharding)
    return sharding if isinstance(sharding, Sharding) else None


def _gathering(loss: Loss, sharding: Sharding) -> Loss:
    """The loss, with the weights that FSDP splits put together for it."""
    if not sharding.fsdp:
        return loss
    return lambda model, batch, key: loss(sharding.gathered(model), batch, key)


def _plan(
    checkpoint: Checkpoints | bool | None, log: Logger, evaluate: Evaluate | None
) -> Checkpoints | None:
    """The checkpoints asked for, with the logger's folder and `resume` where they are left open."""
    if checkpoint is True and log.folder is None:
        raise ValueError("fit: checkpoint=True needs a logger with a folder, or use Checkpoints")
    if checkpoint is False or (checkpoint is None and log.folder is None):
        return None
    if isinstance(checkpoint, Checkpoints):
        plan = checkpoint
    else:
        assert log.folder is not None
        plan = Checkpoints(folder=log.folder / "checkpoints")
    # What the run is goes with its checkpoints: an own identity adds to it.
    plan = dataclasses.replace(plan, identity={**log.identity, **plan.identity})
    if plan.best is not None and evaluate is None:
        raise ValueError(f"fit: the best {plan.best!r} is to be kept, but there is no evaluate")
    return dataclasses.replace(plan, resume=log.resume if plan.resume is None else plan.resume)
